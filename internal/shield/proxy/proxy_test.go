package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/shield/policy"
)

func TestUnknownDestinationsAreReset(t *testing.T) {
	r := newRig(t, []string{"+a.test:1-65535", "+203.0.113.0/24:1-65535"})
	r.setPolicy(policy.DownAll, "+a.test:1-65535")
	for _, dst := range []string{
		"127.0.0.1:8000", "[::1]:8000", "0.0.0.0:80", "[::]:80", "10.0.2.2:9999", "10.0.2.100:80",
		"198.18.7.7:443", "[::ffff:127.0.0.1]:80", "203.0.113.10:0",
	} {
		r.refused(t, dst)
	}
	// A connection that was not redirected at all.
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	go r.p.Serve(r.ctx, l)
	r.mu.Lock()
	r.doors[netip.MustParseAddrPort("203.0.113.1:1")] = l.Addr().String()
	r.mu.Unlock()
	r.refused(t, "203.0.113.1:1")
	if c := r.p.Counters(); c.Unknown != 10 || c.Allowed != 0 || len(r.dials()) != 0 {
		t.Errorf("counters %+v, dials %v", c, r.dials())
	}
}

func TestOriginalDstOfAPlainConnectionFails(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if d, err := originalDst(s); err == nil {
		t.Errorf("got %v for a connection that nobody redirected", d)
	}
}

