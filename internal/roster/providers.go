package roster

import "terok/internal/sandbox"

// builtinProviders makes the providers that terok knows by itself.
func builtinProviders() map[string]*Provider {
	return map[string]*Provider{
		"anthropic": {
			Name:  "anthropic",
			Title: "Anthropic",
			Route: sandbox.Route{
				Host:       "api.anthropic.com",
				Port:       443,
				Header:     "x-api-key",
				AltHeaders: []string{"Authorization"},
				// The Admin API and the sign-in of Claude Code mint keys.
				DenyPaths: []string{"/v1/organizations", "/api/oauth/claude_cli"},
			},
			Env:    map[string]string{"ANTHROPIC_API_KEY": sandbox.PhantomMark},
			KeyURL: "https://console.anthropic.com/settings/keys",
		},
	}
}
