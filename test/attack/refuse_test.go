package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/test/world"
)

// get fetches a URL through the sandbox.
func (b *box) get(url string, roots *x509.CertPool, change ...func(*tls.Config)) (world.Reply, int, error) {
	cfg := &tls.Config{RootCAs: roots}
	for _, f := range change {
		f(cfg)
	}
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) { return b.dial(network, addr) }}
	var out world.Reply
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get(url)
	if err != nil {
		return out, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &out)
	}
	return out, resp.StatusCode, err
}

// works is the control: the page of url arrives.
func works(t testing.TB, b *box, url string, roots *x509.CertPool) {
	t.Helper()
	if _, code, err := b.get(url, roots); err != nil || code != http.StatusOK {
		t.Fatalf("control: %s: %d %v", url, code, err)
	}
}

// hello is a ClientHello for a name.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go tls.Client(b, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
	defer b.Close()
	head := make([]byte, 16<<10)
	n, err := a.Read(head)
	if err != nil {
		t.Fatal(err)
	}
	return head[:n]
}

// attempt is one way to reach something that is not allowed.
type attempt struct {
	network, addr string
	send          []byte
}

// refusedAll makes every attempt; each must fail within a second, with nothing but a refusal in
// the client's own protocol. Eight at a time: a rig of two cores must not measure itself.
func refusedAll(t *testing.T, b *box, attempts []attempt) {
	t.Helper()
	slots := make(chan bool, 8)
	var wg sync.WaitGroup
	for _, a := range attempts {
		slots <- true
		wg.Go(func() {
			defer func() { <-slots }()
			c, _, out, err := b.begin(request{Op: "talk", Network: a.network, Addr: a.addr, Send: a.send})
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
			if why := notRefused(a.send, out); why != "" {
				t.Errorf("%s %s %.20q: %s: %+v", a.network, a.addr, a.send, why, out)
			}
		})
	}
	wg.Wait()
}

// notRefused says why an outcome is no refusal, or "".
func notRefused(sent []byte, out reply) string {
	switch {
	case out.MS > quick.Milliseconds():
		return "too slow"
	case strings.HasPrefix(string(sent), "GET "):
		if out.Error == "" && (!strings.HasPrefix(string(out.Data), "HTTP/1.1 403 ") || !strings.Contains(string(out.Data), "refused_by_shield")) {
			return "HTTP is answered with something else than 403"
		}
		return ""
	case len(out.Data) == 0 && out.Error != "":
		return ""
	case len(sent) > 0 && sent[0] == 22 && len(out.Data) == 7 && out.Data[0] == 21 && out.Data[5] == 2 && out.Data[6] == 49:
		return "" // the alert access_denied
	}
	return "not refused"
}

func getOf(host string) []byte {
	return fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
}

