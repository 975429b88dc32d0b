package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/internal/shield/policy"
)

func budgets(t testing.TB, list ...string) []policy.Budget {
	t.Helper()
	var out []policy.Budget
	for _, s := range list {
		b, err := policy.ParseBudget(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// TestSpending: bytes leave the window with it, a grant gives the budget's bytes once more, a no
// stands until there is room, and nothing is lost over a restart.
func TestSpending(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	list := budgets(t, "1000/h")
	s := newSpendings(list, nil, clock)[0]
	room := func() bool {
		wait, ask, _, err := s.spend()
		if ask {
			s.settle(false)
		}
		return wait == nil && err == nil
	}
	s.add(999)
	if !room() {
		t.Error("999 of 1000: no room")
	}
	now = now.Add(30 * time.Minute)
	s.add(500)
	if room() {
		t.Error("1499 of 1000: room")
	}
	if _, _, used, err := s.spend(); !errors.Is(err, errBudget) || used != 1499 {
		t.Errorf("after a no: %d %v", used, err)
	}
	now = now.Add(30 * time.Minute)
	if !room() {
		t.Error("the first 999 are out of the window: no room")
	}
	s.add(1000)
	wait, ask, _, err := s.spend()
	if !ask || err != nil {
		t.Fatalf("after a no that is over: ask %v, %v", ask, err)
	}
	if _, again, _, _ := s.spend(); again {
		t.Error("asked twice at once")
	}
	s.settle(true)
	<-wait
	s.add(999)
	if !room() {
		t.Error("a grant is not the budget's size")
	}
	s.add(1)
	// Another proxy goes on with what this one counted.
	p := &Proxy{spendings: []*spending{s}}
	s = newSpendings(list, p.Spent(), clock)[0]
	if room() {
		t.Error("a restart forgets")
	}
	now = now.Add(-10 * time.Hour) // a clock that goes back forgets nothing
	if room() {
		t.Error("a clock that goes back makes room")
	}
	now = now.Add(1000 * time.Hour)
	if !room() {
		t.Error("no room after a long time")
	}
}

// TestBudgetStopsAndAsksOnce: an upload stops at its budget, everybody who waits is one question, a
// yes lets it go on, a no cuts it and refuses what comes; what comes in is not counted.
func TestBudgetStopsAndAsksOnce(t *testing.T) {
	answers := make(chan bool)
	var mu sync.Mutex
	var asked []Breach
	r := newRig(t, []string{"+a.test:7000", "+b.test:7000", "+a.test:80"}, func(c *Config) {
		c.Budgets = budgets(t, "a.test 1MB/h")
		c.OverBudget = func(ctx context.Context, b Breach) bool {
			mu.Lock()
			asked = append(asked, b)
			mu.Unlock()
			select {
			case ok := <-answers:
				return ok
			case <-ctx.Done():
				return false
			}
		}
	})
	var got sync.Map // by connection
	sink := func(c *net.TCPConn) {
		n, _ := io.Copy(struct{ io.Writer }{io.Discard}, c)
		got.Store(c.RemoteAddr().String(), n)
	}
	r.serve(addrA+":7000", sink)
	r.serve(addrB+":7000", sink)
	r.serve(addrA+":80", sink)
	const each = 3 << 20
	upload := func(dst string) <-chan error {
		c := r.dial(dst)
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, each))
			if err == nil {
				err = c.CloseWrite()
			}
			if err == nil {
				_, err = io.Copy(io.Discard, c)
			}
			done <- err
		}()
		return done
	}
	one, two := upload("a.test:7000"), upload("a.test:7000")
	eventually(t, "somebody is asked", func() bool { mu.Lock(); defer mu.Unlock(); return len(asked) == 1 })
	if err := <-upload("b.test:7000"); err != nil { // another name is not concerned
		t.Error(err)
	}
	up := func() uint64 { return r.p.Counters().Names["a.test"].BytesUp }
	if n := up(); n < 1e6 || n > 1e6+2*bufferSize+2*pipeSize {
		t.Errorf("%d bytes left with a budget of 1 MB", n)
	}
	mu.Lock()
	if b := asked[0]; b.Budget.String() != "a.test 1MB/h" || b.Used < 1e6 || b.Next.Name != "a.test" || b.Next.Port != 7000 {
		t.Errorf("%+v", b)
	}
	mu.Unlock()
	before := up()
	answers <- true
	eventually(t, "asked again", func() bool { mu.Lock(); defer mu.Unlock(); return len(asked) == 2 })
	if n := up() - before; n < 1e6 || n > 1e6+2*bufferSize+2*pipeSize {
		t.Errorf("%d bytes left after a grant of 1 MB", n)
	}
	answers <- false
	for _, done := range []<-chan error{one, two} {
		if err := <-done; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("an upload over budget ends with %v", err)
		}
	}
	c := r.dial("a.test:80")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if b, _ := io.ReadAll(c); !strings.Contains(string(b), "403 Forbidden") || !strings.Contains(string(b), "egress budget") {
		t.Errorf("a new request over budget: %s", b)
	}
	r.refused(t, "a.test:7000")
	eventually(t, "ended", func() bool { return r.p.Counters().Open == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2 {
		t.Errorf("asked %d times", len(asked))
	}
	if ev := r.events.of(evBudget); len(ev) != 1 || ev[0].Name != "a.test" || ev[0].BytesUp < 1e6 {
		t.Errorf("%+v", ev)
	}
}

// TestBudgetWithoutAnswers: nobody can be asked, so the end is the end; also through the vault's
// front, and for datagrams, which are dropped.
func TestBudgetWithoutAnswers(t *testing.T) {
	u := newUDPRig(t, []string{"+a.test:443/udp"}, func(c *Config) { c.Budgets = budgets(t, "150/h") })
	got := u.serveUDP(addrA + ":443")
	u.resolved("a.test")
	c := u.client(synthetic["a.test"] + ":443")
	ping(t, c, 100)
	ping(t, c, 100)
	for range 3 {
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "said", func() bool { return len(u.events.of(evBudget)) == 1 })
	u.refused(t, "203.0.113.10:443")
	if got() != 2 {
		t.Errorf("%d datagrams arrived", got())
	}
}

// TestMappedAddressIsRefused: an address in an IPv6 coat is on the floor, whatever is inside.
func TestMappedAddressIsRefused(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000", "+203.0.113.10:7000"})
	r.serve(addrA+":7000", echo)
	r.resolve("a.test", netip.MustParseAddr("::ffff:203.0.113.10"))
	r.refused(t, "a.test:7000")
	r.refused(t, "[::ffff:203.0.113.10]:7000")
	if d := r.dials(); len(d) != 0 {
		t.Errorf("dialled %v", d)
	}
	r.resolve("a.test", netip.MustParseAddr("203.0.113.10"))
	c := r.dial("a.test:7000")
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
