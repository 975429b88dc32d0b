package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"terok/internal/shield/netns"
)

// TestRealRedirect runs the proxy behind the real table, in a network namespace of its own: the
// original destination comes from the kernel, for IPv4, IPv6 and MPTCP clients, and a connection
// made directly to the listener is reset. It works for root and for ordinary users.
func TestRealRedirect(t *testing.T) {
	const mark = "TEROK_TEST_INSIDE"
	if os.Getenv(mark) != t.Name() {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), mark+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("inside: %v\n%s", err, out)
		}
		return
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	space, err := netns.Enter(int(ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	in, err := space.Setup()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, []string{"+a.test:7000", "+203.0.113.10:7000"}, func(c *Config) { c.OriginalDst = originalDst })
	targets := map[string]string{"by address": "203.0.113.10:7000", "by name": synthetic["a.test"] + ":7000"}
	for _, f := range []*os.File{in.TCP4, in.TCP6} {
		if f == nil {
			continue
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		go r.p.Serve(r.ctx, l.(*net.TCPListener))
	}
	r.serve(addrA+":7000", echo)
	if in.TCP6 != nil {
		r.setRules("+a.test:7000", "+203.0.113.10:7000", "+[2001:db8:1::10]:7000")
		r.serve("[2001:db8:1::10]:7000", echo)
		targets["IPv6"] = "[2001:db8:1::10]:7000"
	}
	for what, target := range targets {
		for _, mptcp := range []bool{false, true} {
			var d net.Dialer
			d.SetMultipathTCP(mptcp)
			c, err := d.DialContext(t.Context(), "tcp", target)
			if err != nil {
				t.Fatalf("%s, mptcp %v: %v", what, mptcp, err)
			}
			io.WriteString(c, "hi")
			c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
				t.Errorf("%s, mptcp %v: %q %v", what, mptcp, b, err)
			}
			c.Close()
		}
	}
	want := map[string]bool{"203.0.113.10": true, "a.test": true, "2001:db8:1::10": in.TCP6 != nil}
	for name, n := range r.p.Counters().Names {
		if !want[name] || n.Flows != 2 {
			t.Errorf("%s: %+v", name, n)
		}
	}
	for _, host := range []string{"127.0.0.1", "10.0.2.100"} { // the listener itself
		c, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(in.Ports.TCP))))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("direct connection to %s: %v", host, err)
		}
	}
	for _, target := range []string{"203.0.113.10:7001", "198.18.9.9:7000", "10.0.2.2:9999"} {
		c, err := net.Dial("tcp", target)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", target, err)
		}
	}
	// An MPTCP listener has no original destination to offer: everything is reset.
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go r.p.Serve(r.ctx, l.(*net.TCPListener))
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("MPTCP listener: %v", err)
	}
}
