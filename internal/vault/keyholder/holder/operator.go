package holder

import (
	"path/filepath"
	"strings"
	"time"

	"terok/internal/problem"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// operator does what a person asks of the open vault itself. The caller holds mu and the vault is
// open.
func (h *Holder) operator(req *keyholder.Request) (keyholder.Response, bool) {
	v, now := h.vault, h.cfg.Now()
	switch req.Op {
	case keyholder.OpWays:
		w, err := v.Ways()
		if err != nil {
			return refusalOf(err), true
		}
		return keyholder.Response{Ways: &keyholder.Ways{Slots: slotsOf(w.Slots...), Acknowledged: w.Acknowledged, RolledBack: v.RolledBack()}}, true
	case keyholder.OpAddSlot:
		if req.Slot == nil {
			return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "no slot came"}, true
		}
		n := req.Slot
		s, err := v.AddSlot(store.NewSlot{Kind: n.Kind, ID: n.ID, Secret: req.Passphrase, Sealed: n.Sealed, Generated: n.Generated}, n.Replace, now)
		freeKDF()
		return oneSlot(s, err), true
	case keyholder.OpRemoveSlot:
		return oneSlot(v.RemoveSlot(req.Name, now)), true
	case keyholder.OpAcknowledge:
		before, err := v.Acknowledge(now)
		return answer(err, keyholder.Response{Replaced: before}), true
	case keyholder.OpReveal:
		p, err := v.Reveal()
		return answer(err, keyholder.Response{Secret: p}), true
	case keyholder.OpRotate:
		dropped, err := v.RotateKey(req.Secrets, now)
		freeKDF()
		return answer(err, keyholder.Response{Ways: &keyholder.Ways{Slots: slotsOf(dropped...)}}), true
	case keyholder.OpVerify:
		found, err := v.Verify()
		return answer(err, keyholder.Response{Findings: findings(found)}), true
	case keyholder.OpBackup:
		if err := absolute(req.Path); err != nil {
			return refusalOf(err), true
		}
		return answer(v.Backup(req.Path, req.Name, now), keyholder.Response{}), true
	case keyholder.OpMerge:
		if err := absolute(req.Path); err != nil {
			return refusalOf(err), true
		}
		m, err := v.Merge(req.Path, req.Passphrase, now)
		freeKDF()
		if err == nil && m.Added > 0 {
			h.changed()
		}
		return answer(err, keyholder.Response{Merged: &keyholder.Merged{Added: m.Added, Kept: m.Kept}}), true
	case keyholder.OpExplain:
		return h.explain(req), true
	case keyholder.OpBind:
		err := v.Update(now, func(t *store.Tx) error {
			if req.Scope != "" {
				return t.Bind(store.Binding{Project: req.Name, Provider: req.Provider, Scope: req.Scope, Account: req.Account})
			}
			if !t.Unbind(req.Name, req.Provider) {
				return problem.New(keyholder.CodeNoCredential, problem.NotFound, "the project %s is bound to no credential of %s", req.Name, req.Provider)
			}
			return nil
		})
		if err == nil {
			h.changed()
		}
		return answer(err, keyholder.Response{}), true
	case keyholder.OpBindings:
		var out []keyholder.Binding
		err := v.View(func(t *store.Tx) error {
			for _, b := range t.Bindings() {
				out = append(out, keyholder.Binding(b))
			}
			return nil
		})
		return answer(err, keyholder.Response{Bindings: out}), true
	}
	return keyholder.Response{}, false
}

func answer(err error, resp keyholder.Response) keyholder.Response {
	if err != nil {
		return refusalOf(err)
	}
	return resp
}

func oneSlot(s store.Slot, err error) keyholder.Response {
	return answer(err, keyholder.Response{Ways: &keyholder.Ways{Slots: slotsOf(s)}})
}

func slotsOf(in ...store.Slot) []keyholder.Slot {
	out := make([]keyholder.Slot, len(in))
	for i, s := range in {
		out[i] = keyholder.Slot{ID: s.ID, Kind: s.Kind, CreatedAt: s.CreatedAt, Generated: s.Generated}
	}
	return out
}

// maxFindings bounds what one message says; the first ones are what matters.
const maxFindings = 100

func findings(in []store.Finding) []keyholder.Finding {
	out := make([]keyholder.Finding, 0, len(in))
	for _, f := range in[:min(len(in), maxFindings)] {
		out = append(out, keyholder.Finding(f))
	}
	return out
}

func absolute(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return problem.New("usage", problem.Usage, "the keyholder needs an absolute path")
	}
	return nil
}

func (h *Holder) explain(req *keyholder.Request) keyholder.Response {
	var out []keyholder.Step
	err := h.vault.View(func(t *store.Tx) error {
		project, own := scopeOf(req.Name, req.Scope)
		_, steps, _ := t.Resolve(project, req.Provider, own)
		for _, s := range steps {
			out = append(out, keyholder.Step{Rule: s.Rule, Scope: s.Key.Scope, Provider: s.Key.Provider, Account: s.Key.Account, Found: s.Found})
		}
		return nil
	})
	return answer(err, keyholder.Response{Steps: out})
}

// scopeOf turns a project and the scope of its grants into what Resolve takes.
func scopeOf(project, scope string) (name string, own bool) {
	if scope == "shared" {
		return project, false
	}
	return strings.TrimPrefix(scope, "project:"), true
}

// attempts slows down whoever guesses. A guess against the files themselves is bounded by scrypt
// only; this keeps a program that got a passphrase wrong from trying for ever.
type attempts struct {
	wrong int
	until time.Time
}

const (
	freeAttempts = 5
	attemptPause = 30 * time.Second
)

// refuse says how long to wait, 0 when an attempt is allowed.
func (a *attempts) refuse(now time.Time) time.Duration {
	wait := a.until.Sub(now)
	if wait > attemptPause { // the clock was set back
		a.until, wait = now, 0
	}
	return max(wait, 0)
}

func (a *attempts) note(err error, now time.Time) {
	switch {
	case err == nil:
		*a = attempts{}
	case problem.Is(err, store.CodeWrong), problem.Is(err, store.CodeRecovery), problem.Is(err, store.CodeMismatch):
		if a.wrong++; a.wrong >= freeAttempts {
			a.until = now.Add(attemptPause)
		}
	}
}
