package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/lfs"
)

// lfsPath begins what git-lfs asks of a remote (docs/api/server-discovery.md).
const lfsPath = "/info/lfs/"

// serveLFS answers git-lfs: the batch API with its basic transfer, from the base's objects, which the
// host fetched, and from those that this task sent. What another task sent does not exist here. There
// are no locks: 404 is what the client takes for that.
func (h *Server) serveLFS(w http.ResponseWriter, r *http.Request, at place, rest string) {
	oid, isObject := strings.CutPrefix(rest, "objects/")
	switch {
	case !h.LFS || at.readOnly:
		lfsFault(w, http.StatusNotFound, "this gate serves no files in Git LFS (gate.lfs)")
	case rest == "objects/batch" && r.Method == http.MethodPost:
		h.slot(w, r, func() { h.lfsBatch(w, r) })
	case isObject && lfs.ValidOID(oid) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		h.slot(w, r, func() { h.lfsDownload(w, r, oid) })
	case isObject && lfs.ValidOID(oid) && r.Method == http.MethodPut:
		if why, frozen := h.frozen(); frozen {
			lfsFault(w, http.StatusForbidden, why)
			return
		}
		h.slot(w, r, func() { h.lfsUpload(w, r, oid) })
	default:
		lfsFault(w, http.StatusNotFound, "this gate knows batch and objects of the LFS API, and no locks")
	}
}

// lfsFault is an error in the form of the API.
func lfsFault(w http.ResponseWriter, status int, message string) {
	lfsJSON(w, status, map[string]string{"message": "terok: " + message})
}

func lfsJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", lfs.Media)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has gone needs no answer
}

// lfsDirs are where the task's objects can be: its own, and those of the base.
func (h *Server) lfsDirs() [2]lfs.Dir { return [2]lfs.Dir{lfs.Of(h.Repo), lfs.Of(h.Base)} }

func (h *Server) lfsHas(o lfs.Object) bool {
	dirs := h.lfsDirs()
	return dirs[0].Has(o) || dirs[1].Has(o)
}

