package front

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/sandbox"
)

func TestStreamFirstEventAndCancel(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		next, cancelled := make(chan struct{}), make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			for i := 0; ; i++ {
				fmt.Fprintf(w, "event: e\ndata: {\"i\":%d}\n\n", i)
				http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-req.Context().Done():
					close(cancelled)
					return
				}
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		resp, err := r.client(h2).Do(r.request("POST", "/v1/messages", `{"stream":true}`).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		in := bufio.NewReader(resp.Body)
		for i := range 20 { // each event arrives while upstream waits: nothing is held back
			want := fmt.Sprintf("event: e\ndata: {\"i\":%d}\n\n", i)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
				t.Fatalf("event %d: %q %v", i, got, err)
			}
			next <- struct{}{}
		}
		cancel()
		select {
		case <-cancelled:
		case <-time.After(5 * time.Second):
			t.Fatal("upstream was not cancelled")
		}
	})
}

// spellings are the ways in which a server may echo the key.
func spellings() map[string]string {
	m := map[string]string{
		"raw":         realKey,
		"hex":         hex.EncodeToString([]byte(realKey)),
		"HEX":         strings.ToUpper(hex.EncodeToString([]byte(realKey))),
		"percent":     url.QueryEscape(realKey),
		"percent low": strings.NewReplacer("%2B", "%2b", "%2F", "%2f").Replace(url.QueryEscape(realKey)),
		"json":        strings.ReplaceAll(realKey, "/", "/"),
	}
	for i := range 3 {
		text := strings.Repeat("u", i) + realKey + ":tail"
		m[fmt.Sprint("base64 ", i)] = base64.StdEncoding.EncodeToString([]byte(text))
		m[fmt.Sprint("base64url ", i)] = base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	return m
}

// leaks reports whether text gives the key away in any of the spellings.
func leaks(text string) bool {
	for _, s := range spellings() {
		if len(s) > 24 && strings.Contains(text, s[8:len(s)-12]) {
			return true
		}
	}
	return false
}

func TestEchoIsScrubbed(t *testing.T) {
	for name, echo := range spellings() {
		t.Run(name, func(t *testing.T) {
			body := `{"error":"key ` + echo + ` is wrong"}`
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("X-Echo", "<"+echo+">")
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.Header().Set("Www-Authenticate", `Bearer realm="`+echo+`"`)
				io.WriteString(w, body)
			})
			resp, got := r.do(r.request("GET", "/v1/models", ""))
			if leaks(got) || leaks(fmt.Sprint(resp.Header)) {
				t.Errorf("the key came back: %s %v", got, resp.Header)
			}
			if len(got) != len(body) || !strings.HasPrefix(got, `{"error":"key `) {
				t.Errorf("body was damaged: %s", got)
			}
			r.front.Close()
			if n := len(r.events); n != 2 || r.events[1].Ev != "vault_secret_echoed" {
				t.Errorf("events %+v", r.events)
			}
		})
	}
}

func TestEchoSplitAcrossChunks(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		for cut := 1; cut < len(realKey); cut += 5 {
			step := make(chan struct{})
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				for _, part := range []string{"data: before\n\n", "data: " + realKey[:cut], realKey[cut:] + "\n\n", "data: after\n\n"} {
					io.WriteString(w, part)
					http.NewResponseController(w).Flush()
					<-step
				}
				w.Header().Set("X-Sum", realKey)
			})
			resp, err := r.client(h2).Do(r.request("GET", "/v1/models", ""))
			if err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(resp.Body)
			first, err := in.ReadString('\n') // released although the stream goes on
			if err != nil || first != "data: before\n" {
				t.Fatalf("%q %v", first, err)
			}
			step <- struct{}{}
			// What stands before the secret's first half shows that the half arrived by itself.
			before := make([]byte, len("\ndata: "))
			if _, err := io.ReadFull(in, before); err != nil || string(before) != "\ndata: " {
				t.Fatalf("%q %v", before, err)
			}
			close(step)
			rest, err := io.ReadAll(in)
			resp.Body.Close()
			if err != nil || leaks(string(rest)) || !strings.HasSuffix(string(rest), "xxx\n\ndata: after\n\n") {
				t.Errorf("cut at %d: %q %v", cut, rest, err)
			}
			if sum := resp.Trailer.Get("X-Sum"); sum != strings.Repeat("x", len(realKey)) {
				t.Errorf("trailer %q", sum)
			}
		}
	})
}

