package holder

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/text"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// Refreshing: the keyholder alone talks to token endpoints, one request at a time for each
// credential, and only because somebody uses it. A refresh token that rotates is good once, so
// each use is written down first (the vault's refresh journal) and room for the answer is
// reserved; whoever is killed in between finds the note, tries the old token once more, and says
// rotation_lost when it is dead.

// Times of refreshing.
const (
	refreshMargin = 10 * time.Minute // ahead of the end, at least; but never more than half a lifetime
	waitRefresh   = 20 * time.Second // a request whose token has ended waits so long
	waitStore     = 2 * time.Second  // between two tries to store a token that came
	firstBackoff  = 2 * time.Second
	lastBackoff   = 5 * time.Minute
	youngToken    = 5 * time.Second // a token younger than that is not refused for its age
	lastForced    = time.Hour
	maxSkew       = time.Minute
	recheck       = time.Second // how long a worker uses a token that is being refreshed
)

// flight is one refresh on its way.
type flight struct {
	done   chan struct{}
	failed *keyholder.Response // what waiters are told; nil: look at the vault again. Set before done
}

// pace is what this process remembers of one credential's refreshes. Guarded by Holder.mu.
type pace struct {
	flight  *flight
	failed  int       // in a row without an answer that settles it
	next    time.Time // not before, unless an operator asks
	forced  int       // in a row because a provider refused the token
	trouble string    // why the last one did not succeed; "" when it did

	// When the token came, with its monotonic part, and for how long from then on it is good: so
	// that a clock that is set back does not keep a dead token in use.
	got  time.Time
	life time.Duration
}

func (h *Holder) pace(k store.Key) *pace {
	p := h.paces[k]
	if p == nil {
		p = &pace{}
		h.paces[k] = p
	}
	return p
}

func digest(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

func refreshable(c *store.Credential) bool {
	return c.Kind == store.KindOAuth && len(c.Refresh) > 0 && c.Endpoint != nil && c.Endpoint.TokenURL != ""
}

// refreshAt is when a token that ends at end is to be replaced.
func refreshAt(now, end time.Time) time.Time {
	if end.IsZero() {
		return time.Time{}
	}
	life := max(end.Sub(now), 0)
	return end.Add(-min(max(refreshMargin, life/10), life/2))
}

// ended reports whether the token is over, by the wall clock or by our own measure.
func (p *pace) ended(c *store.Credential, now time.Time) bool {
	return !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt) || !p.got.IsZero() && now.Sub(p.got) >= p.life
}

// use says how a credential serves a request now: at once, or once a refresh has come back, which
// is the second result then. refused is the digest of a token that the provider has refused, or "".
// The caller holds mu.
func (h *Holder) use(c *store.Credential, refused string) (keyholder.Response, *flight) {
	now := h.cfg.Now()
	k, p := c.Key(), h.pace(c.Key())
	ended := p.ended(c, now)
	switch {
	case c.State == store.StateReauth:
		return reauth(c), nil
	case !refreshable(c):
		if ended {
			return reauth(c), nil
		}
		return secretOf(c, now), nil
	case refused != "" && refused == digest(c.Secret):
		if p.flight != nil {
			return keyholder.Response{}, p.flight
		}
		// A container can make a provider say 401 as often as it likes: each refresh that did not
		// help makes the next one rarer.
		age := now.Sub(c.UpdatedAt)
		if age > lastForced {
			p.forced = 0
		}
		if !ended && age < min(youngToken<<min(2*p.forced, 20), lastForced) {
			return secretOf(c, now), nil
		}
		if f := h.refresh(k, p, false); f != nil {
			p.forced++
			return keyholder.Response{}, f
		}
	case ended || !c.RefreshAt.IsZero() && !now.Before(c.RefreshAt):
		f := h.refresh(k, p, false)
		if ended && f != nil {
			p.forced = 0
			return keyholder.Response{}, f
		}
	}
	if ended {
		return unavailable(p.trouble), nil
	}
	return secretOf(c, now), nil
}

