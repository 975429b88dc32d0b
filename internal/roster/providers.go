package roster

import (
	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
)

// builtinProviders makes the providers that terok knows by itself. Their policies are the least
// that the agents need; what mints, rotates or uploads is refused. Hosts of token endpoints are
// routed so that a client's own refresh is answered by the vault and never leaves.
func builtinProviders() map[string]*Provider {
	m := map[string]*Provider{}
	for _, p := range []*Provider{
		anthropic(), openai(), openrouter(), opper(), copilot(), github(), gitlab(), sonarcloud(), coderabbit(),
		compatible("mistral", "Mistral", "api.mistral.ai", "MISTRAL_API_KEY", "https://console.mistral.ai/api-keys"),
		compatible("blablador", "Blablador", "api.helmholtz-blablador.fz-juelich.de", "BLABLADOR_API_KEY", "https://codebase.helmholtz.cloud/-/user_settings/personal_access_tokens"),
		compatible("kisski", "KISSKI", "chat-ai.academiccloud.de", "KISSKI_API_KEY", "https://chat-ai.academiccloud.de"),
	} {
		m[p.Name] = p
	}
	addSignIns(m)
	m["blablador"].DefaultModel, m["blablador"].FallbackModel = "alias-huge", "alias-code"
	m["mistral"].Prices = mistralPrices()
	m["kisski"].DefaultModel, m["kisski"].FallbackModel = "devstral-2-123b-instruct-2512", "mistral-large-3-675b-instruct-2512"
	return m
}

// bearer is the usual way of an API key.
func bearer(env, host, path string) sandbox.Auth {
	return sandbox.Auth{
		Header: "Authorization", Prefix: "Bearer ", Env: map[string]string{env: sandbox.PhantomMark},
		Probe: sandbox.Probe{Host: host, Method: "GET", Path: path},
	}
}

func route(host string, policy ...string) sandbox.Route {
	return sandbox.Route{Host: host, Port: 443, Policy: policy, Default: "deny"}
}

func anthropic() *Provider {
	// A container's client that wants to refresh is answered here; the keyholder does it.
	token := []string{"token POST /v1/oauth/token"}
	return &Provider{
		Prices: anthropicPrices(),
		Name:   "anthropic", Title: "Anthropic",
		Routes: []sandbox.Route{
			route("api.anthropic.com",
				"token POST /v1/oauth/token",
				"deny /v1/oauth/**",
				"deny /v1/organizations/**",     // Admin API: keys, members
				"deny /api/oauth/claude_cli/**", // makes an API key
				"local POST /api/event_logging/**",
				"local POST /api/claude_code/metrics",
				"allow POST /v1/messages",
				"allow POST /v1/messages/count_tokens",
				"allow GET,POST /v1/messages/batches/**",
				"allow GET /v1/models/**",
				"allow GET /v1/files/**",
				"allow GET /api/hello",
				"allow GET /api/oauth/profile",
				"allow GET /api/oauth/usage",
				"allow GET /api/claude_code/**",
				"allow GET /api/claude_cli/**",
			),
			route("platform.claude.com", token...),
			route("console.anthropic.com", token...),
		},
		Kinds: []string{sandbox.APIKey, sandbox.OAuth},
		Auth: map[string]sandbox.Auth{
			sandbox.APIKey: {
				Header: "x-api-key", Env: map[string]string{"ANTHROPIC_API_KEY": sandbox.PhantomMark},
				Probe: sandbox.Probe{Host: "api.anthropic.com", Method: "GET", Path: "/v1/models"},
			},
			sandbox.OAuth: {
				Header: "Authorization", Prefix: "Bearer ", Add: map[string]string{"Anthropic-Beta": "oauth-2025-04-20"},
				Env:   map[string]string{"CLAUDE_CODE_OAUTH_TOKEN": sandbox.PhantomMark},
				Probe: sandbox.Probe{Host: "api.anthropic.com", Method: "GET", Path: "/api/oauth/profile"},
			},
		},
		Refresh: &oauth.Endpoint{
			TokenURL: "https://platform.claude.com/v1/oauth/token",
			ClientID: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
			Scope:    "user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload",
		},
		Serves: map[string]string{sandbox.AnthropicMessages: "/"},
		KeyURL: "https://console.anthropic.com/settings/keys",
	}
}

