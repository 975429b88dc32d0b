package world

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// start runs the world on kernel-chosen loopback ports.
func start(t *testing.T) (*World, *Client) {
	t.Helper()
	w, err := Start(Config{Bind: func(string, string) string { return "127.0.0.1:0" }, Nameservers: []string{"10.255.255.53"}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ServeControl(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Close()
	})
	return w, Dial(path)
}

func TestDNSIsScriptedAndWrittenDown(t *testing.T) {
	w, c := start(t)
	ctx := t.Context()
	ask := func(network, name string, qtype uint16) *dns.Msg {
		t.Helper()
		cl := &dns.Client{Net: network, Timeout: 5 * time.Second}
		m, _, err := cl.Exchange(new(dns.Msg).SetQuestion(name, qtype), w.Actual(network, "10.255.255.53:53"))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, network := range []string{"udp", "tcp"} {
		if m := ask(network, "A.test.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "203.0.113.10" {
			t.Errorf("%s: %v", network, m)
		}
	}
	if m := ask("udp", "secret.exfil.test.", dns.TypeTXT); m.Rcode != dns.RcodeNameError {
		t.Error(m)
	}
	if m := ask("udp", "a.test.", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
		t.Error(m)
	}
	if err := c.Answer(ctx, Script{Name: "a.test", Type: "A", Values: []string{"127.0.0.1", "192.168.77.7"}, TTL: 1}); err != nil {
		t.Fatal(err)
	}
	if m := ask("udp", "a.test.", dns.TypeA); len(m.Answer) != 2 || m.Answer[0].Header().Ttl != 1 {
		t.Error(m)
	}
	if err := c.Answer(ctx, Script{Name: "a.test", Type: "A", Values: []string{"no address"}}); err == nil {
		t.Error("nonsense was accepted")
	}
	if err := c.Answer(ctx, Script{Name: "a.test", Type: "A", Rcode: dns.RcodeServerFailure}); err != nil {
		t.Fatal(err)
	}
	if m := ask("udp", "a.test.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
	seen, err := c.Seen(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range seen {
		found = found || s.Kind == "dns" && s.Name == "secret.exfil.test" && s.Type == "TXT" && s.Local == "10.255.255.53:53"
	}
	if !found || len(seen) != 6 {
		t.Errorf("seen %+v", seen)
	}
	if err := c.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if m := ask("udp", "a.test.", dns.TypeA); len(m.Answer) != 1 {
		t.Error("zone was not restored", m)
	}
}

func TestServers(t *testing.T) {
	w, c := start(t)
	pem, err := c.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(addr)
		return new(net.Dialer).DialContext(ctx, "tcp", w.Actual("tcp", "203.0.113.10:"+port))
	}
	cl := &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer cl.CloseIdleConnections()
	for _, url := range []string{"http://a.test/x", "https://b.test/x", "https://denied.test:8443/x"} {
		resp, err := cl.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		var r Reply
		err = json.NewDecoder(resp.Body).Decode(&r)
		resp.Body.Close()
		if err != nil || r.Path != "/x" {
			t.Errorf("%s: %+v %v", url, r, err)
		}
	}
	resp, err := cl.Get("http://a.test/bytes/100000")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); len(b) != 100000 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	resp.Body.Close()
	echo, err := net.Dial("tcp", w.Actual("tcp", "203.0.113.10:22"))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(echo, "hi")
	echo.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(echo); string(b) != "SSH-2.0-world\r\nhi" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	echo.Close()
	u, err := net.Dial("udp", w.Actual("udp", "203.0.113.10:7000"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(u, "dgram")
	b := make([]byte, 10)
	if n, err := u.Read(b); string(b[:n]) != "dgram" || err != nil {
		t.Errorf("%q %v", b[:n], err)
	}
	kinds := map[string]int{}
	for _, s := range w.seen.all() {
		kinds[s.Kind]++
	}
	if kinds["tls"] != 2 || kinds["http"] != 4 || kinds["udp"] != 1 || kinds["tcp"] < 4 {
		t.Errorf("seen %v", kinds)
	}
}
