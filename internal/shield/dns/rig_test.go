package dns

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// world is a scripted DNS server on 127.0.0.1, UDP and TCP, that writes down every question.
type world struct {
	t      testing.TB
	addr   string
	mu     sync.Mutex
	zone   map[string][]mdns.RR // "name type"
	rcode  map[string]int       // by name
	silent bool
	trick  func(q *mdns.Msg, w mdns.ResponseWriter) bool // answers itself if true
	seen   []string
	raw    []*mdns.Msg
}

func newWorld(t testing.TB, records ...string) *world {
	t.Helper()
	w := &world{t: t, zone: map[string][]mdns.RR{}, rcode: map[string]int{}}
	for _, s := range records {
		w.add(s)
	}
	pc, l := listen(t)
	w.addr = pc.LocalAddr().String()
	for _, s := range []*mdns.Server{{PacketConn: pc, Handler: w}, {Listener: l, Handler: w}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		done := make(chan struct{})
		go func() { s.ActivateAndServe(); close(done) }()
		<-up
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return w
}

// listen returns a UDP socket and a TCP listener on one port.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if l, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close() // the TCP port belongs to somebody else
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func (w *world) add(record string) {
	rr, err := mdns.NewRR(record)
	if err != nil {
		w.t.Fatal(err)
	}
	key := rr.Header().Name + " " + mdns.TypeToString[rr.Header().Rrtype]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.zone[key] = append(w.zone[key], rr)
}

// script changes the world while it serves.
func (w *world) script(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// tricked makes the world answer by f; where f returns false it answers as ever.
func (w *world) tricked(f func(q *mdns.Msg, w mdns.ResponseWriter) bool) {
	w.script(func() { w.trick = f })
}

func (w *world) ServeDNS(rw mdns.ResponseWriter, q *mdns.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, qtype := q.Question[0].Name, mdns.TypeToString[q.Question[0].Qtype]
	w.seen = append(w.seen, rw.LocalAddr().Network()+" "+name+" "+qtype)
	w.raw = append(w.raw, q)
	if w.silent || w.trick != nil && w.trick(q, rw) {
		return
	}
	m := new(mdns.Msg)
	m.SetReply(q)
	m.Rcode = w.rcode[name]
	m.Answer = w.zone[name+" "+qtype]
	if qtype != "CNAME" {
		for _, rr := range w.zone[name+" CNAME"] {
			m.Answer = append(append(m.Answer, rr), w.zone[rr.(*mdns.CNAME).Target+" "+qtype]...)
		}
	}
	if rw.LocalAddr().Network() == "udp" {
		m.Truncate(mdns.MinMsgSize)
	}
	rw.WriteMsg(m)
}

func (w *world) questions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// conf writes a resolv.conf that names the server.
func (w *world) conf() string { return writeFile(w.t, "resolv.conf", "nameserver "+w.addr+"\n") }

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ledger keeps events.
type ledger struct {
	mu     sync.Mutex
	events []audit.Event
}

func (l *ledger) Record(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *ledger) named(ev string) []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []audit.Event
	for _, e := range l.events {
		if e.Ev == ev {
			out = append(out, e)
		}
	}
	return out
}

// clock is a time that moves only when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is a resolver on real sockets, with its world and ledger.
type rig struct {
	*Resolver
	t      testing.TB
	world  *world
	ledger *ledger
	clock  *clock
	addr   string
	policy *policy.Policy
	mu     sync.Mutex
	stop   context.CancelFunc
	done   sync.WaitGroup
}

var testRules = []string{"a.test", "cname.test", "nx.test", "fail.test", "nodata.test", "big.test", "*.w.test", "v6.test", "db.corp.internal", "-denied.test", "-*.deep.test"}

func newRig(t testing.TB, posture policy.Posture, limits Limits, change ...func(*Resolver)) *rig {
	t.Helper()
	w := newWorld(t,
		"a.test. 30 A 203.0.113.10", "a.test. 30 TXT hello", "a.test. 30 MX 10 mail.elsewhere.test.",
		"a.test. 30 HTTPS 1 . ipv4hint=203.0.113.10", "a.test. 30 AAAA 2001:db8:1::10",
		"cname.test. 30 CNAME edge.cdn.test.", "edge.cdn.test. 30 A 203.0.113.20",
		"v6.test. 30 AAAA 2001:db8:1::10", "db.corp.internal. 30 A 192.168.77.7",
	)
	for i := range 12 {
		w.add(fmt.Sprintf("big.test. 30 TXT %d%s", i, strings.Repeat("x", 100)))
		w.add(fmt.Sprintf("big.test. 30 MX %d host-with-a-long-name-%d.elsewhere-%d.example.", i, i, i))
	}
	w.script(func() { w.rcode["nx.test."], w.rcode["fail.test."] = mdns.RcodeNameError, mdns.RcodeServerFailure })
	r := &rig{t: t, world: w, ledger: &ledger{}, clock: &clock{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}}
	r.setPolicy(posture, testRules...)
	up := SystemUpstream(w.conf())
	r.Resolver = &Resolver{
		Policy: r.currentPolicy, Table: NewTable(synthetic), Lookup: NewLookup(up, ""), Upstream: up,
		Record: r.ledger, Hostname: "Box", Limits: limits, Now: r.clock.Now,
		Routed: func(name string) bool { return name == "routed.test" },
	}
	r.Lookup.now = r.clock.Now
	for _, f := range change {
		f(r.Resolver)
	}
	pc, l := listen(t)
	r.addr = pc.LocalAddr().String()
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	r.done.Go(func() {
		if err := r.ServePacket(ctx, pc); err != nil {
			t.Error(err)
		}
	})
	r.done.Go(func() {
		if err := r.ServeStream(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.end)
	return r
}

// end stops the resolver and waits for it.
func (r *rig) end() {
	r.stop()
	r.done.Wait()
}

func (r *rig) currentPolicy() *policy.Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

func (r *rig) setPolicy(posture policy.Posture, rules ...string) {
	r.t.Helper()
	var list []policy.Rule
	for _, s := range rules {
		rule, err := policy.ParseRule(s, policy.Project, "rig")
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, rule)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policy = policy.New(list, policy.Options{Posture: posture, CanAsk: true})
}

func question(name string, qtype uint16) *mdns.Msg {
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	return m
}

// ask sends a message over a network and returns the answer.
func (r *rig) ask(network string, q *mdns.Msg) *mdns.Msg {
	r.t.Helper()
	c := mdns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 1232}
	m, _, err := c.Exchange(q, r.addr)
	if err != nil {
		r.t.Fatalf("%s %v: %v", network, q.Question, err)
	}
	return m
}
