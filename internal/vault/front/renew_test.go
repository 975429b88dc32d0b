package front

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

const newKey = "sk-ant-oat01-REAL-next-0123456789abcdefghijklmnopqrstuvw"

// renewing is a rig with an OAuth credential whose token has ended at the provider.
type renewing struct {
	*rig
	hits, renewals atomic.Int32
	bodies         sync.Map // Authorization → last body
}

func newRenewing(t *testing.T, refuse func(token string, w http.ResponseWriter) bool, next func() (Secret, error)) *renewing {
	t.Helper()
	n := &renewing{}
	n.rig = newRig(t, func(w http.ResponseWriter, r *http.Request) {
		n.hits.Add(1)
		body, _ := io.ReadAll(r.Body)
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		n.bodies.Store(token, string(body))
		if refuse(token, w) {
			return
		}
		w.Header().Set("X-Account", r.Header.Get("X-Account"))
		io.WriteString(w, `{"ok":true}`)
	}, func(c *Config, _ *httptest.Server) {
		c.Grants[0].Auth[sandbox.OAuth] = sandbox.Auth{Header: "Authorization", Prefix: "Bearer ", Set: map[string]string{"X-Account": "{public.account_id}"}}
		c.Renew = func(_ context.Context, provider string, refused Secret) (Secret, error) {
			n.renewals.Add(1)
			if provider != "anthropic" || string(refused.Value) != realKey {
				t.Error(provider, refused.Value)
			}
			return next()
		}
	})
	n.secret = Secret{Kind: sandbox.OAuth, Value: []byte(realKey), Public: map[string]string{"account_id": "a-1"}}
	return n
}

func (n *renewing) post(body string) (*http.Response, string) {
	req := n.request("POST", "/v1/messages", body)
	req.Header.Set("Authorization", "Bearer "+n.phantom)
	req.Header.Del("X-Api-Key")
	return n.do(req)
}

func old401(token string, w http.ResponseWriter) bool {
	if token == realKey {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":{"message":"`+token+` expired"}}`)
		return true
	}
	return false
}

func fresh() (Secret, error) {
	return Secret{Kind: sandbox.OAuth, Value: []byte(newKey), Public: map[string]string{"account_id": "a-1"}}, nil
}

// spec/vault.md §10: 46. 401, one refresh, one replay with the same body: the client sees 200.
func TestRenewedOnce(t *testing.T) {
	n := newRenewing(t, old401, fresh)
	resp, body := n.post(`{"model":"m","messages":[]}`)
	if resp.StatusCode != 200 || !strings.Contains(body, "ok") || n.hits.Load() != 2 || n.renewals.Load() != 1 || resp.Header.Get("X-Account") != "a-1" {
		t.Error(resp.Status, body, n.hits.Load(), n.renewals.Load())
	}
	if sent, _ := n.bodies.Load(newKey); sent != `{"model":"m","messages":[]}` {
		t.Errorf("replayed %q", sent)
	}
}

// A second 401 is passed on; nothing loops.
func TestSecond401IsPassedOn(t *testing.T) {
	n := newRenewing(t, func(token string, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":{"message":"no `+token+`"}}`)
		return true
	}, fresh)
	resp, body := n.post(`{}`)
	if resp.StatusCode != 401 || n.hits.Load() != 2 || n.renewals.Load() != 1 || strings.Contains(body, "REAL") {
		t.Error(resp.Status, body, n.hits.Load())
	}
}

// The same token again means that the refusal has another reason.
func TestSameTokenIsNotReplayed(t *testing.T) {
	n := newRenewing(t, old401, func() (Secret, error) { return Secret{Kind: sandbox.OAuth, Value: []byte(realKey)}, nil })
	resp, body := n.post(`{}`)
	if resp.StatusCode != 401 || n.hits.Load() != 1 || strings.Contains(body, "REAL") {
		t.Error(resp.Status, body, n.hits.Load())
	}
}

