package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside runs the calling test again in fresh user and network namespaces, as root there, which
// is what a hook sees; it works for root and for ordinary users.
func inside(t *testing.T) bool {
	if os.Getenv("TEROK_TEST_INSIDE") == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "TEROK_TEST_INSIDE="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("inside: %v\n%s", err, out)
	}
	return false
}

func enter(t *testing.T) *Space {
	t.Helper()
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := Enter(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func setup(t *testing.T, s *Space) *Inside {
	t.Helper()
	in, err := s.Setup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range in.Files() {
			f.Close()
		}
	})
	return in
}

func listener(t *testing.T, f *os.File) *net.TCPListener {
	t.Helper()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
	return l.(*net.TCPListener)
}

func originalDst(t *testing.T, c net.Conn) (netip.AddrPort, error) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	v6 := c.LocalAddr().(*net.TCPAddr).IP.To4() == nil
	var ap netip.AddrPort
	var serr error
	raw.Control(func(fd uintptr) {
		if v6 {
			var info *unix.IPv6MTUInfo
			if info, serr = unix.GetsockoptIPv6MTUInfo(int(fd), unix.IPPROTO_IPV6, 80 /* IP6T_SO_ORIGINAL_DST */); serr == nil {
				p := info.Addr.Port
				ap = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), p>>8|p<<8)
			}
			return
		}
		var mreq *unix.IPv6Mreq
		if mreq, serr = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); serr == nil {
			b := mreq.Multiaddr
			ap = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	})
	return ap, serr
}

func TestRedirectKeepsTheOriginalDestination(t *testing.T) {
	if !inside(t) {
		return
	}
	in := setup(t, enter(t))
	if !in.Ports.V6 {
		t.Log("no IPv6 in this kernel: only IPv4 is tested")
	}
	listeners := map[string]*net.TCPListener{"203.0.113.5:443": listener(t, in.TCP4)}
	if in.Ports.V6 {
		listeners["[2001:db8::5]:8080"] = listener(t, in.TCP6)
	}
	for target, l := range listeners {
		c, err := net.DialTimeout("tcp", target, 5*time.Second)
		if err != nil {
			t.Fatalf("dial %s: %v", target, err)
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatalf("accept for %s: %v", target, err)
		}
		defer s.Close()
		got, err := originalDst(t, s)
		if err != nil || got.String() != target {
			t.Errorf("original destination of %s: %v, %v", target, got, err)
		}
		fmt.Fprintln(c, "ping")
		buf := make([]byte, 5)
		if _, err := s.Read(buf); err != nil || string(buf) != "ping\n" {
			t.Errorf("%s carries %q, %v", target, buf, err)
		}
	}
	// A direct connection has none: the proxy can tell it and refuses.
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", in.Ports.TCP))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := listeners["203.0.113.5:443"].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := originalDst(t, s); err == nil && !got.Addr().IsLoopback() {
		t.Errorf("a direct connection claims %v", got)
	}
}

func TestDatagrams(t *testing.T) {
	if !inside(t) {
		return
	}
	in := setup(t, enter(t))
	type family struct {
		f               *os.File
		resolver, else_ string
	}
	families := []family{{in.DNS4, "8.8.8.8:53", "8.8.8.8:443"}}
	if in.Ports.V6 {
		families = append(families, family{in.DNS6, "[2001:db8::53]:53", "[2001:db8::53]:443"})
	}
	for _, fam := range families {
		pc, err := net.FilePacketConn(fam.f)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		pc.SetDeadline(time.Now().Add(30 * time.Second))
		c, err := net.Dial("udp", fam.resolver)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		c.Write([]byte("query"))
		buf := make([]byte, 16)
		n, from, err := pc.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "query" {
			t.Fatalf("%s: %q, %v", fam.resolver, buf[:n], err)
		}
		if _, err := pc.WriteTo([]byte("answer"), from); err != nil {
			t.Errorf("answer to %s: %v", from, err)
		}
		// The connected socket takes it only when it seems to come from the resolver asked.
		if n, err = c.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("%s: answer %q, %v", fam.resolver, buf[:n], err)
		}
		// Any other datagram is refused at once, not timed out.
		o, err := net.Dial("udp", fam.else_)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		o.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = o.Write([]byte("x"))
		if err == nil {
			_, err = o.Read(buf)
		}
		if err == nil || os.IsTimeout(err) {
			t.Errorf("%s: %v, wanted a refusal", fam.else_, err)
		}
	}
}

func TestLoopbackIsNotTracked(t *testing.T) {
	if !inside(t) {
		return
	}
	in := setup(t, enter(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	proxy := listener(t, in.TCP4)
	go func() {
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	for range 3000 {
		for _, target := range []string{l.Addr().String(), fmt.Sprintf("127.0.0.1:%d", in.Ports.TCP)} {
			c, err := net.Dial("tcp", target)
			if err != nil {
				continue // the proxy resets; also during the handshake
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	data, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.SplitN(string(data), "\n", 3)[1])
	var entries int
	fmt.Sscanf(fields[0], "%x", &entries)
	if entries > 100 {
		t.Errorf("%d connection table entries after a loopback flood", entries)
	}
}

func TestSetupAgainReplaces(t *testing.T) {
	if !inside(t) {
		return
	}
	s := enter(t)
	first := setup(t, s)
	second := setup(t, s)
	if err := s.Verify(second.Ports); err != nil {
		t.Error(err)
	}
	if err := s.Verify(first.Ports); err == nil {
		t.Error("the table still points to the first listeners")
	}
	c, err := net.DialTimeout("tcp", "203.0.113.5:80", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := listener(t, second.TCP4).Accept(); err != nil {
		t.Error(err)
	}
}

func TestChangesAreSeen(t *testing.T) {
	if !inside(t) {
		return
	}
	changes := map[string]func(c *nftables.Conn) error{
		"table gone": func(c *nftables.Conn) error {
			c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
			return c.Flush()
		},
		"another table": func(c *nftables.Conn) error {
			c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mine"})
			return c.Flush()
		},
		"rule gone": func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Name: "ingress", Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}})
			return c.Flush()
		},
		"link": func(*nftables.Conn) error {
			a := netlink.NewLinkAttrs()
			a.Name = "other0"
			v := netlink.NewVeth(a)
			v.PeerName = "other1"
			return netlink.LinkAdd(v)
		},
	}
	for name, change := range changes {
		if name == "link" {
			continue // below: it cannot be undone by Setup
		}
		tampered(t, name, change)
	}
	tampered(t, "link", changes["link"])
	// A namespace with a link that is not ours is refused.
	if _, err := enter(t).Setup(); err == nil {
		t.Error("Setup accepts another link")
	}
}

func tampered(t *testing.T, name string, change func(*nftables.Conn) error) {
	t.Helper()
	s := enter(t)
	in := setup(t, s)
	w, err := s.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := s.Verify(in.Ports); err != nil {
		t.Fatalf("%s: before: %v", name, err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := change(c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	seen := make(chan error, 1)
	go func() { _, err := w.Wait(); seen <- err }()
	select {
	case err := <-seen:
		if err != nil {
			t.Errorf("%s: watch: %v", name, err)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("%s: not noticed", name)
	}
	if err := s.Verify(in.Ports); err == nil {
		t.Errorf("%s: Verify does not see it", name)
	}
	if name == "another table" {
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mine"})
		c.Flush()
	}
}