// Spec: shield.md §10, 1, 3, 11, 42, 74; issue 2, accepted when 2.
func TestOnlyTheAllowedNameAndPort(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	if !saw(t, w, "tls", "a.test") || !saw(t, w, "dns", "a.test") {
		t.Fatal("control: the internet did not see a.test")
	}
	tlsA, plain := hello(t, "a.test"), []byte("hello\r\n")
	var all []attempt
	for _, host := range []string{"b.test", "x.a.test", "denied.test", "c.test", "lan.test", "no-such-name.test", "secret.exfil.test",
		"203.0.113.10", "203.0.113.20", "198.51.100.7", "198.51.100.99", "192.168.77.7", "100.64.0.7", "[2001:db8:1::10]"} {
		name := strings.Trim(host, "[]")
		sni := name
		if net.ParseIP(name) != nil {
			sni = "a.test"
		}
		all = append(all, attempt{"tcp", host + ":443", hello(t, sni)}, attempt{"tcp", host + ":443", tlsA}, attempt{"tcp", host + ":80", getOf(name)},
			attempt{"tcp", host + ":7000", plain}, attempt{"tcp", host + ":443", nil}, attempt{"mptcp", host + ":443", tlsA}, attempt{"udp", host + ":443", plain})
	}
	for _, port := range []string{"22", "53", "80", "853", "7000", "8080", "8443"} {
		all = append(all, attempt{"tcp", "a.test:" + port, plain}, attempt{"tcp", "a.test:" + port, tlsA}, attempt{"tcp", "203.0.113.10:" + port, tlsA})
	}
	all = append(all, attempt{"tcp", "a.test:80", getOf("a.test")}, attempt{"tcp", "a.test:8080", getOf("a.test:8080")},
		attempt{"mptcp", "a.test:8443", tlsA})
	for _, port := range []string{"443", "7000", "123", "853"} {
		all = append(all, attempt{"udp", "a.test:" + port, plain}, attempt{"udp", "203.0.113.10:" + port, plain}, attempt{"udp", "[2001:db8:1::10]:" + port, plain})
	}
	// What is the host's or the cloud's, under every name it could have here.
	for _, addr := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80", "100.100.100.200:80", "meta.test:80", "10.0.2.2:9999", "10.0.2.3:9999",
		"10.0.2.100:9999", "127.0.0.1:9999", "[::1]:9999", "198.51.100.99:7000", "own.test:7000", "loop.test:9999", "0.0.0.0:9999", "[::]:9999",
		"host.containers.internal:9999", "host.terok.internal:9999", "[::ffff:127.0.0.1]:9999", "[::ffff:169.254.169.254]:80"} {
		all = append(all, attempt{"tcp", addr, plain})
	}
	// Ports of the supervisor's addresses that are no service, and services that this box has not.
	for _, addr := range []string{"10.0.2.2:80", "10.0.2.2:443", "10.0.2.2:9418", "10.0.2.2:9419", "10.0.2.2:9420", "10.0.2.2:1", "10.0.2.3:80", "10.0.2.3:853",
		"10.0.2.7:80", "10.0.2.255:80", "10.0.2.0:80"} {
		all = append(all, attempt{"tcp", addr, plain}, attempt{"tcp", addr, nil})
	}
	// Synthetic addresses that nobody was given (41).
	for _, addr := range []string{"198.18.0.0:443", "198.18.0.1:443", "198.19.255.255:443", "198.18.77.77:80"} {
		all = append(all, attempt{"tcp", addr, tlsA})
	}
	// Answers without a server: DoT, DoH's port, by address.
	for _, addr := range []string{"203.0.113.53:853", "203.0.113.53:443", "203.0.113.53:53"} {
		all = append(all, attempt{"tcp", addr, tlsA}, attempt{"tcp", addr, nil})
	}
	refusedAll(t, b, all)
	works(t, b, "https://a.test/", roots)
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// Spec: shield.md §10, 3.
func TestRuleOfAnAddressAndPort(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "203.0.113.10:8080", "--allow", "[2001:db8:1::10]:8080")
	works(t, b, "http://203.0.113.10:8080/", roots)
	works(t, b, "http://[2001:db8:1::10]:8080/", roots)
	h := hello(t, "a.test")
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.10:443", h}, {"udp", "203.0.113.10:8080", h}, {"tcp", "203.0.113.10:80", getOf("203.0.113.10")},
		{"tcp", "203.0.113.20:8080", h}, {"tcp", "a.test:8080", getOf("a.test")}, {"tcp", "[2001:db8:1::10]:443", h}, {"udp", "[2001:db8:1::10]:8080", h}})
	// The address is allowed, a name that claims it is not.
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.10:8080", h}})
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if s.Local != "203.0.113.10:8080" && s.Local != "[2001:db8:1::10]:8080" || s.Kind == "tls" {
			t.Errorf("the internet saw %+v", s)
		}
	}
}

// Spec: shield.md §10, 1: with no rule at all nothing is reachable.
func TestEmptyPolicy(t *testing.T) {
	w, _ := internet(t)
	b := start(t)
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.10:443", hello(t, "a.test")}, {"tcp", "a.test:443", hello(t, "a.test")},
		{"tcp", "a.test:80", getOf("a.test")}, {"tcp", "203.0.113.10:80", getOf("203.0.113.10")}, {"tcp", "203.0.113.10:7000", []byte("x")}, {"tcp", "a.test:22", nil}})
	sawOnly(t, w)
}
