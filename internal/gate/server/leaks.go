package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"terok/internal/audit"
	"terok/internal/git"
	"terok/internal/leak"
	"terok/internal/text"
)

// What a task brings may hold credentials: in the objects of a push, and in files that are kept in Git LFS.
// What is done about them is decided here for both.

// found are the credentials in an object of git, of kind blob, commit or tag.
type found struct {
	kind string
	list []leak.Finding
}

// forbidden is the first credential that this gate does not let in: terok's own never, vendors' only where
// the project allows them. known are fingerprints that are no news.
func (h *Server) forbidden(list []leak.Finding, known map[string]bool) (leak.Finding, bool) {
	for _, f := range list {
		if !known[f.Fingerprint] && (f.Own || !h.AllowSecrets) {
			return f, true
		}
	}
	return leak.Finding{}, false
}

// suspect tells of a credential that is refused: the ledger of this one, and Leaked of each phantom in lists,
// so that the refusal for the first secret does not hide the others. reason says how the object came.
func (h *Server) suspect(f leak.Finding, reason, object string, lists ...[]leak.Finding) {
	told := map[string]bool{"": true}
	for _, list := range lists {
		for _, x := range list {
			if token := x.Phantom(); !told[token] && h.Leaked != nil {
				told[token] = true
				h.Leaked(token)
			}
		}
	}
	h.Record.Record(audit.Event{Ev: "leak_suspected", Actor: "workload", Reason: reason, Detail: map[string]string{
		"kind": f.Kind, "fingerprint": f.Fingerprint, "object": object}})
}

// judgeLeaks refuses credentials that this push brings. What stands in the same file already is
// not new, and what git added to complete a thin pack is not new either.
func (i *inspection) judgeLeaks(ctx context.Context, tips []string) error {
	if len(i.leaks) == 0 {
		return nil
	}
	paths, err := i.q.paths(ctx, tips)
	if err != nil {
		return err
	}
	maps.DeleteFunc(i.leaks, func(id string, _ found) bool { _, isNew := paths[id]; return !isNew })
	for _, id := range slices.Sorted(maps.Keys(i.leaks)) {
		where, kind := paths[id], i.leaks[id].kind
		known, err := i.q.known(ctx, where)
		if err != nil {
			return err
		}
		f, bad := i.q.h.forbidden(i.leaks[id].list, known)
		if !bad {
			continue
		}
		var all [][]leak.Finding
		for _, other := range i.leaks {
			all = append(all, other.list)
		}
		i.q.h.suspect(f, "pushed", id, all...)
		place := "the message of " + kind + " " + id[:12]
		if kind == "blob" {
			place = text.Line(where, 100)
		}
		return errRefused(fmt.Sprintf("%s holds a secret: %s (fingerprint %s); take it out of the commits, not only of the last one", place, f.Kind, f.Fingerprint))
	}
	return nil
}

// known are the fingerprints of credentials that a file of the task's start already holds.
func (q *quarantine) known(ctx context.Context, where string) (map[string]bool, error) {
	known := map[string]bool{}
	if where == "" {
		return known, nil
	}
	out, err := q.h.Git.Run(ctx, q.h.cmd("cat-file", "blob", "refs/terok/start:"+where))
	if err != nil {
		if exit, ok := errors.AsType[*git.ExitError](err); ok && (exit.Code > 0 || errors.Is(err, git.ErrTooLarge)) {
			return known, nil // it was not there, or it is too large to be compared
		}
		return nil, err
	}
	for _, f := range leak.Bytes(out) {
		known[f.Fingerprint] = true
	}
	return known, nil
}

// scanned looks for credentials in what passes through it.
type scanned struct {
	io.Reader
	pipe *io.PipeWriter
	done chan []leak.Finding
}

// scan begins a look at all that is read from the result; end has to be called.
func scan(r io.Reader) *scanned {
	pr, pw := io.Pipe()
	s := &scanned{io.TeeReader(r, pw), pw, make(chan []leak.Finding, 1)}
	go func() {
		list, _ := leak.Scan(pr) // the error is end's
		s.done <- list
	}()
	return s
}

// end returns what was found in what was read.
func (s *scanned) end() []leak.Finding {
	s.pipe.Close()
	return <-s.done
}
