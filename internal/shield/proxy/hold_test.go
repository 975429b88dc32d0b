package proxy

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/shield/policy"
)

// asking is an Ask that waits until the test sends a token.
type asking struct {
	waiting atomic.Int32
	release chan struct{}
}

func (a *asking) hold(ctx context.Context, _ Question) {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	select {
	case <-a.release:
	case <-ctx.Done():
	}
}

// holding is a rig whose unlisted connections wait.
func holding(t *testing.T, change ...func(*Config)) (*rig, *asking) {
	a := &asking{release: make(chan struct{})}
	r := newRig(t, nil, append([]func(*Config){func(c *Config) { c.Ask = a.hold }}, change...)...)
	r.pol.Store(policy.New(nil, policy.Options{Posture: policy.Up, CanAsk: true}))
	r.serve(addrA+":443", echo)
	r.serve(addrA+":7000", echo)
	return r, a
}

// TestHoldIsBoundedAndOpensByRuleOnly: what ends a hold is no permission; a rule is.
func TestHoldIsBoundedAndOpensByRuleOnly(t *testing.T) {
	r, a := holding(t, func(c *Config) { c.Limits.Held = 2 })
	c1 := r.dial("a.test:443")
	eventually(t, "one waits", func() bool { return a.waiting.Load() == 1 })
	c2 := r.dial("a.test:443")
	eventually(t, "two wait", func() bool { return a.waiting.Load() == 2 })
	r.refused(t, "a.test:443")
	if ev := r.events.of(evLimit); len(ev) != 1 {
		t.Errorf("limit events %+v", ev)
	}
	hello := clientHello(t, "a.test")
	c1.Write(hello)
	c2.Write(hello)
	a.release <- struct{}{} // no rule: policy still says ask
	first := make([]byte, 7)
	got := make(chan int, 2)
	for i, c := range []io.Reader{c1, c2} {
		go func() {
			b := make([]byte, 7)
			if _, err := io.ReadFull(c, b); err == nil && string(b) == "\x15\x03\x03\x00\x02\x02\x31" {
				got <- i
			}
		}()
	}
	var refused int
	select {
	case refused = <-got:
	case <-time.After(patient):
		t.Fatal("no connection was refused when its wait ended")
	}
	r.setRules("+a.test:443")
	a.release <- struct{}{}
	allowed := c1
	if refused == 0 {
		allowed = c2
	}
	eventually(t, "opened", func() bool { return r.p.Counters().Open == 1 })
	r.setRules("deny!-a.test")
	r.p.Recheck()
	eventually(t, "cut", func() bool { return r.p.Counters().Cut == 1 })
	allowed.SetReadDeadline(time.Now().Add(patient))
	for {
		if _, err := allowed.Read(first); err != nil {
			break
		}
	}
}

// TestRecheckLeavesHeldConnections: they are judged anew when their wait ends, and refused in
// their own protocol.
func TestRecheckLeavesHeldConnections(t *testing.T) {
	r, a := holding(t)
	c := r.dial("a.test:443")
	c.Write(clientHello(t, "a.test"))
	eventually(t, "waits", func() bool { return a.waiting.Load() == 1 })
	r.setRules("deny!-a.test")
	r.p.Recheck()
	a.release <- struct{}{}
	b := make([]byte, 7)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "\x15\x03\x03\x00\x02\x02\x31" {
		t.Fatalf("%x, %v; want the alert access_denied", b, err)
	}
}

// TestHeldClientGivesUp: whoever gave up leaves its place; a half-closed plain client waits on.
func TestHeldClientGivesUp(t *testing.T) {
	r, a := holding(t)
	for name, start := range map[string][]byte{"tls": clientHello(t, "a.test"), "silent": nil} {
		c := r.dial("a.test:443")
		c.Write(start)
		eventually(t, name+" waits", func() bool { return a.waiting.Load() == 1 })
		c.Close()
		eventually(t, name+" is gone", func() bool { return a.waiting.Load() == 0 })
	}
	c := r.dial("a.test:7000")
	io.WriteString(c, "request")
	c.CloseWrite()
	eventually(t, "waits", func() bool { return a.waiting.Load() == 1 })
	r.setRules("+a.test:7000")
	a.release <- struct{}{}
	if b, err := io.ReadAll(c); string(b) != "request" || err != nil {
		t.Fatalf("half-closed client got %q, %v", b, err)
	}
}

// TestDeniedAfterHoldIsQuick: the client of another protocol than TLS and HTTP is not waited for
// once more.
func TestDeniedAfterHoldIsQuick(t *testing.T) {
	r, a := holding(t)
	best := time.Hour
	for range 5 { // the machine may be slow, the code is not: the best of five
		c := r.dial("a.test:7000")
		eventually(t, "waits", func() bool { return a.waiting.Load() == 1 })
		start := time.Now()
		a.release <- struct{}{}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("read: %v; want a reset", err)
		}
		best = min(best, time.Since(start))
	}
	if best > sniffTimeout/2 {
		t.Errorf("closed %v after the end of the wait", best)
	}
}

// TestRefusedIsTold: of each attempt that a rule could open, and of nothing else.
func TestRefusedIsTold(t *testing.T) {
	var mu sync.Mutex
	var got []Question
	r := newRig(t, []string{"+a.test:443", "deny!-denied.test"}, func(c *Config) {
		c.Refused = func(q Question) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, q)
		}
	})
	r.serve(addrA+":443", echo)
	last := func() Question {
		t.Helper()
		var q Question
		eventually(t, "told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			if len(got) > 0 {
				q, got = got[0], nil
				return true
			}
			return false
		})
		if !q.Client.IsValid() || !q.Server.IsValid() {
			t.Error("no ends of the connection")
		}
		q.Client, q.Server = netip.AddrPort{}, netip.AddrPort{}
		return q
	}
	r.refused(t, "denied.test:443")
	r.refused(t, "b.test:443")
	if q := last(); q != (Question{Request: policy.Request{Name: "b.test", Port: 443, Proto: "tcp"}, Source: "dns"}) {
		t.Errorf("%+v", q)
	}
	r.refused(t, addrB+":7000")
	if q := last(); q != (Question{Request: policy.Request{Addr: netip.MustParseAddr(addrB), Port: 7000, Proto: "tcp"}, Source: "none"}) {
		t.Errorf("%+v", q)
	}
	c := r.dial("a.test:443")
	c.Write(clientHello(t, "b.test"))
	if q := last(); q != (Question{Request: policy.Request{Name: "b.test", Port: 443, Proto: "tcp"}, Source: "sni", Own: "a.test"}) {
		t.Errorf("%+v", q)
	}
	c = r.dial("a.test:443")
	c.Write(clientHello(t, "denied.test"))
	io.Copy(io.Discard, c)
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 0 {
		t.Errorf("told of a second name that a rule denies: %+v", got)
	}
}
