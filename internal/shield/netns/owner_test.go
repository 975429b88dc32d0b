package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
)

// TestInode: a redirected connection is found by the ends that its program sees, and no other
// socket is taken for it, a listening one least of all.
func TestInode(t *testing.T) {
	if !inside(t) {
		return
	}
	s := enter(t)
	in := setup(t, s)
	ends := map[*os.File]string{in.TCP4: "203.0.113.9:443", in.TCP6: "[2001:db8::9]:443"}
	if !in.Ports.V6 {
		delete(ends, in.TCP6)
	}
	for f, dst := range ends {
		l := listener(t, f)
		c, err := net.Dial("tcp", dst)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ours, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort(dst)
		got, err := s.Inode(local, remote)
		if err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
		raw, err := c.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", raw.Fd()))
		if want := fmt.Sprintf("socket:[%d]", got); err != nil || link != want {
			t.Errorf("%s: %q, want %q (%v)", dst, want, link, err)
		}
		for _, other := range []netip.AddrPort{netip.AddrPortFrom(remote.Addr(), 80), netip.AddrPortFrom(remote.Addr().Next(), 443)} {
			if n, err := s.Inode(local, other); err == nil {
				t.Errorf("%s to %s: socket %d", local, other, n)
			}
		}
		if n, err := s.Inode(l.Addr().(*net.TCPAddr).AddrPort(), remote); err == nil {
			t.Errorf("the listener %s is socket %d", l.Addr(), n)
		}
	}
	for _, odd := range [][2]netip.AddrPort{{}, {netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("[::1]:1")}} {
		if _, err := s.Inode(odd[0], odd[1]); err == nil {
			t.Errorf("%v is taken", odd)
		}
	}
}
