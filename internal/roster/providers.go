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
				// Admin API: it mints keys.
				DenyPaths: []string{"/v1/organizations"},
			},
			Env:    map[string]string{"ANTHROPIC_API_KEY": sandbox.PhantomMark},
			KeyURL: "https://console.anthropic.com/settings/keys",
		},
	}
}
