package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is a web server that remembers which hosts and paths reached it.
type seen struct {
	mu   sync.Mutex
	list []string
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.list = append(s.list, fmt.Sprintf("%s %s%s %s", r.Method, r.Host, r.URL.Path, b))
	s.mu.Unlock()
	fmt.Fprintf(w, "hello %s", r.Host)
}

func (s *seen) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.list, "|")
}

func TestEveryRequestIsJudged(t *testing.T) {
	r := newRig(t, []string{"+a.test", "deny!-denied.test"})
	s := &seen{}
	r.serveHTTP(addrA+":80", s)
	for _, second := range []string{"b.test", "denied.test", "203.0.113.10"} {
		c := r.dial("a.test:80")
		br := bufio.NewReader(c)
		fmt.Fprint(c, "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
		if code, body := readResponse(t, br, "GET"); code != 200 || body != "hello a.test" {
			t.Fatalf("%d %q", code, body)
		}
		fmt.Fprint(c, "POST /2 HTTP/1.1\r\nHost: A.TEST.:80\r\nContent-Length: 3\r\n\r\nabc")
		if code, _ := readResponse(t, br, "POST"); code != 200 {
			t.Fatal(code)
		}
		start := time.Now()
		fmt.Fprintf(c, "GET /3 HTTP/1.1\r\nHost: %s\r\n\r\n", second)
		if code, body := readResponse(t, br, "GET"); code != 403 || !strings.Contains(body, second) || time.Since(start) > quick {
			t.Errorf("%s: %d %q", second, code, body)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("after the refusal: %v", err)
		}
	}
	want := strings.Repeat("|GET a.test/1 |POST A.TEST.:80/2 abc", 3)[1:]
	if got := s.got(); got != want {
		t.Errorf("the server saw %q, want %q", got, want)
	}
	if ev := r.events.of(evMismatch); len(ev) != 3 || ev[0].NameSource != "host" {
		t.Errorf("%+v", ev)
	}
	// A second host that is allowed itself.
	r.setRules("+a.test", "+b.test")
	c := r.dial("a.test:80")
	fmt.Fprint(c, "GET /4 HTTP/1.1\r\nHost: b.test\r\n\r\n")
	if code, body := readResponse(t, bufio.NewReader(c), "GET"); code != 200 || body != "hello b.test" {
		t.Errorf("%d %q", code, body)
	}
}

func TestPipelinedSecondHost(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	s := &seen{}
	r.serveHTTP(addrA+":80", s)
	c := r.dial("a.test:80")
	fmt.Fprint(c, "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: b.test\r\n\r\nGET /4 HTTP/1.1\r\nHost: a.test\r\n\r\n")
	br := bufio.NewReader(c)
	var codes []int
	for range 3 {
		code, _ := readResponse(t, br, "GET")
		codes = append(codes, code)
	}
	if fmt.Sprint(codes) != "[200 200 403]" || s.got() != "GET a.test/1 |GET a.test/2 " {
		t.Errorf("%v, server saw %q", codes, s.got())
	}
}

// smuggling holds requests that two parsers may read differently, or that leave HTTP/1.
var smuggling = map[string]string{
	"no Host":                   "GET / HTTP/1.1\r\n\r\n",
	"two Hosts":                 "GET / HTTP/1.1\r\nHost: a.test\r\nHost: denied.test\r\n\r\n",
	"two equal Hosts":           "GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n",
	"empty Host":                "GET / HTTP/1.1\r\nHost:\r\n\r\n",
	"two hosts in one":          "GET / HTTP/1.1\r\nHost: a.test, denied.test\r\n\r\n",
	"user in Host":              "GET / HTTP/1.1\r\nHost: a.test@denied.test\r\n\r\n",
	"other port in Host":        "GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n",
	"absolute form":             "GET http://denied.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"absolute form, user":       "GET http://a.test@denied.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"absolute form, backslash":  "GET http://denied.test\\a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"https absolute form":       "GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"CONNECT":                   "CONNECT denied.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"CONNECT self":              "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
	"HTTP/2":                    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"HTTP/2 as 1.1":             "PRI * HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"HTTP/0.9":                  "GET /\r\n\r\n",
	"HTTP/1.2":                  "GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
	"lower-case version":        "GET / http/1.1\r\nHost: a.test\r\n\r\n",
	"two spaces":                "GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"tab in request line":       "GET\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"authority form":            "GET denied.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"CL and TE":                 "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"TE and CL":                 "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
	"two CL":                    "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
	"two equal CL":              "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
	"CL list":                   "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4, 4\r\n\r\nabcd",
	"CL with sign":              "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +4\r\n\r\nabcd",
	"CL in hex":                 "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0x4\r\n\r\nabcd",
	"CL too big":                "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99999999999999999999\r\n\r\nabcd",
	"empty CL":                  "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n",
	"TE twice":                  "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
	"TE list":                   "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"TE misspelt":               "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"TE with vertical tab":      "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"TE in 1.0":                 "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"obs-fold":                  "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\n Host: denied.test\r\n\r\n",
	"obs-fold with tab":         "GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n",
	"first header folded":       "GET / HTTP/1.1\r\n Host: denied.test\r\nHost: a.test\r\n\r\n",
	"space before colon":        "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length : 4\r\n\r\nabcd",
	"space before Host's colon": "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
	"no colon":                  "GET / HTTP/1.1\r\nHost: a.test\r\nX\r\n\r\n",
	"empty name":                "GET / HTTP/1.1\r\nHost: a.test\r\n: x\r\n\r\n",
	"bare LF":                   "GET / HTTP/1.1\nHost: a.test\n\n",
	"bare LF in a header":       "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\nHost: denied.test\r\n\r\n",
	"bare CR in a header":       "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\rHost: denied.test\r\n\r\n",
	"CR CR LF":                  "GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n",
	"NUL":                       "GET / HTTP/1.1\r\nHost: a.test\x00.denied.test\r\n\r\n",
	"leading blank line":        "\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"Connection: host":          "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Host\r\n\r\n",
	"Connection: CL":            "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close, content-length\r\nContent-Length: 4\r\n\r\nabcd",
	"control in target":         "GET /\x01 HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"non-ASCII in target":       "GET /\xff HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"non-ASCII Host":            "GET / HTTP/1.1\r\nHost: \xc0a.test\r\n\r\n",
	"TLS":                       "\x16\x03\x01\x00\x05hello",
	"not HTTP":                  "SSH-2.0-x\r\n",
	"long head":                 "GET / HTTP/1.1\r\nHost: a.test\r\nX: " + strings.Repeat("y", 17<<10) + "\r\n\r\n",
}

func TestSmugglingIsRefused(t *testing.T) {
	for name, raw := range smuggling {
		if t.Failed() {
			return // one hole is enough; the others would wait in vain as well
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, []string{"+a.test"})
			s := &seen{}
			r.serveHTTP(addrA+":80", s)
			c := r.dial("a.test:80")
			start := time.Now()
			io.WriteString(c, raw)
			b, _ := io.ReadAll(c)
			if len(b) > 0 && !bytes.HasPrefix(b, []byte("HTTP/1.1 400 ")) {
				t.Errorf("answered %q", b)
			}
			if d := time.Since(start); d > quick {
				t.Errorf("refused after %v", d)
			}
			if s.got() != "" || len(r.dials()) != 0 {
				t.Errorf("the server saw %q, dials %v", s.got(), r.dials())
			}
			// The same after a request that was fine.
			c = r.dial("a.test:80")
			br := bufio.NewReader(c)
			fmt.Fprint(c, "GET /ok HTTP/1.1\r\nHost: a.test\r\n\r\n")
			readResponse(t, br, "GET")
			io.WriteString(c, raw)
			io.ReadAll(br)
			if s.got() != "GET a.test/ok " {
				t.Errorf("second: the server saw %q", s.got())
			}
		})
	}
}

