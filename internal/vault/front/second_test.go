package front

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"terok/internal/sandbox"
)

// styles are the ways in which providers take their credential.
var styles = map[string]struct {
	auth sandbox.Auth
	sent func(*http.Request) string // what upstream got
}{
	"x-api-key":     {sandbox.Auth{Header: "x-api-key"}, func(r *http.Request) string { return r.Header.Get("X-Api-Key") }},
	"bearer":        {sandbox.Auth{Header: "Authorization", Prefix: "Bearer "}, func(r *http.Request) string { return r.Header.Get("Authorization") }},
	"token":         {sandbox.Auth{Header: "Authorization", Prefix: "token "}, func(r *http.Request) string { return r.Header.Get("Authorization") }},
	"PRIVATE-TOKEN": {sandbox.Auth{Header: "PRIVATE-TOKEN"}, func(r *http.Request) string { return r.Header.Get("Private-Token") }},
	"own header":    {sandbox.Auth{Header: "X-Corp-Key"}, func(r *http.Request) string { return r.Header.Get("X-Corp-Key") }},
	"basic":         {sandbox.Auth{Header: "Authorization", User: "me"}, func(r *http.Request) string { return r.Header.Get("Authorization") }},
	"query":         {sandbox.Auth{Query: "key"}, func(r *http.Request) string { return r.URL.Query().Get("key") }},
}