func TestCompressedAnswers(t *testing.T) {
	var enc string
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Encoding", enc)
		z := gzip.NewWriter(w)
		io.WriteString(z, "the key is "+realKey)
		z.Close()
	})
	enc = "gzip"
	resp, body := r.do(r.request("GET", "/v1/models", ""))
	if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "" || body != "the key is "+strings.Repeat("x", len(realKey)) {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	for _, enc = range []string{"br", "zstd", "gzip, gzip", "deflate"} {
		if resp, body = r.do(r.request("GET", "/v1/models", "")); resp.StatusCode != 502 || leaks(body) {
			t.Errorf("%s: %d %q", enc, resp.StatusCode, body)
		}
	}
}

func TestRedirects(t *testing.T) {
	evil := httptest.NewServer(mustNotReach(t))
	defer evil.Close()
	var loc string
	hits := 0
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		hits++
		w.Header().Set("Location", loc)
		w.WriteHeader(307)
	})
	for _, tt := range []struct{ loc, want string }{
		{evil.URL + "/x", ""}, {"http://169.254.169.254/latest", ""}, {"//evil.example/x", ""}, {"http://" + testHost + "/x", ""},
		{"/v1/other", "/v1/other"}, {r.upstream.URL + "/v1/other?q=1", "https://" + testHost + "/v1/other?q=1"},
	} {
		loc, hits = tt.loc, 0
		resp, _ := r.do(r.request("POST", "/v1/messages", `{}`))
		status := 502
		if tt.want != "" {
			status = 307
		}
		if resp.StatusCode != status || resp.Header.Get("Location") != tt.want || hits != 1 {
			t.Errorf("%s: %d %q, %d hits", tt.loc, resp.StatusCode, resp.Header.Get("Location"), hits)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		var complete atomic.Int64 // bodies that upstream saw whole
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			n, err := io.Copy(io.Discard, req.Body)
			if err == nil {
				complete.Add(1)
			}
			fmt.Fprint(w, n)
		}, func(c *Config, _ *httptest.Server) { c.Limits.Body = 4 << 20; c.Limits.Inspect = 64 << 10 })
		pad := strings.Repeat("a", 3<<20)
		for _, known := range []bool{true, false} {
			send := func(body string) (*http.Response, string) {
				t.Helper()
				req := r.request("POST", "/v1/messages", body)
				if !known {
					req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(body)), -1, nil
				}
				resp, err := r.client(h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, _ := io.ReadAll(resp.Body)
				return resp, string(b)
			}
			good := `{"messages":"` + pad + `"}`
			if resp, body := send(good); resp.StatusCode != 200 || body != fmt.Sprint(len(good)) {
				t.Errorf("known=%v: %d %s", known, resp.StatusCode, body)
			}
			for _, bad := range []string{`{"messages":"` + pad + `","api_key":"x"}`, `{"messages":"` + pad + `","mcp_servers":[{}]}`} {
				if resp, body := send(bad); resp.StatusCode != 403 {
					t.Errorf("known=%v: %d %s", known, resp.StatusCode, body)
				}
			}
			if resp, body := send(`{"messages":"` + pad); resp.StatusCode != 400 {
				t.Errorf("known=%v, cut: %d %s", known, resp.StatusCode, body)
			}
			// One byte of the document stays behind until the rest was judged.
			if resp, body := send(`{"messages":"` + pad + `"} {"api_key":"x"}`); resp.StatusCode != 400 {
				t.Errorf("known=%v, tail: %d %s", known, resp.StatusCode, body)
			}
			if resp, body := send(`{"messages":"` + pad + pad + `"}`); resp.StatusCode != 413 {
				t.Errorf("known=%v, too large: %d %s", known, resp.StatusCode, body)
			}
		}
		r.front.Close()
		r.upstream.Close() // waits for its handlers
		if n := complete.Load(); n != 2 {
			t.Errorf("upstream saw %d complete bodies, 2 were good", n)
		}
	})
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.ca, ServerName: testHost})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	head := func(token string) {
		fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", testHost, token)
	}
	head(r.phantom)
	if line, _ := in.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q", line)
	}
	in.ReadString('\n')
	io.WriteString(conn, "{}")
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	io.Copy(io.Discard, resp.Body)
	head("wrong")
	if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != 403 {
		t.Fatal("a body was asked for although the token is wrong", resp, err)
	}
}

