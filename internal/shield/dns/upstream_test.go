package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestSystemTruncated(t *testing.T) {
	w := newWorld(t)
	for _, n := range strings.Fields("1 2 3 4 5 6 7 8 9") {
		w.add("big.test. 30 TXT " + n + strings.Repeat("x", 200))
	}
	m, err := SystemUpstream(w.conf()).Exchange(t.Context(), question("big.test", mdns.TypeTXT))
	if err != nil || len(m.Answer) != 9 {
		t.Fatalf("%v %v", m, err)
	}
	if got := w.questions(); !slices.Equal(got, []string{"udp big.test. TXT", "tcp big.test. TXT"}) {
		t.Errorf("asked %v", got)
	}
}

// TestSystemForged: datagrams that do not match id and question are ignored, not believed.
func TestSystemForged(t *testing.T) {
	w := newWorld(t, "a.test. 30 A 203.0.113.10")
	w.tricked(func(q *mdns.Msg, rw mdns.ResponseWriter) bool {
		for i := range 4 {
			m := new(mdns.Msg)
			m.SetReply(q)
			rr, _ := mdns.NewRR("a.test. 30 A 203.0.113.66")
			m.Answer = []mdns.RR{rr}
			switch i {
			case 0:
				m.Id++
			case 1:
				m.Question[0].Name = "b.test."
			case 2:
				m.Question[0].Qtype = mdns.TypeAAAA
			case 3:
				m.Response = false
			}
			rw.WriteMsg(m)
		}
		rw.Write([]byte("noise"))
		return false
	})
	m, err := SystemUpstream(w.conf()).Exchange(t.Context(), question("a.test", mdns.TypeA))
	if err != nil || len(m.Answer) != 1 || m.Answer[0].(*mdns.A).A.String() != "203.0.113.10" {
		t.Fatalf("%v %v", m, err)
	}
}

// TestSystemServers: a silent, a closed and a failing server are passed over; ids are not reused.
func TestSystemServers(t *testing.T) {
	good, failing := newWorld(t, "a.test. 30 A 203.0.113.10"), newWorld(t)
	failing.script(func() { failing.rcode["a.test."] = mdns.RcodeServerFailure })
	closed, l := listen(t)
	closedAddr := closed.LocalAddr().String()
	closed.Close()
	l.Close()
	conf := writeFile(t, "resolv.conf", "# comment\nsearch x\nnameserver "+closedAddr+"\nnameserver "+failing.addr+"\nnameserver "+good.addr+"\nnameserver 192.0.2.1\n")
	up := SystemUpstream(conf)
	ids := map[uint16]bool{}
	for range 5 {
		m, err := up.Exchange(t.Context(), question("a.test", mdns.TypeA))
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v %v", m, err)
		}
	}
	good.script(func() {
		for _, q := range good.raw {
			ids[q.Id] = true
		}
	})
	if len(ids) < 4 {
		t.Errorf("ids %v", ids)
	}
	if _, err := up.Exchange(t.Context(), new(mdns.Msg)); err == nil {
		t.Error("a query without question was sent")
	}
}

