package attack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"terok/test/world"
)

// Spec: shield.md §10, 11: with the option names have addresses of both families, and both are
// judged the same.
func TestIPv6(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--ipv6", "--allow", "v6.test:443", "--allow", "a.test:443", "--allow", "[2001:db8:1::10]:8080", "--deny", "denied.test")
	address := func(name string) string {
		t.Helper()
		m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion(name+".", dns.TypeAAAA))
		if m == nil || len(m.Answer) != 1 {
			t.Fatalf("AAAA of %s: %v", name, m)
		}
		a, _ := netip.AddrFromSlice(m.Answer[0].(*dns.AAAA).AAAA)
		if !netip.MustParsePrefix("fd74:6572:6f6b:1::/96").Contains(a) {
			t.Fatalf("AAAA of %s is %s", name, a)
		}
		return "[" + a.String() + "]"
	}
	works(t, b, "https://v6.test/", roots)
	works(t, b, "http://[2001:db8:1::10]:8080/", roots)
	for _, name := range []string{"v6.test", "a.test"} { // by its IPv6 address, whatever its real one is
		c, err := b.dial("tcp6", address(name)+":443")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(hello(t, name)); err != nil {
			t.Error(err)
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil || first[0] != 22 {
			t.Errorf("%s over IPv6: %v %v", name, first, err)
		}
		c.Close()
	}
	v6, unlisted := address("v6.test"), address("b.test")
	plain := []byte("hello\r\n")
	refusedAll(t, b, []attempt{{"tcp6", v6 + ":22", plain}, {"tcp6", v6 + ":443", hello(t, "b.test")}, {"tcp6", unlisted + ":443", hello(t, "b.test")},
		{"tcp6", unlisted + ":80", getOf("b.test")}, {"tcp6", "[2001:db8:1::10]:443", hello(t, "v6.test")}, {"tcp6", "[2001:db8:1::11]:8080", plain},
		{"tcp6", "[fd74:6572:6f6b:1::c612:1]:443", hello(t, "v6.test")}, {"tcp6", "[fd74:6572:6f6b:1::1]:443", plain}, {"tcp6", "[fd74:6572:6f6b::2]:80", plain},
		{"udp6", v6 + ":443", plain}, {"tcp6", "[fe80::1]:80", plain}, {"tcp6", "[fd00:ec2::254]:80", plain}, {"tcp6", "[64:ff9b::a9fe:a9fe]:80", plain}})
	if m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("denied.test.", dns.TypeAAAA)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("AAAA of a denied name: %v", m)
	}
	sawOnly(t, w, "v6.test", "a.test", "[2001:db8:1::10]:443", "[2001:db8:1::10]:8080", "203.0.113.10:443", "2001:db8:1::10")
	without := start(t, "--allow", "v6.test:443")
	if m, _ := without.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("v6.test.", dns.TypeAAAA)); m == nil || len(m.Answer) != 0 {
		t.Errorf("AAAA without the option: %v", m)
	}
	works(t, without, "https://v6.test/", roots)
}