// lfsBatch says what can be done with objects. The addresses that it gives are below the one that was
// asked, and so are their credentials those that came.
func (h *Server) lfsBatch(w http.ResponseWriter, r *http.Request) {
	body, err := openBody(w, r, h.Limits.MaxRequest, h.Limits.Idle)
	if err != nil {
		lfsFault(w, http.StatusBadRequest, err.Error())
		return
	}
	q, err := lfs.ReadRequest(body)
	if unread := body.drain(); unread != nil {
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		lfsFault(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if why, frozen := h.frozen(); frozen && q.Operation == lfs.Upload {
		lfsFault(w, http.StatusForbidden, why)
		return
	}
	room := int64(0)
	if q.Operation == lfs.Upload {
		if room, err = h.lfsRoom(0); err != nil {
			lfsFault(w, http.StatusInternalServerError, "the gate's state cannot be read")
			return
		}
	}
	p := lfs.Response{Transfer: "basic", HashAlgo: "sha256", Objects: []lfs.Answer{}}
	for _, o := range q.Objects {
		a := lfs.Answer{Object: o, Authenticated: true}
		action := lfs.Action{Href: "http://" + r.Host + Path + lfsPath + "objects/" + o.OID,
			Header: map[string]string{"Authorization": r.Header.Get("Authorization")}}
		switch has := h.lfsHas(o); {
		case has && q.Operation == lfs.Upload: // no action: it is here
		case h.lfsWhy(o) != "" && q.Operation == lfs.Upload:
			a.Error = &lfs.Fault{Code: http.StatusUnprocessableEntity, Message: "terok: " + h.lfsWhy(o)}
		case has || q.Operation == lfs.Upload && o.Size <= min(h.Limits.MaxFile, room):
			a.Actions = map[string]lfs.Action{q.Operation: action}
		case q.Operation == lfs.Download:
			a.Error = &lfs.Fault{Code: http.StatusNotFound, Message: "terok: the gate does not have this object"}
		case o.Size > h.Limits.MaxFile:
			a.Error = &lfs.Fault{Code: http.StatusUnprocessableEntity, Message: "terok: " + h.lfsTooLarge(o.Size)}
		default:
			a.Error = &lfs.Fault{Code: http.StatusInsufficientStorage, Message: "terok: no room: " + h.lfsFull()}
		}
		if len(a.Actions) > 0 && q.Operation == lfs.Upload {
			room -= o.Size
		}
		p.Objects = append(p.Objects, a)
	}
	lfsJSON(w, http.StatusOK, p)
}

func (h *Server) lfsTooLarge(size int64) string {
	return fmt.Sprintf("the file is %d MiB, the limit is %d MiB (gate.push.max_file_mb)", (size+1<<20-1)>>20, h.Limits.MaxFile>>20)
}

func (h *Server) lfsFull() string {
	used, err := h.used()
	if err != nil {
		return "the gate's state cannot be read"
	}
	return h.overQuota(used)
}

// lfsRoom is how many bytes of objects may come beside those that are on their way, take of which are on
// theirs from now on if there is room for them.
func (h *Server) lfsRoom(take int64) (room int64, err error) {
	h.uploading.Lock()
	defer h.uploading.Unlock()
	used, err := h.used()
	if err != nil {
		return 0, err
	}
	free, err := lfs.Of(h.Repo).Free(h.Limits.Headroom)
	if err != nil {
		return 0, err
	}
	if room = max(0, min(h.Limits.Quota-used, free)-h.coming); take <= room {
		h.coming += take
	}
	return room, nil
}

// lfsArrived ends what lfsRoom took: the bytes are in the directory now, or will not be.
func (h *Server) lfsArrived(size int64) {
	h.uploading.Lock()
	defer h.uploading.Unlock()
	h.coming -= size
}

// lfsDownload serves an object, whole or the range that is asked for.
func (h *Server) lfsDownload(w http.ResponseWriter, r *http.Request, oid string) {
	start := h.Now()
	for _, dir := range h.lfsDirs() {
		size, ok := dir.Size(oid)
		if !ok {
			continue
		}
		f, err := dir.Open(lfs.Object{OID: oid, Size: size})
		if err != nil {
			continue
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		out := newResponse(w, h.Limits.Idle)
		defer out.done()
		http.ServeContent(paced{w, out}, r, "", time.Time{}, f)
		h.log("lfs-download", 0, out.n, start, r.Context().Err())
		return
	}
	lfsFault(w, http.StatusNotFound, "the gate does not have this object")
}

// paced is a response whose every write has a deadline.
type paced struct {
	http.ResponseWriter
	out *response
}

func (p paced) Write(b []byte) (int, error) { return p.out.Write(b) }

// lfsUpload takes an object into the task's own directory. Its name is its digest, so nothing can
// replace another; it is there whole or not at all, and the push that points to it comes after it. One with
// credentials in it is refused, as it would be in a push.
func (h *Server) lfsUpload(w http.ResponseWriter, r *http.Request, oid string) {
	start := h.Now()
	switch o := (lfs.Object{OID: oid, Size: r.ContentLength}); {
	case r.ContentLength < 0 || r.Header.Get("Content-Encoding") != "":
		lfsFault(w, http.StatusLengthRequired, "an upload needs a Content-Length and no encoding")
	case o.Size > h.Limits.MaxFile:
		lfsFault(w, http.StatusRequestEntityTooLarge, h.lfsTooLarge(o.Size))
	default:
		if room, err := h.lfsRoom(o.Size); err != nil || o.Size > room {
			lfsFault(w, http.StatusInsufficientStorage, "no room: "+h.lfsFull())
			return
		}
		defer h.lfsArrived(o.Size)
		body, err := openBody(w, r, o.Size, h.Limits.Idle)
		if err != nil {
			lfsFault(w, http.StatusBadRequest, err.Error())
			return
		}
		if !h.lfsHas(o) {
			err = h.lfsPut(r.Context(), o, body)
		}
		h.log("lfs-upload", body.in, 0, start, err)
		if body.drain() != nil {
			panic(http.ErrAbortHandler)
		}
		h.lfsTaken(w, o, err)
	}
}

// lfsPut takes an object that holds no credentials: nobody sees it in a push, which has its pointer only.
func (h *Server) lfsPut(ctx context.Context, o lfs.Object, body io.Reader) error {
	looked := scan(body)
	judged := false
	err := lfs.Of(h.Repo).PutIf(ctx, o, h.uploads, looked, func() error {
		judged = true
		list := looked.end()
		f, bad := h.forbidden(list, nil)
		if !bad {
			return nil
		}
		h.suspect(f, "sent in Git LFS", o.OID, list)
		why := fmt.Sprintf("the file in Git LFS with sha256 %.12s holds a secret: %s (fingerprint %s); take it out of the file, and out of the commits that have it",
			o.OID, f.Kind, f.Fingerprint)
		h.lfsRefuse(o, why)
		return errRefused(why)
	})
	if !judged {
		looked.end()
	}
	return err
}

// maxRefused is how many refusals are remembered.
const maxRefused = 1000

// lfsRefuse remembers why an object is refused, for the batch. git-lfs sends an object again, for half a minute,
// whatever the answer to that is (at 422 it says something else and lets the push go on), but asks the batch
// before each try and ends with what that says.
func (h *Server) lfsRefuse(o lfs.Object, why string) {
	h.uploading.Lock()
	defer h.uploading.Unlock()
	if h.refused == nil || len(h.refused) == maxRefused {
		h.refused = map[string]string{}
	}
	h.refused[o.OID] = why
}

// lfsWhy is why an object was refused, "" where it was not.
func (h *Server) lfsWhy(o lfs.Object) string {
	h.uploading.Lock()
	defer h.uploading.Unlock()
	return h.refused[o.OID]
}

// lfsTaken answers an upload.
func (h *Server) lfsTaken(w http.ResponseWriter, o lfs.Object, err error) {
	e := audit.Event{Ev: "lfs_received", Actor: "workload", BytesUp: uint64(o.Size), Detail: map[string]string{"oid": o.OID}}
	status := http.StatusOK
	refused, isRefused := errors.AsType[errRefused](err)
	switch {
	case err == nil:
	case isRefused:
		status, e.Ev, e.Reason = http.StatusForbidden, "lfs_refused", string(refused)
	case errors.Is(err, lfs.ErrDigest) || errors.Is(err, lfs.ErrSize):
		status, e.Ev, e.Reason = http.StatusUnprocessableEntity, "lfs_refused", err.Error()
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		status, e.Ev, e.Reason = http.StatusInsufficientStorage, "lfs_refused", "the disk of the gate is full"
	default:
		status, e.Ev, e.Reason = http.StatusInternalServerError, "lfs_refused", "the upload was interrupted"
	}
	h.Record.Record(e)
	if err != nil {
		lfsFault(w, status, e.Reason)
		return
	}
	w.WriteHeader(status)
}