func TestDenySpeaksTheClientsProtocol(t *testing.T) {
	r := newRig(t, []string{"deny!-denied.test", "+a.test:443"})
	r.serve(addrA+":8080", echo)
	for _, dst := range []string{"denied.test:80", "203.0.113.10:80", "a.test:8080", "203.0.113.10:8080"} {
		start := time.Now()
		c := r.dial(dst)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html, application/json\r\n\r\n")
		code, body := readResponse(t, bufio.NewReader(c), "GET")
		if code != 403 || !strings.Contains(body, "terok shield allow webshop/k3v9p "+dst) || time.Since(start) > quick {
			t.Errorf("%s: %d %q in %v", dst, code, body, time.Since(start))
		}
	}
	c := r.dial("denied.test:80")
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: denied.test\r\nAccept: application/json\r\nContent-Length: 5\r\n\r\nhello")
	code, body := readResponse(t, bufio.NewReader(c), "POST")
	var form refusal
	if err := json.Unmarshal([]byte(body), &form); err != nil || code != 403 {
		t.Fatalf("%d %q: %v", code, body, err)
	}
	if form.Host != "denied.test" || form.Rule != "-denied.test" || form.Tier != "deny" || form.Error != "refused_by_shield" {
		t.Errorf("%+v", form)
	}
	if strings.Contains(body, "test:1") { // where the rule stands is the operator's
		t.Errorf("the container reads the rule's source: %s", body)
	}
	for _, dst := range []string{"denied.test:443", "203.0.113.10:443", "denied.test:8443"} {
		c := r.dial(dst)
		c.Write(clientHello(t, "denied.test"))
		if b, err := io.ReadAll(c); err != nil || string(b) != "\x15\x03\x03\x00\x02\x02\x31" {
			t.Errorf("%s: %x %v; want the alert access_denied", dst, b, err)
		}
	}
	c = r.dial("denied.test:22")
	io.WriteString(c, "SSH-2.0-x\r\n")
	wantReset(t, c)
	r.refused(t, "denied.test:22") // silent
	if len(r.dials()) != 0 {
		t.Errorf("dialled %v", r.dials())
	}
	n := r.p.Counters()
	if n.Denied != 10 || n.Names["denied.test"].Refused != 6 || n.Allowed != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestServiceGetsItsConnection(t *testing.T) {
	svc := serviceFunc(func(_ context.Context, c net.Conn) { io.WriteString(c, "gate") })
	r := newRig(t, nil, func(c *Config) {
		c.Services = map[netip.AddrPort]Service{netip.MustParseAddrPort("10.0.2.2:9418"): svc}
	})
	if b, err := io.ReadAll(r.dial("10.0.2.2:9418")); string(b) != "gate" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	r.refused(t, "10.0.2.2:9419")
}

// Quarantine closes vault, gate and signer, also while they are used; what the container needs to
// see that it is in quarantine stays.
func TestQuarantineClosesServices(t *testing.T) {
	gate, guest := netip.MustParseAddrPort("10.0.2.2:9418"), netip.MustParseAddrPort("10.0.2.2:9421")
	echo := serviceFunc(func(_ context.Context, c net.Conn) { io.Copy(c, c) })
	r := newRig(t, nil, func(c *Config) {
		c.Services, c.Vital = map[netip.AddrPort]Service{gate: echo, guest: echo}, map[netip.AddrPort]bool{guest: true}
	})
	works := func(c net.Conn) {
		t.Helper()
		b := make([]byte, 1)
		io.WriteString(c, "!")
		if _, err := io.ReadFull(c, b); err != nil {
			t.Error(err)
		}
	}
	open, vital := r.dial(gate.String()), r.dial(guest.String())
	works(open)
	works(vital)
	r.setPolicy(policy.Quarantine)
	r.p.Recheck()
	wantReset(t, open)
	r.refused(t, gate.String())
	works(vital)
	works(r.dial(guest.String()))
	r.setPolicy(policy.Up)
	works(r.dial(gate.String()))
}

type serviceFunc func(context.Context, net.Conn)

func (f serviceFunc) ServeConn(ctx context.Context, c net.Conn) { f(ctx, c) }

type fakeFront struct{ routed atomic.Bool }

func (f *fakeFront) Routed(name string, port uint16) bool {
	return name == "vault.test" && port == 443 && f.routed.Load()
}

func (f *fakeFront) ServeConn(_ context.Context, c net.Conn, name string, _ uint16) {
	io.WriteString(c, name)
	io.Copy(c, c)
	c.Close()
}

func TestFrontOnlyForItsNameAndPort(t *testing.T) {
	front := &fakeFront{}
	front.routed.Store(true)
	r := newRig(t, []string{"relay!-vault.test", "+vault.test:1-65535"}, func(c *Config) { c.Front = front })
	c := r.dial("vault.test:443")
	io.WriteString(c, "!")
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "vault.test!" {
		t.Fatalf("%q %v", b, err)
	}
	r.refused(t, "vault.test:8443")
	// Quarantine closes the vault too, also for live connections.
	r.setPolicy(policy.Quarantine)
	r.p.Recheck()
	wantReset(t, c)
	r.refused(t, "vault.test:443")
	eventually(t, "bytes of the front are counted", func() bool {
		n := r.p.Counters().Names["vault.test"]
		return n.BytesUp == 1 && n.BytesDown == 11
	})
}

// The launcher denies a relayed host "only through the vault"; a deny that an operator adds closes
// the vault's way too, whatever its tier and form.
func TestOperatorsDenyClosesTheVaultsWay(t *testing.T) {
	for _, deny := range []string{"session!-vault.test", "session!-*.test:443", "deny!-vault.test", "-.vault.test"} {
		front := &fakeFront{}
		front.routed.Store(true)
		r := newRig(t, []string{"relay!-vault.test"}, func(c *Config) { c.Front = front })
		open := r.dial("vault.test:443")
		if _, err := io.ReadFull(open, make([]byte, len("vault.test"))); err != nil {
			t.Fatalf("%s: the launcher's own rule closed the vault: %v", deny, err)
		}
		r.setRules("relay!-vault.test", deny)
		r.p.Recheck()
		wantReset(t, open)
		r.refused(t, "vault.test:443")
		_, text, _ := strings.Cut("!"+deny, "-")
		if ev := r.events.of(evDenied); len(ev) != 1 || ev[0].Rule != "-"+text || ev[0].Tier == "" {
			t.Errorf("%s: the refusal does not name the operator's rule: %+v", deny, ev)
		}
		r.p.Close()
	}
}

func TestPrivateAnswersAreNotDialled(t *testing.T) {
	for _, answer := range []string{
		"192.168.77.7", "127.0.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "100.64.0.7", "169.254.169.254",
		"0.0.0.0", "::1", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "224.0.0.1",
	} {
		r := newRig(t, []string{"+a.test:7000"})
		r.resolve("a.test", netip.MustParseAddr(answer))
		r.p.cfg.Dial = func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
			t.Errorf("%s: dialled %s", answer, a)
			return nil, errors.New("no")
		}
		r.refused(t, "a.test:7000")
		r.p.Close()
		if ev := r.events.of(evRebind); len(ev) != 1 || ev[0].Name != "a.test" || ev[0].IP == "" {
			t.Errorf("%s: events %+v", answer, ev)
		}
	}
}

func TestMixedAnswersUseThePublicOne(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	r.resolve("a.test", netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("203.0.113.99"), netip.MustParseAddr(addrA))
	r.serve(addrA+":7000", echo)
	c := r.dial("a.test:7000")
	io.WriteString(c, "hi")
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.99:7000"), netip.MustParseAddrPort(addrA + ":7000")}
	if got := r.dials(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("dialled %v, want %v", got, want)
	}
}

