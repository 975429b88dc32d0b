package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/audit"
	"terok/internal/gate/lfs"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/text"
)

// refuseFrozen answers 403 while pushes are frozen.
func (h *Server) refuseFrozen(w http.ResponseWriter) bool {
	why, frozen := h.frozen()
	if frozen {
		refuse(w, http.StatusForbidden, why)
	}
	return frozen
}

// frozen reports whether pushes are frozen, and why.
func (h *Server) frozen() (why string, frozen bool) {
	id := strings.TrimSuffix(filepath.Base(h.Repo), ".git")
	for _, file := range []string{view.FrozenFile(h.Base, ""), view.FrozenFile(h.Base, id)} {
		reason, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			reason = []byte("the gate's state cannot be read") // closed, not open
		}
		return "pushes are frozen: " + text.Line(strings.TrimSpace(string(reason)), 200), true
	}
	return "", false
}

// baseStamp changes whenever the base's refs do: the host packs them after each change.
type baseStamp struct {
	modified time.Time
	size     int64
}

func (h *Server) baseStamp() baseStamp {
	info, err := os.Stat(filepath.Join(h.Base, "packed-refs"))
	if err != nil {
		return baseStamp{}
	}
	return baseStamp{info.ModTime(), info.Size()}
}

// refresh catches up with the base, if the host could not while a push held the lock. What fails
// here is tried again by the next request; the task sees its old view until then.
func (h *Server) refresh(ctx context.Context) {
	now := h.baseStamp()
	h.mu.Lock()
	fresh := now == h.seen
	h.mu.Unlock()
	if fresh {
		return
	}
	base, err := view.Refs(h.Base)
	if err != nil {
		return
	}
	unlock, err := view.Lock(h.Repo)
	if err != nil {
		return
	}
	err = view.Refresh(ctx, h.Git, h.Repo, h.objects, view.Below(base, refname.Heads))
	unlock()
	if err == nil {
		h.mu.Lock()
		h.seen = now
		h.mu.Unlock()
	}
}

// Recover puts right what a killed worker left: quarantines, git's lock files, and branches that
// moved without a line in the ledger, which get one (push_recovered). The line of a push whose worker
// was killed right after writing it is repeated: at least once, never lost. It is called before serving.
func (h *Server) Recover(ctx context.Context) error {
	h.receive <- struct{}{}
	defer func() { <-h.receive }()
	unlock, err := view.Lock(h.Repo)
	if err != nil {
		return err
	}
	defer unlock()
	h.sweep()
	lfs.Of(h.Repo).Sweep(h.uploads)
	view.SweepLocks(h.Repo, h.Now())
	refs, err := view.Refs(h.Repo)
	if err != nil {
		return err
	}
	head, err := headBranch(h.Repo)
	if err != nil {
		return err
	}
	heads, recorded, offered := view.Below(refs, refname.Heads), view.Below(refs, recordedRefs), view.Below(refs, view.Offered)
	known := map[string]bool{}
	var script strings.Builder
	note := func(branch, old, id string) {
		h.Record.Record(audit.Event{Ev: "push_recovered", Actor: "workload", Ref: text.Line(refname.Heads+branch, 0), Old: old, New: id,
			Reason: "the supervisor ended while this push was recorded"})
		fmt.Fprintln(&script, view.Move(recordedRefs+branch, recorded[branch], id))
	}
	for b, id := range heads {
		known[b] = true
		switch {
		case id == recorded[b] || id == offered[b]:
		case recorded[b] == "" && b == head && id == refs[startRef]:
		default:
			note(b, firstText(recorded[b], offered[b]), id)
		}
	}
	for b, id := range recorded {
		if !known[b] && id != offered[b] {
			note(b, id, "")
		}
	}
	if script.Len() == 0 {
		return nil
	}
	h.flush(ctx)
	return h.updateRefs(ctx, strings.NewReader(script.String()))
}

func firstText(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// flush waits until the ledger is on the disk: who is told "received" finds it recorded.
func (h *Server) flush(ctx context.Context) {
	if f, ok := h.Record.(Flusher); ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = f.Flush(ctx) // the ledger itself counts and reports what it loses
	}
}

// log records one exchange.
func (h *Server) log(service string, in, out int64, start time.Time, err error) {
	e := audit.Event{Ev: "gate_request", Actor: "workload", Method: service, BytesUp: uint64(in), BytesDown: uint64(out), Status: http.StatusOK,
		Detail: map[string]string{"ms": fmt.Sprint(h.Now().Sub(start).Milliseconds())}}
	if err != nil {
		e.Status, e.Reason = 0, "ended early"
	}
	h.Record.Record(e)
}

// room is how many bytes a pack may have now, and why not more.
func (h *Server) room() (bytes int64, why string, err error) {
	used, err := h.used()
	if err != nil {
		return 0, "", err
	}
	if used >= h.Limits.Quota {
		return 0, h.overQuota(used), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(h.Repo, &fs); err != nil {
		return 0, "", err
	}
	free, total := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	if headroom := max(h.Limits.Headroom, total/20); free < headroom {
		return 0, fmt.Sprintf("the disk of the gate is nearly full: %d MiB free, %d are kept", free>>20, headroom>>20), nil
	}
	if left := h.Limits.Quota - used; left < h.Limits.MaxPack {
		return left, h.overQuota(used), nil
	}
	return h.Limits.MaxPack, fmt.Sprintf("pack exceeds limit of %d MiB", h.Limits.MaxPack>>20), nil
}

func (h *Server) overQuota(used int64) string {
	return fmt.Sprintf("quota: used %d of %d MiB", (used+1<<20-1)>>20, h.Limits.Quota>>20)
}

// used is the size of the task's own objects, those of Git LFS among them, without the base's.
func (h *Server) used() (int64, error) {
	_, sum, err := lfs.Of(h.Repo).Usage()
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(filepath.Join(h.Repo, "objects"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

func (h *Server) updateRefs(ctx context.Context, script interface{ Read([]byte) (int, error) }) error {
	c := h.cmd("update-ref", "--no-deref", "--stdin")
	c.Stdin = script
	_, err := h.Git.Run(ctx, c)
	return err
}

// commits counts what tip has and neither old nor the task's start and base have.
func (h *Server) commits(ctx context.Context, tip, old string) string {
	args := []string{"rev-list", "--count", tip}
	if !refname.IsZero(old) {
		args = append(args, "^"+old)
	}
	out, err := h.Git.Run(ctx, h.cmd(append(args, "--not", "--glob="+view.Upstream+"*", "--glob="+startRef)...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
