package attack

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"terok/test/world"
)

// ask sends a DNS message from inside and returns the answer; nil when none came.
func (b *box) ask(t testing.TB, network, server string, m *dns.Msg) (*dns.Msg, reply) {
	t.Helper()
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		query = append([]byte{byte(len(query) >> 8), byte(len(query))}, query...)
	}
	return b.askBytes(t, network, server, query)
}

func (b *box) askBytes(t testing.TB, network, server string, query []byte) (*dns.Msg, reply) {
	t.Helper()
	op := "talk"
	if network == "tcp" {
		op = "exchange"
	}
	out := b.do(t, request{Op: op, Network: network, Addr: server, Send: query})
	data := out.Data
	if network == "tcp" && len(data) >= 2 {
		data = data[2:]
	}
	var m dns.Msg
	if out.Error != "" || m.Unpack(data) != nil {
		return nil, out
	}
	return &m, out
}

// resolvers are all the ways to ask that an attacker would try: ours, the world's own, and one
// that is not there.
var resolvers = []string{"10.0.2.3:53", "203.0.113.53:53", "203.0.113.10:53", "[2001:db8:1::10]:53", "8.8.8.8:53", "10.0.2.2:53"}

var recordTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeNULL, dns.TypeANY, dns.TypeSRV, dns.TypeHTTPS, dns.TypeSVCB,
	dns.TypePTR, dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypeDNAME, dns.TypeNAPTR, dns.TypeDNSKEY, dns.TypeDS, dns.TypeTLSA, dns.TypeCAA,
	dns.TypeOPENPGPKEY, dns.TypeAXFR, dns.TypeIXFR, 65280}

