package front

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

// TestErrorShapes: every kind of refusal comes in the form of the provider's own errors, with the
// next step in it. spec/vault.md §10: 43.
func TestErrorShapes(t *testing.T) {
	type anthropic struct {
		Type  string
		Error struct{ Type, Message string }
	}
	type openai struct {
		Error struct {
			Message, Type, Code string
			Param               *string
		}
	}
	type forge struct{ Message string }
	type plain struct {
		Error struct{ Code, Message string }
	}
	strict := func(t *testing.T, body string, v any) {
		t.Helper()
		dec := json.NewDecoder(bytes.NewReader([]byte(body)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(v); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	for name, c := range map[string]struct {
		serves map[string]string
		forge  string
		path   string
		read   func(t *testing.T, body string) string
	}{
		"anthropic": {map[string]string{sandbox.AnthropicMessages: "/"}, "", "/v1/messages", func(t *testing.T, body string) string {
			var e anthropic
			strict(t, body, &e)
			if e.Type != "error" || e.Error.Type == "" {
				t.Error(body)
			}
			return e.Error.Message
		}},
		"openai": {map[string]string{sandbox.OpenAIResponses: "/v1", sandbox.OpenAIChat: "/v1"}, "", "/v1/responses", func(t *testing.T, body string) string {
			var e openai
			strict(t, body, &e)
			if e.Error.Type == "" || e.Error.Code == "" {
				t.Error(body)
			}
			return e.Error.Message
		}},
		"both, chat": {map[string]string{sandbox.AnthropicMessages: "/api", sandbox.OpenAIChat: "/api/v1"}, "", "/api/v1/chat/completions", func(t *testing.T, body string) string {
			var e openai
			strict(t, body, &e)
			return e.Error.Message
		}},
		"both, messages": {map[string]string{sandbox.AnthropicMessages: "/api", sandbox.OpenAIChat: "/api/v1"}, "", "/api/v1/messages", func(t *testing.T, body string) string {
			var e anthropic
			strict(t, body, &e)
			return e.Error.Message
		}},
		"github": {nil, sandbox.GitHub, "/repos/acme/shop/issues", func(t *testing.T, body string) string {
			var e forge
			strict(t, body, &e)
			return e.Message
		}},
		"another": {nil, "", "/api/x", func(t *testing.T, body string) string {
			var e plain
			strict(t, body, &e)
			if e.Error.Code == "" {
				t.Error(body)
			}
			return e.Error.Message
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, mustNotReach(t), func(c2 *Config, _ *httptest.Server) {
				g := &c2.Grants[0].Grant
				g.Provider, g.Serves, g.Forge = "p", c.serves, c.forge
				g.Routes[0].Policy = []string{"deny /denied/**"}
				g.Auth = map[string]sandbox.Auth{sandbox.APIKey: {Header: "x-api-key"}}
			})
			for _, refusal := range []struct {
				change func(*http.Request)
				err    error
				status int
				code   string
				says   string
			}{
				{change: func(q *http.Request) { q.Header.Del("X-Api-Key") }, status: 401, code: "missing_token", says: "environment"},
				{change: func(q *http.Request) { q.Header.Set("X-Api-Key", NewPhantom()) }, status: 401, code: "invalid_token", says: "token"},
				{change: func(q *http.Request) { q.Header.Set("Authorization", "Bearer sk-x") }, status: 403, code: "foreign_credential", says: "real keys"},
				{change: func(q *http.Request) { q.URL.Path = "/denied" + q.URL.Path }, status: 403, code: "path_denied", says: "does not relay"},
				{change: func(q *http.Request) { q.URL.RawPath, q.URL.Path = "/a%252fb"+q.URL.Path, "/a%2fb"+q.URL.Path }, status: 400, code: "bad_target", says: "more than one way"},
				{err: keyholder.ErrLocked, status: 503, code: "vault_locked", says: "terok vault unlock"},
				{err: keyholder.ErrNoCredential, status: 403, code: "credential_missing", says: "terok auth p"},
			} {
				r.lock(refusal.err)
				req := r.request("POST", c.path, `{}`)
				req.Header.Del("Anthropic-Version")
				if refusal.change != nil {
					refusal.change(req)
				}
				resp, body := r.do(req)
				if resp.StatusCode != refusal.status || resp.Header.Get("X-Terok-Broker") != refusal.code || resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
				}
				if msg := c.read(t, body); !strings.HasPrefix(msg, "terok: ") || !strings.Contains(msg, refusal.says) {
					t.Errorf("%s: %s", refusal.code, body)
				}
			}
		})
	}
}