func TestBadChunksAreRefused(t *testing.T) {
	const next = "GET /smuggled HTTP/1.1\r\nHost: denied.test\r\n\r\n"
	for name, body := range map[string]string{
		"extension":         "3;x=y\r\nabc\r\n0\r\n\r\n",
		"bare LF":           "3\nabc\n0\n\n",
		"LF after data":     "3\r\nabc\n0\r\n\r\n",
		"no CRLF":           "3\r\nabcd\r\n0\r\n\r\n",
		"sign":              "+3\r\nabc\r\n0\r\n\r\n",
		"0x":                "0x3\r\nabc\r\n0\r\n\r\n",
		"space":             "3 \r\nabc\r\n0\r\n\r\n",
		"empty size":        "\r\nabc\r\n0\r\n\r\n",
		"too many digits":   "000000003\r\nabc\r\n0\r\n\r\n",
		"overflow":          "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
		"trailer Host":      "3\r\nabc\r\n0\r\nHost: denied.test\r\n\r\n",
		"trailer TE":        "0\r\ntransfer-encoding: x\r\n\r\n",
		"trailer fold":      "0\r\n x\r\n\r\n",
		"trailer space":     "0\r\nX : y\r\n\r\n",
		"trailer bare LF":   "0\r\nX: y\n\r\n",
		"trailer too long":  "0\r\nX: " + strings.Repeat("y", 5000) + "\r\n\r\n",
		"bare CR at end":    "0\r\n\rX",
		"negative and next": "-1\r\n" + next,
	} {
		if t.Failed() {
			return // one hole is enough; the others would wait in vain as well
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, []string{"+a.test"})
			s := &seen{}
			r.serveHTTP(addrA+":80", s)
			c := r.dial("a.test:80")
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"+body+next)
			io.ReadAll(c)
			eventually(t, "refused", func() bool { return r.p.Counters().Malformed == 1 })
			if got := s.got(); strings.Contains(got, "smuggled") {
				t.Errorf("the server saw %q", got)
			}
		})
	}
}