func TestSystemReread(t *testing.T) {
	one, two := newWorld(t, "a.test. 30 A 203.0.113.1"), newWorld(t, "a.test. 30 A 203.0.113.2")
	path := one.conf()
	up := SystemUpstream(path)
	first := func() string {
		m, err := up.Exchange(t.Context(), question("a.test", mdns.TypeA))
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v %v", m, err)
		}
		return m.Answer[0].(*mdns.A).A.String()
	}
	if got := first(); got != "203.0.113.1" {
		t.Fatal(got)
	}
	if err := os.WriteFile(path, []byte("# moved\nnameserver "+two.addr+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := first(); got != "203.0.113.2" {
		t.Fatal(got)
	}
	if got := readServers("/nonexistent"); len(got) != 1 || got[0].String() != "127.0.0.1:53" {
		t.Errorf("without a file: %v", got)
	}
}

func TestSystemSilent(t *testing.T) {
	w := newWorld(t)
	w.script(func() { w.silent = true })
	start := time.Now()
	if _, err := SystemUpstream(w.conf()).Exchange(t.Context(), question("a.test", mdns.TypeA)); err == nil {
		t.Fatal("an answer from a silent server")
	}
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := SystemUpstream(w.conf()).Exchange(ctx, question("a.test", mdns.TypeA)); err == nil {
		t.Error("asked after the end of the context")
	}
}

func lookupRig(t *testing.T, records ...string) (*world, *Lookup, *clock) {
	w := newWorld(t, records...)
	c := &clock{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	l := NewLookup(SystemUpstream(w.conf()), writeFile(t, "hosts", "203.0.113.77 pinned.test Other.TEST # x\n::1 six.test\nbad line\n"))
	l.now = c.Now
	return w, l, c
}

func TestLookup(t *testing.T) {
	w, l, _ := lookupRig(t,
		"a.test. 30 A 203.0.113.10", "a.test. 30 A 203.0.113.11", "a.test. 30 AAAA 2001:db8::1",
		"c.test. 30 CNAME d.test.", "d.test. 30 A 203.0.113.20",
		"map.test. 30 AAAA ::ffff:10.0.0.1",
	)
	w.script(func() { w.rcode["nx.test."], w.rcode["bad.test."] = mdns.RcodeNameError, mdns.RcodeServerFailure })
	for name, want := range map[string]string{
		"a.test":      "203.0.113.10 203.0.113.11 2001:db8::1",
		"c.test":      "203.0.113.20",
		"map.test":    "::ffff:10.0.0.1", // not unmapped: the floor must see it
		"pinned.test": "203.0.113.77",
		"other.test":  "203.0.113.77",
		"six.test":    "::1",
		"nx.test":     "nx.test does not exist",
		"bad.test":    "bad.test cannot be resolved: upstream says SERVFAIL",
		"none.test":   "none.test has no address",
	} {
		addrs, err := l.LookupHost(t.Context(), name)
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%s: %s, want %s", name, text, want)
		}
	}
	for _, q := range w.questions() {
		if strings.Contains(q, "pinned") {
			t.Error("a name of the hosts file was asked for")
		}
	}
}

// TestLookupForeignRecords: an answer's records about other names are not taken for this one's.
func TestLookupForeignRecords(t *testing.T) {
	w, l, _ := lookupRig(t)
	w.tricked(func(q *mdns.Msg, rw mdns.ResponseWriter) bool {
		m := new(mdns.Msg)
		m.SetReply(q)
		for _, s := range []string{
			"loop.test. 30 CNAME loop2.test.", "loop2.test. 30 CNAME loop.test.",
			"other.test. 30 A 203.0.113.66", "loop.test. 30 CH A 203.0.113.66",
		} {
			if rr, err := mdns.NewRR(s); err == nil {
				m.Answer = append(m.Answer, rr)
			}
		}
		rw.WriteMsg(m)
		return true
	})
	addrs, err := l.LookupHost(t.Context(), "loop.test")
	var le *LookupError
	if !errors.As(err, &le) || le.Rcode != mdns.RcodeSuccess {
		t.Errorf("%v %v", addrs, err)
	}
}

// TestLookupTTL: an answer lives as long as its TTL says, at most 60 s; failures are not kept.
func TestLookupTTL(t *testing.T) {
	w, l, c := lookupRig(t, "short.test. 2 A 203.0.113.1", "long.test. 3600 A 203.0.113.1", "zero.test. 0 A 203.0.113.1")
	w.script(func() { w.rcode["nx.test."], w.rcode["bad.test."] = mdns.RcodeNameError, mdns.RcodeServerFailure })
	asked := func(name string) bool {
		before := len(w.questions())
		l.LookupHost(t.Context(), name)
		return len(w.questions()) > before
	}
	for _, s := range []struct {
		name    string
		advance time.Duration
		want    bool
	}{
		{"short.test", 0, true}, {"short.test", time.Second, false}, {"short.test", time.Second, true},
		{"long.test", 0, true}, {"long.test", 59 * time.Second, false}, {"long.test", time.Second, true},
		{"zero.test", 0, true}, {"zero.test", 0, true},
		{"nx.test", 0, true}, {"nx.test", 4 * time.Second, false}, {"nx.test", time.Second, true},
		{"bad.test", 0, true}, {"bad.test", 0, true},
	} {
		c.advance(s.advance)
		if got := asked(s.name); got != s.want {
			t.Errorf("%s after %v: asked %v", s.name, s.advance, got)
		}
	}
	// The cache is bounded.
	for i := range 3 * maxCache {
		l.store(strings.Repeat("x", i%50)+string(rune('a'+i%26))+".test"+time.Duration(i).String(), cached{until: c.Now().Add(time.Minute)})
	}
	if len(l.cache) > maxCache {
		t.Errorf("%d entries", len(l.cache))
	}
}

// TestLookupLateFamily: a server that never answers AAAA does not hold up A.
func TestLookupLateFamily(t *testing.T) {
	w, l, _ := lookupRig(t, "a.test. 30 A 203.0.113.10")
	w.tricked(func(q *mdns.Msg, _ mdns.ResponseWriter) bool { return q.Question[0].Qtype == mdns.TypeAAAA })
	start := time.Now()
	addrs, err := l.LookupHost(t.Context(), "a.test")
	if err != nil || !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("203.0.113.10")}) {
		t.Fatalf("%v %v", addrs, err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestLookupGivesUp: the caller's context ends its wait, not that of others.
func TestLookupGivesUp(t *testing.T) {
	w, l, _ := lookupRig(t, "a.test. 30 A 203.0.113.10")
	release := make(chan struct{})
	w.tricked(func(*mdns.Msg, mdns.ResponseWriter) bool { <-release; return false })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.LookupHost(ctx, "a.test"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(release)
	if addrs, err := l.LookupHost(t.Context(), "a.test"); err != nil || len(addrs) != 1 {
		t.Errorf("%v %v", addrs, err)
	}
}

// TestSystemConnected: the socket is connected, so another address's datagram is not even read.
func TestSystemConnected(t *testing.T) {
	w := newWorld(t, "a.test. 30 A 203.0.113.10")
	stranger, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	w.tricked(func(q *mdns.Msg, rw mdns.ResponseWriter) bool {
		m := new(mdns.Msg)
		m.SetReply(q)
		rr, _ := mdns.NewRR("a.test. 30 A 203.0.113.66")
		m.Answer = []mdns.RR{rr}
		wire, _ := m.Pack()
		stranger.WriteTo(wire, rw.RemoteAddr())
		return false
	})
	m, err := SystemUpstream(w.conf()).Exchange(t.Context(), question("a.test", mdns.TypeA))
	if err != nil || m.Answer[0].(*mdns.A).A.String() != "203.0.113.10" {
		t.Errorf("%v %v", m, err)
	}
}
