package holder

import (
	"encoding/json"
	"fmt"

	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// handle does one request. end says that the keyholder ends once the response is out.
func (h *Holder) handle(c *conn, req *keyholder.Request) (resp keyholder.Response, end bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending {
		return locked(), false
	}
	if c.bound != nil {
		if req.Op == keyholder.OpSSH {
			return h.ssh(c, req.SSH), false
		}
		switch req.Op {
		case keyholder.OpPhantoms:
			return h.phantoms(c, req.Digests), false
		case keyholder.OpLeaked:
			return h.leaked(c, req.Digests), false
		case keyholder.OpHeld:
			return h.held(c), false
		}
		return refused("a supervisor may fetch its task's credentials only"), false
	}
	if req.Op == keyholder.OpAttach {
		return h.attach(c, req), false
	}
	if c.peer.Kind != peer.Host {
		return refused("only a process of the operator's session may do that"), false
	}
	h.lastBusy = h.cfg.Now()
	switch req.Op {
	case keyholder.OpUnlock:
		return h.unlock(req), false
	case keyholder.OpLock:
		h.ending = true // everybody is told locked from here on; end forgets
		return keyholder.Response{}, true
	case keyholder.OpStatus:
		return keyholder.Response{Status: h.status()}, false
	case keyholder.OpUpgrade:
		return h.upgrade()
	}
	if h.vault == nil {
		return locked(), false
	}
	switch req.Op {
	case keyholder.OpSSH:
		return h.ssh(c, req.SSH), false
	case keyholder.OpUpstream:
		return h.upstream(req), false
	case keyholder.OpList:
		list, err := h.vault.List()
		if err != nil {
			return refusalOf(err), false
		}
		return h.listed(list, req.After), false
	case keyholder.OpPut:
		if req.Credential == nil {
			return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "no credential came"}, false
		}
		replaced, err := h.put(stored(req))
		if err != nil {
			return refusalOf(err), false
		}
		h.changed()
		return keyholder.Response{Replaced: replaced}, false
	case keyholder.OpOffer:
		return h.offer(req), false
	case keyholder.OpDelete:
		found, err := h.vault.Delete(store.Key{Scope: req.Scope, Provider: req.Provider, Account: req.Account})
		switch {
		case err != nil:
			return refusalOf(err), false
		case !found:
			return keyholder.Response{Code: keyholder.CodeNoCredential, Message: "no such credential is stored"}, false
		}
		h.changed()
		return keyholder.Response{}, false
	}
	if resp, ok := h.operator(req); ok {
		return resp, false
	}
	return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "unknown operation"}, false
}

func locked() keyholder.Response {
	return keyholder.Response{Code: keyholder.CodeLocked, Message: "the vault is locked"}
}

func refused(why string) keyholder.Response {
	return keyholder.Response{Code: keyholder.CodeRefused, Message: why}
}

// unlock opens the vault. An open one stays open, whatever the passphrase; it is checked all the
// same, so that the answer tells whether it is right.
func (h *Holder) unlock(req *keyholder.Request) keyholder.Response {
	if h.ending || req.Unattended && stands(h.cfg.Roots.VaultLocked()) {
		return locked()
	}
	now := h.cfg.Now()
	if wait := h.attempts.refuse(now); wait > 0 {
		return keyholder.Response{Code: keyholder.CodeAttempts, Exit: problem.Failed, Message: "too many wrong passphrases",
			Hint: fmt.Sprintf("wait %d s, then run the same command again", int(wait.Seconds())+1)}
	}
	v, err := store.Open(h.cfg.Roots.VaultDir(), req.Passphrase)
	freeKDF()
	h.attempts.note(err, now)
	if err != nil {
		return refusalOf(err)
	}
	if h.vault != nil {
		h.vault.Close() // the new one was read just now
	}
	h.vault = v
	h.resume()
	h.changed()
	return keyholder.Response{Status: h.status()}
}

func (h *Holder) attach(c *conn, req *keyholder.Request) keyholder.Response {
	if h.vault == nil {
		return locked()
	}
	b, err := h.bind(c, req.Sandbox)
	if err != nil {
		return refused(fmt.Sprintf("the keyholder does not serve this supervisor: %v", err))
	}
	c.bound = b
	return keyholder.Response{}
}

// granted finds the credential behind a grant: a project's own comes before the shared one; a
// project that keeps to itself (scope "project:NAME") never falls back.
func (h *Holder) granted(project string, grant *sandbox.Grant) (cred store.Credential, ok bool, err error) {
	project, own := scopeOf(project, grant.Scope)
	err = h.vault.View(func(t *store.Tx) error {
		var k store.Key
		if k, _, ok = t.Resolve(project, grant.Provider, own); ok {
			cred, ok = t.Get(k)
		}
		return nil
	})
	return cred, ok, err
}

// stored is the credential of a request to store.
func stored(req *keyholder.Request) store.Credential {
	c := req.Credential
	return store.Credential{Scope: c.Scope, Provider: c.Provider, Account: c.Account, Kind: c.Kind, State: c.State, LastError: c.LastError,
		Public: c.Public, ExpiresAt: c.ExpiresAt, RefreshAt: c.RefreshAt, Endpoint: c.Endpoint, VerifiedAt: c.VerifiedAt,
		Secret: req.Secret, Refresh: req.Refresh, IDToken: req.IDToken}
}

// described is a credential as operators may see it. The caller holds mu.
func (h *Holder) described(c store.Credential) keyholder.Credential {
	d := keyholder.Credential{Scope: c.Scope, Provider: c.Provider, Account: c.Account, Kind: c.Kind, State: c.State, LastError: c.LastError,
		Public: c.Public, Hint: c.Hint, ExpiresAt: c.ExpiresAt, RefreshAt: c.RefreshAt, Endpoint: c.Endpoint,
		CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt, VerifiedAt: c.VerifiedAt, Revision: c.Revision}
	if p := h.paces[c.Key()]; p != nil {
		d.Refreshing = p.flight != nil
		if d.LastError == "" {
			d.LastError = p.trouble
		}
	}
	return d
}

// listed puts as many credentials into one message as fit, beginning after so many.
func (h *Holder) listed(list []store.Credential, after int) keyholder.Response {
	var resp keyholder.Response
	size := 0
	for i := min(max(after, 0), len(list)); i < len(list); i++ {
		c := h.described(list[i])
		b, err := json.Marshal(c)
		if err != nil {
			return refusalOf(err)
		}
		if size += len(b) + 1; size > keyholder.MaxMessage-1024 {
			resp.More = true
			break
		}
		resp.Credentials = append(resp.Credentials, c)
	}
	return resp
}
