package front

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
)

// Kinds of leaks, the reason of a vault_leak event.
const (
	LeakForeign     = "foreign_phantom" // a whole phantom of some other container, or of an earlier start
	LeakWrongSecret = "wrong_secret"    // the public handle of our phantom with another secret
	LeakRevoked     = "revoked_phantom" // a phantom that was revoked more than a minute ago
	LeakGuessing    = "guessing"        // more wrong tokens than mistakes explain
	LeakInName      = "phantom_in_name" // a phantom in a name that was looked up or connected to
	LeakInPush      = "phantom_in_push" // a phantom in what was pushed
)

// Bounds of wrong tokens.
const (
	wrongPerMinute = 20
	wrongWaiting   = 4 // that are slowed down at a time; more are turned away at once
	alertEvery     = 10 * time.Minute
	revokedGrace   = time.Minute // a client may try a token that was just revoked
)

// canary notices tokens that are seen where they must not be. It never revokes by itself: a
// handle is public, and whoever knows one must not be able to cut another task off.
type canary struct {
	wrong bucket
	slow  chan struct{}
	delay time.Duration
	mu    sync.Mutex
	told  map[string]time.Time
}

func newCanary(delay time.Duration) *canary {
	return &canary{wrong: newBucket(wrongPerMinute, wrongPerMinute), slow: make(chan struct{}, wrongWaiting),
		delay: delay, told: map[string]time.Time{}}
}

// alert writes one line for each owner and kind in ten minutes.
func (f *Front) alert(host string, port uint16, provider, kind, handle string) {
	now := f.cfg.Now()
	c := f.canary
	c.mu.Lock()
	key := kind + " " + handle
	last, known := c.told[key]
	fresh := !known || now.Sub(last) >= alertEvery
	if fresh {
		if len(c.told) >= 256 { // an attacker invents handles
			clear(c.told)
		}
		c.told[key] = now
	}
	c.mu.Unlock()
	if fresh {
		f.cfg.Record.Record(audit.Event{Ev: "vault_leak", Actor: "workload", Name: host, Port: port,
			Provider: provider, Reason: kind, Detail: map[string]string{"grant": handle}})
	}
}

// stranger looks at a credential in a place for ours that looks like a phantom and is not one of
// this container, and slows down whoever tries many. A non-nil answer takes the place of the
// refusal.
func (f *Front) stranger(ctx context.Context, s *site, value string) *refusal {
	tell := func(kind, handle string) { f.alert(s.host, s.port, s.routes[0].Provider, kind, handle) }
	token := FindPhantom(value)
	handle := Handle(token)
	switch {
	case token == "":
	case slices.ContainsFunc(f.grants, func(g *grant) bool { return Handle(g.Phantom) == handle }):
		tell(LeakWrongSecret, handle)
	case ValidPhantom(token) && f.cfg.Leaked == nil:
		tell(LeakForeign, "") // one for all of them: each costs the container nothing to make up
	}
	if f.canary.wrong.take(f.cfg.Now()) == 0 {
		if ValidPhantom(token) && f.cfg.Leaked != nil && f.cfg.Leaked(ctx, token) != "" {
			return refuse(http.StatusForbidden, "wrong_container", "the token belongs to another task; it is revoked there")
		}
		return nil
	}
	tell(LeakGuessing, "")
	select {
	case f.canary.slow <- struct{}{}:
		defer func() { <-f.canary.slow }()
	default:
		return refuse(http.StatusTooManyRequests, "rate_limited", "too many wrong tokens").after(f.canary.delay)
	}
	timer := time.NewTimer(f.canary.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// phantomLen is the length of a phantom token in bytes.
const phantomLen = len(PhantomPrefix) + 10 + 1 + 38

// FindPhantom returns the first thing in s that looks like a phantom, in lower case, "" if there
// is none. Case does not matter, since names lose it.
func FindPhantom(s string) string {
	if len(s) < phantomLen {
		return ""
	}
	for s = strings.ToLower(s); ; s = s[1:] {
		i := strings.Index(s, PhantomPrefix)
		if i < 0 || len(s)-i < phantomLen {
			return ""
		}
		s = s[i:]
		handle, secret := s[len(PhantomPrefix):len(PhantomPrefix)+10], s[phantomLen-38:phantomLen]
		if symbols(handle) && s[phantomLen-39] == '-' && symbols(secret) {
			return s[:phantomLen]
		}
	}
}

// symbols reports whether s is of the alphabet of phantoms.
func symbols(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// Handle is the public part of a phantom, which may be written down.
func Handle(token string) string {
	if len(token) < len(PhantomPrefix)+10 {
		return ""
	}
	return token[len(PhantomPrefix) : len(PhantomPrefix)+10]
}