func TestSmuggling(t *testing.T) {
	r := newRig(t, mustNotReach(t))
	for _, head := range []string{
		"POST /v1/messages HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"GET /v1/messages HTTP/1.1\r\nHost: %h\r\nHost: %h\r\nX-Api-Key: %p\r\n\r\n",
		"GET /v1/messages HTTP/1.1\r\nX-Api-Key: %p\r\n\r\n",
		"GET https://evil.test/v1/messages HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\n\r\n",
		"GET https://%h/v1/messages HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\n\r\n",
		"CONNECT %h:443 HTTP/1.1\r\nHost: %h:443\r\nX-Api-Key: %p\r\n\r\n",
		"GET /v1/messages HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\nX-A: b\r\n c: d\r\nX-Api-Key : x\r\n\r\n",
		"GET /v1/messages HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\nX-A: b\x00\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: %h\r\nX-Api-Key: %p\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /" + strings.Repeat("a", 80<<10) + " HTTP/1.1\r\nHost: %h\r\n\r\n",
	} {
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.ca, ServerName: testHost})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, strings.NewReplacer("%h", testHost, "%p", r.phantom).Replace(head))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err == nil && (resp.StatusCode < 400 || resp.StatusCode >= 500) {
			t.Errorf("%.60q: %s", head, resp.Status)
		}
	}
}

func TestUpgradeIsIgnored(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "" || req.Header.Get("Connection") != "" {
			t.Error("an upgrade reached upstream")
		}
	})
	req := r.request("GET", "/v1/models", "")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "h2c")
	if resp, _ := r.do(req); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

func TestOnlyTheConnectionsNameIsServed(t *testing.T) {
	r := newRig(t, mustNotReach(t))
	for _, name := range []string{"other.test", "x." + testHost, "", "API.other.test"} {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			t.Errorf("SNI %q was served", name)
		}
	}
	if !r.front.Routed(testHost, 443) || r.front.Routed(testHost, 80) || r.front.Routed("x."+testHost, 443) {
		t.Error("Routed")
	}
	a, b := net.Pipe()
	r.front.ServeConn(context.Background(), a, "other.test", 443)
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Error("an unrouted connection stayed open", err)
	}
}