func TestBodiesPass(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	r.serveHTTP(addrA+":80", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Errorf("body: %v", err)
		}
		switch q.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		case "/close":
			w.Header().Set("Connection", "close")
		case "/204":
			w.WriteHeader(204)
			return
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Write(b)
		w.(http.Flusher).Flush()
		w.Write([]byte("."))
	}))
	door := r.door("a.test:80")
	cl := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", door)
	}, ExpectContinueTimeout: patient, MaxConnsPerHost: 1}}
	defer cl.CloseIdleConnections()
	for _, size := range []int{0, 1, 5000, 3 << 20} {
		payload := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		for _, chunked := range []bool{false, true} {
			for _, path := range []string{"/", "/length0", "/close", "/early"} {
				var body io.Reader = bytes.NewReader(payload)
				if chunked {
					body = io.MultiReader(body)
				}
				q, _ := http.NewRequest("POST", "http://a.test"+path, body)
				q.Header.Set("Expect", "100-continue")
				resp, err := cl.Do(q)
				if err != nil {
					t.Fatalf("%s %d %v: %v", path, size, chunked, err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, append(bytes.Clone(payload), '.')) {
					t.Fatalf("%s %d %v: %d bytes, %v", path, size, chunked, len(got), err)
				}
			}
		}
	}
	for _, m := range []string{"HEAD", "GET"} {
		q, _ := http.NewRequest(m, "http://a.test/204", nil)
		if resp, err := cl.Do(q); err != nil || resp.StatusCode != 204 {
			t.Fatal(resp, err)
		}
	}
	if n := r.p.Counters(); n.Malformed != 0 || n.Names["a.test"].BytesUp < 24<<20 {
		t.Errorf("%+v", n)
	}
}

func TestUpgradeBecomesOpaqueOnlyWhenTheServerAgrees(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	s := &seen{}
	r.serveHTTP(addrA+":80", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/ws" && q.Header.Get("Upgrade") == "websocket" {
			c, brw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			io.Copy(c, brw)
			return
		}
		if q.Header.Get("Upgrade") == "h2c" || q.Header.Get("HTTP2-Settings") != "" {
			t.Error("h2c was offered to the server")
		}
		s.ServeHTTP(w, q)
	}))
	const ws = "Host: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	c := r.dial("a.test:80")
	br := bufio.NewReader(c)
	io.WriteString(c, "GET /ws HTTP/1.1\r\n"+ws)
	if code, _ := readResponse(t, br, "GET"); code != 101 {
		t.Fatal(code)
	}
	io.WriteString(c, "\x00opaque\n")
	if l, err := br.ReadString('\n'); l != "\x00opaque\n" || err != nil {
		t.Fatalf("%q %v", l, err)
	}
	c.CloseWrite()
	if b, err := io.ReadAll(br); len(b) != 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
	// The server declines: what was sent behind the request is judged as a request.
	c = r.dial("a.test:80")
	br = bufio.NewReader(c)
	io.WriteString(c, "GET /no HTTP/1.1\r\n"+ws+"GET /x HTTP/1.1\r\nHost: denied.test\r\n\r\n")
	code1, _ := readResponse(t, br, "GET")
	code2, _ := readResponse(t, br, "GET")
	if code1 != 200 || code2 != 403 || s.got() != "GET a.test/no " {
		t.Errorf("%d %d, server saw %q", code1, code2, s.got())
	}
	// h2c could name any host in any stream: it is not offered on.
	c = r.dial("a.test:80")
	io.WriteString(c, "GET /h2c HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n")
	if code, _ := readResponse(t, bufio.NewReader(c), "GET"); code != 200 {
		t.Error(code)
	}
}

func TestUnaskedUpgradeIsCut(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	r.serve(addrA+":80", func(c *net.TCPConn) {
		c.Read(make([]byte, 1024))
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(io.Discard, c)
	})
	c := r.dial("a.test:80")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	b, _ := io.ReadAll(c)
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 && i+4 < len(b) {
		t.Errorf("%q", b)
	}
	eventually(t, "ended", func() bool { return r.p.Counters().Open == 0 })
}

