package project

import (
	"fmt"
	"maps"
	"slices"

	"terok/internal/config"
	"terok/internal/vault/endpoint"
)

// Vault is the section of credentials in tasks.
type Vault struct {
	config.Vault `yaml:",inline"`
	// Providers that tasks may use besides the agent's; unset: every one with a credential, but a
	// forge only where the project's repository is there.
	Providers []string `yaml:"providers"`
	// ServerFetch: requests may make the provider itself call addresses.
	ServerFetch string `yaml:"server_fetch" oneof:"refuse allow"`
	// Repos of a forge that may be written to.
	Repos string `yaml:"repos" oneof:"project all"`
	// Policy takes endpoints away from a provider; with vault.allow_widen of config.yml it can add
	// some.
	Policy map[string][]string `yaml:"policy"`
}

// Validate checks what types cannot.
func (v *Vault) Validate() []config.FieldError {
	var bad []config.FieldError
	fail := func(path, format string, args ...any) {
		bad = append(bad, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	for i, name := range v.Providers {
		if !Name.MatchString(name) {
			fail(fmt.Sprintf("providers[%d]", i), "%q is not a provider's name", name)
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(v.Policy)) {
		rules := v.Policy[provider]
		if len(rules) > endpoint.MaxRules {
			fail("policy."+provider, "at most %d rules are taken", endpoint.MaxRules)
		}
		for i, line := range rules {
			at := fmt.Sprintf("policy.%s[%d]", provider, i)
			r, err := endpoint.ParseRule(line)
			switch {
			case err != nil:
				fail(at, "%v", err)
			case r.Action != endpoint.Allow && r.Action != endpoint.Deny && r.Action != endpoint.Upload:
				fail(at, "a project can allow, upload and deny only")
			}
		}
	}
	return bad
}