// Spec: shield.md §10, 26, 27: no name that policy does not allow is told to anybody, in whatever
// form and direction it is asked for.
func TestDNSIsNoTunnel(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	public := func(a net.IP) bool {
		addr, ok := netip.AddrFromSlice(a)
		addr = addr.Unmap()
		return ok && !netip.MustParsePrefix("198.18.0.0/15").Contains(addr) && addr.Is4()
	}
	for _, name := range []string{"secret.exfil.test.", "x.a.test.", "b.test.", "denied.test."} {
		for _, qtype := range recordTypes {
			for _, network := range []string{"udp", "tcp"} {
				server := resolvers[0]
				m, out := b.ask(t, network, server, new(dns.Msg).SetQuestion(name, qtype))
				if out.MS > quick.Milliseconds() {
					t.Errorf("%s %s over %s took %d ms", name, dns.TypeToString[qtype], network, out.MS)
				}
				if m == nil {
					continue
				}
				for _, rr := range m.Answer {
					if h, ok := rr.(*dns.HINFO); ok && qtype == dns.TypeANY && h.Cpu == "RFC8482" {
						continue // the same for every name
					}
					if a, ok := rr.(*dns.A); !ok || public(a.A) {
						t.Errorf("%s %s over %s is answered: %v", name, dns.TypeToString[qtype], network, rr)
					}
				}
			}
		}
		for _, server := range resolvers[1:] {
			for _, network := range []string{"udp", "tcp"} {
				_, out := b.ask(t, network, server, new(dns.Msg).SetQuestion("direct."+name, dns.TypeTXT))
				if out.MS > quick.Milliseconds() {
					t.Errorf("%s at %s over %s took %d ms", name, server, network, out.MS)
				}
			}
		}
	}
	for _, name := range []string{"10.113.0.203.in-addr.arpa.", "secret.localdomain.", "secret.", ".", "version.bind."} {
		b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion(name, dns.TypePTR))
	}
	// Two questions in one message, another class, an update, a notification, an answer as a question.
	two := new(dns.Msg).SetQuestion("a.test.", dns.TypeA)
	two.Question = append(two.Question, dns.Question{Name: "second.exfil.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
	chaos := new(dns.Msg).SetQuestion("chaos.exfil.test.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg).SetUpdate("update.exfil.test.")
	notify := new(dns.Msg).SetNotify("notify.exfil.test.")
	response := new(dns.Msg).SetQuestion("response.exfil.test.", dns.TypeA)
	response.Response = true
	hidden := new(dns.Msg).SetQuestion("a.test.", dns.TypeA)
	hidden.Extra = append(hidden.Extra, &dns.TXT{Hdr: dns.RR_Header{Name: "hidden.exfil.test.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"secret"}})
	option := new(dns.Msg).SetQuestion("a.test.", dns.TypeAAAA)
	option.SetEdns0(1232, true)
	option.IsEdns0().Option = append(option.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")})
	for _, m := range []*dns.Msg{two, chaos, update, notify, hidden, option} {
		b.ask(t, "udp", resolvers[0], m)
	}
	query, err := response.Pack() // an answer gets no answer
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.dial("udp", resolvers[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(query); err != nil {
		t.Error(err)
	}
	c.Close()
	works(t, b, "https://a.test/", roots)
	sawOnly(t, w, "a.test", "203.0.113.10:443")
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if s.Kind == "dns" && s.Type != "A" && s.Type != "AAAA" {
			t.Logf("upstream was asked for %s %s", s.Name, s.Type)
		}
	}
}

// Spec: shield.md §10, 25: a rule of a name covers neither what is below nor, with a wildcard, the
// name itself.
func TestExactAndWildcardNames(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "*.a.test:443")
	works(t, b, "https://x.a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", "a.test:443", hello(t, "a.test")}, {"tcp", "xa.test:443", hello(t, "xa.test")}, {"tcp", "x.a.test:80", getOf("x.a.test")}})
	sawOnly(t, w, "x.a.test", "203.0.113.10:443")
}

// Spec: shield.md §10, 29, 33.
func TestAnswersThatCouldMislead(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "a.test:443")
	for _, qtype := range []uint16{dns.TypeHTTPS, dns.TypeSVCB} {
		m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("a.test.", qtype))
		if m == nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%s of an allowed name is not empty: %v", dns.TypeToString[qtype], m)
		}
	}
	var query []byte // header and a question whose labels have spaces
	query = append(query, 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for _, label := range []string{"reply github", "com is 203", "0", "113", "66"} {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1)
	if m, _ := b.askBytes(t, "udp", resolvers[0], query); m == nil || m.Rcode != dns.RcodeFormatError {
		t.Errorf("labels with spaces: %v", m)
	}
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.66:443", hello(t, "github.com")}})
	logs := must(t, "shield", "logs", b.name, "--json")
	for line := range strings.Lines(logs) {
		if strings.Contains(line, `"ip":"203.0.113.66"`) && strings.Contains(line, "github") {
			t.Errorf("an address was given a name: %s", line)
		}
	}
	sawOnly(t, w)
}

// Spec: shield.md §10, 30: what an allowed name resolves to is judged as well.
func TestRebinding(t *testing.T) {
	w, roots := internet(t)
	evil := []string{"192.168.77.7", "127.0.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "100.64.0.7", "198.51.100.99", "203.0.113.53", "169.254.169.254",
		"0.0.0.0", "::1", "fe80::1", "10.0.2.2", "64:ff9b::a9fe:a9fe"}
	flags := []string{"--allow", "good.test:443"}
	var all []attempt
	allowed := []string{"good.test", "203.0.113.10:443"}
	answer := func(name, addr string) {
		t.Helper()
		kind := "A"
		if strings.Contains(addr, ":") {
			kind = "AAAA"
		}
		if err := w.Answer(t.Context(), world.Script{Name: name, Type: kind, Values: []string{addr}, TTL: 1}); err != nil {
			t.Fatal(err)
		}
	}
	answer("good.test", "203.0.113.10")
	for i, addr := range evil {
		name := fmt.Sprintf("evil%d.test", i)
		answer(name, addr)
		flags = append(flags, "--allow", name+":1-65535")
		allowed = append(allowed, name) // it may be asked for
		for _, port := range []string{"443", "7000", "9999", "853"} {
			all = append(all, attempt{"tcp", name + ":" + port, hello(t, name)})
		}
	}
	b := start(t, flags...)
	works(t, b, "https://good.test/", roots)
	for _, a := range all { // refused by a reset or an alert; a dial that is refused has no form of its own
		out := b.do(t, request{Op: "talk", Network: a.network, Addr: a.addr, Send: a.send})
		if len(out.Data) > 7 || out.Error == "" && len(out.Data) == 0 || out.MS > quick.Milliseconds() {
			t.Errorf("%s: %+v", a.addr, out)
		}
	}
	for i, addr := range evil {
		m, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion(fmt.Sprintf("evil%d.test.", i), dns.TypeA))
		m6, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion(fmt.Sprintf("evil%d.test.", i), dns.TypeAAAA))
		for _, m := range []*dns.Msg{m, m6} {
			if m != nil && strings.Contains(m.String(), "\t"+addr) {
				t.Errorf("the answer %s came inside", addr)
			}
		}
	}
	sawOnly(t, w, allowed...)
	if logs := must(t, "shield", "logs", b.name, "--json"); !strings.Contains(logs, "dns_rebind") {
		t.Error("no dns_rebind in the ledger")
	}
}

