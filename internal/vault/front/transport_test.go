package front

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/vault/usage"
)

func packed(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.Bytes()
}

// A short packed answer goes on as it came; one that holds the key, or that is long, is unpacked.
func TestPackedAnswers(t *testing.T) {
	var text string
	var chunked bool
	asked := ""
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		asked = req.Header.Get("Accept-Encoding")
		w.Header().Set("Content-Encoding", "gzip")
		b := packed(text)
		if !chunked {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Write(b)
	})
	get := func() (*http.Response, []byte) {
		req := r.request("GET", "/v1/models", "")
		req.Header.Set("Accept-Encoding", "gzip, br")
		resp, err := r.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}
	text = strings.Repeat("plain words ", 100)
	if resp, body := get(); asked != "gzip" || resp.Header.Get("Content-Encoding") != "gzip" || !bytes.Equal(body, packed(text)) ||
		resp.ContentLength != int64(len(body)) {
		t.Errorf("%q %v %d bytes", asked, resp.Header, len(body))
	}
	secret := text + realKey
	text = secret
	want := strings.ReplaceAll(text, realKey, strings.Repeat("x", len(realKey)))
	if resp, body := get(); resp.Header.Get("Content-Encoding") != "" || string(body) != want {
		t.Errorf("%v %q", resp.Header, body)
	}
	for name, long := range map[string]string{"chunked": secret, "a bomb": strings.Repeat("a", 5<<20) + realKey} {
		text, chunked = long, name == "chunked"
		want = strings.ReplaceAll(text, realKey, strings.Repeat("x", len(realKey)))
		if resp, body := get(); resp.Header.Get("Content-Encoding") != "" || string(body) != want {
			t.Errorf("%s: %v %d bytes", name, resp.Header, len(body))
		}
	}
	// Two encodings in two lines are two encodings.
	r2 := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header()["Content-Encoding"] = []string{"gzip", "gzip"}
		w.Write(packed(string(packed(realKey))))
	})
	if resp, body := r2.do(r2.request("GET", "/v1/models", "")); resp.StatusCode != 502 || leaks(body) {
		t.Errorf("packed twice: %s", resp.Status)
	}
}

// What an unpacked stream holds arrives when it was sent, also through gzip.
func TestPackedStreamIsNotHeldBack(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		http.NewResponseController(w).Flush()
		<-next
		z := gzip.NewWriter(w)
		for i := range 3 {
			fmt.Fprintf(z, "data: %d\n\n", i)
			z.Flush()
			http.NewResponseController(w).Flush()
			<-next
		}
		z.Close()
	})
	req := r.request("GET", "/v1/models", "")
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := r.client(false).Do(req) // the header comes before the first byte
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range 3 {
		next <- struct{}{}
		line, err := in.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		in.ReadString('\n')
	}
	next <- struct{}{}
}

// spec/vault.md §10: 35.
func TestRetries(t *testing.T) {
	var hits, cuts atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		hits.Add(1)
		if cuts.Add(-1) >= 0 {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
			return
		}
		io.WriteString(w, "ok")
	}, func(c *Config, s *httptestServer) { s.TLS.NextProtos = []string{"http/1.1"} })
	for _, tt := range []struct {
		method, body, key string
		cuts, hits        int64
		status            int
	}{
		{"GET", "", "", 1, 2, 200},
		{"GET", "", "", 9, 2, 502},
		{"POST", `{}`, "", 1, 1, 502},
		{"POST", `{"a":1}`, "one", 1, 2, 200},
		{"POST", `{"a":1}`, "two", 9, 2, 502},
		{"DELETE", "", "", 1, 1, 502},
	} {
		rt := r.anyRoute()
		rt.transport.CloseIdleConnections() // net/http tries again on connections that it kept
		hits.Store(0)
		cuts.Store(tt.cuts)
		req := r.request(tt.method, "/v1/models", tt.body)
		if tt.key != "" {
			req.Header.Set("Idempotency-Key", tt.key)
		}
		if resp, body := r.do(req); resp.StatusCode != tt.status || hits.Load() != tt.hits {
			t.Errorf("%+v: %s after %d requests: %s", tt, resp.Status, hits.Load(), body)
		}
	}
}

