package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clientHello returns the bytes that crypto/tls sends first.
func clientHello(t testing.TB, name string, protos ...string) []byte {
	t.Helper()
	c := &capture{}
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protos}
	tls.Client(c, cfg).Handshake()
	if c.b.Len() == 0 {
		t.Fatal("no ClientHello")
	}
	return c.b.Bytes()
}

// fixedHello is a small ClientHello without random parts, so that fuzzing is repeatable.
func fixedHello(name string) []byte {
	ext := []byte{0, 43, 0, 3, 2, 3, 4} // supported_versions: 1.3
	if n := len(name); n > 0 {
		ext = append(ext, 0, 0, 0, byte(n+5), 0, byte(n+3), 0, 0, byte(n))
		ext = append(ext, name...)
	}
	msg := append([]byte{3, 3}, make([]byte, 33)...)                          // random, no session
	msg = append(msg, 0, 2, 0x13, 1, 1, 0, byte(len(ext)>>8), byte(len(ext))) // one suite, no compression
	msg = append(msg, ext...)
	msg = append([]byte{1, 0, byte(len(msg) >> 8), byte(len(msg))}, msg...)
	return append([]byte{22, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...)
}

type capture struct {
	replay
	b bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) { return c.b.Write(p) }
func (c *capture) Read([]byte) (int, error)    { return 0, io.EOF }

// split puts a ClientHello into n TLS records.
func split(hello []byte, n int) []byte {
	msg := hello[5:]
	var out []byte
	size := len(msg)/n + 1
	for len(msg) > 0 {
		k := min(size, len(msg))
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, msg[:k]...)
		msg = msg[k:]
	}
	return out
}

func testCert(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"*.test"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveTLS echoes and remembers the SNI of what arrived.
func (r *rig) serveTLS(addr string) *atomic.Value {
	seen := &atomic.Value{}
	seen.Store("")
	cert := testCert(r.t)
	r.serve(addr, func(c *net.TCPConn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			seen.Store(seen.Load().(string) + h.ServerName + ";")
			return nil, nil
		}})
		io.Copy(s, s)
		s.CloseWrite()
	})
	return seen
}

func TestTwoNamesOnOneAddress(t *testing.T) {
	for _, port := range []string{"443", "8443"} {
		t.Run(port, func(t *testing.T) {
			r := newRig(t, []string{"+a.test:443,8443", "deny!-denied.test"})
			seen := r.serveTLS(addrA + ":" + port)
			try := func(dst, sni string) error {
				c := tls.Client(r.dial(dst+":"+port), &tls.Config{ServerName: sni, InsecureSkipVerify: true})
				if err := c.Handshake(); err != nil {
					return err
				}
				io.WriteString(c, "hi")
				b := make([]byte, 2)
				_, err := io.ReadFull(c, b)
				c.Close()
				return err
			}
			for _, ok := range []string{"a.test", "A.Test"} {
				if err := try("a.test", ok); err != nil {
					t.Errorf("a.test with SNI %s: %v", ok, err)
				}
			}
			for _, c := range [][2]string{{"a.test", "b.test"}, {"a.test", "denied.test"}, {"b.test", "a.test"}, {"b.test", "b.test"}, {addrA, "a.test"}} {
				start := time.Now()
				err := try(c[0], c[1])
				if err == nil || !strings.Contains(err.Error(), "access denied") || time.Since(start) > quick {
					t.Errorf("%s with SNI %s: %v in %v; want access denied", c[0], c[1], err, time.Since(start))
				}
			}
			if got := seen.Load(); got != "a.test;A.Test;" && got != "a.test;a.test;" {
				t.Errorf("the server saw %q", got)
			}
			ev := r.events.of(evMismatch)
			if len(ev) != 2 || ev[0].Name != "a.test" || ev[0].Detail["second"] != "b.test" || ev[1].Detail["second"] != "denied.test" {
				t.Errorf("events %+v", ev)
			}
			// A second name that is allowed itself.
			r.setRules("+a.test:443,8443", "+b.test:443,8443")
			if err := try("a.test", "b.test"); err != nil {
				t.Errorf("allowed second name: %v", err)
			}
			// Its withdrawal cuts the connection that used it.
			c := tls.Client(r.dial("a.test:"+port), &tls.Config{ServerName: "b.test", InsecureSkipVerify: true})
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			r.setRules("+a.test:443,8443")
			r.p.Recheck()
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("connection lives on under a refused second name")
			}
		})
	}
}

