package proxy

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// udpRig is a rig whose relays and upstreams are loopback sockets.
type udpRig struct {
	*rig
	umu    sync.Mutex
	inside map[netip.AddrPort]netip.AddrPort // synthetic → where its relay listens
	outer  map[netip.AddrPort]netip.AddrPort // upstream address → real socket
	opened int
	fail   error
}

func newUDPRig(t *testing.T, rules []string, change ...func(*Config)) *udpRig {
	u := &udpRig{inside: map[netip.AddrPort]netip.AddrPort{}, outer: map[netip.AddrPort]netip.AddrPort{}}
	u.rig = newRig(t, rules, append([]func(*Config){func(c *Config) {
		c.Datagrams = func(dst netip.AddrPort) (*net.UDPConn, error) {
			u.umu.Lock()
			defer u.umu.Unlock()
			if u.fail != nil {
				return nil, u.fail
			}
			pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err == nil {
				u.inside[dst] = pc.LocalAddr().(*net.UDPAddr).AddrPort()
				u.opened++
			}
			return pc, err
		}
		c.DialUDP = func(a netip.AddrPort) (*net.UDPConn, error) {
			u.umu.Lock()
			defer u.umu.Unlock()
			to, ok := u.outer[a]
			if !ok {
				return nil, errors.New("nobody is there")
			}
			return net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
		}
	}}, change...)...)
	return u
}

// serveUDP answers datagrams to an upstream address with themselves, and counts them.
func (u *udpRig) serveUDP(addr string) (count func() int) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { pc.Close() })
	u.umu.Lock()
	u.outer[netip.MustParseAddrPort(addr)] = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	u.umu.Unlock()
	var mu sync.Mutex
	n := 0
	go func() {
		b := make([]byte, maxDatagram)
		for {
			k, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
			pc.WriteToUDPAddrPort(b[:k], from)
		}
	}()
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func (u *udpRig) resolved(name string) { u.p.Resolved(name, netip.MustParseAddr(synthetic[name])) }

// client is a socket of the container that talks to a relay.
func (u *udpRig) client(dst string) *net.UDPConn {
	u.t.Helper()
	u.umu.Lock()
	to, ok := u.inside[netip.MustParseAddrPort(dst)]
	u.umu.Unlock()
	if !ok {
		u.t.Fatalf("no relay for %s", dst)
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patient))
	return c
}

func ping(t testing.TB, c net.Conn, size int) {
	t.Helper()
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(i)
	}
	if _, err := c.Write(out); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, maxDatagram)
	n, err := c.Read(in)
	if err != nil || string(in[:n]) != string(out) {
		t.Fatalf("%d bytes back, %v", n, err)
	}
}

func TestUDPRelay(t *testing.T) {
	u := newUDPRig(t, []string{"+a.test:443,123/udp", "+b.test:443"})
	u.serveUDP(addrA + ":443")
	u.resolved("a.test")
	u.resolved("a.test") // again, as every answer does
	u.resolved("b.test")
	if u.opened != 2 || u.p.Counters().Relays != 2 {
		t.Fatalf("%d relays", u.opened)
	}
	c, other := u.client(synthetic["a.test"]+":443"), u.client(synthetic["a.test"]+":443")
	ping(t, c, 100)
	ping(t, other, 20_000) // its first
	ping(t, c, 1)
	n := u.p.Counters()
	if n.UDP != 2 || n.BytesUp != 20_101 || n.BytesDown != 20_101 || n.Names["a.test"].Flows != 2 {
		t.Errorf("counters %+v", n)
	}
	ev := u.events.of(evAllowed)
	if len(ev) == 0 || ev[0].Proto != "udp" || ev[0].Name != "a.test" || ev[0].IP != addrA || ev[0].Detail["warning"] == "" {
		t.Errorf("%+v", ev)
	}
	// Withdrawn: the relay is gone and nothing more arrives.
	u.setRules("+b.test:443")
	u.p.Recheck()
	if n := u.p.Counters(); n.Relays != 0 {
		t.Errorf("%d relays after the rule is gone", n.Relays)
	}
	eventually(t, "flows end", func() bool { return u.p.Counters().UDP == 0 })
	if _, err := c.Write([]byte("x")); err == nil {
		c.SetReadDeadline(time.Now().Add(patient))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a withdrawn relay answers")
		}
	}
	if ev := u.events.of(evEnd); len(ev) == 0 || ev[0].Proto != "udp" {
		t.Errorf("%+v", ev)
	}
}

// TestUDPIsJudgedAtTheDial: a name that resolves into the private network gets nothing.
func TestUDPIsJudgedAtTheDial(t *testing.T) {
	u := newUDPRig(t, []string{"+a.test:443/udp"})
	got := u.serveUDP("192.168.77.7:443")
	u.resolve("a.test", netip.MustParseAddr("192.168.77.7"), netip.MustParseAddr("::ffff:203.0.113.10"))
	u.resolved("a.test")
	c := u.client(synthetic["a.test"] + ":443")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are refused", func() bool { return u.p.Counters().Private == 2 })
	if got() != 0 {
		t.Error("the private network was reached")
	}
	if ev := u.events.of(evRebind); len(ev) != 2 || ev[0].Proto != "udp" {
		t.Errorf("%+v", ev)
	}
}

func TestUDPLimits(t *testing.T) {
	u := newUDPRig(t, []string{"+a.test:1-100/udp"}, func(c *Config) { c.Limits.Relays, c.Limits.Datagrams = 3, 2 })
	got := u.serveUDP(addrA + ":1")
	u.resolved("a.test")
	if n := u.p.Counters(); n.Relays != 3 || n.LimitsHit == 0 {
		t.Errorf("counters %+v", n)
	}
	for range 2 {
		ping(t, u.client(synthetic["a.test"]+":1"), 10)
	}
	hit := u.p.Counters().LimitsHit
	if _, err := u.client(synthetic["a.test"] + ":1").Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the third is refused", func() bool { return u.p.Counters().LimitsHit > hit })
	if got() != 2 {
		t.Errorf("%d datagrams arrived", got())
	}
	u.umu.Lock()
	u.fail = errors.New("no socket")
	u.umu.Unlock()
	u.setRules("+b.test:7/udp")
	u.p.Recheck()
	u.resolved("b.test")
	if ev := u.events.of(evFailed); len(ev) != 1 || ev[0].Proto != "udp" {
		t.Errorf("%+v", ev)
	}
}
