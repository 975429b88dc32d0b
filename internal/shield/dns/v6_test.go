package dns

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"terok/internal/shield/policy"
)

// TestIPv6: with the option AAAA is answered as A is, from the table, with upstream's NXDOMAIN,
// and no real address comes in.
func TestIPv6(t *testing.T) {
	r := newRig(t, policy.Up, Limits{}, func(r *Resolver) { r.IPv6 = true })
	for name, rcode := range map[string]int{"a.test": 0, "v6.test": 0, "unlisted.test": 0, "routed.test": 0, policy.HostName: 0,
		"nx.test": mdns.RcodeNameError, "fail.test": mdns.RcodeServerFailure, "denied.test": mdns.RcodeNameError, "nas.local": mdns.RcodeNameError} {
		a, aaaa := r.ask("udp", question(name, mdns.TypeA)), r.ask("tcp", question(name, mdns.TypeAAAA))
		if a.Rcode != rcode || aaaa.Rcode != rcode {
			t.Errorf("%s: %s, %s", name, mdns.RcodeToString[a.Rcode], mdns.RcodeToString[aaaa.Rcode])
			continue
		}
		if rcode != 0 {
			continue
		}
		if len(a.Answer) != 1 || len(aaaa.Answer) != 1 {
			t.Errorf("%s: %v, %v", name, a.Answer, aaaa.Answer)
			continue
		}
		v4, _ := netip.AddrFromSlice(a.Answer[0].(*mdns.A).A.To4())
		v6, _ := netip.AddrFromSlice(aaaa.Answer[0].(*mdns.AAAA).AAAA)
		if v6 != V6(v4) || !V6Range.Contains(v6) {
			t.Errorf("%s: %s, %s", name, v4, v6)
		}
		if got, ok := r.Table.Name(v6); !ok || got != name {
			t.Errorf("%s belongs to %q", v6, got)
		}
		reverse, _ := mdns.ReverseAddr(v6.String())
		if m := r.ask("udp", question(reverse, mdns.TypePTR)); len(m.Answer) != 1 || m.Answer[0].(*mdns.PTR).Ptr != name+"." {
			t.Errorf("PTR of %s: %v", v6, m.Answer)
		}
	}
	for _, name := range r.world.questions() {
		if slices.Contains([]string{"udp unlisted.test. A", "udp unlisted.test. AAAA", "udp denied.test. AAAA"}, name) {
			t.Errorf("upstream saw %s", name)
		}
	}
	if m := r.ask("udp", question("box", mdns.TypeAAAA)); len(m.Answer) != 1 {
		t.Errorf("own name: %v", m.Answer)
	}
	if _, ok := r.Table.Name(netip.MustParseAddr("fd74:6572:6f6b:1::c612:ffff")); ok {
		t.Error("an address that was never handed out has a name")
	}
	if _, ok := r.Table.Name(netip.MustParseAddr("::ffff:198.18.0.1")); ok || r.Table.Contains(netip.MustParseAddr("::ffff:198.18.0.1")) {
		t.Error("a mapped address is taken for the IPv4 address inside")
	}
}

// TestResolvedIsToldFirst: who relays UDP learns of a name before the container does.
func TestResolvedIsToldFirst(t *testing.T) {
	var mu sync.Mutex
	told := map[string]netip.Addr{}
	r := newRig(t, policy.Up, Limits{}, func(r *Resolver) {
		r.Resolved = func(name string, a netip.Addr) {
			mu.Lock()
			defer mu.Unlock()
			told[name] = a
		}
	})
	for _, name := range []string{"a.test", "unlisted.test", "denied.test", "nx.test"} {
		m := r.ask("udp", question(name, mdns.TypeA))
		mu.Lock()
		a, ok := told[name]
		mu.Unlock()
		if ok != (name == "a.test") {
			t.Errorf("%s: told %v", name, ok)
		}
		if ok && !m.Answer[0].(*mdns.A).A.Equal(net.IP(a.AsSlice())) {
			t.Errorf("told %s, answered %v", a, m.Answer)
		}
	}
}

// TestNoQueryIsCounted: what is too short for a query, or is an answer, gets none and is counted.
func TestNoQueryIsCounted(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer, err := question("a.test", mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer[2] |= 0x80
	for _, b := range [][]byte{{1}, {}, []byte("short query"), answer} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	r.ask("udp", question("a.test", mdns.TypeA)) // readers are two: what came before may still be read
	r.end()
	if n := r.Counters.Malformed.Load(); n != 4 {
		t.Errorf("%d counted", n)
	}
	if ev := r.ledger.named("dns_malformed"); len(ev) == 0 || ev[0].Verdict == "allow" {
		t.Errorf("%+v", ev)
	}
}

func FuzzReverse(f *testing.F) {
	f.Add("9.0.18.198.in-addr.arpa")
	f.Add("f.f.f.f.2.1.6.c.0.0.0.0.0.0.0.0.1.0.0.0.b.6.f.6.2.7.5.6.4.7.d.f.ip6.arpa")
	f.Add("x.ip6.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverse(name)
		if !ok {
			return
		}
		back, err := mdns.ReverseAddr(a.String())
		if err != nil || a.Is6() && !a.Is4In6() && back != name+"." {
			t.Fatalf("%q is %s is %q, %v", name, a, back, err)
		}
	})
}