func TestStartsOfTLS(t *testing.T) {
	hello := clientHello(t, "a.test")
	big := clientHello(t, "a.test", func() (l []string) {
		for range 110 {
			l = append(l, strings.Repeat("x", 200))
		}
		return
	}()...)
	if len(big) < 20<<10 {
		t.Fatalf("big hello has %d bytes", len(big))
	}
	interleaved := append(split(hello, 2)[:5+len(hello[5:])/2+1], 21, 3, 1, 0, 2, 1, 0)
	cases := []struct {
		name    string
		write   [][]byte
		close   bool
		allowed bool
	}{
		{"whole", [][]byte{hello}, false, true},
		{"three records", [][]byte{split(hello, 3)}, false, true},
		{"three records, three segments", chop(split(hello, 3), 3), false, true},
		{"twenty one-byte segments", append(oneByte(hello[:20]), hello[20:]), false, true},
		{"no SNI", [][]byte{clientHello(t, "")}, false, true},
		{"other name in three records", [][]byte{split(clientHello(t, "b.test"), 3)}, false, false},
		{"20 KiB", [][]byte{big}, false, false},
		{"not TLS", [][]byte{[]byte("SSH-2.0-OpenSSH\r\n")}, false, false},
		{"ended early", [][]byte{hello[:40]}, true, false},
		{"alert between records", [][]byte{interleaved}, false, false},
		{"broken", [][]byte{append(bytes.Clone(hello[:60]), make([]byte, len(hello)-60)...)}, false, false},
		{"empty record", [][]byte{{22, 3, 1, 0, 0}}, false, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, []string{"+a.test"})
			r.serve(addrA+":443", echo)
			conn := r.dial("a.test:443")
			conn.SetNoDelay(true)
			sent := 0
			for _, w := range c.write {
				n, _ := conn.Write(w)
				sent += n
			}
			if c.close {
				conn.CloseWrite()
			}
			start := time.Now()
			if c.allowed {
				b := make([]byte, sent)
				if _, err := io.ReadFull(conn, b); err != nil || !bytes.Equal(b, bytes.Join(c.write, nil)) {
					t.Errorf("relayed %d of %d bytes: %v", len(b), sent, err)
				}
				return
			}
			b, _ := io.ReadAll(conn)
			if len(b) != 0 && b[0] != 21 {
				t.Errorf("answered %q", b)
			}
			if d := time.Since(start); d > quick {
				t.Errorf("refused after %v", d)
			}
			if len(r.dials()) != 0 {
				t.Errorf("dialled %v", r.dials())
			}
		})
	}
}

// TestOtherMajorVersions: a ClientHello whose record has another major version is one to a lenient
// server, so its name must not escape judgement where TLS is not required.
func TestOtherMajorVersions(t *testing.T) {
	hello := clientHello(t, "b.test")
	for major := range 256 {
		hello[1] = byte(major)
		_, err := helloName(hello)
		whole, framing := helloComplete(hello)
		if err == nil && !whole && !errors.Is(framing, errHelloBad) {
			t.Errorf("%d: crypto/tls takes it, the framing says %v", major, framing)
		}
	}
	r := newRig(t, []string{"+a.test:2222"})
	got := make(chan int, 1)
	r.serve(addrA+":2222", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- len(b)
	})
	hello[1] = 13
	c := r.dial("a.test:2222")
	c.Write(hello)
	c.CloseWrite()
	if b, _ := io.ReadAll(c); len(b) == 0 || b[0] != 21 {
		t.Errorf("answered %q", b)
	}
	if n := <-got; n != 0 {
		t.Errorf("the server got %d bytes", n)
	}
}

func chop(b []byte, n int) (out [][]byte) {
	size := len(b)/n + 1
	for len(b) > 0 {
		k := min(size, len(b))
		out = append(out, b[:k])
		b = b[k:]
	}
	return
}

func oneByte(b []byte) (out [][]byte) {
	for i := range b {
		out = append(out, b[i:i+1])
	}
	return
}

