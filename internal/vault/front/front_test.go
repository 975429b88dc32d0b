package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

const (
	testHost = "api.anthropic.test"
	realKey  = "sk-ant-api03-REAL-0123456789abcdefghijklmnopqrstuvwxyz+/AA"
)

// rig is a front between a client and a TLS upstream, all on real sockets.
type rig struct {
	t        testing.TB
	front    *Front
	phantom  string
	ca       *x509.CertPool
	upstream *httptest.Server
	addr     string // where the container's connections arrive

	mu     sync.Mutex
	events []audit.Event
	secret Secret
	err    error
	dials  atomic.Int64
}

func (r *rig) Record(e audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *rig) lock(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *rig) credentials(context.Context, string) (Secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.secret, r.err
}

type option func(*Config, *httptest.Server)

type httptestServer = httptest.Server

// testRoute is the route of the rig's one provider.
func testRoute(c *Config) *sandbox.Route { return &c.Grants[0].Routes[0] }

// anyRoute is a route of the front.
func (r *rig) anyRoute() *route { return r.front.sites[target{testHost, 443}].routes[0] }

// exchangeRoutes adds a second host to the provider, where what the first one trades is good.
func exchangeRoutes(c *Config, _ *httptest.Server) {
	g := &c.Grants[0]
	second, third := g.Routes[0], g.Routes[0]
	second.Host, third.Host = "api.copilot.test", "copilot.test"
	g.Routes[0].Policy = []string{"substitute GET /copilot_internal/v2/token"}
	g.Routes[0].Exchange = &sandbox.Exchange{Field: "token", Expires: "expires_at", Hosts: []string{"*.copilot.test"}}
	g.Routes = append(g.Routes, second, third)
}

func (r *rig) copyEvents() []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func newRig(t testing.TB, handler http.HandlerFunc, opts ...option) *rig {
	t.Helper()
	r := &rig{t: t, phantom: NewPhantom(), secret: Secret{Kind: "api_key", Value: []byte(realKey)}}
	r.upstream = httptest.NewUnstartedServer(handler)
	r.upstream.EnableHTTP2 = true
	r.upstream.StartTLS()
	t.Cleanup(r.upstream.Close)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.upstream.Certificate().Raw})
	if err := os.WriteFile(caFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	authority, err := NewAuthority([]string{testHost, "api.copilot.test", "copilot.test"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Authority:   authority,
		Credentials: r.credentials,
		Record:      r,
		Dial: func(ctx context.Context, host string, port uint16, private bool) (net.Conn, error) {
			r.dials.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", net.JoinHostPort(host, portString(port)))
		},
		Grants: []Grant{{Phantom: r.phantom, Grant: sandbox.Grant{Provider: "anthropic", Kind: sandbox.APIKey,
			Auth: map[string]sandbox.Auth{sandbox.APIKey: {Header: "x-api-key"}},
			Routes: []sandbox.Route{{Host: testHost, Port: 443, Upstream: r.upstream.URL, CAFile: caFile, AllowPrivate: true,
				Default: "allow"}}}}},
	}
	for _, o := range opts {
		o(&cfg, r.upstream)
	}
	if r.front, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.front.ServeConn(context.Background(), c, testHost, 443) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.front.Close()
		serving.Wait()
	})
	r.ca = x509.NewCertPool()
	if !r.ca.AppendCertsFromPEM(authority.CertPEM()) {
		t.Fatal("no certificate")
	}
	return r
}

// client is a program in the container: it trusts the authority and reaches the front whatever
// name it asks for.
func (r *rig) client(h2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: r.ca},
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return net.Dial("tcp", r.addr) },
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (r *rig) request(method, path, body string) *http.Request {
	r.t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "https://"+testHost+path, b)
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Api-Key", r.phantom)
	req.Header.Set("Anthropic-Version", "2023-06-01")
	return req
}

func (r *rig) do(req *http.Request) (*http.Response, string) {
	r.t.Helper()
	resp, err := r.client(false).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(body)
}

func eachProtocol(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) { f(t, h2) })
	}
}

