package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// rig is a proxy with real loopback sockets on both sides. Each original destination has a
// listener of its own, by which the injected OriginalDst knows it; each upstream address is a real
// listener that the injected Dial leads to.
type rig struct {
	t      testing.TB
	p      *Proxy
	pol    atomic.Pointer[policy.Policy]
	events recorder
	ctx    context.Context

	mu     sync.Mutex
	dsts   map[netip.AddrPort]netip.AddrPort // listener → original destination
	doors  map[netip.AddrPort]string         // original destination → listener
	world  map[netip.AddrPort]string         // upstream address → real listener
	hosts  map[string][]netip.Addr
	dialed []netip.AddrPort
}

const (
	addrA   = "203.0.113.10"
	addrB   = "203.0.113.20"
	quick   = time.Second // "refused" is always faster
	patient = 10 * time.Second
)

// names of the tests have fixed synthetic addresses.
var synthetic = map[string]string{"a.test": "198.18.0.1", "b.test": "198.18.0.2", "denied.test": "198.18.0.3", "lan.test": "198.18.0.4", "vault.test": "198.18.0.5"}

type recorder struct {
	mu  sync.Mutex
	all []audit.Event
}

func (r *recorder) Record(e audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *recorder) of(ev string) []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Event
	for _, e := range r.all {
		if e.Ev == ev {
			out = append(out, e)
		}
	}
	return out
}

func newRig(t testing.TB, rules []string, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dsts: map[netip.AddrPort]netip.AddrPort{}, doors: map[netip.AddrPort]string{}, world: map[netip.AddrPort]string{},
		hosts: map[string][]netip.Addr{
			"a.test": {netip.MustParseAddr(addrA)}, "b.test": {netip.MustParseAddr(addrA)},
			"denied.test": {netip.MustParseAddr(addrA)}, "lan.test": {netip.MustParseAddr("192.168.77.7")},
		}}
	r.setRules(rules...)
	cfg := Config{
		Policy: r.pol.Load,
		Names: func(a netip.Addr) (string, bool) {
			for n, s := range synthetic {
				if s == a.String() {
					return n, true
				}
			}
			return "", false
		},
		Range: netip.MustParsePrefix("198.18.0.0/15"),
		Own:   []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")},
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if a := r.hosts[name]; a != nil {
				return a, nil
			}
			return nil, errors.New("no such host")
		},
		Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			r.mu.Lock()
			r.dialed = append(r.dialed, a)
			to := r.world[a]
			r.mu.Unlock()
			if to == "" {
				return nil, syscall.ECONNREFUSED
			}
			return new(net.Dialer).DialContext(ctx, "tcp", to)
		},
		OriginalDst: func(c *net.TCPConn) (netip.AddrPort, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if d, ok := r.dsts[c.LocalAddr().(*net.TCPAddr).AddrPort()]; ok {
				return d, nil
			}
			return netip.AddrPort{}, errors.New("none")
		},
		Subject: "webshop/k3v9p", Record: &r.events,
	}
	for _, f := range change {
		f(&cfg)
	}
	r.p = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	r.ctx = ctx
	t.Cleanup(func() {
		r.p.Close()
		cancel()
		c := r.p.Counters()
		if c.Open != 0 || c.Held != 0 || c.Services != 0 || c.Spliced != 0 || len(r.p.live()) != 0 {
			t.Errorf("left over after Close: %+v, %d flows", c, len(r.p.live()))
		}
	})
	return r
}

func (r *rig) setRules(rules ...string) { r.setPolicy(policy.Up, rules...) }

func (r *rig) setPolicy(posture policy.Posture, rules ...string) {
	r.t.Helper()
	var list []policy.Rule
	for i, text := range rules {
		tier, source := policy.Project, fmt.Sprintf("test:%d", i+1)
		if t, rest, ok := strings.Cut(text, "!"); ok && t == "relay" { // the launcher's own
			tier, source, text = policy.Denied, policy.RelaySource, rest
		} else if ok {
			tier, ok = policy.ParseTier(t)
			if text = rest; !ok {
				r.t.Fatalf("tier of %q", text)
			}
		}
		rule, err := policy.ParseRule(text, tier, source)
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, rule)
	}
	r.pol.Store(policy.New(list, policy.Options{Posture: posture}))
}

// door makes the listener that stands for an original destination: "a.test:80" or "1.2.3.4:80".
func (r *rig) door(dst string) string {
	r.t.Helper()
	host, port, err := net.SplitHostPort(dst)
	if err != nil {
		r.t.Fatal(err)
	}
	if s, ok := synthetic[host]; ok {
		host = s
	}
	d := netip.MustParseAddrPort(net.JoinHostPort(host, port))
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.doors[d]; a != "" {
		return a
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.dsts[l.Addr().(*net.TCPAddr).AddrPort()] = d
	r.doors[d] = l.Addr().String()
	go r.p.Serve(r.ctx, l)
	return l.Addr().String()
}

func (r *rig) dial(dst string) *net.TCPConn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.door(dst))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patient))
	return c.(*net.TCPConn)
}

// serve answers connections to an upstream address.
func (r *rig) serve(addr string, handle func(*net.TCPConn)) {
	r.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	r.mu.Lock()
	r.world[netip.MustParseAddrPort(addr)] = l.Addr().String()
	r.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
}

// serveHTTP answers requests and returns the hosts it saw.
func (r *rig) serveHTTP(addr string, h http.Handler) {
	r.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.world[netip.MustParseAddrPort(addr)] = l.Addr().String()
	r.mu.Unlock()
	s := &http.Server{Handler: h}
	go s.Serve(l)
	r.t.Cleanup(func() { s.Close() })
}

func echo(c *net.TCPConn) {
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // without the runtime's own splice
	c.CloseWrite()
}

// resolve changes what a name resolves to; nothing is NXDOMAIN.
func (r *rig) resolve(name string, to ...netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[name] = to
}

func (r *rig) dials() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]netip.AddrPort(nil), r.dialed...)
}

// wantReset reads until the connection ends and fails unless that is a reset, soon, without a byte.
func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	start := time.Now()
	b, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) || len(b) != 0 {
		t.Errorf("got %q, %v; want a reset", b, err)
	}
	if d := time.Since(start); d > quick {
		t.Errorf("refused after %v", d)
	}
}

// refused connects and fails unless the connection is reset at once. The reset may be there before
// connect returns.
func (r *rig) refused(t testing.TB, dst string) {
	t.Helper()
	c, err := net.Dial("tcp", r.door(dst))
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patient))
	wantReset(t, c)
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond) // poll, bounded by the condition
	}
}

func readResponse(t testing.TB, br *bufio.Reader, method string) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("response: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body: %v", err)
	}
	return resp.StatusCode, string(b)
}