// Spec: shield.md §10, 42: a udp rule opens the relay of that name and port, and says that nothing
// in it is verified; everything else that is UDP stays refused at once.
func TestUDPRelay(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "a.test:443/udp", "--allow", "c.test:7000/udp", "--allow", "*.a.test:7000/udp", "--allow", "lan.test:7000/udp")
	works(t, b, "https://a.test/", roots)
	for _, target := range []string{"a.test:443", "c.test:7000", "x.a.test:7000"} {
		out := b.do(t, request{Op: "talk", Network: "udp", Addr: target, Send: []byte("datagram")})
		if string(out.Data) != "datagram" {
			t.Errorf("%s: %+v", target, out)
		}
	}
	big := make([]byte, 30_000)
	if out := b.do(t, request{Op: "talk", Network: "udp", Addr: "c.test:7000", Send: big}); len(out.Data) != len(big) {
		t.Errorf("30 000 bytes: %d back, %s", len(out.Data), out.Error)
	}
	plain := []byte("datagram")
	var all []attempt
	for _, target := range []string{"a.test:7000", "a.test:444", "a.test:33211", "c.test:443", "b.test:443", "denied.test:443", "203.0.113.10:443", "203.0.113.20:7000",
		"[2001:db8:1::10]:443", "198.18.77.77:443", "10.0.2.2:443", "169.254.169.254:80", "host.terok.internal:7000", "203.0.113.53:853"} {
		all = append(all, attempt{"udp", target, plain})
	}
	refusedAll(t, b, append(all, attempt{"tcp", "c.test:7000", plain}, attempt{"tcp", "a.test:80", getOf("a.test")}))
	// Judged where it is dialled as well.
	if out := b.do(t, request{Op: "talk", Network: "udp", Addr: "lan.test:7000", Send: plain, MS: 500}); len(out.Data) > 0 {
		t.Errorf("a name of the private network answers: %+v", out)
	}
	// Withdrawn: nothing passes any more, also on a socket that worked.
	c, err := b.dial("udp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	back := make([]byte, 100)
	if _, err := c.Write(plain); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(back); err != nil || string(back[:n]) != "datagram" {
		t.Fatalf("%q %v", back[:n], err)
	}
	must(t, "shield", "deny", b.name, "c.test")
	c.Write(plain)
	c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, err := c.Read(back); err == nil && n > 0 {
		t.Errorf("after the deny: %q", back[:n])
	}
	// Given while it runs, to a name that is known already.
	b.do(t, request{Op: "resolve", Addr: "d.test"})
	must(t, "shield", "allow", b.name, "d.test:7000/udp")
	if out := b.do(t, request{Op: "talk", Network: "udp", Addr: "d.test:7000", Send: plain}); string(out.Data) != "datagram" {
		t.Errorf("allowed while it runs: %+v", out)
	}
	warned := false
	for _, e := range b.events(t, "flow_allowed") {
		warned = warned || e.Name == "a.test" && strings.Contains(e.Detail["warning"], "not") || strings.Contains(e.Detail["warning"], "no name")
	}
	if !warned {
		t.Error("no warning in the ledger")
	}
	sawOnly(t, w, "a.test", "x.a.test", "c.test", "d.test", "lan.test", "203.0.113.10:443", "203.0.113.20:7000", "203.0.113.10:7000", "203.0.113.30:7000")
}

// Spec: shield.md §10, 28: below an allowed wildcard the container chooses the labels; a megabyte
// in them does not get out.
func TestWildcardIsNoTunnel(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "*.a.test:443")
	label := strings.Repeat("s", 60)
	const want = 1 << 20
	sent := 0
	begin := time.Now()
	for i := 0; sent < want && time.Since(begin) < 5*time.Second; i++ {
		name := fmt.Sprintf("%d.%s.%s.%s.a.test.", i, label, label, label)
		b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion(name, dns.TypeTXT))
		sent += len(name)
	}
	took := time.Since(begin)
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, s := range seen {
		if s.Kind == "dns" && s.Type == "TXT" {
			got += len(s.Name)
		}
	}
	// The cap: 8192 bytes at once and 64 each second (internal/shield/dns).
	most := 8192 + 64*int(took.Seconds()+2)
	t.Logf("%d of %d bytes got out in %v", got, sent, took)
	if got == 0 || got > most {
		t.Errorf("%d bytes of labels got out, at most %d should", got, most)
	}
	if n := len(b.events(t, "dns_rate")); n != 1 {
		t.Errorf("%d dns_rate events", n)
	}
}

// Spec: shield.md §10, 31, 32: every connection goes to a current address of the name; one that is
// open lives on.
func TestAddressesThatChange(t *testing.T) {
	w, roots := internet(t)
	hosts := []string{"203.0.113.10", "203.0.113.20", "203.0.113.30", "198.51.100.7"}
	answer := func(addr string) {
		t.Helper()
		if err := w.Answer(t.Context(), world.Script{Name: "moves.test", Type: "A", Values: []string{addr}, TTL: 1}); err != nil {
			t.Fatal(err)
		}
	}
	answer(hosts[0])
	b := start(t, "--allow", "moves.test:443", "--allow", "moves.test:7000")
	open, err := b.dial("tcp", "moves.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	echo(t, open, "first")
	for _, host := range append(hosts, hosts[0]) {
		answer(host)
		changed := time.Now()
		for {
			r, code, err := b.get("https://moves.test/", roots)
			if err != nil || code != 200 {
				t.Fatalf("%s: %d %v", host, code, err)
			}
			if r.Local == net.JoinHostPort(host, "443") {
				break
			}
			if time.Since(changed) > 10*time.Second { // the TTL is 1 s
				t.Fatalf("%v after the change to %s a connection goes to %s", time.Since(changed), host, r.Local)
			}
		}
		echo(t, open, "still here")
	}
}

// Spec: shield.md §10, 35: a resolver that fails is told as such, soon, and nothing opens by it.
func TestUpstreamFails(t *testing.T) {
	w, roots := internet(t)
	if err := w.Answer(t.Context(), world.Script{Name: "broken.test", Type: "A", Rcode: dns.RcodeServerFailure}); err != nil {
		t.Fatal(err)
	}
	if err := w.Answer(t.Context(), world.Script{Name: "broken.test", Type: "AAAA", Rcode: dns.RcodeServerFailure}); err != nil {
		t.Fatal(err)
	}
	var long []string
	for i := range 60 {
		long = append(long, fmt.Sprintf("203.0.113.%d", 100+i))
	}
	if err := w.Answer(t.Context(), world.Script{Name: "many.test", Type: "A", Values: append(long, "203.0.113.10")}); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for i := range 8 {
		texts = append(texts, fmt.Sprintf(`"%d%s"`, i, strings.Repeat("x", 99)))
	}
	if err := w.Answer(t.Context(), world.Script{Name: "a.test", Type: "TXT", Values: texts}); err != nil {
		t.Fatal(err)
	}
	b := start(t, "--allow", "broken.test:443", "--allow", "many.test:443", "--allow", "a.test:443")
	m, out := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("broken.test.", dns.TypeA))
	if m == nil || m.Rcode != dns.RcodeServerFailure || out.MS > 4000 {
		t.Errorf("%v after %d ms", m, out.MS)
	}
	// An answer that is cut over UDP, upstream and inside, is whole over TCP.
	if m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT)); m == nil || !m.Truncated {
		t.Errorf("UDP: %v", m)
	}
	if m, _ := b.ask(t, "tcp", resolvers[0], new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT)); m == nil || m.Truncated || len(m.Answer) != 8 {
		t.Errorf("TCP: %v", m)
	}
	if m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("many.test.", dns.TypeA)); m == nil || len(m.Answer) != 1 {
		t.Errorf("a name with 61 addresses: %v", m)
	}
	works(t, b, "https://a.test/", roots)
}