func TestRelayReplacesThePhantom(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		var got http.Header
		var gotBody, gotTarget, gotHost, proto string
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			b, _ := io.ReadAll(req.Body)
			got, gotBody, gotTarget, gotHost, proto = req.Header.Clone(), string(b), req.RequestURI, req.Host, req.Proto
			w.Header().Set("Request-Id", "req_1")
			w.Header().Set("Set-Cookie", "a=b")
			io.WriteString(w, `{"ok":true}`)
		})
		req := r.request("POST", "/v1/messages?beta=true", `{"model":"m","messages":[]}`)
		req.Header.Set("Authorization", "Bearer "+r.phantom)
		req.Header["Accept"] = []string{"a/a", "b/b", "c/c"}
		req.Header.Set("X-Forwarded-For", "10.0.0.1")
		req.Header.Set("Connection", "x-api-key, x-private")
		req.Header.Set("X-Private", "1")
		req.Header.Set("Range", "bytes=0-3")
		if h2 {
			req.Header.Del("Connection")
			req.Header.Del("X-Private")
		}
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || string(body) != `{"ok":true}` || resp.Header.Get("Request-Id") != "req_1" {
			t.Fatalf("%d %q %v", resp.StatusCode, body, resp.Header)
		}
		if h2 != (resp.ProtoMajor == 2) {
			t.Fatalf("client spoke %s", resp.Proto)
		}
		if proto != "HTTP/2.0" {
			t.Errorf("upstream spoke %s", proto)
		}
		if v := got["X-Api-Key"]; len(v) != 1 || v[0] != realKey {
			t.Errorf("x-api-key upstream: %q", v)
		}
		for _, h := range []string{"Authorization", "X-Forwarded-For", "Range", "X-Private"} {
			if got[h] != nil {
				t.Errorf("%s reached upstream: %q", h, got[h])
			}
		}
		if got.Get("Accept-Encoding") != "identity" {
			t.Errorf("accept-encoding %q", got.Get("Accept-Encoding"))
		}
		if fmt.Sprint(got["Accept"]) != "[a/a b/b c/c]" {
			t.Errorf("accept %q", got["Accept"])
		}
		if gotBody != `{"model":"m","messages":[]}` || gotTarget != "/v1/messages?beta=true" || "https://"+gotHost != r.upstream.URL {
			t.Errorf("upstream got %q %q %q", gotBody, gotTarget, gotHost)
		}
		if resp.Header.Get("Set-Cookie") != "" {
			t.Error("a cookie reached the container")
		}
		r.front.Close()
		if len(r.events) != 1 {
			t.Fatalf("events: %+v", r.events)
		}
		e := r.events[0]
		if e.Ev != "vault_request" || e.Provider != "anthropic" || e.Status != 200 || e.BytesDown != 11 || e.BytesUp != 27 || e.Detail["duration_ms"] == "" {
			t.Errorf("event %+v", e)
		}
		if strings.Contains(fmt.Sprintf("%+v", e), "messages") || strings.Contains(fmt.Sprintf("%+v", e), r.phantom) {
			t.Errorf("event tells too much: %+v", e)
		}
	})
}

// mustNotReach is an upstream that fails the test when it is reached.
func mustNotReach(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { t.Errorf("reached upstream: %s %s", r.Method, r.URL) }
}