// places are where a client can put a credential; declared ones take the phantom too.
var places = map[string]struct {
	put      func(*http.Request, string)
	declared bool
}{
	"Authorization Bearer": {func(r *http.Request, v string) { r.Header.Add("Authorization", "Bearer "+v) }, true},
	"Authorization token":  {func(r *http.Request, v string) { r.Header.Add("Authorization", "token "+v) }, true},
	"Authorization other":  {func(r *http.Request, v string) { r.Header.Add("Authorization", "Whatever "+v) }, true},
	"Authorization bare":   {func(r *http.Request, v string) { r.Header.Add("Authorization", v) }, true},
	"Basic password":       {func(r *http.Request, v string) { r.Header.Add("Authorization", basic("x-access-token", v)) }, true},
	"Basic user":           {func(r *http.Request, v string) { r.Header.Add("Authorization", basic(v, "x-oauth-basic")) }, true},
	"Basic user alone":     {func(r *http.Request, v string) { r.Header.Add("Authorization", basic(v, "")) }, true},
	"x-api-key":            {func(r *http.Request, v string) { r.Header.Add("x-api-key", v) }, true},
	"api-key":              {func(r *http.Request, v string) { r.Header.Add("api-key", v) }, true},
	"x-goog-api-key":       {func(r *http.Request, v string) { r.Header.Add("x-goog-api-key", v) }, true},
	"PRIVATE-TOKEN":        {func(r *http.Request, v string) { r.Header.Add("PRIVATE-TOKEN", v) }, true},
	"JOB-TOKEN":            {func(r *http.Request, v string) { r.Header.Add("JOB-TOKEN", v) }, true},
	"subprotocol": {func(r *http.Request, v string) {
		r.Header.Add("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key."+v+", openai-beta.x")
	}, true},
	"query private_token":  {func(r *http.Request, v string) { addQuery(r, "private_token", v) }, true},
	"query access_token":   {func(r *http.Request, v string) { addQuery(r, "access_token", v) }, false},
	"query api_key":        {func(r *http.Request, v string) { addQuery(r, "api_key", v) }, false},
	"query token":          {func(r *http.Request, v string) { addQuery(r, "token", v) }, false},
	"query X-Amz-Security": {func(r *http.Request, v string) { addQuery(r, "X-Amz-Security-Token", v) }, false},
	"query encoded name":   {func(r *http.Request, v string) { r.URL.RawQuery = "%61pi_key=" + v }, false},
	"cookie":               {func(r *http.Request, v string) { r.Header.Add("Cookie", "session="+v) }, false},
	"Proxy-Authorization":  {func(r *http.Request, v string) { r.Header.Add("Proxy-Authorization", "Basic "+v) }, false},
	"X-Auth-Token":         {func(r *http.Request, v string) { r.Header.Add("X-Auth-Token", v) }, false},
	"X-Access-Token":       {func(r *http.Request, v string) { r.Header.Add("X-Access-Token", v) }, false},
	"X-Amz-Security-Token": {func(r *http.Request, v string) { r.Header.Add("X-Amz-Security-Token", v) }, false},
	"form":                 {func(r *http.Request, v string) { form(r, "a=b&access_token="+v) }, false},
	"form, private_token":  {func(r *http.Request, v string) { form(r, "private_token="+v) }, false},
	"form, nested":         {func(r *http.Request, v string) { form(r, "account[api_key]="+v) }, false},
	"form, JSON in it":     {func(r *http.Request, v string) { form(r, "payload="+url.QueryEscape(`{"apiKey":"`+v+`"}`)) }, false},
	"multipart":            {func(r *http.Request, v string) { multi(r, `name="api_key"`, "", v) }, false},
	"multipart, token":     {func(r *http.Request, v string) { multi(r, `name=token`, "", v) }, false},
	"multipart, nested":    {func(r *http.Request, v string) { multi(r, `name="session[client_secret]"`, "", v) }, false},
	"multipart, capitals":  {func(r *http.Request, v string) { multi(r, `name="API-Key"`, "", v) }, false},
	"multipart, file":      {func(r *http.Request, v string) { multi(r, `name="api_key"; filename="a.txt"`, "text/plain", v) }, false},
	"multipart, JSON": {func(r *http.Request, v string) {
		multi(r, `name="session"`, "application/json", `{"a":{"access_token":"`+v+`"}}`)
	}, false},
	"multipart, JSON as a blob": {func(r *http.Request, v string) {
		multi(r, `name="session"; filename="blob"`, "application/json", `{"access_token":"`+v+`"}`)
	}, false},
	"multipart, JSON without a type": {func(r *http.Request, v string) { multi(r, `name="session"`, "", ` {"password":"`+v+`"}`) }, false},
	"json in gzip":                   {func(r *http.Request, v string) { packedBody(r, "gzip", `{"api_key":"`+v+`"}`) }, false},
	"json in zstd":                   {func(r *http.Request, v string) { packedBody(r, "zstd", `{"api_key":"`+v+`"}`) }, false},
	"json":                           {func(r *http.Request, v string) { body(r, `{"access_token":"`+v+`"}`) }, false},
	"json, deep":                     {func(r *http.Request, v string) { body(r, `{"a":[{"b":{"apiKey":"`+v+`"}}]}`) }, false},
	"json, escaped":                  {func(r *http.Request, v string) { body(r, `{"\u0061pi_key":"`+v+`"}`) }, false},
	"json, in metadata":              {func(r *http.Request, v string) { body(r, `{"metadata":{"password":"`+v+`"}}`) }, false},
	"json, MCP":                      {func(r *http.Request, v string) { body(r, `{"tools":[{"authorization":"`+v+`"}]}`) }, false},
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func addQuery(r *http.Request, name, value string) {
	if r.URL.RawQuery != "" {
		r.URL.RawQuery += "&"
	}
	r.URL.RawQuery += name + "=" + url.QueryEscape(value)
}

func body(r *http.Request, s string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
	r.Header.Set("Content-Type", "application/json")
}

// multi makes the body a form in parts: an innocent field, one of this disposition, an innocent file.
func multi(r *http.Request, disposition, contentType, value string) {
	head := "Content-Disposition: form-data; " + disposition + "\r\n"
	if contentType != "" {
		head += "Content-Type: " + contentType + "\r\n"
	}
	body(r, "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--b\r\n"+head+"\r\n"+value+
		"\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n\x00\r\n--b--\r\n")
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
}

// packedBody makes the body s in an encoding.
func packedBody(r *http.Request, encoding, s string) {
	body(r, string(pack(encoding, []byte(s))))
	r.Header.Set("Content-Encoding", encoding)
}

func pack(encoding string, data []byte) []byte {
	var buf bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&buf)
	if encoding == "zstd" {
		w, _ = zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	}
	w.Write(data)
	w.Close()
	return buf.Bytes()
}

