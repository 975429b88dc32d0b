package netns

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelayAddr: no two destinations share an address, none is a privileged port.
func TestRelayAddr(t *testing.T) {
	for _, s := range []string{"198.18.0.0/15", "100.96.0.0/11", "198.18.0.0/24"} {
		px := netip.MustParsePrefix(s)
		seen := map[netip.AddrPort]netip.AddrPort{}
		a := px.Addr()
		for range 300 {
			if a = a.Next(); !px.Contains(a) {
				break
			}
			for _, port := range []uint16{1, 53, 123, 443, 1024, 16383, 16384, 16827, 32768, 33211, 49152, 49595, 65535} {
				dst := netip.AddrPortFrom(a, port)
				r, ok := RelayAddr(px, dst)
				if !ok || !relayNet.Contains(r.Addr()) || r.Port() < 1024 {
					t.Fatalf("%s: %v %v", dst, r, ok)
				}
				if old, twice := seen[r]; twice {
					t.Fatalf("%s and %s are both %s", old, dst, r)
				}
				seen[r] = dst
			}
		}
	}
	px := netip.MustParsePrefix("198.18.0.0/15")
	for _, dst := range []string{"198.20.0.1:443", "198.18.0.1:0", "[2001:db8::1]:443", "127.0.0.1:443"} {
		if r, ok := RelayAddr(px, netip.MustParseAddrPort(dst)); ok {
			t.Errorf("%s: %s", dst, r)
		}
	}
	if CanRelay(netip.MustParsePrefix("10.0.0.0/8")) || CanRelay(netip.Prefix{}) || relayRules(netip.Prefix{}) != nil {
		t.Error("a range that does not fit is relayed")
	}
}

// TestRelay: a datagram for a synthetic address arrives where RelayAddr says, the answer comes
// from where it was sent, one client socket may talk to several, and where nobody relays it is
// refused at once. A second Setup finds the table as it was made.
func TestRelay(t *testing.T) {
	if !inside(t) {
		return
	}
	s := enter(t)
	s.Synthetic = netip.MustParsePrefix("198.18.0.0/15")
	in := setup(t, s)
	if err := s.Verify(in.Ports); err != nil {
		t.Fatal(err)
	}
	other := in.Ports
	other.Synthetic = netip.MustParsePrefix("198.18.0.0/16")
	if err := s.Verify(other); err == nil {
		t.Error("the table is the same for another range")
	}
	targets := []string{"198.18.7.9:443", "198.19.255.1:443", "198.18.7.9:33211", "198.18.7.9:53000"}
	client, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, target := range targets {
		dst := netip.MustParseAddrPort(target)
		at, _ := RelayAddr(s.Synthetic, dst)
		f, err := s.Datagram()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(int(f.Fd()), &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
			t.Fatal(err)
		}
		pc, err := net.FilePacketConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(append(b[:n:n], target...), from)
			}
		}()
		// The same client socket for all of them.
		client.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := client.WriteToUDPAddrPort([]byte("hello "), dst); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		n, from, err := client.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "hello "+target || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != dst {
			t.Errorf("%s: %q from %s, %v", target, b[:n], from, err)
		}
	}
	for _, target := range []string{"198.18.7.10:443", "198.18.7.9:444", "203.0.113.5:443"} {
		c, err := net.Dial("udp", target)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Write([]byte("x"))
		if err == nil {
			_, err = c.Read(make([]byte, 10))
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EACCES) {
			t.Errorf("%s is not refused at once: %v", target, err)
		}
		c.Close()
	}
}
