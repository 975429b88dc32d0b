package holder

import (
	"bytes"
	"errors"
	"time"

	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// maxWaiting bounds the requests of one connection that wait for a refresh. A front relays fewer
// at a time.
const maxWaiting = 256

// token does the requests whose answer may have to wait for a provider, and reports whether req is
// one. They are answered out of turn, so that a slow provider does not hold up the others.
func (h *Holder) token(c *conn, req *keyholder.Request) bool {
	h.mu.Lock()
	var resp keyholder.Response
	var wait func() keyholder.Response
	operator := c.bound == nil && c.peer.Kind == peer.Host
	switch {
	case c.bound != nil && req.Op == keyholder.OpCredential:
		resp, wait = h.credential(c, req)
	case operator && (req.Op == keyholder.OpRefresh || req.Op == keyholder.OpRevoke) && h.vault != nil && !h.ending:
		h.lastBusy = h.cfg.Now()
		if req.Op == keyholder.OpRefresh {
			resp, wait = h.refreshNow(req)
		} else {
			wait = func() keyholder.Response { return h.revoke(req) }
		}
	default:
		h.mu.Unlock()
		return false
	}
	if wait != nil && c.waiting.Add(1) > maxWaiting {
		c.waiting.Add(-1)
		resp, wait = unavailable("too many requests wait for a refresh"), nil
	}
	h.mu.Unlock()
	id := req.ID
	answer := func(resp keyholder.Response) {
		resp.ID = id
		c.reply(resp)
		clear(resp.Secret)
	}
	if wait == nil {
		answer(resp)
		return true
	}
	h.waiting.Go(func() {
		defer c.waiting.Add(-1)
		answer(wait())
	})
	return true
}

// credential answers a supervisor. The caller holds mu.
func (h *Holder) credential(c *conn, req *keyholder.Request) (keyholder.Response, func() keyholder.Response) {
	if !c.bound.init.Alive() {
		return refused("the container has ended"), nil
	}
	if h.vault == nil || h.ending {
		return locked(), nil
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
		return keyholder.Response{Code: keyholder.CodeNotGranted, Message: keyholder.ErrNotGranted.Error()}, nil
	}
	cred, ok, err := h.granted(c.bound.file.Project, grant)
	switch {
	case err != nil:
		return refusalOf(err), nil
	case !ok:
		return keyholder.Response{Code: keyholder.CodeNoCredential, Message: keyholder.ErrNoCredential.Error()}, nil
	}
	resp, f := h.use(&cred, req.Refused)
	clear(cred.Refresh)
	clear(cred.IDToken)
	if f == nil {
		return resp, nil
	}
	clear(cred.Secret)
	again := *req
	again.Refused = ""
	return resp, func() keyholder.Response {
		t := time.NewTimer(waitRefresh)
		defer t.Stop()
		select {
		case <-f.done:
		case <-t.C:
			return unavailable("the provider does not answer the refresh")
		case <-h.flying.Done():
			return locked()
		}
		if f.failed != nil && req.Refused == "" {
			return *f.failed
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		// What is in the vault now, or, where nothing new came, what was refused: the front then
		// passes the provider's own answer on.
		resp, f := h.credential(c, &again)
		if f != nil { // it ended again already
			return unavailable("the new token has ended already")
		}
		return resp
	}
}

// held says for which grants of a supervisor there is a credential. The caller holds mu.
func (h *Holder) held(c *conn) keyholder.Response {
	switch {
	case !c.bound.init.Alive():
		return refused("the container has ended")
	case h.vault == nil:
		return locked()
	case c.bound.file.Vault == nil:
		return keyholder.Response{}
	}
	var resp keyholder.Response
	for i := range c.bound.file.Vault.Grants {
		g := &c.bound.file.Vault.Grants[i]
		cred, ok, err := h.granted(c.bound.file.Project, g)
		if err != nil {
			return refusalOf(err)
		}
		if ok {
			resp.Held = append(resp.Held, sandbox.Held{Provider: g.Provider, Kind: cred.Kind, Public: cred.Public})
		}
		wipe(&cred)
	}
	return resp
}

// refreshNow is an operator's wish for a new token. The caller holds mu.
func (h *Holder) refreshNow(req *keyholder.Request) (keyholder.Response, func() keyholder.Response) {
	k := store.Key{Scope: req.Scope, Provider: req.Provider, Account: req.Account}
	if k.Account == "" {
		k.Account = store.DefaultAccount
	}
	c, ok, err := h.vault.Get(k)
	wipe(&c)
	switch {
	case err != nil:
		return refusalOf(err), nil
	case !ok:
		return keyholder.Response{Code: keyholder.CodeNoCredential, Message: "no such credential is stored"}, nil
	case !refreshable(&c):
		return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "this credential is not refreshed: it is no OAuth sign-in with a refresh token",
			Hint: "terok auth " + k.Provider}, nil
	}
	f := h.refresh(k, h.pace(k), true)
	if f == nil {
		return locked(), nil
	}
	return keyholder.Response{}, func() keyholder.Response {
		<-f.done // bounded by the client
		if f.failed != nil {
			return *f.failed
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.vault == nil {
			return locked()
		}
		c, ok, err := h.vault.Get(k)
		wipe(&c)
		switch {
		case err != nil:
			return refusalOf(err)
		case !ok:
			return keyholder.Response{Code: keyholder.CodeNoCredential, Message: "the credential was removed meanwhile"}
		case c.State == store.StateReauth:
			resp := reauth(&c)
			resp.Message += " (" + c.LastError + ")"
			return resp
		}
		return keyholder.Response{Credentials: []keyholder.Credential{h.described(c)}}
	}
}

// revoke tells the provider that a credential is over and deletes it then. One that the provider
// did not take back stays.
func (h *Holder) revoke(req *keyholder.Request) keyholder.Response {
	k := store.Key{Scope: req.Scope, Provider: req.Provider, Account: req.Account}
	h.mu.Lock()
	if h.vault == nil {
		h.mu.Unlock()
		return locked()
	}
	c, ok, err := h.vault.Get(k)
	h.mu.Unlock()
	defer wipe(&c)
	switch {
	case err != nil:
		return refusalOf(err)
	case !ok:
		return keyholder.Response{Code: keyholder.CodeNoCredential, Message: "no such credential is stored"}
	case c.Endpoint != nil && c.Endpoint.RevokeURL != "" && len(c.Refresh) > 0:
		err = h.client.Revoke(h.flying, *c.Endpoint, c.Refresh, "refresh_token")
	case c.Endpoint != nil && c.Endpoint.RevokeURL != "":
		err = h.client.Revoke(h.flying, *c.Endpoint, c.Secret, "access_token")
	case req.Upstream != nil:
		u := req.Upstream
		err = h.client.TakeBack(h.flying, oauth.Endpoint{RevokeURL: u.URL, CAFile: u.CAFile, AllowPrivate: u.AllowPrivate}, u.Method, u.Header, u.Prefix, c.Secret)
	default:
		return keyholder.Response{Code: keyholder.CodeNoRevocation, Message: "terok knows no way to take this credential back at the provider"}
	}
	if err != nil {
		return keyholder.Response{Code: keyholder.CodeFailed, Message: "not revoked, and kept: " + oneLine(err.Error()), Hint: "terok auth --revoke " + k.Provider}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vault == nil {
		return locked()
	}
	err = h.vault.Update(h.cfg.Now(), func(t *store.Tx) error {
		now, ok := t.Get(k)
		defer wipe(&now)
		if ok && digest(now.Secret) != digest(c.Secret) {
			return problem.New("credential_replaced", problem.Conflict, "revoked; another one was stored meanwhile and is kept").WithHint("terok auth --list")
		}
		t.Delete(k)
		return nil
	})
	if err != nil {
		return refusalOf(err)
	}
	h.changed()
	return keyholder.Response{}
}

func wipe(c *store.Credential) {
	clear(c.Secret)
	clear(c.Refresh)
	clear(c.IDToken)
}

// put stores what an operator brings. The caller holds mu.
func (h *Holder) put(c store.Credential) (replaced bool, err error) {
	now := h.cfg.Now()
	if refreshable(&c) {
		c.RefreshAt = refreshAt(now, c.ExpiresAt)
	}
	k := c.Key()
	err = h.vault.Update(now, func(t *store.Tx) (err error) {
		t.ClearJournal(k)
		replaced, err = t.Put(c)
		return err
	})
	// A new sign-in begins anew; a refresh of the old one finds that it was replaced.
	if p := h.paces[k]; p != nil && err == nil {
		*p = pace{flight: p.flight}
	}
	return replaced, err
}

// errLook ends an update that was only to be tried.
var errLook = errors.New("nothing is stored")

// offer stores a credential unless there is one of its name.
func (h *Holder) offer(req *keyholder.Request) keyholder.Response {
	if req.Credential == nil {
		return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "no credential came"}
	}
	c := stored(req)
	resp := keyholder.Response{}
	err := h.vault.Update(h.cfg.Now(), func(t *store.Tx) error {
		old, ok := t.Get(c.Key())
		defer wipe(&old)
		switch {
		case !ok:
		case bytes.Equal(old.Secret, c.Secret) && bytes.Equal(old.Refresh, c.Refresh):
			resp.Had = keyholder.HadSame
		default:
			resp.Had = keyholder.HadOther
		}
		if _, err := t.Put(c); err != nil {
			return err
		}
		return errLook // whether it could be stored is known now
	})
	switch {
	case !errors.Is(err, errLook):
		return refusalOf(err)
	case resp.Had != "" || req.Dry:
		return resp
	}
	if _, err := h.put(c); err != nil {
		return refusalOf(err)
	}
	h.changed()
	return resp
}