func form(r *http.Request, s string) {
	body(r, s)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
}

// TestNoSecondCredential: whatever way a provider takes its key, a key of somebody else's is refused
// in every place beside the phantom and alone, and the phantom is taken where clients put it and
// leaves nothing behind. spec/vault.md §10: 22.
func TestNoSecondCredential(t *testing.T) {
	const foreign = "sk-live-0123456789abcdefFOREIGN"
	other := NewPhantom()
	for style, s := range styles {
		t.Run(style, func(t *testing.T) {
			var got *http.Request
			r := newRig(t, func(w http.ResponseWriter, q *http.Request) { got = q.Clone(q.Context()) }, func(c *Config, _ *httptest.Server) {
				g := &c.Grants[0].Grant
				g.Auth, g.Query = map[string]sandbox.Auth{sandbox.APIKey: s.auth}, []string{"private_token"}
				second := c.Grants[0]
				second.Provider, second.Phantom, second.Routes = "other", other, nil
				c.Grants = append(c.Grants, second)
			})
			send := func(put ...func(*http.Request)) (*http.Response, string) {
				t.Helper()
				got = nil
				req := r.request("POST", "/v1/x?q=1", `{}`)
				req.Header.Del("X-Api-Key")
				for _, p := range put {
					p(req)
				}
				return r.do(req)
			}
			phantom := func(q *http.Request) { q.Header.Add("Authorization", "Bearer "+r.phantom) }
			for place, p := range places {
				for what, put := range map[string][]func(*http.Request){
					"a foreign key":                    {func(q *http.Request) { p.put(q, foreign) }},
					"a foreign key beside the phantom": {phantom, func(q *http.Request) { p.put(q, foreign) }},
				} {
					// Without a phantom the body is not read at all.
					resp, answer := send(put...)
					alone := what == "a foreign key" && resp.StatusCode == 401
					if !alone && (resp.StatusCode != 403 || resp.Header.Get("X-Terok-Broker") != "foreign_credential") || got != nil {
						t.Errorf("%s in %s: %d %s", what, place, resp.StatusCode, answer)
					}
				}
				resp, answer := send(func(q *http.Request) { p.put(q, r.phantom) })
				if !p.declared {
					if resp.StatusCode != 403 && resp.StatusCode != 401 || got != nil {
						t.Errorf("the phantom in %s: %d %s", place, resp.StatusCode, answer)
					}
					continue
				}
				if resp.StatusCode != 200 || got == nil {
					t.Errorf("the phantom in %s: %d %s", place, resp.StatusCode, answer)
					continue
				}
				sent, want := s.sent(got), s.auth.Prefix+realKey
				if s.auth.User != "" {
					want = basic(s.auth.User, realKey)
				}
				if sent != want {
					t.Errorf("%s: upstream got %q", place, sent)
				}
				credentials := 0
				for name, values := range got.Header {
					if strings.Contains(strings.Join(values, " "), r.phantom) {
						t.Errorf("%s: the phantom went upstream in %s", place, name)
					}
					if credentialHeader(name) {
						credentials += len(values)
					}
				}
				if s.auth.Query != "" {
					credentials++
				}
				if own := s.auth.Header == "X-Corp-Key"; credentials != 1 && !own {
					t.Errorf("%s: upstream got %d credentials: %v", place, credentials, got.Header)
				}
				if q := got.URL.Query(); q.Get("q") != "1" || strings.Contains(got.URL.RawQuery, r.phantom) {
					t.Errorf("%s: query %q", place, got.URL.RawQuery)
				}
				// Two phantoms are ambiguous, also the same provider's wrong one.
				if resp, answer := send(func(q *http.Request) { p.put(q, other) }, phantom); resp.StatusCode != 400 || got != nil ||
					resp.Header.Get("X-Terok-Broker") != "ambiguous_token" {
					t.Errorf("two phantoms, one in %s: %d %s", place, resp.StatusCode, answer)
				}
			}
			if resp, answer := send(func(q *http.Request) { q.Header.Add("Authorization", "Bearer "+other) }); resp.StatusCode != 403 || got != nil {
				t.Errorf("a phantom of another provider: %d %s", resp.StatusCode, answer)
			}
			for _, halves := range [][2]string{{foreign, r.phantom}, {r.phantom, foreign}} {
				if resp, answer := send(func(q *http.Request) { q.Header.Add("Authorization", basic(halves[0], halves[1])) }); resp.StatusCode != 403 || got != nil {
					t.Errorf("a foreign key in the other half of Basic: %d %s", resp.StatusCode, answer)
				}
			}
			if resp, answer := send(func(q *http.Request) { q.Header.Add("Authorization", basic("x-access-token", "x-oauth-basic")) }, phantom); resp.StatusCode != 403 {
				t.Errorf("a login without a credential: %d %s", resp.StatusCode, answer)
			}
		})
	}
}