// Spec: shield.md §10, 74: a port of the host's loopback opens to a rule that names it, under one
// name, and to nothing else.
func TestHostPort(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "host:9999")
	c, err := b.dial("tcp", "host.terok.internal:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo(t, c, "to the host")
	plain := []byte("hello\r\n")
	var all []attempt
	for _, addr := range []string{"127.0.0.1:9999", "[::1]:9999", "10.0.2.2:9999", "198.51.100.99:9999", "loop.test:9999", "own.test:9999", "host.terok.internal:9998",
		"host.terok.internal:22", "x.host.terok.internal:9999", "host.containers.internal:9999", "localhost:9999", "[::ffff:127.0.0.1]:9999"} {
		all = append(all, attempt{"tcp", addr, plain})
	}
	refusedAll(t, b, append(all, attempt{"udp", "host.terok.internal:9999", plain}))
	must(t, "shield", "deny", b.name, "host:9999")
	cutWithin(t, c, time.Now())
	refusedAll(t, b, []attempt{{"tcp", "host.terok.internal:9999", plain}})
	sawOnly(t, w, "127.0.0.1:9999")
}

// Issue 3, part 3: what may leave is bounded, for all and for one name; what is over ends, and
// where the budget says so everything does.
func TestBudget(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:7000", "--allow", "c.test:7000", "--allow", "a.test:443", "--budget", "a.test 1MB/h")
	received := func(local string) int {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until the server has noticed the end
			seen, err := w.Seen(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range seen {
				if s.Kind == "echo" && s.Local == local {
					return s.Bytes
				}
			}
			if time.Now().After(deadline) {
				return -1
			}
		}
	}
	flood := func(addr string) {
		t.Helper()
		c, err := b.dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		back := make(chan bool)
		go func() {
			io.Copy(io.Discard, c)
			close(back)
		}()
		for range 64 {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
		c.(*conn).CloseWrite()
		<-back
	}
	flood("a.test:7000")
	// A cut throws away what the kernel still holds, so less may arrive than left.
	if n := received("203.0.113.10:7000"); n < 1 || n > 2_200_000 {
		t.Errorf("%d bytes of 4 MiB arrived with a budget of 1 MB", n)
	}
	refusedAll(t, b, []attempt{{"tcp", "a.test:443", hello(t, "a.test")}})
	flood("c.test:7000")
	if n := received("203.0.113.20:7000"); n != 4<<20 {
		t.Errorf("%d bytes of another name arrived", n)
	}
	if len(b.events(t, "budget")) == 0 {
		t.Error("no budget event")
	}

	q := start(t, "--allow", "c.test:7000", "--allow", "a.test:443", "--budget", "1MB/h quarantine")
	works(t, q, "https://a.test/", roots)
	c, err := q.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go io.Copy(io.Discard, c)
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for range 64 {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(must(t, "shield", "status", q.name, "--json"), `"quarantine"`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no quarantine")
		}
	}
	if _, code, err := q.get("https://a.test/", roots); err == nil {
		t.Errorf("quarantine over a budget lets through: %d", code)
	}
}