// secretOf is the answer that holds a credential's secret, and says how long it may be used
// without asking again.
func secretOf(c *store.Credential, now time.Time) keyholder.Response {
	resp := keyholder.Response{Kind: c.Kind, Secret: c.Secret, Public: c.Public, ExpiresAt: c.ExpiresAt}
	until := c.RefreshAt
	if until.IsZero() || !refreshable(c) {
		until = c.ExpiresAt
	}
	if !until.IsZero() {
		resp.FreshMS = max(until.Sub(now), recheck).Milliseconds()
	}
	return resp
}

func reauth(c *store.Credential) keyholder.Response {
	return keyholder.Response{Code: keyholder.CodeReauth, Message: "the sign-in at " + c.Provider + " has ended", Hint: "terok auth " + c.Provider}
}

func unavailable(why string) keyholder.Response {
	if why == "" {
		why = "the token cannot be refreshed now"
	}
	return keyholder.Response{Code: keyholder.CodeRefresh, Message: why, Hint: "terok auth --list"}
}

// refresh starts a refresh unless one is on its way, which it returns then, or unless it is too
// early for another try. Now is whether an operator insists. The caller holds mu.
func (h *Holder) refresh(k store.Key, p *pace, now bool) *flight {
	switch {
	case p.flight != nil:
		return p.flight
	case h.ending || !now && h.cfg.Now().Before(p.next):
		return nil
	}
	f := &flight{done: make(chan struct{})}
	p.flight = f
	h.flights.Go(func() {
		h.fly(k, p, f)
		h.mu.Lock()
		p.flight = nil
		h.mu.Unlock()
		close(f.done)
	})
	return f
}

// fly is one refresh: note, ask, write down.
func (h *Holder) fly(k store.Key, p *pace, f *flight) {
	c, lost, release, err := h.intend(k)
	if err != nil {
		h.postpone(k, p, f, err)
		return
	}
	defer release()
	sent := digest(c.Refresh)
	tok, err := h.client.Refresh(h.flying, *c.Endpoint, c.Refresh)
	clear(c.Refresh)
	no, final := errors.AsType[*oauth.Refused](err)
	switch {
	case err == nil:
		defer tok.Wipe()
		release()
		if h.keep(k, p, f, sent, func(c *store.Credential) { h.renew(p, c, tok) }) {
			h.note("vault_refreshed", k, "")
		}
	case final:
		release()
		reason := "refused: " + no.Code
		if lost {
			reason = "rotation_lost: an earlier answer of the provider never arrived"
		}
		if h.keep(k, p, f, sent, func(c *store.Credential) { c.State, c.LastError = store.StateReauth, reason }) {
			h.note("vault_reauth_required", k, reason)
		}
	default:
		h.postpone(k, p, f, err)
	}
}

// intend reserves room for the answer and writes down that the refresh token is about to be used.
// lost is whether an earlier use may have been answered without our knowing.
func (h *Holder) intend(k store.Key) (c store.Credential, lost bool, release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vault == nil || h.ending {
		return c, false, nil, errors.New("the vault is locked")
	}
	if release, err = h.cfg.reserve(h.cfg.Roots.VaultDir()); err != nil {
		return c, false, nil, fmt.Errorf("there is no room to store a new token, so none is asked for: %w", err)
	}
	now := h.cfg.Now()
	err = h.vault.Update(now, func(t *store.Tx) error {
		var ok bool
		if c, ok = t.Get(k); !ok || !refreshable(&c) {
			return errors.New("the credential is gone")
		}
		old, noted := t.Journal(k)
		j := store.Journal{Key: k, StartedAt: now, Phase: store.PhaseIntent, OldDigest: digest(c.Refresh)}
		if noted && old.OldDigest == j.OldDigest {
			lost, j.Attempts = true, old.Attempts+1
		}
		return t.SetJournal(j)
	})
	clear(c.Secret)
	clear(c.IDToken)
	if err != nil {
		release()
		return c, false, nil, fmt.Errorf("the refresh cannot be noted: %w", err)
	}
	return c, lost, release, nil
}

