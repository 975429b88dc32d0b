package attack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// event is what the tests read of a ledger line.
type event struct {
	Ev     string            `json:"ev"`
	Name   string            `json:"name"`
	Rule   string            `json:"rule"`
	Detail map[string]string `json:"detail"`
}

// events reads a sandbox's ledger.
func (b *box) events(t testing.TB, ev string) []event {
	t.Helper()
	var out []event
	d := json.NewDecoder(strings.NewReader(must(t, "shield", "logs", b.name, "--json")))
	for {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Ev == ev {
			out = append(out, e)
		}
	}
}

func sni(name string) func(*tls.Config) {
	return func(c *tls.Config) { c.ServerName = name }
}

// Spec: shield.md §10, 37, 38: names on one address are told apart, by connection and by SNI, and
// refusing one does not refuse the other.
func TestNamesOnOneAddress(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--deny", "denied.test")
	works(t, b, "https://a.test/", roots)
	for _, name := range []string{"b.test", "denied.test", "x.a.test", "A.TEST.b.test"} {
		if r, code, err := b.get("https://a.test/", roots, sni(name)); err == nil {
			t.Errorf("connected to a.test with the SNI %s: %d %+v", name, code, r)
		}
		works(t, b, "https://a.test/", roots)
	}
	refusedAll(t, b, []attempt{{"tcp", "b.test:443", hello(t, "b.test")}, {"tcp", "b.test:443", hello(t, "a.test")},
		{"tcp", "denied.test:443", hello(t, "denied.test")}, {"tcp", "denied.test:443", hello(t, "a.test")},
		{"tcp", "a.test:443", hello(t, "b.test")}, {"tcp", "203.0.113.10:443", hello(t, "a.test")}})
	found := map[string]bool{}
	for _, e := range b.events(t, "name_mismatch") {
		if e.Name == "a.test" {
			found[e.Detail["second"]] = true
		}
	}
	if !found["b.test"] || !found["denied.test"] {
		t.Errorf("name_mismatch does not name both: %v", found)
	}
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// A name that is allowed itself may be the SNI of a connection to another one.
func TestSecondNameThatIsAllowed(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "b.test:443")
	if r, _, err := b.get("https://a.test/", roots, sni("b.test")); err != nil || r.SNI != "b.test" {
		t.Errorf("%+v %v", r, err)
	}
}

// Spec: shield.md §10, 39.
func TestUnusualClientHellos(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	if _, _, err := b.get("https://a.test/", roots, func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "203.0.113.10", true }); err != nil {
		t.Errorf("without SNI: %v", err) // an address sends none
	}
	small := func(name string) []byte { // one record that fits into three
		return hello(t, name)
	}
	split := func(h []byte, records int) []byte { // the handshake message over several records
		var out []byte
		body := h[5:]
		for i := range records {
			part := body[len(body)*i/records : len(body)*(i+1)/records]
			out = append(append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
		}
		return out
	}
	dribble := func(h []byte) (first byte, took time.Duration) {
		t.Helper()
		begin := time.Now()
		c, err := b.dial("tcp", "a.test:443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 20 {
			if _, err := c.Write(h[i : i+1]); err != nil {
				return 0, time.Since(begin)
			}
		}
		c.Write(h[20:])
		answer := make([]byte, 1)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, answer); err != nil {
			return 0, time.Since(begin)
		}
		return answer[0], time.Since(begin)
	}
	if first, _ := dribble(split(small("a.test"), 3)); first != 22 {
		t.Errorf("a split ClientHello for a.test is answered with %d", first)
	}
	if first, _ := dribble(split(small("b.test"), 3)); first == 22 {
		t.Error("a split ClientHello for b.test reached the server")
	}
	big := []byte{22, 3, 1, 0x40, 0, 1, 0, 0x50, 0, 3, 3}
	big = append(big, bytes.Repeat([]byte{0}, 20<<10)...)
	for what, h := range map[string][]byte{"20 KiB": big, "no TLS": []byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), "garbage": []byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00garbage garbage garbage")} {
		if first, took := dribble(h); first == 22 || took > 6*time.Second {
			t.Errorf("%s: answered with %d after %v", what, first, took)
		}
	}
	works(t, b, "https://a.test/", roots)
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// Spec: shield.md §10, 40: on port 80 every request is judged.
func TestSecondHostOnOneConnection(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "a.test:80")
	for _, second := range []string{
		"GET /second HTTP/1.1\r\nHost: b.test\r\n\r\n",
		"GET http://b.test/second HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /second HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
		"GET /second HTTP/1.1\r\nHost: denied.test:80\r\n\r\n",
		"CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /second HTTP/1.1\r\nHost : b.test\r\n\r\n",
		"GET /second HTTP/1.1\r\nHost: 203.0.113.20\r\n\r\n",
	} {
		c, err := b.dial("tcp", "a.test:80")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(c)
		for range 2 { // the control: the connection is kept alive and works
			io.WriteString(c, "GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("control: %v %v", resp, err)
			}
			io.Copy(io.Discard, resp.Body)
		}
		begin := time.Now()
		io.WriteString(c, second)
		resp, err := http.ReadResponse(in, nil)
		if err == nil && (resp.StatusCode < 400 || resp.StatusCode > 499 && resp.StatusCode != 501 && resp.StatusCode != 505) {
			t.Errorf("%q: %s", second, resp.Status)
		}
		if took := time.Since(begin); took > quick {
			t.Errorf("%q: refused after %v", second, took)
		}
		c.Close()
	}
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if s.Path == "/second" {
			t.Errorf("the second request reached the server: %+v", s)
		}
	}
	sawOnly(t, w, "a.test", "203.0.113.10:80")
}

// Spec: shield.md §10, 41: an address that another sandbox was given for a name leads nowhere here.
func TestSyntheticAddressOfAnotherSandbox(t *testing.T) {
	w, roots := internet(t)
	other := start(t, "--allow", "c.test:443")
	given := other.do(t, request{Op: "resolve", Addr: "c.test"})
	if given.Error != "" || len(given.List) == 0 {
		t.Fatalf("%+v", given)
	}
	works(t, other, "https://c.test/", roots)
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := start(t, "--allow", "c.test:443", "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", given.List[0] + ":443", hello(t, "c.test")}, {"tcp", given.List[0] + ":443", hello(t, "a.test")}})
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}