func TestRecheckCutsOnlyWhatIsRefused(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000", "+b.test:7000"})
	got := make(chan int, 2)
	r.serve(addrA+":7000", func(c *net.TCPConn) {
		n := 0
		b := make([]byte, 4096)
		for {
			k, err := c.Read(b)
			n += k
			if err != nil {
				if k == 0 && !errors.Is(err, io.EOF) {
					got <- n
				}
				return
			}
			c.Write(b[:k])
		}
	})
	a, b := r.dial("a.test:7000"), r.dial("b.test:7000")
	buf := make([]byte, 5)
	for _, c := range []*net.TCPConn{a, b} {
		io.WriteString(c, "hello")
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	r.setRules("+b.test:7000")
	start := time.Now()
	r.p.Recheck()
	if d := time.Since(start); d > quick {
		t.Errorf("Recheck took %v", d)
	}
	a.Write([]byte("late!")) // may fail already
	if _, err := io.ReadFull(a, buf); err == nil {
		t.Error("refused connection still answers")
	}
	select {
	case n := <-got:
		if n != 5 {
			t.Errorf("server saw %d bytes, want 5", n)
		}
	case <-time.After(patient):
		t.Fatal("the server's half was not reset")
	}
	io.WriteString(b, "again")
	if _, err := io.ReadFull(b, buf); err != nil || string(buf) != "again" {
		t.Errorf("other connection: %q %v", buf, err)
	}
	eventually(t, "cut is recorded", func() bool { return len(r.events.of(evCut)) == 1 })
}

func TestRecheckWhileDialling(t *testing.T) {
	for _, now := range [][]string{nil, {"+a.test:7000", "deny!-" + addrA}} { // the name, or only its address
		r := newRig(t, []string{"+a.test:7000"})
		r.serve(addrA+":7000", echo)
		dialling, goOn := make(chan bool), make(chan bool)
		dial := r.p.cfg.Dial
		r.p.cfg.Dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			dialling <- true
			<-goOn
			return dial(context.WithoutCancel(ctx), a)
		}
		c := r.dial("a.test:7000")
		<-dialling
		r.setRules(now...)
		r.p.Recheck()
		close(goOn)
		wantReset(t, c)
	}
}

func TestOpenLimit(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"}, func(c *Config) { c.Limits.Open = 3 })
	r.serve(addrA+":7000", echo)
	var open []*net.TCPConn
	buf := make([]byte, 1)
	for range 3 {
		c := r.dial("a.test:7000")
		io.WriteString(c, "x")
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for range 5 {
		r.refused(t, "a.test:7000")
	}
	if n := r.p.Counters(); n.Open != 3 || n.LimitsHit != 5 {
		t.Errorf("counters %+v", n)
	}
	if ev := r.events.of(evLimit); len(ev) != 1 {
		t.Errorf("limit events %+v", ev)
	}
	open[0].Close()
	eventually(t, "slot is free again", func() bool { return r.p.Counters().Open == 2 })
	c := r.dial("a.test:7000")
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Error(err)
	}
}

func TestRefusalsAreFolded(t *testing.T) {
	r := newRig(t, nil)
	const n = 50
	for range n {
		wantReset(t, func() net.Conn { c := r.dial("denied.test:22"); io.WriteString(c, "\x00"); return c }())
	}
	if ev := r.events.of(evBlocked); len(ev) != 1 || ev[0].Count != 1 || ev[0].Name != "denied.test" || ev[0].Port != 22 || ev[0].Proto != "tcp" {
		t.Fatalf("events %+v", ev)
	}
	r.p.Close()
	ev := r.events.of(evBlocked)
	if len(ev) != 2 || ev[1].Count != n-1 {
		t.Errorf("events %+v", ev)
	}
	if c := r.p.Counters(); c.Denied != n || c.Names["denied.test"].Refused != n {
		t.Errorf("counters %+v", c)
	}
}

func TestFoldWindowsAndFlood(t *testing.T) {
	var rec recorder
	now := time.Unix(1e9, 0)
	l := newLedger(&rec, func() time.Time { return now })
	e := (&flow{name: "a.test", port: 1}).event(evEnd)
	e.BytesUp = 10
	for range 3 {
		l.record(e, "")
	}
	now = now.Add(31 * time.Second)
	l.record(e, "")
	if len(rec.all) != 2 || rec.all[1].Count != 3 || rec.all[1].BytesUp != 30 {
		t.Errorf("%+v", rec.all)
	}
	for i := range 10000 {
		e.Name = fmt.Sprintf("n%d.test", i)
		l.record(e, "")
	}
	if len(l.open) > foldKeys+1 || len(rec.all) > foldKeys+5 {
		t.Errorf("%d keys, %d lines", len(l.open), len(rec.all))
	}
	l.flush()
	total := uint64(0)
	for _, e := range rec.all {
		total += e.Count
	}
	if total != 10004 {
		t.Errorf("%d events counted, want 10004", total)
	}
}