// spec/vault.md §10: 48, the client's half: 403 that names the command.
func TestReauthIsSaid(t *testing.T) {
	for err, want := range map[error]string{keyholder.ErrReauth: "403 reauth_required terok auth anthropic", keyholder.ErrRefresh: "503 refresh_unavailable terok auth --list",
		keyholder.ErrLocked: "503 vault_locked terok vault unlock"} {
		n := newRenewing(t, old401, func() (Secret, error) { return Secret{}, err })
		resp, body := n.post(`{}`)
		w := strings.SplitN(want, " ", 3)
		if !strings.HasPrefix(resp.Status, w[0]) || resp.Header.Get("X-Terok-Broker") != w[1] || !strings.Contains(body, w[2]) {
			t.Error(want, resp.Status, resp.Header, body)
		}
	}
}

// Anthropic says with 429 too that a token has ended; any other 429 is passed on, whole.
func TestExpiredAs429(t *testing.T) {
	long := strings.Repeat("x", maxExpired)
	for text, renews := range map[string]bool{"OAuth token has expired": true, "rate limit reached": false, long + "token expired": false} {
		n := newRenewing(t, func(token string, w http.ResponseWriter) bool {
			if token == newKey {
				return false
			}
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, text)
			return true
		}, fresh)
		resp, body := n.post(`{}`)
		if renews != (resp.StatusCode == 200) || !renews && (body != text || n.renewals.Load() != 0) {
			t.Errorf("%.30q: %s, %d bytes", text, resp.Status, len(body))
		}
	}
}

// An API key is not refreshed, and a body that is not kept is not sent twice.
func TestNotRenewable(t *testing.T) {
	n := newRenewing(t, old401, fresh)
	n.secret.Kind = sandbox.APIKey
	if resp, _ := n.post(`{}`); n.renewals.Load() != 0 {
		t.Error(resp.Status)
	}
	n = newRenewing(t, old401, fresh)
	if resp, _ := n.post(`{"x":"` + strings.Repeat("y", 2<<20) + `"}`); resp.StatusCode != 401 || n.hits.Load() != 1 {
		t.Error(resp.Status, n.hits.Load())
	}
}

// spec/vault.md §10: 51. A client's own refresh is answered here, with the phantom, and nothing
// of it leaves.
func TestTokenEndpoint(t *testing.T) {
	r := newRig(t, mustNotReach(t), func(c *Config, _ *httptest.Server) {
		c.Grants[0].Routes[0].Policy = []string{"token POST /v1/oauth/token"}
	})
	ask := func(kind, body string) (int, string) {
		req := r.request("POST", "/v1/oauth/token", body)
		req.Header = http.Header{"Content-Type": {kind}}
		resp, text := r.do(req)
		return resp.StatusCode, text
	}
	for kind, body := range map[string]string{
		"application/json":                  `{"grant_type":"refresh_token","refresh_token":"` + r.phantom + `","client_id":"x","scope":"a"}`,
		"application/x-www-form-urlencoded": "grant_type=refresh_token&refresh_token=" + r.phantom,
	} {
		if status, text := ask(kind, body); status != 200 || strings.Count(text, r.phantom) != 2 || !strings.Contains(text, `"expires_in":3600`) {
			t.Error(kind, status, text)
		}
	}
	for body, want := range map[string]int{
		`{"grant_type":"refresh_token","refresh_token":"` + NewPhantom() + `"}`:              401,
		`{"grant_type":"refresh_token","refresh_token":"` + realKey + `"}`:                   401,
		`{"grant_type":"refresh_token"}`:                                                     401,
		`{"grant_type":"authorization_code","code":"x","refresh_token":"` + r.phantom + `"}`: 403,
		`{`: 403, ``: 403, strings.Repeat("x", maxTokenRequest+1): 413,
	} {
		if status, text := ask("application/json", body); status != want || strings.Contains(text, realKey) {
			t.Errorf("%.60s: %d %s", body, status, text)
		}
	}
	handled := 0
	for _, e := range r.copyEvents() {
		if e.Reason == "refresh_handled" {
			handled++
		}
	}
	if handled != 2 || r.dials.Load() != 0 {
		t.Error(handled, r.dials.Load())
	}
}

func FuzzTokenParams(f *testing.F) {
	f.Add("application/json", []byte(`{"grant_type":"refresh_token","x":1}`))
	f.Add("application/x-www-form-urlencoded", []byte("a=%ZZ&b=1"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if tokenParams(kind, body) == nil {
			t.Fatal("nil")
		}
	})
}