func openai() *Provider {
	return &Provider{
		Prices: openaiPrices(),
		Name:   "openai", Title: "OpenAI",
		Routes: []sandbox.Route{
			route("api.openai.com",
				"deny /v1/organization/**", // admin keys
				"deny /v1/realtime/**",     // mints client secrets
				"deny /v1/chatkit/**",
				"allow GET,POST,DELETE /v1/responses/**",
				"allow POST /v1/chat/completions",
				"allow POST /v1/embeddings",
				"allow GET /v1/models/**",
				"allow GET /v1/files/**",
			),
			route("chatgpt.com",
				"local POST /backend-api/codex/analytics-events/**",
				"deny /backend-api/codex/realtime/**",       // as above
				"local GET /backend-api/wham/settings/user", // a person's settings, which the agent can do without
				"allow GET,POST /backend-api/codex/**",
				"allow GET /backend-api/wham/usage",
				"allow GET /backend-api/wham/accounts/check", // codex asks where its workspace is served before its first turn
				"allow GET /backend-api/connectors/directory/**",
			),
			route("auth.openai.com", "token POST /oauth/token"),
		},
		Kinds: []string{sandbox.APIKey, sandbox.OAuth},
		Auth: map[string]sandbox.Auth{
			sandbox.APIKey: bearer("OPENAI_API_KEY", "api.openai.com", "/v1/models"),
			sandbox.OAuth: {
				Header: "Authorization", Prefix: "Bearer ", Set: map[string]string{"ChatGPT-Account-ID": "{public.account_id}"},
				Env: map[string]string{"CODEX_CONNECTORS_TOKEN": sandbox.PhantomMark},
				Files: []sandbox.StartFile{{
					Path: "/home/dev/.codex/auth.json", Mode: 0o400,
					Content: `{"OPENAI_API_KEY":null,"tokens":{"id_token":"{jwt}","access_token":"{phantom}","refresh_token":"{phantom}",` +
						`"account_id":"{public.account_id}"},"last_refresh":"9999-01-01T00:00:00Z"}` + "\n",
				}},
				// Codex refuses a file without an address and a plan.
				Claims: `{"exp":253402300799,"email":"{public.account}","https://api.openai.com/auth":{"chatgpt_plan_type":"{public.plan}",` +
					`"chatgpt_user_id":"{public.user_id}","user_id":"{public.user_id}","chatgpt_account_id":"{public.account_id}","chatgpt_account_is_fedramp":false}}`,
				Probe: sandbox.Probe{Host: "chatgpt.com", Method: "GET", Path: "/backend-api/wham/usage"},
			},
		},
		Refresh: &oauth.Endpoint{TokenURL: "https://auth.openai.com/oauth/token", ClientID: "app_EMoamEEZ73f0CkXaXp7hrann"},
		Serves:  map[string]string{sandbox.OpenAIResponses: "/v1", sandbox.OpenAIChat: "/v1"},
		KeyURL:  "https://platform.openai.com/api-keys",
	}
}

// compatible is a provider that serves OpenAI's chat completions below /v1.
func compatible(name, title, host, env, keyURL string) *Provider {
	return &Provider{
		Name: name, Title: title,
		Routes: []sandbox.Route{route(host,
			"allow POST /v1/chat/completions",
			"allow POST /v1/completions",
			"allow POST /v1/fim/completions",
			"allow POST /v1/embeddings",
			"allow GET /v1/models/**",
		)},
		Kinds:  []string{sandbox.APIKey},
		Auth:   map[string]sandbox.Auth{sandbox.APIKey: bearer(env, host, "/v1/models")},
		Serves: map[string]string{sandbox.OpenAIChat: "/v1"},
		KeyURL: keyURL,
	}
}

func openrouter() *Provider {
	return &Provider{
		Prices: vendorPrices(),
		Name:   "openrouter", Title: "OpenRouter",
		Routes: []sandbox.Route{route("openrouter.ai",
			"deny /api/v1/keys/**", // provisioning keys
			"deny /api/v1/auth/**",
			"allow POST /api/v1/chat/completions",
			"allow POST /api/v1/completions",
			"allow POST /api/v1/responses",
			"allow POST /api/v1/messages",
			"allow POST /api/v1/messages/count_tokens",
			"allow POST /api/v1/embeddings",
			"allow GET /api/v1/models/**",
			"allow GET /api/v1/credits",
			"allow GET /api/v1/generation",
		)},
		Kinds:        []string{sandbox.APIKey},
		Auth:         map[string]sandbox.Auth{sandbox.APIKey: bearer("OPENROUTER_API_KEY", "openrouter.ai", "/api/v1/key")},
		Serves:       map[string]string{sandbox.OpenAIChat: "/api/v1", sandbox.AnthropicMessages: "/api"},
		KeyURL:       "https://openrouter.ai/keys",
		DefaultModel: "anthropic/claude-sonnet-4.5", FallbackModel: "anthropic/claude-3.5-sonnet",
	}
}