func TestSlowClientHelloIsRefused(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	start := time.Now()
	slow := r.dial("a.test:443")
	slow.Write(clientHello(t, "a.test")[:100])
	silent := r.dial("a.test:443")
	for _, c := range []*net.TCPConn{slow, silent} {
		io.ReadAll(c)
	}
	if d := time.Since(start); d < startTimeout-time.Second || d > startTimeout+2*time.Second {
		t.Errorf("refused after %v, want about %v", d, startTimeout)
	}
	if n := r.p.Counters(); n.Malformed != 2 || len(r.dials()) != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestWaitingHellosShareThePeekMemory(t *testing.T) {
	// Far more unfinished hellos than peek buffers must not keep a finished one waiting.
	r := newRig(t, []string{"+a.test"}, func(c *Config) { c.Limits.PeekBytes = maxHead })
	r.serve(addrA+":443", echo)
	hello := clientHello(t, "a.test")
	for range 64 {
		r.dial("a.test:443").Write(hello[:len(hello)-1])
	}
	eventually(t, "64 are open", func() bool { return r.p.Counters().Open == 64 })
	c := r.dial("a.test:443")
	c.Write(hello)
	if _, err := io.ReadFull(c, make([]byte, len(hello))); err != nil {
		t.Error(err)
	}
	if n := len(r.p.hellos); n != 1 {
		t.Errorf("%d peek buffers free, want 1", n)
	}
}

func TestRawRuleSkipsVerification(t *testing.T) {
	r := newRig(t, []string{"+a.test:443 raw"})
	r.serve(addrA+":443", func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-x\r\n") })
	if b, err := io.ReadAll(r.dial("a.test:443")); string(b) != "SSH-2.0-x\r\n" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

func TestVerifyLogOnly(t *testing.T) {
	r := newRig(t, []string{"+a.test"}, func(c *Config) { c.Verify = LogOnly })
	r.serve(addrA+":443", echo)
	hello := clientHello(t, "b.test")
	c := r.dial("a.test:443")
	c.Write(hello)
	if _, err := io.ReadFull(c, make([]byte, len(hello))); err != nil {
		t.Error(err)
	}
	if ev := r.events.of(evMismatch); len(ev) != 1 || ev[0].Verdict != "allow" {
		t.Errorf("%+v", ev)
	}
}

func TestServerFirstProtocols(t *testing.T) {
	r := newRig(t, []string{"+a.test:22,2222"})
	r.serve(addrA+":22", func(c *net.TCPConn) {
		io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
		echo(c)
	})
	c := r.dial("a.test:22")
	b := make([]byte, 21)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "SSH-2.0-OpenSSH_9.2\r\n" {
		t.Fatalf("%q %v", b, err)
	}
	for _, first := range []string{"x", "\x16\x00rest"} { // the byte 22 alone is not TLS
		c := r.dial("a.test:22")
		io.ReadFull(c, b)
		io.WriteString(c, first)
		got := make([]byte, len(first))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != first {
			t.Errorf("%q came back as %q, %v", first, got, err)
		}
	}
}

func TestUnreachableUpstream(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000", "+denied.test:7000"})
	r.refused(t, "a.test:7000")
	r.resolve("denied.test")
	r.refused(t, "denied.test:7000")
	if n := r.p.Counters(); n.Unreached != 2 || len(r.events.of(evFailed)) != 2 {
		t.Errorf("%+v", n)
	}
}

func TestRaceTakesTheFirstThatAnswers(t *testing.T) {
	a, b := netip.MustParseAddrPort("203.0.113.1:1"), netip.MustParseAddrPort("203.0.113.2:1")
	both := []netip.AddrPort{a, b}
	late := make(chan struct{})
	c1, c2 := net.Pipe()
	defer c2.Close()
	got, from, err := race(context.Background(), both, func(ctx context.Context, x netip.AddrPort) (net.Conn, error) {
		if x == a { // black hole
			<-ctx.Done()
			close(late)
			return nil, ctx.Err()
		}
		return c1, nil
	})
	if err != nil || got != c1 || from != b {
		t.Fatalf("%v %v %v", got, from, err)
	}
	<-late
	_, _, err = race(context.Background(), both, func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, io.ErrClosedPipe })
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