// TestOneHostTwoProviders: the phantom says which provider's rules and credential are meant.
func TestOneHostTwoProviders(t *testing.T) {
	second := NewPhantom()
	var got http.Header
	r := newRig(t, func(w http.ResponseWriter, q *http.Request) { got = q.Header.Clone() }, func(c *Config, _ *httptest.Server) {
		g := c.Grants[0]
		g.Provider, g.Phantom = "copilot", second
		g.Auth = map[string]sandbox.Auth{sandbox.APIKey: {Header: "Authorization", Prefix: "Bearer "}}
		g.Routes = append([]sandbox.Route{}, g.Routes...)
		g.Routes[0].Default, g.Routes[0].Policy = "deny", []string{"allow GET /user"}
		c.Grants = append(c.Grants, g)
	})
	for _, c := range []struct {
		token, path string
		status      int
		header      string
	}{
		{r.phantom, "/anything", 200, "X-Api-Key"},
		{second, "/anything", 403, ""},
		{second, "/user", 200, "Authorization"},
	} {
		got = nil
		req := r.request("GET", c.path, "")
		req.Header.Set("X-Api-Key", c.token)
		resp, answer := r.do(req)
		if resp.StatusCode != c.status || (c.header == "") != (got == nil) || c.header != "" && !strings.Contains(got.Get(c.header), realKey) {
			t.Errorf("%s: %d %s %v", c.path, resp.StatusCode, answer, got)
		}
	}
}

// TestExtraHeaders: an OAuth credential brings its headers; the client's own list is kept, and what
// it claims about the account is not.
func TestExtraHeaders(t *testing.T) {
	var got http.Header
	r := newRig(t, func(w http.ResponseWriter, q *http.Request) { got = q.Header.Clone() }, func(c *Config, _ *httptest.Server) {
		c.Grants[0].Auth[sandbox.OAuth] = sandbox.Auth{Header: "Authorization", Prefix: "Bearer ",
			Set: map[string]string{"ChatGPT-Account-ID": "{public.account_id}", "X-Plan": "{public.plan}"},
			Add: map[string]string{"anthropic-beta": "oauth-2025-04-20"}}
	})
	r.secret.Kind, r.secret.Public = sandbox.OAuth, map[string]string{"account_id": "acc-1"}
	for beta, want := range map[string]string{"": "oauth-2025-04-20", "a-1": "a-1|oauth-2025-04-20", "a-1, oauth-2025-04-20": "a-1, oauth-2025-04-20"} {
		req := r.request("POST", "/v1/messages", `{}`)
		req.Header.Set("ChatGPT-Account-ID", "somebody else")
		req.Header.Set("X-Plan", "pro")
		if beta != "" {
			req.Header.Set("Anthropic-Beta", beta)
		}
		if resp, answer := r.do(req); resp.StatusCode != 200 {
			t.Fatal(answer)
		}
		if b := strings.Join(got["Anthropic-Beta"], "|"); b != want {
			t.Errorf("anthropic-beta %q, want %q", b, want)
		}
		if got.Get("Chatgpt-Account-Id") != "acc-1" || got["X-Plan"] != nil || got["X-Api-Key"] != nil || got.Get("Authorization") != "Bearer "+realKey {
			t.Errorf("%v", got)
		}
	}
}