// TestRefusals: what a container may not send; nothing of it reaches the provider.
// spec/vault.md §10: 11 (the markers that every broker of an older version took).
func TestRefusals(t *testing.T) {
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptest.Server) {
		rt := &c.Grants[0].Routes[0]
		rt.Default = "deny"
		rt.Policy = []string{"deny /v1/messages/secret/**", "deny /api/oauth/claude_cli/create_api_key",
			"allow /v1/messages/**", "allow GET /v1/models", "allow /v1/complete"}
	})
	ok := `{"messages":[]}`
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		body   string
		path   string
		method string
		status int
		code   string
	}{
		{name: "no token", change: func(q *http.Request) { q.Header.Del("X-Api-Key") }, status: 401, code: "missing_token"},
		{name: "wrong token", change: func(q *http.Request) { q.Header.Set("X-Api-Key", NewPhantom()) }, status: 401, code: "invalid_token"},
		{name: "marker of old for Claude", change: func(q *http.Request) {
			q.Header.Set("X-Api-Key", "terok-proxy-phantom-token:vault-handles-real-auth")
		}, status: 401, code: "invalid_token"},
		{name: "marker of old for Codex", change: func(q *http.Request) {
			q.Header.Del("X-Api-Key")
			q.Header.Set("Authorization", "Bearer terok-proxy-codex-oauth-marker:vault-handles-real-auth")
		}, status: 401, code: "invalid_token"},
		{name: "real looking key", change: func(q *http.Request) { q.Header.Set("X-Api-Key", "sk-ant-api03-attacker") }, status: 403, code: "foreign_credential"},
		{name: "phantom with a tail", change: func(q *http.Request) { q.Header.Set("X-Api-Key", r.phantom+"a") }, status: 401, code: "invalid_token"},
		{name: "phantom and a foreign bearer", change: func(q *http.Request) { q.Header.Set("Authorization", "Bearer sk-attacker") }, status: 403, code: "foreign_credential"},
		{name: "phantom twice, one foreign", change: func(q *http.Request) { q.Header["X-Api-Key"] = []string{r.phantom, "sk-attacker"} }, status: 403, code: "foreign_credential"},
		{name: "phantom in the wrong header", change: func(q *http.Request) { q.Header.Del("X-Api-Key"); q.Header.Set("X-Auth-Key-Token", r.phantom) }, status: 403, code: "foreign_credential"},
		{name: "cookie", change: func(q *http.Request) { q.Header.Set("Cookie", "sessionKey=x") }, status: 403, code: "foreign_credential"},
		{name: "proxy authorization", change: func(q *http.Request) { q.Header.Set("Proxy-Authorization", "Basic eDp5") }, status: 403, code: "foreign_credential"},
		{name: "private token", change: func(q *http.Request) { q.Header.Set("Private-Token", "x") }, status: 403, code: "foreign_credential"},
		{name: "azure key", change: func(q *http.Request) { q.Header.Set("Api-Key", "x") }, status: 403, code: "foreign_credential"},
		{name: "aws token", change: func(q *http.Request) { q.Header.Set("X-Amz-Security-Token", "x") }, status: 403, code: "foreign_credential"},
		{name: "x-auth-token", change: func(q *http.Request) { q.Header.Set("X-Auth-Token", "x") }, status: 403, code: "foreign_credential"},
		{name: "query api_key", path: "/v1/messages?api_key=x", status: 403, code: "foreign_credential"},
		{name: "query access-token", path: "/v1/messages?Access-Token=x", status: 403, code: "foreign_credential"},
		{name: "query key", path: "/v1/messages?key=x", status: 403, code: "foreign_credential"},
		{name: "query encoded name", path: "/v1/messages?%61pi_key=x", status: 403, code: "foreign_credential"},
		{name: "query with semicolon", path: "/v1/messages?a=1;api_key=x", status: 403, code: "foreign_credential"},
		{name: "json api_key", body: `{"api_key":"x"}`, status: 403, code: "foreign_credential"},
		{name: "json escaped name", body: `{"\u0061pi_key":"x"}`, status: 403, code: "foreign_credential"},
		{name: "json deep", body: `{"metadata":{"x":[{"accessToken":"x"}]}}`, status: 403, code: "foreign_credential"},
		{name: "json duplicate", body: `{"api_key":"","api_key":"x"}`, status: 403, code: "foreign_credential"},
		{name: "json token at the top", body: `{"token":"x"}`, status: 403, code: "foreign_credential"},
		{name: "form", body: "a=b&private_token=x", change: urlEncoded, status: 403, code: "foreign_credential"},
		{name: "json under form's type", body: `{"api_key":"x"}`, change: urlEncoded, status: 403, code: "foreign_credential"},
		{name: "mcp servers", body: `{"mcp_servers":[{"type":"url","url":"https://evil.example"}]}`, status: 403, code: "server_fetch"},
		{name: "image by url", body: `{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"https://evil.example/?d=1"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "document by url, other order", body: `{"messages":[{"content":[{"source":{"url":"https://evil.example","type":"url"},"type":"document"}]}]}`, status: 403, code: "server_fetch"},
		{name: "source with an address and no type", body: `{"messages":[{"content":[{"type":"image","source":{"url":"https://e"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "url in a tool result", body: `{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"https://e"}}]}]}]}`, status: 403, code: "server_fetch"},
		{name: "web fetch tool", body: `{"tools":[{"type":"web_fetch_20250910","name":"web_fetch"}]}`, status: 403, code: "server_fetch"},
		{name: "image by url, Responses", body: `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://e/?d=1"}]}]}`, status: 403, code: "server_fetch"},
		{name: "image by url, Chat", body: `{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://e"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "image by url, space before data", body: `{"messages":[{"content":[{"image_url":{"url":" data:x"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "images by urls", body: `{"image_urls":["data:x","https://e"]}`, status: 403, code: "server_fetch"},
		{name: "video", body: `{"messages":[{"content":[{"type":"video_url","videoUrl":{"url":"https://e"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "image of a tool's output", body: `{"input":[{"type":"function_call_output","output":[{"type":"input_image","image_url":"https://e"}]}]}`, status: 403, code: "server_fetch"},
		{name: "file by url", body: `{"input":[{"content":[{"type":"input_file","file_url":"https://e"}]}]}`, status: 403, code: "server_fetch"},
		{name: "file data that is a url", body: `{"messages":[{"content":[{"type":"file","file":{"file_data":" https://e","filename":"a.pdf"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "document url, Mistral", body: `{"messages":[{"content":[{"type":"document_url","document_url":"https://e"}]}]}`, status: 403, code: "server_fetch"},
		{name: "file uri, Gemini", body: `{"contents":[{"parts":[{"fileData":{"fileUri":"gs://e"}}]}]}`, status: 403, code: "server_fetch"},
		{name: "url context, Gemini", body: `{"tools":[{"url_context":{}}]}`, status: 403, code: "server_fetch"},
		{name: "mcp tool", body: `{"tools":[{"type":"mcp","server_label":"x","connector_id":"connector_gmail"}]}`, status: 403, code: "server_fetch"},
		{name: "mcp toolset", body: `{"tools":[{"type":"mcp_toolset","mcp_server_name":"x"}]}`, status: 403, code: "server_fetch"},
		{name: "fetch tool of OpenRouter", body: `{"tools":[{"type":"openrouter:web_fetch"}]}`, status: 403, code: "server_fetch"},
		{name: "plugin that fetches", body: `{"plugins":[{"id":"web-fetch"}]}`, status: 403, code: "server_fetch"},
		{name: "container with a network", body: `{"tools":[{"type":"code_interpreter","container":{"type":"auto","network_policy":{"type":"allowlist","allowed_domains":["e"]}}}]}`, status: 403, code: "server_fetch"},
		{name: "data sources of Azure", body: `{"data_sources":[{"type":"azure_search"}]}`, status: 403, code: "server_fetch"},
		{name: "another endpoint, LiteLLM", body: `{"model":"m","api_base":"https://e"}`, status: 403, code: "server_fetch"},
		{name: "base url", body: `{"model":"m","base_url":"https://e"}`, status: 403, code: "server_fetch"},
		{name: "web hook", body: `{"webhook":{}}`, status: 403, code: "server_fetch"},
		{name: "duplicate, the second one fetches", body: `{"content":[{"image_url":"data:x","image_url":"https://e"}]}`, status: 403, code: "server_fetch"},
		{name: "escaped name", body: `{"content":[{"\u0069mage_url":"https://e"}]}`, status: 403, code: "server_fetch"},
		{name: "escaped value", body: `{"tools":[{"type":"\u006dcp"}]}`, status: 403, code: "server_fetch"},
		{name: "name in capitals", body: `{"MCP-Servers":[{"URL":"x"}]}`, status: 403, code: "server_fetch"},
		{name: "deep nesting", body: strings.Repeat("[", 200) + strings.Repeat("]", 200), status: 400, code: "bad_body"},
		{name: "comment", body: `{/*"a":1*/"b":2}`, status: 400, code: "bad_body"},
		{name: "single quotes", body: `{'image_url':'https://e'}`, status: 400, code: "bad_body"},
		{name: "byte order mark", body: "\ufeff{}", status: 400, code: "bad_body"},
		{name: "batch", body: `{"requests":[{"params":{"mcp_servers":[{"url":"x"}]}}]}`, status: 403, code: "server_fetch"},
		{name: "not json", body: `{"a":`, status: 400, code: "bad_body"},
		{name: "utf-16", body: "\xff\xfe{\x00", status: 400, code: "bad_body"},
		{name: "after the document", body: `{} {"api_key":"x"}`, status: 400, code: "bad_body"},
		{name: "multipart/mixed", body: "--x", change: func(q *http.Request) { q.Header.Set("Content-Type", "multipart/mixed; boundary=x") }, status: 415, code: "bad_body"},
		{name: "a file without a policy for it", body: "RIFF", change: func(q *http.Request) { q.Header.Set("Content-Type", "audio/wav") }, status: 415, code: "bad_body"},
		{name: "form that fetches", body: "a=b&file_url=https://e", change: urlEncoded, status: 403, code: "server_fetch"},
		{name: "form that fetches, nested", body: "image_url[0][url]=https://e", change: urlEncoded, status: 403, code: "server_fetch"},
		{name: "form with JSON", body: "tools=" + url.QueryEscape(`[{"type":"mcp","server_label":"x"}]`), change: urlEncoded, status: 403, code: "server_fetch"},
		{name: "form with what is nearly JSON", body: "tools=" + url.QueryEscape(`[{"a":NaN,"type":"mcp"}]`), change: urlEncoded, status: 400, code: "bad_body"},
		{name: "form with a semicolon", body: "a=b;api_key=x", change: urlEncoded, status: 400, code: "bad_body"},
		{name: "form, another method", body: "_method=DELETE", change: urlEncoded, status: 403, code: "foreign_credential"},
		{name: "a file of requests", body: `{"purpose":"batch","bytes":1}`, status: 403, code: "server_fetch"},
		{name: "session description", body: `{"sdp":"v=0\r\nc=IN IP4 192.0.2.1"}`, status: 403, code: "server_fetch"},
		{name: "charset", change: func(q *http.Request) { q.Header.Set("Content-Type", "application/json; charset=utf-16") }, status: 415, code: "bad_body"},
		{name: "packed body that is none", change: func(q *http.Request) { q.Header.Set("Content-Encoding", "gzip") }, status: 400, code: "bad_body"},
		{name: "brotli", change: func(q *http.Request) { q.Header.Set("Content-Encoding", "br") }, status: 415, code: "bad_body"},
		{name: "packed twice", change: func(q *http.Request) { q.Header.Set("Content-Encoding", "gzip, zstd") }, status: 415, code: "bad_body"},
		{name: "packed twice, two lines", change: func(q *http.Request) { q.Header["Content-Encoding"] = []string{"gzip", "gzip"} }, status: 415, code: "bad_body"},
		{name: "host", change: func(q *http.Request) { q.Host = "api.other.test" }, status: 421, code: "misdirected"},
		{name: "host below", change: func(q *http.Request) { q.Host = "x." + testHost }, status: 421, code: "misdirected"},
		{name: "host with another port", change: func(q *http.Request) { q.Host = testHost + ":80" }, status: 421, code: "misdirected"},
		{name: "denied path", path: "/v1/messages/secret", status: 403, code: "path_denied"},
		{name: "denied path in capitals", path: "/v1/messages/SECRET/x", status: 403, code: "path_denied"},
		{name: "unlisted path", path: "/v1/organizations/me", status: 403, code: "path_denied"},
		{name: "longer name than a rule", path: "/v1/messagesx", status: 403, code: "path_denied"},
		{name: "method of a rule", path: "/v1/models", status: 403, code: "path_denied"},
		{name: "dot segments", path: "/v1/messages/../organizations", status: 400, code: "bad_target"},
		{name: "encoded dot segments", path: "/v1/messages/%2e%2e/organizations", status: 400, code: "bad_target"},
		{name: "encoded slash", path: "/v1%2fmessages", status: 400, code: "bad_target"},
		{name: "double encoding", path: "/v1/messages/%252e%252e/x", status: 400, code: "bad_target"},
		{name: "empty segment", path: "//evil.example/v1/messages", status: 400, code: "bad_target"},
		{name: "backslash", path: `/v1/messages/%5c..%5cx`, status: 400, code: "bad_target"},
		{name: "parameter", path: `/v1/messages;x=1`, status: 400, code: "bad_target"},
		{name: "method override", change: func(q *http.Request) { q.Header.Set("X-Http-Method-Override", "DELETE") }, path: "/v1/models", method: "GET", status: 403, code: "path_denied"},
		{name: "method override of another word", change: func(q *http.Request) { q.Header.Set("X-Method-Override", "CONNECT") }, status: 405, code: "method_denied"},
		{name: "method override in the query", path: "/v1/models?_method=DELETE", method: "GET", status: 403, code: "path_denied"},
		{name: "trace", method: "TRACE", status: 405, code: "method_denied"},
		{name: "unknown method", method: "PROPFIND", status: 405, code: "method_denied"},
		{name: "many headers", change: func(q *http.Request) {
			for i := range 101 {
				q.Header.Add("X-H", fmt.Sprint(i))
			}
		}, status: 431, code: "bad_request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body, path, method := tt.body, tt.path, tt.method
			if body == "" {
				body = ok
			}
			if path == "" {
				path = "/v1/messages"
			}
			if method == "" {
				method = "POST"
			}
			if method == "TRACE" {
				body = ""
			}
			req := r.request(method, path, body)
			if tt.change != nil {
				tt.change(req)
			}
			for _, h2 := range []bool{false, true} {
				if body != "" {
					req.Body = io.NopCloser(strings.NewReader(body))
				}
				resp, err := r.client(h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				answer, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != tt.status || resp.Header.Get("X-Terok-Broker") != tt.code {
					t.Errorf("h2=%v: %d %s: %s", h2, resp.StatusCode, resp.Header.Get("X-Terok-Broker"), answer)
				}
				if method != "TRACE" && !bytes.HasPrefix(answer, []byte(`{"error":{"message":"terok: `)) {
					t.Errorf("h2=%v: not the provider's shape: %s", h2, answer)
				}
			}
		})
	}
	if n := r.dials.Load(); n != 0 {
		t.Errorf("%d upstream connections", n)
	}
}

func urlEncoded(q *http.Request) { q.Header.Set("Content-Type", "application/x-www-form-urlencoded") }

func TestWhatAgentsSendPasses(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	for _, body := range []string{
		`{"tools":[{"name":"login","input_schema":{"type":"object","properties":{"api_key":{"type":"string","default":"x"},"url":{"type":"string"}}},"input_examples":[{"password":"x"}]}]}`,
		`{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"curl","input":{"url":"https://x","api_key":"k","source":{"type":"url","url":"u"},"mcp_servers":["x"]}}]}]}`,
		`{"messages":[{"role":"user","content":"use api_key and mcp_servers please"}],"mcp_servers":[]}`,
		`{"messages":[{"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="}}]}]}`,
		`{"tools":[{"type":"web_search_20250305","name":"web_search"}],"metadata":{"user_id":"u"},"stream":true}`,
		`{"messages":[{"content":[{"type":"thinking","thinking":"t","signature":"abc"}]}]}`,
		`{"output_config":{"format":{"type":"json_schema","schema":{"properties":{"password":"x"}}}}}`,
		`{"input":[{"type":"message","content":[{"type":"input_image","image_url":"data:image/png;base64,aGk="},{"type":"input_file","file_data":"aGk="},{"type":"input_file","file_data":"data:application/pdf;base64,aGk="}]}],"tools":[{"type":"web_search"},{"type":"function","name":"f","parameters":{"properties":{"image_url":{"type":"string","default":"https://x"},"mcp_servers":{"type":"fetch"}}}},{"type":"custom","name":"apply_patch"},{"type":"local_shell"}]}`,
		`{"messages":[{"content":[{"type":"image_url","image_url":{"url":"DATA:image/png;base64,aGk="}}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"file_url":{"default":"https://x"}}}}}]}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"get","arguments":"{\"image_url\":\"https://x\"}"}}]}]}`,
		`{"messages":[{"content":[{"type":"web_search_tool_result","content":[{"type":"web_search_result","url":"https://x","title":"t"}]},{"type":"text","text":"https://x","citations":[{"type":"web_search_result_location","url":"https://x"}]}]}]}`,
		`{"input":[{"type":"web_search_call","action":{"type":"search","sources":[{"type":"url","url":"https://x"}]}},{"content":[{"type":"output_text","annotations":[{"type":"url_citation","url":"https://x"}]}]}]}`,
		`{"messages":[{"content":[{"type":"search_result","source":"https://x","title":"t"}]}],"metadata":{"repo_url":"https://x"},"client_metadata":{"turn_url":"https://y"}}`,
		`{"tools":[{"type":"code_interpreter","container":{"type":"auto","network_policy":{"type":"disabled"}}}],"image_url":"","webhooks":[],"callbacks":null}`,
		`{"contents":[{"parts":[{"text":"a"}]}],"tools":[{"google_search":{}}]}`,
		`[]`, `"text"`, `12`, ` {"a":null} `,
	} {
		resp, got := r.do(r.request("POST", "/v1/messages", body))
		if resp.StatusCode != 200 || got != body {
			t.Errorf("%s: %d %s", body, resp.StatusCode, got)
		}
	}
}

func TestServerFetchAllowed(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {}, func(c *Config, _ *httptest.Server) { c.Grants[0].ServerFetch = true })
	if resp, _ := r.do(r.request("POST", "/v1/messages", `{"mcp_servers":[{"url":"https://x"}]}`)); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	if resp, _ := r.do(r.request("POST", "/v1/messages", `{"mcp_servers":[{"authorization_token":"x"}]}`)); resp.StatusCode != 403 {
		t.Error("a foreign credential passed", resp.Status)
	}
}

func TestAnthropicErrorShapeAndLock(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, "fine") })
	for _, tt := range []struct {
		err    error
		status int
		code   string
		says   string
	}{
		{keyholder.ErrLocked, 503, "vault_locked", "terok vault unlock"},
		{keyholder.ErrNoCredential, 403, "credential_missing", "terok auth anthropic"},
		{errors.New("secret-bearing text"), 503, "vault_unavailable", "terok vault status"},
		{nil, 200, "", "fine"},
	} {
		r.lock(tt.err)
		resp, body := r.do(r.request("POST", "/v1/messages", `{}`))
		if resp.StatusCode != tt.status || resp.Header.Get("X-Terok-Broker") != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("%v: %d %s", tt.err, resp.StatusCode, body)
		}
		if tt.status != 200 && !strings.HasPrefix(body, `{"error":{"message":"terok: `) {
			t.Errorf("shape: %s", body)
		}
		if (tt.status == 503) != (resp.Header.Get("Retry-After") == "15") {
			t.Errorf("retry-after %q", resp.Header.Get("Retry-After"))
		}
	}
}

// TestWaiting: where the vault has no credential, programs were told of no token; a request without
// one is told what is missing and what cures it, in the provider's words, and once there is a
// credential the same request is only a request without a token. spec/vault.md §10: 17.
func TestWaiting(t *testing.T) {
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptestServer) {
		c.Grants[0].Scope, c.Grants[0].Waiting, c.Grants[0].Serves = "project:shop", true, map[string]string{sandbox.AnthropicMessages: "/"}
	})
	ask := func(phantom string) (int, string, string) {
		t.Helper()
		req := r.request("POST", "/v1/messages", `{"messages":[]}`)
		req.Header.Del("X-Api-Key")
		if phantom != "" {
			req.Header.Set("X-Api-Key", phantom)
		}
		resp, body := r.do(req)
		return resp.StatusCode, resp.Header.Get("X-Terok-Broker"), string(body)
	}
	r.lock(keyholder.ErrNoCredential)
	for _, phantom := range []string{"", r.phantom} {
		status, code, body := ask(phantom)
		if status != 403 || code != "credential_missing" || !strings.Contains(body, "terok auth anthropic --project shop") || !strings.Contains(body, `"type":"permission_error"},"type":"error"`) {
			t.Errorf("%q: %d %s %s", phantom, status, code, body)
		}
	}
	if status, code, _ := ask("sk-ant-api03-attacker"); status != 403 || code != "foreign_credential" {
		t.Errorf("somebody else's key: %d %s", status, code)
	}
	r.lock(keyholder.ErrLocked)
	if status, code, _ := ask(""); status != 401 || code != "missing_token" {
		t.Errorf("nobody knows: %d %s", status, code)
	}
	r.lock(nil)
	if status, code, _ := ask(""); status != 401 || code != "missing_token" {
		t.Errorf("with a credential: %d %s", status, code)
	}
}