// Spec: shield.md §10, 24.
func TestFirstConnectionsInParallel(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	const n = 500
	failed := make(chan error, n)
	for range n {
		go func() {
			_, code, err := b.get("https://a.test/", roots)
			if err == nil && code != 200 {
				err = fmt.Errorf("status %d", code)
			}
			failed <- err
		}()
	}
	bad := 0
	for range n {
		if err := <-failed; err != nil {
			if bad++; bad < 5 {
				t.Error(err)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d first connections failed", bad, n)
	}
}

// Spec: design §2.2, issue 2, accepted when 5: a flood of random names ends neither the resolver
// nor the answers for an allowed name. 20 000 instead of a million: the table of names that were
// never allowed holds 8 192, so its bound is passed more than twice, and the resolver's rate limit
// (50 per second, 200 at once) works from the 201st.
func TestRandomNamesDoNotEndDNS(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "c.test:443")
	works(t, b, "https://a.test/", roots)
	before, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("a.test.", dns.TypeA))
	done := make(chan reply, 1)
	go func() { done <- b.do(t, request{Op: "names", Addr: resolvers[0], Numbers: []int{20_000}}) }()
	var out reply
	rounds := 0
	for flooding := true; flooding; rounds++ { // during the flood as well
		works(t, b, "https://a.test/", roots)
		select {
		case out = <-done:
			flooding = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("%d of 20000 answered in %d ms, %d requests meanwhile", out.Count, out.MS, rounds)
	after, _ := b.ask(t, "udp", resolvers[0], new(dns.Msg).SetQuestion("a.test.", dns.TypeA))
	if before == nil || after == nil || len(before.Answer) != 1 || len(after.Answer) != 1 ||
		before.Answer[0].(*dns.A).A.String() != after.Answer[0].(*dns.A).A.String() {
		t.Errorf("the allowed name moved: %v, %v", before, after)
	}
	sawOnly(t, w, "a.test", "203.0.113.10:443", "c.test", "203.0.113.20:443")
}

// Spec: shield.md §10, 34.
func TestResolverCannotBeReplaced(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	if out := b.do(t, request{Op: "write", Addr: "/etc/resolv.conf", Send: []byte("nameserver 127.0.0.1\n")}); out.Error == "" {
		t.Error("/etc/resolv.conf can be written")
	}
	for _, addr := range []string{"127.0.0.1:53", "10.0.2.3:53", "0.0.0.0:53", "10.0.2.100:53"} {
		b.do(t, request{Op: "bind", Network: "udp", Addr: addr})
	}
	out := b.do(t, request{Op: "resolve", Addr: "a.test"})
	if out.Error != "" || slices.Contains(out.List, "203.0.113.20") {
		t.Errorf("a.test: %+v", out)
	}
	works(t, b, "https://a.test/", roots)
	// Its own answers lead nowhere.
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.20:443", hello(t, "a.test")}})
}