func TestUpstreamIsVerified(t *testing.T) {
	for name, spoil := range map[string]option{
		"unknown authority": func(c *Config, _ *httptest.Server) { c.Grants[0].Routes[0].CAFile = "" },
		"another name": func(c *Config, s *httptest.Server) {
			c.Grants[0].Routes[0].Upstream = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
			c.Dial = func(context.Context, string, uint16, bool) (net.Conn, error) {
				return net.Dial("tcp", s.Listener.Addr().String())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, mustNotReach(t), spoil)
			resp, body := r.do(r.request("POST", "/v1/messages", `{}`))
			if resp.StatusCode != 502 || resp.Header.Get("X-Terok-Broker") != "upstream_tls" {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptest.Server) {
		c.Dial = func(context.Context, string, uint16, bool) (net.Conn, error) {
			return nil, errors.New("10.1.2.3 refused")
		}
	})
	resp, body := r.do(r.request("POST", "/v1/messages", `{}`))
	if resp.StatusCode != 502 || strings.Contains(body, "10.1.2.3") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestBadRoutes(t *testing.T) {
	a, err := NewAuthority([]string{testHost}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	base := Config{Authority: a, Credentials: (&rig{}).credentials, Record: &rig{},
		Dial: func(context.Context, string, uint16, bool) (net.Conn, error) { return nil, errors.New("no") }}
	good := func() Grant {
		return Grant{Phantom: NewPhantom(), Grant: sandbox.Grant{Provider: "p", Auth: map[string]sandbox.Auth{sandbox.APIKey: {Header: "x-api-key"}},
			Routes: []sandbox.Route{{Host: testHost, Port: 443}}}}
	}
	header := func(g *Grant, a sandbox.Auth) { g.Auth = map[string]sandbox.Auth{sandbox.APIKey: a} }
	notPEM := filepath.Join(t.TempDir(), "x")
	os.WriteFile(notPEM, []byte("x"), 0o600)
	for name, spoil := range map[string]func(*Grant){
		"http upstream":         func(r *Grant) { r.Routes[0].Upstream = "http://example.org"; r.Routes[0].AllowPrivate = true },
		"http loopback, public": func(r *Grant) { r.Routes[0].Upstream = "http://127.0.0.1:1" },
		"upstream with user":    func(r *Grant) { r.Routes[0].Upstream = "https://u:p@example.org" },
		"upstream scheme":       func(r *Grant) { r.Routes[0].Upstream = "ftp://example.org" },
		"no phantom":            func(r *Grant) { r.Phantom = "" },
		"header":                func(r *Grant) { header(r, sandbox.Auth{Header: "x api"}) },
		"prefix":                func(r *Grant) { header(r, sandbox.Auth{Header: "x", Prefix: "a\r\nb"}) },
		"host":                  func(r *Grant) { r.Routes[0].Host = "*.example.org" },
		"outside the authority": func(r *Grant) { r.Routes[0].Host = "10.0.0.1" },
		"ca file missing":       func(r *Grant) { r.Routes[0].CAFile = "/nonexistent" },
		"ca file":               func(r *Grant) { r.Routes[0].CAFile = notPEM },
		"query header":          func(r *Grant) { header(r, sandbox.Auth{Header: "x", Set: map[string]string{"a b": "c"}}) },
		"default":               func(r *Grant) { r.Routes[0].Default = "ask" },
		"no credential":         func(r *Grant) { r.Auth = nil },
		"path rule":             func(r *Grant) { r.Routes[0].Policy = []string{"allow v1"} },
	} {
		g := good()
		spoil(&g)
		cfg := base
		cfg.Grants = []Grant{g}
		if f, err := New(cfg); err == nil {
			f.Close()
			t.Errorf("%s was accepted", name)
		}
	}
	base.Grants = []Grant{good(), good()}
	if _, err := New(base); err == nil {
		t.Error("two routes of one provider for one host were accepted")
	}
}

func TestLimits(t *testing.T) {
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { entered <- struct{}{}; <-leave },
		func(c *Config, _ *httptest.Server) { c.Limits.Concurrent = 2; c.Limits.Connection = 3 })
	done := make(chan int, 2)
	for range 2 {
		go func() {
			resp, err := r.client(false).Do(r.request("GET", "/v1/models", ""))
			if err != nil {
				done <- 0
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	<-entered
	<-entered
	resp, _ := r.do(r.request("GET", "/v1/models", ""))
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Error(resp.Status)
	}
	if c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.ca, ServerName: testHost}); err == nil {
		c.Close()
		t.Error("one connection too many was served")
	}
	close(leave)
	for range 2 {
		if s := <-done; s != 200 {
			t.Error(s)
		}
	}
}

func TestContextCutsAConnection(t *testing.T) {
	gone := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).Flush()
		<-req.Context().Done()
		close(gone)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cut := context.WithCancel(context.Background())
	returned := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err == nil {
			r.front.ServeConn(ctx, c, testHost, 443)
		}
		close(returned)
	}()
	r.addr = l.Addr().String()
	resp, err := r.client(false).Do(r.request("GET", "/v1/models", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cut()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the client saw a clean end")
	}
	for _, ch := range []chan struct{}{returned, gone} {
		select {
		case <-ch:
		case <-time.After(5 * time.Second):
			t.Fatal("the connection lives on")
		}
	}
}

func TestUpstreamCutIsSeen(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := r.client(h2).Do(r.request("GET", "/v1/models", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil || !bytes.Equal(body, []byte("half")) {
			t.Errorf("%q %v", body, err)
		}
	})
}

func TestAuthority(t *testing.T) {
	a, err := NewAuthority([]string{testHost, "b.test"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	data, err := a.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := UnmarshalAuthority(data)
	if err != nil || !bytes.Equal(a.CertPEM(), b.CertPEM()) || fmt.Sprint(b.Hosts()) != "[api.anthropic.test b.test]" {
		t.Fatal(err, b.Hosts())
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.CertPEM())
	for host, good := range map[string]bool{testHost: true, "b.test": true, "evil.test": false, "xb.test": false, "test": false} {
		leaf, err := b.leaf(host, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host})
		if good != (err == nil) {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, hosts := range [][]string{nil, {""}, {"*.a.test"}, {".a.test"}, {"10.0.0.1"}, {"A.test"}, {"a..test"}, {"::1"}} {
		if _, err := NewAuthority(hosts, time.Now()); err == nil {
			t.Errorf("%q was accepted", hosts)
		}
	}
	other, _ := NewAuthority([]string{"c.test"}, time.Now())
	mixed, _ := other.MarshalBinary()
	_, key, _ := bytes.Cut(mixed, []byte("-----END CERTIFICATE-----\n"))
	for _, bad := range [][]byte{nil, []byte("x"), a.CertPEM(), append(a.CertPEM(), key...)} {
		if _, err := UnmarshalAuthority(bad); err == nil {
			t.Errorf("accepted %.40q", bad)
		}
	}
}

func TestPhantom(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p := NewPhantom()
		if !ValidPhantom(p) || seen[p] {
			t.Fatal(p)
		}
		seen[p] = true
		for i := range p {
			c := byte('a')
			if p[i] == 'a' {
				c = 'b'
			}
			if ValidPhantom(p[:i] + string(c) + p[i+1:]) {
				t.Errorf("changed at %d and still valid", i)
			}
		}
	}
	for _, s := range []string{"", "terok-p-", "terok-p-0123456789abcdef0123456789abcdef"} {
		if ValidPhantom(s) {
			t.Error(s)
		}
	}
}