// keep writes an outcome down and does not give up: the old token may be dead, and the new one is
// nowhere else. A credential that was replaced meanwhile is left alone.
func (h *Holder) keep(k store.Key, p *pace, f *flight, sent string, change func(*store.Credential)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.vault != nil {
		err := h.vault.Update(h.cfg.Now(), func(t *store.Tx) error {
			t.ClearJournal(k)
			c, ok := t.Get(k)
			if !ok || digest(c.Refresh) != sent {
				return nil
			}
			change(&c)
			_, err := t.Put(c)
			return err
		})
		if err == nil {
			p.failed, p.next, p.trouble = 0, time.Time{}, ""
			h.changed()
			return true
		}
		p.trouble = "the provider's answer cannot be stored: " + err.Error()
		h.mu.Unlock()
		select {
		case <-h.flying.Done():
		case <-time.After(waitStore):
		}
		h.mu.Lock()
		if h.flying.Err() != nil {
			break
		}
	}
	resp := locked()
	f.failed = &resp
	return false
}

// postpone sets the time of the next try.
func (h *Holder) postpone(k store.Key, p *pace, f *flight, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := min(firstBackoff<<min(p.failed, 10), lastBackoff)
	wait += time.Duration(rand.Int64N(int64(wait)/2)) - wait/4 // so that machines do not ask in step
	later, ok := errors.AsType[*oauth.Unavailable](err)
	if ok {
		wait = max(wait, later.RetryAfter)
	}
	p.failed++
	p.next, p.trouble = h.cfg.Now().Add(wait), oneLine(err.Error())
	resp := unavailable(p.trouble)
	f.failed = &resp
	if ok && !later.Sent && h.vault != nil {
		// The token was not used; without the note a refusal later on is only a refusal.
		_ = h.vault.Update(h.cfg.Now(), func(t *store.Tx) error { t.ClearJournal(k); return nil })
	}
}

// renew puts a new token into a credential.
func (h *Holder) renew(p *pace, c *store.Credential, tok *oauth.Token) {
	now := h.cfg.Now()
	p.got, p.life = now, tok.ExpiresAt.Sub(now)
	c.Secret, c.ExpiresAt, c.RefreshAt = tok.Access, tok.ExpiresAt, refreshAt(now, tok.ExpiresAt)
	c.State, c.LastError, c.VerifiedAt = store.StateOK, "", now
	if tok.Refresh != nil {
		c.Refresh = tok.Refresh
	}
	if tok.ID != nil {
		c.IDToken = tok.ID
	}
	var warnings []string
	if had := strings.Fields(c.Public["scopes"]); tok.Scopes != nil && len(had) > 0 {
		gone := slices.DeleteFunc(had, func(s string) bool { return slices.Contains(tok.Scopes, s) })
		if len(gone) > 0 {
			warnings = append(warnings, "the new token has fewer rights; gone: "+strings.Join(gone, " "))
		}
		if now := strings.Join(tok.Scopes, " "); len(now) <= 512 {
			c.Public["scopes"] = now
		}
	}
	if tok.Skew > maxSkew || tok.Skew < -maxSkew {
		warnings = append(warnings, fmt.Sprintf("this machine's clock is %s away from the provider's", tok.Skew.Abs().Round(time.Second)))
	}
	c.LastError = oneLine(strings.Join(warnings, "; "))
	// The store takes no fact that holds a secret, and a token that rotated must not be lost for one.
	tells := func(s string) bool {
		return slices.ContainsFunc([][]byte{c.Secret, c.Refresh, c.IDToken}, func(secret []byte) bool { return len(secret) > 0 && strings.Contains(s, string(secret)) })
	}
	maps.DeleteFunc(c.Public, func(_, value string) bool { return tells(value) })
	if tells(c.LastError) {
		c.LastError = ""
	}
}

// oneLine brings a reason to the form of store.Credential.LastError.
func oneLine(s string) string { return text.Line(s, 280) }

// note writes the host's ledger. A ledger that cannot be written stops no refresh.
func (h *Holder) note(ev string, k store.Key, reason string) {
	_ = audit.AppendOne(h.cfg.Roots.HostLedger(), audit.Event{Ev: ev, Actor: "auto", Provider: k.Provider, Scope: k.Scope, Reason: reason,
		Detail: map[string]string{"account": k.Account}})
}

// resume tries the refreshes that a crash interrupted. The caller holds mu.
func (h *Holder) resume() {
	var open []store.Journal
	_ = h.vault.View(func(t *store.Tx) error { open = t.Journals(); return nil })
	for _, j := range open {
		if j.Phase == store.PhaseIntent {
			h.refresh(j.Key, h.pace(j.Key), false)
		}
	}
}
