package front

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"terok/internal/sandbox"
	"terok/internal/vault/endpoint"
)

// Tokens that end: a provider that refuses an OAuth token gets the request once more with the next
// one, when the keyholder has one; and a client that wants to refresh its own token, which is a
// phantom, is answered here.

// maxExpired bounds what is read of an answer to see whether it says that a token has ended.
const maxExpired = 16 << 10

// renewed looks at the answer to a request. When it says that the credential has ended, and there
// is a newer one, the request is made once more; never twice. It returns the answer to pass on and
// the secret that it was got with, or what the client is told instead.
func (f *Front) renewed(r *http.Request, v verdict, key *armed, out *http.Request, resp *http.Response, x *exchange) (*http.Response, *armed, *refusal) {
	if f.cfg.Renew == nil || v.child != nil || key.secret.Kind != sandbox.OAuth || out.Body != nil && out.GetBody == nil || !tokenEnded(resp) {
		return resp, key, nil
	}
	next, err := f.cfg.Renew(r.Context(), v.route.Provider, key.secret)
	if err != nil {
		resp.Body.Close()
		return nil, nil, credentialRefusal(v.route, err)
	}
	if sameSecret(string(next.Value), string(key.secret.Value)) {
		return resp, key, nil // refused for another reason
	}
	fresh, err := v.route.arm(next)
	if err != nil {
		return resp, key, nil
	}
	again := out.Clone(r.Context())
	if out.Body != nil {
		if again.Body, err = out.GetBody(); err != nil {
			return resp, key, nil
		}
	}
	resp.Body.Close()
	again.Header = v.header(r.Header, fresh)
	again.URL = v.route.target(r.URL.EscapedPath(), v.route.outQuery(r.URL.RawQuery, fresh))
	x.retries++
	if resp, err = v.route.transport.RoundTrip(again); err != nil {
		return nil, nil, upstreamRefusal(err)
	}
	return resp, fresh, nil
}

// tokenEnded reports whether an answer says that the token is not taken any more. Anthropic says
// so with 429 too; then the words decide, and the answer stays whole.
func tokenEnded(resp *http.Response) bool {
	if resp.StatusCode == http.StatusUnauthorized {
		return true
	}
	if resp.StatusCode != http.StatusTooManyRequests || resp.ContentLength > maxExpired || resp.Header.Get("Content-Encoding") != "" {
		return false
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxExpired))
	resp.Body = &rejoined{io.MultiReader(bytes.NewReader(head), failing(err), resp.Body), resp.Body}
	said := strings.ToLower(string(head))
	return strings.Contains(said, "token") && (strings.Contains(said, "expired") || strings.Contains(said, "has ended"))
}

// rejoined is a body whose beginning was read already.
type rejoined struct {
	io.Reader
	under io.Closer
}

func (b *rejoined) Close() error { return b.under.Close() }

// failing passes an error of reading on in its place.
func failing(err error) io.Reader {
	if err == nil {
		return strings.NewReader("")
	}
	return errReader{err}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// maxTokenRequest bounds a client's request to a token endpoint.
const maxTokenRequest = 64 << 10

// tokenRequest answers a request to a provider's token endpoint and reports whether r is one. It
// never leaves the host: the phantom of this task comes back as its own successor. Everything else
// that such an endpoint does, signing in above all, is refused.
func (f *Front) tokenRequest(w http.ResponseWriter, r *http.Request, s *site, x *exchange) bool {
	if r.Method != http.MethodPost || !s.named(r.Host) || r.URL.Host != "" {
		return false
	}
	routes := s.routes[:0:0]
	for _, rt := range s.routes {
		if path, ok := endpoint.Parse(r.URL, false); ok && rt.decide(r.Method, path) == endpoint.Token {
			routes = append(routes, rt)
		}
	}
	if len(routes) == 0 {
		return false
	}
	x.route = routes[0]
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTokenRequest+1))
	if err != nil || len(body) > maxTokenRequest {
		f.answer(w, r, x, refuse(http.StatusRequestEntityTooLarge, "too_large", "a request to a token endpoint is short"))
		return true
	}
	params := tokenParams(r.Header.Get("Content-Type"), body)
	if params["grant_type"] != "refresh_token" {
		f.answer(w, r, x, refuse(http.StatusForbidden, "path_denied", "signing in belongs on the host: "+x.route.signIn()))
		return true
	}
	for _, rt := range routes {
		if !sameSecret(params["refresh_token"], rt.Phantom) {
			continue
		}
		x.route, x.status, x.reason = rt, http.StatusOK, "refresh_handled"
		answer, err := json.Marshal(map[string]any{"access_token": rt.Phantom, "refresh_token": rt.Phantom, "token_type": "Bearer",
			"expires_in": 3600, "scope": rt.Public["scopes"]})
		if err != nil { // strings always encode
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(answer)
		return true
	}
	f.answer(w, r, x, refuse(http.StatusUnauthorized, "invalid_token", "the refresh token is not of this task's start; real ones do not belong in a task"))
	return true
}

// tokenParams reads JSON or a form; nothing of it is used but for comparing.
func tokenParams(kind string, body []byte) map[string]string {
	params := map[string]string{}
	if strings.Contains(kind, "json") {
		var all map[string]any
		_ = json.Unmarshal(body, &all)
		for k, v := range all {
			if s, ok := v.(string); ok {
				params[k] = s
			}
		}
		return params
	}
	form, _ := url.ParseQuery(string(body))
	for k := range form {
		params[k] = form.Get(k)
	}
	return params
}