// spec/vault.md §10: 26, the part about hosts that the container may go to by itself.
func TestDeclaredRedirectHost(t *testing.T) {
	loc := ""
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Location", loc)
		w.WriteHeader(302)
	}, func(c *Config, _ *httptestServer) { testRoute(c).RedirectHosts = []string{"objects.example.com"} })
	for to, status := range map[string]int{
		"https://objects.example.com/a?sig=1": 302, "https://OBJECTS.example.com/": 302, "http://objects.example.com/": 502,
		"https://u:p@objects.example.com/": 502, "https://x.objects.example.com/": 502, "https://objects.example.com:8443/": 502,
		"https://127.0.0.1/": 502, "http://169.254.169.254/latest": 502, "//evil.example/": 502, "javascript:alert(1)": 502,
	} {
		loc = to
		resp, _ := r.do(r.request("GET", "/v1/models", ""))
		if resp.StatusCode != status || status == 302 && resp.Header.Get("Location") != to {
			t.Errorf("%s: %s %q", to, resp.Status, resp.Header.Get("Location"))
		}
	}
	if n := r.dials.Load(); n > 2 {
		t.Errorf("%d connections: a redirect was followed", n)
	}
}

// spec/vault.md §10: 31, and only announced trailers come back.
func TestRepeatedHeadersAndTrailers(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			if got := req.Header["Accept"]; len(got) != 3 || got[0] != "a/a" || got[1] != "b/b" || got[2] != "c/c" {
				t.Errorf("%v", got)
			}
			w.Header().Set("Trailer", "X-Sum, Set-Cookie, X-Api-Token")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "1")
			w.Header().Set("X-Api-Token", "secret")
			w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		})
		req := r.request("GET", "/v1/models", "")
		req.Header["Accept"] = []string{"a/a", "b/b", "c/c"}
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.Trailer.Get("X-Sum") != "1" || len(resp.Trailer) != 1 {
			t.Errorf("%v", resp.Trailer)
		}
	})
}

// spec/vault.md §10: 15. Near misses are slowed down and make one alert; the right token is not
// slowed down, and nobody is cut off by somebody who knows a handle.
func TestGuessing(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {}, func(c *Config, _ *httptestServer) {
		c.Limits.WrongDelay = time.Millisecond
		c.Limits.Concurrent = 1000
	})
	client := r.client(true)
	var slowed atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 50 {
				guess := []byte(r.phantom)
				guess[30] = "abcdefghijklmnopqrstuvwxyz"[(i+j)%26]
				guess[31] = "abcdefghijklmnopqrstuvwxyz"[j%26]
				if string(guess) == r.phantom {
					continue
				}
				req := r.request("GET", "/v1/models", "")
				req.Header.Set("X-Api-Key", string(guess))
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				switch resp.StatusCode {
				case http.StatusUnauthorized, http.StatusForbidden:
				case http.StatusTooManyRequests:
					slowed.Add(1)
				default:
					t.Error(resp.Status)
				}
			}
		})
	}
	wg.Wait()
	if slowed.Load() == 0 {
		t.Error("nobody was slowed down")
	}
	if resp, _ := r.do(r.request("GET", "/v1/models", "")); resp.StatusCode != 200 {
		t.Errorf("the right token: %s", resp.Status)
	}
	alerts := map[string]int{}
	for _, e := range r.copyEvents() {
		if e.Ev == "vault_leak" {
			alerts[e.Reason]++
			if strings.Contains(fmt.Sprint(e), r.phantom) {
				t.Error("the alert holds the token")
			}
		}
	}
	if alerts[LeakWrongSecret] != 1 || alerts[LeakGuessing] != 1 || len(alerts) != 2 {
		t.Errorf("%v", alerts)
	}
}

// A whole phantom of somebody else is noticed, and said to whom it may concern. Where a running task
// owns it, the request is refused as that. spec/vault.md §10: 9.
func TestForeignPhantom(t *testing.T) {
	leaked := make(chan string, 10)
	owner := "p/t1"
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptestServer) {
		c.Leaked = func(_ context.Context, token string) string { leaked <- token; return owner }
	})
	other := NewPhantom()
	try := func(value string) (status int, code string) {
		req := r.request("GET", "/v1/models", "")
		req.Header.Set("X-Api-Key", value)
		resp, _ := r.do(req)
		return resp.StatusCode, resp.Header.Get("X-Terok-Broker")
	}
	for _, value := range []string{other, "Bearer " + other, "sk-ant-oat01-" + other} {
		if status, code := try(value); status != 403 || code != "wrong_container" {
			t.Errorf("a running task's: %d %s", status, code)
		}
		if got := <-leaked; got != other {
			t.Errorf("%q", got)
		}
	}
	owner = "" // of an earlier start, or a locked vault
	if status, code := try(other); status != 401 || code != "invalid_token" {
		t.Errorf("nobody's: %d %s", status, code)
	}
	<-leaked
	// The handle of a token is public: with another secret it says nothing of anybody.
	if status, code := try(r.phantom[:len(r.phantom)-7] + "aaaaaaa"); status != 401 || code != "invalid_token" || len(leaked) != 0 {
		t.Errorf("our handle, wrong secret: %d %s, told %d", status, code, len(leaked))
	}
	alone := newRig(t, mustNotReach(t))
	for range 3 {
		req := alone.request("GET", "/v1/models", "")
		req.Header.Set("X-Api-Key", other)
		alone.do(req)
	}
	n := 0
	for _, e := range alone.copyEvents() {
		if e.Ev == "vault_leak" && e.Reason == LeakForeign {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d alerts", n)
	}
}