func opper() *Provider {
	return &Provider{
		Prices: vendorPrices(),
		Name:   "opper", Title: "Opper",
		Routes: []sandbox.Route{route("api.opper.ai",
			"allow POST /v3/compat/chat/completions",
			"allow POST /v3/compat/messages",
			"allow POST /v3/compat/v1/messages",
			"allow POST /v3/compat/embeddings",
			"allow GET /v3/compat/models/**",
		)},
		Kinds:        []string{sandbox.APIKey},
		Auth:         map[string]sandbox.Auth{sandbox.APIKey: bearer("OPPER_API_KEY", "api.opper.ai", "/v3/compat/models")},
		Serves:       map[string]string{sandbox.OpenAIChat: "/v3/compat", sandbox.AnthropicMessages: "/v3/compat"},
		KeyURL:       "https://platform.opper.ai/settings/api-keys",
		DefaultModel: "anthropic/claude-sonnet-4-6", FallbackModel: "openai/gpt-5-mini",
	}
}

func copilot() *Provider {
	models := []string{
		"allow POST /chat/completions",
		"allow POST /responses",
		"allow POST /v1/messages",
		"allow POST /embeddings",
		"allow GET /models/**",
		"allow GET /agents/**",
		"allow GET /_ping",
	}
	// Copilot's own API takes a short-lived token that this endpoint gives for GitHub's.
	exchange := route("api.github.com",
		"substitute GET /copilot_internal/v2/token",
		"allow GET /copilot_internal/user",
		"allow GET /user",
	)
	exchange.Exchange = &sandbox.Exchange{Field: "token", Expires: "expires_at", Hosts: []string{"*.githubcopilot.com"}}
	auth := sandbox.Auth{
		Header: "Authorization", Prefix: "Bearer ", Env: map[string]string{"COPILOT_GITHUB_TOKEN": sandbox.PhantomMark},
		Probe: sandbox.Probe{Host: "api.github.com", Method: "GET", Path: "/copilot_internal/user"},
	}
	return &Provider{
		Name: "copilot", Title: "GitHub Copilot",
		Routes: []sandbox.Route{
			route("api.githubcopilot.com", models...),
			route("api.individual.githubcopilot.com", models...),
			route("api.business.githubcopilot.com", models...),
			route("api.enterprise.githubcopilot.com", models...),
			exchange,
		},
		Kinds:  []string{sandbox.PAT, sandbox.OAuth},
		Auth:   map[string]sandbox.Auth{sandbox.PAT: auth, sandbox.OAuth: auth},
		Serves: map[string]string{sandbox.OpenAIChat: "/", sandbox.OpenAIResponses: "/", sandbox.AnthropicMessages: "/"},
		KeyURL: "https://github.com/settings/personal-access-tokens",
	}
}

func sonarcloud() *Provider {
	return &Provider{
		Name: "sonarcloud", Title: "SonarCloud",
		Routes: []sandbox.Route{route("sonarcloud.io",
			"deny /api/user_tokens/**",
			"deny /api/permissions/**",
			"deny /api/webhooks/**",
			"deny /api/settings/**",
			"allow GET /api/**",
			"allow GET /batch/**",
			"allow POST /api/ce/submit",
		)},
		Kinds:        []string{sandbox.APIKey},
		Auth:         map[string]sandbox.Auth{sandbox.APIKey: bearer("SONAR_TOKEN", "sonarcloud.io", "/api/authentication/validate")},
		SharedDomain: true,
		KeyURL:       "https://sonarcloud.io/account/security",
	}
}

func coderabbit() *Provider {
	return &Provider{
		Name: "coderabbit", Title: "CodeRabbit",
		Routes: []sandbox.Route{route("app.coderabbit.ai",
			"allow GET,POST /api/cli/**",
			"allow GET,POST /api/v1/review/**",
			"allow GET,POST /trpc/review*",
			"allow GET /trpc/user*",
		)},
		Kinds:  []string{sandbox.APIKey},
		Auth:   map[string]sandbox.Auth{sandbox.APIKey: bearer("CODERABBIT_API_KEY", "app.coderabbit.ai", "/api/cli/user")},
		KeyURL: "https://app.coderabbit.ai/settings",
	}
}
