package front

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// account is what the front keeps about one provider; all routes to it share it.
type account struct {
	provider string
	rate     bucket
	children children

	mu      sync.Mutex
	revoked string    // why the phantom is worth nothing any more; "": it is good
	since   time.Time // when it was revoked
}

// bucket allows so many events per minute, and a burst of them at once. A zero rate allows all.
type bucket struct {
	perMinute float64
	burst     float64

	mu   sync.Mutex
	have float64
	last time.Time
}

func newBucket(perMinute, burst int) bucket {
	return bucket{perMinute: float64(perMinute), burst: float64(burst), have: float64(burst)}
}

// take takes one event, or says how long it takes until there is one.
func (b *bucket) take(now time.Time) (wait time.Duration) {
	if b.perMinute <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.last); d > 0 { // a clock that was set back gives nothing
		if !b.last.IsZero() {
			b.have = min(b.burst, b.have+d.Minutes()*b.perMinute)
		}
		b.last = now
	}
	if b.have < 1 {
		return time.Duration((1 - b.have) / b.perMinute * float64(time.Minute))
	}
	b.have--
	return 0
}

// admit lets one more request to the route's provider pass: it is not revoked, within its rate,
// and, when it is paid for by tokens, within the budgets of task and project, about which a person
// may be asked.
func (f *Front) admit(ctx context.Context, rt *route, generates bool) *refusal {
	now := f.cfg.Now()
	if ref := rt.account.standing(); ref != nil {
		if rt.account.stale(now) > revokedGrace {
			f.alert(rt.Host, rt.Port, rt.Provider, LeakRevoked, Handle(rt.Phantom))
		}
		return ref
	}
	if wait := rt.account.rate.take(now); wait > 0 {
		return refuse(http.StatusTooManyRequests, "rate_limited", "this task sends too many requests to "+rt.Provider).after(wait)
	}
	if f.cfg.Admit == nil || !generates {
		return nil
	}
	if err := f.cfg.Admit(ctx, rt.Provider); err != nil {
		return refuse(http.StatusTooManyRequests, "limit_exceeded", err.Error())
	}
	return nil
}

// standing refuses when the phantom was revoked.
func (a *account) standing() *refusal {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked == "" {
		return nil
	}
	return refuse(http.StatusUnauthorized, "token_revoked", "this task's token for "+a.provider+
		" was revoked ("+a.revoked+"); a person must restart the task on the host: terok task restart")
}

// stale reports how long ago the phantom was revoked; zero: it is good.
func (a *account) stale(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked == "" {
		return 0
	}
	return max(now.Sub(a.since), 1)
}

// Revoke makes this container's phantoms worth nothing: of one provider, or of all with "". why
// is a word for the ledger and the agent. With now, what is in flight is cut as well: streams end
// without their last chunk, WebSockets with code 1008. It returns the providers that were revoked.
func (f *Front) Revoke(provider, why string, now bool) []string {
	var done []string
	for _, a := range f.accounts {
		if provider != "" && a.provider != provider {
			continue
		}
		a.mu.Lock()
		if a.revoked == "" {
			a.revoked, a.since = why, f.cfg.Now()
			done = append(done, a.provider)
		}
		a.mu.Unlock()
	}
	if now {
		// A host that belongs to several providers is cut for all of them: a connection can carry
		// requests to each.
		f.Cut(func(host string, port uint16) bool {
			return slices.ContainsFunc(f.sites[target{host, port}].routes, func(rt *route) bool { return provider == "" || rt.Provider == provider })
		}, "revoked")
	}
	return done
}

// Cut ends the connections to the hosts that match says, telling WebSockets why.
func (f *Front) Cut(match func(host string, port uint16) bool, why string) {
	var wg sync.WaitGroup
	for at, s := range f.sites {
		if !match(at.name, at.port) {
			continue
		}
		for _, c := range s.conns.all() {
			wg.Go(func() { c.cut(&closing{closePolicy, "terok: " + why}) })
		}
	}
	wg.Wait()
}

// connections are the client connections of a site.
type connections struct {
	mu  sync.Mutex
	set map[*clientConn]struct{}
}

func (c *connections) add(cc *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set == nil {
		c.set = map[*clientConn]struct{}{}
	}
	c.set[cc] = struct{}{}
}

func (c *connections) remove(cc *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.set, cc)
}

func (c *connections) all() []*clientConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*clientConn, 0, len(c.set))
	for cc := range c.set {
		out = append(out, cc)
	}
	return out
}