// spec/vault.md §10: 16.
func TestRevokeCutsAStream(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		cancelled := make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: 1\n\n")
			http.NewResponseController(w).Flush()
			<-req.Context().Done()
			close(cancelled)
		})
		resp, err := r.client(h2).Do(r.request("GET", "/v1/models", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		in := bufio.NewReader(resp.Body)
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if got := r.front.Revoke("nobody", "user", true); len(got) != 0 {
			t.Errorf("%v", got)
		}
		// Without now, what runs goes on and nothing new begins.
		if got := r.front.Revoke("", "user", false); len(got) != 1 || got[0] != "anthropic" {
			t.Errorf("%v", got)
		}
		if resp, body := r.do(r.request("GET", "/v1/models", "")); resp.StatusCode != 401 || resp.Header.Get("X-Terok-Broker") != "token_revoked" || !strings.Contains(body, "task restart") {
			t.Errorf("%s %s", resp.Status, body)
		}
		start := time.Now()
		r.front.Revoke("", "user", true)
		if _, err := io.ReadAll(in); err == nil || err == io.EOF {
			t.Error("the stream ended as if it were whole")
		}
		select {
		case <-cancelled:
		case <-time.After(10 * time.Second):
			t.Fatal("upstream goes on")
		}
		if d := time.Since(start); d > 5*time.Second { // a second by design, more on a busy machine
			t.Errorf("it took %s", d)
		}
	})
}

func TestRevokedPhantomIsNoticedLater(t *testing.T) {
	var offset atomic.Int64
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptestServer) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	r.front.Revoke("", "user", false)
	count := func() (n int) {
		r.do(r.request("GET", "/v1/models", ""))
		for _, e := range r.copyEvents() {
			if e.Ev == "vault_leak" && e.Reason == LeakRevoked {
				n++
			}
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d alerts at once", n)
	}
	offset.Store(int64(2 * time.Minute))
	if n := count(); n != 1 {
		t.Errorf("%d alerts after two minutes", n)
	}
}

// spec/vault.md §10: 41.
func TestRatesAndBudgets(t *testing.T) {
	var used atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":200,\"output_tokens\":1}}}\n\n")
		http.NewResponseController(w).Flush()
		io.WriteString(w, "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1000}}\n\n")
	}, func(c *Config, _ *httptestServer) {
		c.Admit = func(context.Context, string) error {
			if used.Load() >= 1000 {
				return fmt.Errorf("the budget of 1000 tokens/task is used up")
			}
			return nil
		}
		c.Used = func(provider, model string, u usage.Tokens, estimated bool) int64 {
			if provider != "anthropic" || model != "claude-x" || estimated {
				t.Errorf("%s %s %v", provider, model, estimated)
			}
			used.Add(u.Sum())
			return 5
		}
	})
	if resp, _ := r.do(r.request("POST", "/v1/messages", `{"stream":true}`)); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if used.Load() != 1200 {
		t.Errorf("%d tokens", used.Load())
	}
	resp, body := r.do(r.request("POST", "/v1/messages", `{}`))
	if resp.StatusCode != 429 || resp.Header.Get("X-Terok-Broker") != "limit_exceeded" || resp.Header.Get("X-Should-Retry") != "false" ||
		!strings.Contains(body, `"type":"rate_limit_error"`) || !strings.Contains(body, "1000 tokens/task") {
		t.Errorf("%s %v %s", resp.Status, resp.Header, body)
	}
	e := r.copyEvents()[0]
	if e.Detail["model"] != "claude-x" || e.Detail["tokens_in"] != "200" || e.Detail["tokens_out"] != "1000" || e.Detail["micro_usd"] != "5" {
		t.Errorf("%v", e.Detail)
	}

	slow := newRig(t, func(w http.ResponseWriter, req *http.Request) {}, func(c *Config, _ *httptestServer) {
		c.Limits.PerMinute, c.Limits.Burst = 60, 2
		now := time.Now()
		c.Now = func() time.Time { return now }
	})
	for i, want := range []int{200, 200, 429, 429} {
		resp, _ := slow.do(slow.request("GET", "/v1/models", ""))
		if resp.StatusCode != want || want == 429 && resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%d: %s %q", i, resp.Status, resp.Header.Get("Retry-After"))
		}
	}
}

