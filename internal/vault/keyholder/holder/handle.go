package holder

import (
	"fmt"

	"terok/internal/peer"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// handle does one request. end says that the keyholder ends once the response is out.
func (h *Holder) handle(c *conn, req *keyholder.Request) (resp keyholder.Response, end bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.bound != nil {
		if req.Op != keyholder.OpCredential {
			return refused("a supervisor may fetch its task's credentials only"), false
		}
		return h.credential(c, req), false
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
		if h.vault != nil {
			h.vault.Close()
			h.vault = nil
		}
		return keyholder.Response{}, true
	case keyholder.OpStatus:
		return keyholder.Response{Status: h.status()}, false
	}
	if h.vault == nil {
		return locked(), false
	}
	switch req.Op {
	case keyholder.OpList:
		list, err := h.vault.List()
		if err != nil {
			return refusalOf(err), false
		}
		out := make([]keyholder.Credential, len(list))
		for i, c := range list {
			out[i] = keyholder.Credential{Scope: c.Scope, Provider: c.Provider, Kind: c.Kind, Hint: c.Hint,
				CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt, Revision: c.Revision}
		}
		return keyholder.Response{Credentials: out}, false
	case keyholder.OpPut:
		replaced, err := h.vault.Put(req.Scope, req.Provider, req.Kind, req.Secret, h.cfg.Now())
		if err != nil {
			return refusalOf(err), false
		}
		h.changed()
		return keyholder.Response{Replaced: replaced}, false
	case keyholder.OpDelete:
		found, err := h.vault.Delete(req.Scope, req.Provider)
		switch {
		case err != nil:
			return refusalOf(err), false
		case !found:
			return keyholder.Response{Code: keyholder.CodeNoCredential, Message: "no such credential is stored"}, false
		}
		h.changed()
		return keyholder.Response{}, false
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
	if h.ending {
		return locked()
	}
	v, err := store.Open(h.cfg.Roots.VaultDir(), req.Passphrase)
	freeKDF()
	if err != nil {
		return refusalOf(err)
	}
	if h.vault != nil {
		h.vault.Close() // the new one was read just now
	}
	h.vault = v
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

func (h *Holder) credential(c *conn, req *keyholder.Request) keyholder.Response {
	if !c.bound.init.Alive() {
		return refused("the container has ended")
	}
	if h.vault == nil {
		return locked()
	}
	var grant *sandbox.Grant
	if v := c.bound.file.Vault; v != nil {
		for i := range v.Grants {
			if v.Grants[i].Provider == req.Provider {
				grant = &v.Grants[i]
			}
		}
	}
	if grant == nil {
		return keyholder.Response{Code: keyholder.CodeNotGranted, Message: keyholder.ErrNotGranted.Error()}
	}
	// A project's own credential comes before the shared one; a project that keeps to itself
	// (scope "project:NAME") never falls back.
	scopes := []string{grant.Scope}
	if grant.Scope == "shared" && c.bound.file.Project != "" {
		scopes = []string{"project:" + c.bound.file.Project, "shared"}
	}
	for _, scope := range scopes {
		cred, ok, err := h.vault.Get(scope, grant.Provider)
		if err != nil {
			return refusalOf(err)
		}
		if ok {
			return keyholder.Response{Kind: cred.Kind, Secret: cred.Secret}
		}
	}
	return keyholder.Response{Code: keyholder.CodeNoCredential, Message: keyholder.ErrNoCredential.Error()}
}
