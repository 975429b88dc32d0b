package roster

import (
	"encoding/base64"
	"strings"
	"testing"

	"terok/internal/sandbox"
	"terok/internal/vault/endpoint"
)

// TestBuiltinProviders: the data of every provider can be served.
func TestBuiltinProviders(t *testing.T) {
	for name, p := range builtinProviders() {
		if p.Name != name || p.Title == "" || p.KeyURL == "" || len(p.Kinds) == 0 || len(p.Kinds) != len(p.Auth) {
			t.Errorf("%s: %+v", name, p)
		}
		for _, r := range p.Routes {
			if _, err := endpoint.New(r.Policy, r.Default); err != nil {
				t.Errorf("%s: %s: %v", name, r.Host, err)
			}
		}
		for _, kind := range p.Kinds {
			a, ok := p.Auth[kind]
			if !ok || a.Header == "" || a.Probe.Path == "" {
				t.Errorf("%s: %s: %+v", name, kind, a)
			}
			if _, ok := p.Auth[sandbox.OAuth]; ok && name != "github" && name != "copilot" && name != "gitlab" && p.Refresh == nil {
				t.Errorf("%s: an OAuth credential that nobody refreshes", name)
			}
		}
		// What a file would say of it is what it is.
		f := p.file()
		if errs := f.Validate(); errs != nil {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func decide(t *testing.T, provider, host, method, path string) endpoint.Action {
	t.Helper()
	p := builtinProviders()[provider]
	for _, r := range p.Routes {
		if r.Host == host {
			return decideRoute(t, r, p.Forge != "", method, path)
		}
	}
	t.Fatalf("%s is not at %s", provider, host)
	return ""
}

// TestWholeTable is spec/vault.md §5.7.
func TestWholeTable(t *testing.T) {
	for _, c := range []struct{ provider, host, requests string }{
		{"anthropic", "api.anthropic.com", `
			allow POST /v1/messages
			allow POST /v1/messages/count_tokens
			allow POST /v1/messages/batches
			allow GET /v1/messages/batches/b1/results
			allow GET /v1/models/x
			allow GET /v1/files
			deny POST /v1/files
			deny DELETE /v1/files/f
			allow HEAD /api/hello
			allow GET /api/oauth/profile
			allow GET /api/claude_code/settings
			local POST /api/event_logging/batch
			local POST /api/claude_code/metrics
			deny POST /api/oauth/claude_cli/create_api_key
			deny POST /API/OAUTH/claude_cli/create_api_key
			token POST /v1/oauth/token
			deny POST /v1/oauth/authorize
			deny GET /v1/organizations/me
			deny POST /v1/sessions
			deny POST /v1/environment_providers/private/organizations/x/cloud/create
			deny POST /v1/skills`},
		{"anthropic", "platform.claude.com", `
			token POST /v1/oauth/token
			deny GET /`},
		{"openai", "api.openai.com", `
			allow POST /v1/responses
			allow GET /v1/responses/r1
			allow POST /v1/chat/completions
			allow POST /v1/embeddings
			allow GET /v1/models
			deny POST /v1/files
			deny GET /v1/organization/admin_api_keys
			deny POST /v1/realtime/client_secrets
			deny POST /v1/realtime/sessions
			deny POST /v1/chatkit/sessions
			deny POST /v1/uploads
			deny POST /v1/fine_tuning/jobs
			deny POST /v1/containers
			deny POST /v1/vector_stores`},
		{"openai", "chatgpt.com", `
			allow POST /backend-api/codex/responses
			allow GET /backend-api/wham/usage
			local POST /backend-api/codex/analytics-events/events
			deny GET /backend-api/accounts/check
			deny GET /backend-api/conversations
			deny GET /`},
		{"openai", "auth.openai.com", `
			token POST /oauth/token
			deny POST /api/accounts/deviceauth/token`},
		{"openrouter", "openrouter.ai", `
			allow POST /api/v1/chat/completions
			allow POST /api/v1/messages
			allow GET /api/v1/credits
			deny GET /api/v1/keys
			deny POST /api/v1/auth/keys`},
		{"mistral", "api.mistral.ai", `
			allow POST /v1/chat/completions
			allow POST /v1/fim/completions
			deny POST /v1/files
			deny POST /v1/agents
			deny POST /v1/ocr`},
		{"opper", "api.opper.ai", `
			allow POST /v3/compat/chat/completions
			deny POST /v3/keys`},
		{"copilot", "api.github.com", `
			substitute GET /copilot_internal/v2/token
			allow GET /user
			deny GET /user/repos
			deny POST /user/repos
			deny POST /graphql`},
		{"copilot", "api.githubcopilot.com", `
			allow POST /chat/completions
			allow POST /responses
			allow GET /models
			deny POST /mcp
			deny GET /copilot_internal/v2/token`},
		{"github", "api.github.com", `
			allow GET /repos/o/r/pulls
			allow POST /repos/o/r/pulls
			allow POST /graphql
			allow GET /repos/o/r/contents/src/hooks/useX.ts
			allow GET /repos/o/r/branches/feature%2Fx
			deny GET /copilot_internal/v2/token
			deny POST /user/keys
			deny GET /USER/KEYS
			deny POST /user/gpg_keys
			deny POST /user/ssh_signing_keys
			deny POST /user/emails
			deny POST /repos/o/r/keys
			deny POST /repos/o/r/hooks
			deny PATCH /repos/o/r/hooks/1/config
			deny POST /orgs/o/hooks
			deny PUT /repos/o/r/actions/secrets/X
			deny PUT /repos/o/r/dependabot/secrets/X
			deny POST /repos/o/r/actions/runners/registration-token
			deny POST /orgs/o/actions/runners/registration-token
			deny POST /app/installations/1/access_tokens
			deny POST /applications/x/token
			deny POST /authorizations
			deny PUT /repos/o/r/collaborators/x
			deny PATCH /repos/o/r/invitations/1
			deny DELETE /repos/o/r
			deny PATCH /repos/o/r
			deny POST /repos/o/r/transfer
			deny POST /repos/o/r/forks
			deny PUT /repos/o/r/branches/main/protection`},
		{"gitlab", "gitlab.com", `
			allow GET /api/v4/projects/g%2Fr/merge_requests
			allow POST /api/v4/projects/1/merge_requests
			allow GET /api/v4/projects/1/repository/files/src%2Fmain.go
			allow POST /api/graphql
			deny POST /api/v4/personal_access_tokens/self/rotate
			deny POST /api/v4/projects/1/access_tokens/1/rotate
			deny POST /api/v4/groups/1/access_tokens
			deny POST /api/v4/user/keys
			deny POST /api/v4/projects/g%2Fr/deploy_keys
			deny POST /api/v4/projects/g%2Fr/deploy_tokens
			deny GET /api/v4/projects/g%2Fr/variables
			deny POST /api/v4/projects/1/triggers
			deny POST /api/v4/projects/1/runners/reset_registration_token
			deny POST /api/v4/user/runners
			deny POST /api/v4/projects/1/hooks
			deny POST /oauth/token
			deny GET /oauth/authorize
			deny GET /api/v4/applications
			deny PUT /api/v4/application/settings
			deny DELETE /api/v4/projects/1
			deny PUT /api/v4/projects/1/transfer
			deny POST /api/v4/users/1/impersonation_tokens
			deny GET /g/r`},
		{"sonarcloud", "sonarcloud.io", `
			allow GET /api/qualitygates/project_status
			allow POST /api/ce/submit
			deny POST /api/user_tokens/generate
			deny GET /api/permissions/users
			deny POST /api/webhooks/create`},
	} {
		for line := range strings.Lines(strings.TrimSpace(c.requests)) {
			w := strings.Fields(line)
			if got := decide(t, c.provider, c.host, w[1], w[2]); string(got) != w[0] {
				t.Errorf("%s at %s: %s %s: %s, want %s", c.provider, c.host, w[1], w[2], got, w[0])
			}
		}
	}
}

func decideRoute(t *testing.T, r sandbox.Route, slashes bool, method, raw string) endpoint.Action {
	t.Helper()
	p, err := endpoint.New(r.Policy, r.Default)
	if err != nil {
		t.Fatal(err)
	}
	path, ok := endpoint.ParseString(raw, slashes)
	if !ok {
		t.Fatalf("%s is not a path", raw)
	}
	a, _ := p.Decide(method, path)
	return a
}

func TestProviderFileRoutes(t *testing.T) {
	r := load(t, map[string]string{
		"providers/openai.yml": "upstream: https://gw.test/v\nroutes:\n  chatgpt.com: {upstream: 'https://gw2.test', policy: [allow GET /x]}\n  more.test: {port: 8443}\n",
		"providers/mine.yml": "host: llm.test\ndefault: deny\npolicy: [allow POST /v1/**]\nserves: {openai-chat: /v1}\n" +
			"auth:\n  api_key: {query: key, env: {MY_KEY: '{phantom}'}, probe: {method: GET, path: /v1/models}}\n  pat: {basic_user: me}\n",
		"providers/gitlab.yml": "host: git.corp.test\n",
	})
	p, err := r.Provider("openai")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Hosts(), " "); got != "api.openai.com chatgpt.com auth.openai.com more.test" {
		t.Error(got)
	}
	if p.Routes[0].Upstream != "https://gw.test/v" || len(p.Routes[0].Policy) < 3 || p.Routes[1].Upstream != "https://gw2.test" ||
		len(p.Routes[1].Policy) != 1 || p.Routes[3].Port != 8443 || p.Routes[3].Default != "" {
		t.Errorf("%+v", p.Routes)
	}
	p, err = r.Provider("mine")
	if err != nil {
		t.Fatal(err)
	}
	if p.Auth[sandbox.APIKey].Query != "key" || p.Auth[sandbox.APIKey].Header != "" || p.Auth[sandbox.PAT].User != "me" || p.Auth[sandbox.PAT].Header != "Authorization" ||
		strings.Join(p.Kinds, " ") != "api_key pat" || p.Routes[0].Default != "deny" || p.Serves[sandbox.OpenAIChat] != "/v1" {
		t.Errorf("%+v", p)
	}
	if p, err = r.Provider("gitlab"); err != nil || p.Host() != "git.corp.test" || p.Forge != sandbox.GitLab || len(p.Routes[0].Policy) < 20 {
		t.Errorf("%+v %v", p, err)
	}
}

// TestPlace: what programs in the container get for a ChatGPT subscription.
func TestPlace(t *testing.T) {
	g := builtinProviders()["openai"].Grant("shared", sandbox.OAuth, map[string]string{"account_id": `a"1`, "account": "x@y.test", "plan": "plus"})
	token := g.Token("PHANTOM")
	held, ok := g.Held()
	if !ok || held.Provider != "openai" || token.Auth[sandbox.APIKey].Header != "" {
		t.Errorf("%+v %+v", held, token)
	}
	env, files := token.Place(held)
	if env["CODEX_CONNECTORS_TOKEN"] != "PHANTOM" || env["OPENAI_API_KEY"] != "" || len(files) != 1 {
		t.Fatal(env, files)
	}
	c := files[0].Content
	if !strings.Contains(c, `"access_token":"PHANTOM"`) || !strings.Contains(c, `"account_id":"a\"1"`) || strings.Contains(c, "{") != strings.HasPrefix(c, "{") || strings.Contains(c, "{public") {
		t.Error(c)
	}
	_, rest, _ := strings.Cut(c, `"id_token":"`)
	jwt, _, _ := strings.Cut(rest, `"`)
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatal(jwt)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"email":"x@y.test"`) || !strings.Contains(string(claims), `"chatgpt_user_id":""`) {
		t.Errorf("%s %v", claims, err)
	}
	// The same token, once there is a credential of another kind; and of one that nobody knows.
	if env, files := token.Place(sandbox.Held{Provider: "openai", Kind: sandbox.APIKey}); env["OPENAI_API_KEY"] != "PHANTOM" || len(env) != 1 || len(files) != 0 {
		t.Error(env, files)
	}
	if env, files := token.Place(sandbox.Held{Provider: "openai", Kind: "cookie"}); len(env)+len(files) != 0 {
		t.Error(env, files)
	}
}