func TestHTTPEnds(t *testing.T) {
	r := newRig(t, []string{"+a.test"})
	ends := make(chan bool, 1)
	r.serve(addrA+":80", func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		http.ReadRequest(br)
		io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nuntil close")
		c.CloseWrite()
		io.Copy(io.Discard, c)
		ends <- true
	})
	c := r.dial("a.test:80")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(b), "\r\n\r\nuntil close") {
		t.Errorf("%q %v", b, err)
	}
	<-ends
	// A server that closes an idle connection: the client sees it.
	r2 := newRig(t, []string{"+a.test"})
	r2.serve(addrA+":80", func(c *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	c = r2.dial("a.test:80")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "ok") {
		t.Errorf("%q %v", b, err)
	}
	eventually(t, "ended", func() bool { return r2.p.Counters().Open == 0 })
	// A truncated response stays visibly truncated.
	r3 := newRig(t, []string{"+a.test"})
	r3.serve(addrA+":80", func(c *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok")
	})
	c = r3.dial("a.test:80")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if _, err := io.ReadAll(c); err == nil {
		t.Error("truncation is hidden")
	}
}

func TestUnreachableWebHostIs502(t *testing.T) {
	r := newRig(t, []string{"+a.test", "+lan.test"})
	for dst, want := range map[string]int{"a.test:80": 502, "lan.test:80": 403} {
		c := r.dial(dst)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", strings.TrimSuffix(dst, ":80"))
		if code, body := readResponse(t, bufio.NewReader(c), "GET"); code != want || !strings.Contains(body, "terok") {
			t.Errorf("%s: %d %q", dst, code, body)
		}
	}
}

func FuzzHTTPHead(f *testing.F) {
	for _, s := range smuggling {
		f.Add([]byte(s))
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"))
	f.Add([]byte("GET http://a.test/x?y HTTP/1.1\r\nHost: a.test:80\r\nAccept: application/json\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
	f.Add([]byte("3\r\nabc\r\n0\r\nX: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := headEnd(b); n > 0 {
			if headHopeless(b[:n]) != nil {
				if _, err := parseRequest(b[:n], 80); err == nil {
					t.Fatalf("hopeless, but accepted: %q", b[:n])
				}
			}
			r, err := parseRequest(b[:n], 80)
			if err == nil {
				checkAgainstNetHTTP(t, r)
			}
		}
		if n := responseEnd(b); n > 0 {
			parseResponse(b[:n], "GET")
		}
		// A strict chunk scanner must agree with net/http on where a body ends.
		s := &chunkScanner{strict: true}
		if n, done, err := s.feed(b); err == nil && done {
			br := bufio.NewReader(bytes.NewReader(b))
			if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(br)); err != nil {
				t.Fatalf("net/http refuses %q: %v", b[:n], err)
			}
		}
	})
}

// checkAgainstNetHTTP fails when another parser reads what we send on differently.
func checkAgainstNetHTTP(t *testing.T, r request) {
	q, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r.wire)))
	if err != nil {
		return // stricter than us
	}
	host, ok := splitHost(q.Host, 80)
	if q.Host != "" && (!ok || host != r.host) {
		t.Fatalf("host %q, net/http has %q: %q", r.host, q.Host, r.wire)
	}
	chunked := len(q.TransferEncoding) > 0
	if chunked != r.body.chunked || !chunked && q.ContentLength != r.body.length {
		t.Fatalf("body %+v, net/http has %v %d: %q", r.body, q.TransferEncoding, q.ContentLength, r.wire)
	}
	if again, err := parseRequest(r.wire, 80); err != nil || again.host != r.host || again.body != r.body {
		t.Fatalf("read again: %+v %v", again, err)
	}
}

func FuzzClientHello(f *testing.F) {
	for _, n := range []string{"a.test", "", "b.test"} {
		h := fixedHello(n)
		if got, err := helloName(h); got != n || err != nil {
			f.Fatalf("%q: %q %v", n, got, err)
		}
		f.Add(h)
		f.Add(split(h, 3))
		f.Add(h[:len(h)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxHead {
			return
		}
		whole, err := helloComplete(b)
		name, nameErr := helloName(b)
		if nameErr == nil {
			// crypto/tls read a hello: the framing must have waited for neither less nor more. It may
			// refuse what crypto/tls lets pass, e.g. a later record of another major version.
			if !whole && !errors.Is(err, errHelloBad) || whole && err != nil {
				t.Fatalf("framing says %v, %v for a hello with name %q", whole, err, name)
			}
			if n, ok := hostName(name); name != "" && (!ok || n != name) {
				t.Fatalf("name %q", name)
			}
		}
		for i := range min(len(b), 64) { // prefixes never panic, and never complete earlier than they are
			helloComplete(b[:i])
		}
	})
}