// The client that goes away before the usage field is billed nevertheless.
func TestLeavingEarlyIsCounted(t *testing.T) {
	counted := make(chan usage.Tokens, 1)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":200,\"output_tokens\":1}}}\n\n")
		for range 20 {
			io.WriteString(w, "data: {\"type\":\"content_block_delta\"}\n\n")
		}
		http.NewResponseController(w).Flush()
		<-req.Context().Done()
	}, func(c *Config, _ *httptestServer) {
		c.Used = func(_, _ string, u usage.Tokens, estimated bool) int64 {
			if !estimated {
				t.Error("a guess is not called one")
			}
			counted <- u
			return 0
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := r.client(false).Do(r.request("POST", "/v1/messages", `{}`).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(resp.Body)
	for range 42 {
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	resp.Body.Close()
	select {
	case u := <-counted:
		if u.Input != 200 || u.Output < 20 {
			t.Errorf("%+v", u)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not counted")
	}
}

const childSecret = "tid=abc;exp=1999999999;sku=REAL;8kp=1:0123456789abcdef"

// spec/vault.md §10: 40.
func TestExchange(t *testing.T) {
	answer := `{"token":"` + childSecret + `","expires_at":` + fmt.Sprint(time.Now().Add(time.Hour).Unix()) + `,"endpoints":{"api":"https://x"},"echo":"` + childSecret + `"}`
	status := 200
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/copilot_internal/v2/token":
			if req.Header.Get("X-Api-Key") != realKey {
				t.Error("the exchange is made with the real key")
			}
			w.WriteHeader(status)
			io.WriteString(w, answer)
		default:
			io.WriteString(w, req.Header.Get("X-Api-Key")+" "+childSecret)
			if got := req.Header.Get("X-Api-Key"); got != childSecret {
				t.Errorf("the traded secret was not sent, but %q", got)
			}
		}
	}, exchangeRoutes)
	ask := func(req *http.Request, host string) (*http.Response, string) {
		req.URL.Host, req.Host = host, host
		c := r.client(false)
		c.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go r.front.ServeConn(context.Background(), theirs, host, 443)
			return ours, nil
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	with := func(token string) *http.Request {
		req := r.request("GET", "/models", "")
		req.Header.Set("X-Api-Key", token)
		return req
	}
	resp, body := ask(r.request("GET", "/copilot_internal/v2/token", ""), testHost)
	child := FindPhantom(body)
	if resp.StatusCode != 200 || child == "" || child == r.phantom || strings.Contains(body, childSecret) || !strings.Contains(body, `"endpoints":{"api":"https://x"}`) {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if resp, body := ask(with(child), "api.copilot.test"); resp.StatusCode != 200 || strings.Contains(body, childSecret) {
		t.Errorf("%s %s", resp.Status, body)
	}
	for _, host := range []string{testHost, "copilot.test"} {
		if resp, _ := ask(with(child), host); resp.StatusCode/100 != 4 {
			t.Errorf("the child is good at %s: %s", host, resp.Status)
		}
	}
	both := with(child)
	both.Header.Set("Authorization", "Bearer "+r.phantom)
	if resp, _ := ask(both, "api.copilot.test"); resp.Header.Get("X-Terok-Broker") != "ambiguous_token" {
		t.Errorf("two tokens: %s", resp.Status)
	}
	r.front.Revoke("", "user", false)
	if resp, _ := ask(with(child), "api.copilot.test"); resp.StatusCode != 401 {
		t.Errorf("after revocation: %s", resp.Status)
	}

	for name, bad := range map[string]string{"no JSON": "x" + childSecret, "no field": `{"toke":"` + childSecret + `"}`, "a list": `["` + childSecret + `"]`,
		"twice": `{"token":"` + childSecret + `","token":"x"}`, "a tail": `{"token":"` + childSecret + `"} ` + childSecret, "a number": `{"token":5}`,
		"no end": `{"token":"` + childSecret + `","expires_at":"soon"}`, "short": `{"token":"abc"}`, "long": `{"token":"` + strings.Repeat("a", 70<<10) + `"}`} {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, bad) }, exchangeRoutes)
		if resp, body := r.do(r.request("GET", "/copilot_internal/v2/token", "")); resp.StatusCode != 502 || strings.Contains(body, childSecret) ||
			resp.Header.Get("X-Terok-Broker") != "exchange_unparsable" {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
}

func TestChildEnds(t *testing.T) {
	now := time.Now()
	var c children
	a := &childKey{token: NewPhantom(), hosts: []string{"*.copilot.test"}, expires: now.Add(time.Minute)}
	c.add(a, now)
	if c.find(a.token, "api.copilot.test", now) != a || c.find(a.token, "api.copilot.test", now.Add(2*time.Minute)) != nil {
		t.Error("a child does not end with the secret")
	}
	for range 2 * maxChildren {
		c.add(&childKey{token: NewPhantom(), expires: now.Add(time.Hour)}, now)
	}
	if len(c.list) > maxChildren {
		t.Errorf("%d children", len(c.list))
	}
}
