package roster

import (
	"strings"

	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
)

// SignIn is how a vendor's own program signs a person in, inside a container of its own that
// reaches the named hosts only.
type SignIn struct {
	Agent   string   // whose bundle holds the program; "" takes Command's first word from the image
	Command []string // arguments of the program, or program and arguments
	Device  []string // the same for --device-auth; nil: there is no other way
	Hosts   []string // rules in policy grammar without sign
	File    string   // where it leaves the sign-in, relative to the home directory, in a directory of its own
	Format  string   // of that file, one of package oauth
	Name    string   // for oauth.FormatEnv, the variable
	Hint    string   // for the person, before it starts
}

// addSignIns completes the built-in providers with how people sign in at them and what their
// credentials look like. Facts about vendors' programs are those of the pinned versions.
func addSignIns(m map[string]*Provider) {
	m["anthropic"].SignIn = &SignIn{
		Agent: "claude", Command: []string{"auth", "login"},
		Hosts: []string{"claude.ai", "claude.com", "platform.claude.com", "console.anthropic.com", "api.anthropic.com"},
		File:  ".claude/.credentials.json", Format: oauth.FormatClaude,
		Hint: "Open the address that it shows in your browser and paste the code that you get there.",
	}
	m["openai"].SignIn = &SignIn{
		// The callback of the browser's way would need a port of this machine in the container.
		Agent: "codex", Command: []string{"login", "--device-auth"},
		Hosts: []string{"auth.openai.com", "chatgpt.com"},
		File:  ".codex/auth.json", Format: oauth.FormatCodex,
		Hint: "Open the address that it shows in your browser and type the code.",
	}
	m["github"].SignIn = &SignIn{
		Command: []string{"gh", "auth", "login", "--hostname", "github.com", "--git-protocol", "https", "--web", "--insecure-storage"},
		Hosts:   []string{"github.com", "api.github.com"}, File: ".config/gh/hosts.yml", Format: oauth.FormatGH,
		Hint: "Open https://github.com/login/device in your browser and type the code that it shows.",
	}
	for name, prefixes := range map[string]map[string]string{
		"anthropic":  {"sk-ant-api": sandbox.APIKey, "sk-ant-admin": sandbox.APIKey, "sk-ant-oat": sandbox.OAuth},
		"openai":     {"sk-": sandbox.APIKey, "sk-admin-": sandbox.APIKey},
		"openrouter": {"sk-or-": sandbox.APIKey},
		"github":     {"ghp_": sandbox.PAT, "github_pat_": sandbox.PAT, "gho_": sandbox.OAuth, "ghu_": sandbox.OAuth},
		"copilot":    {"github_pat_": sandbox.PAT, "gho_": sandbox.OAuth, "ghu_": sandbox.OAuth},
		"gitlab":     {"glpat-": sandbox.PAT},
	} {
		m[name].Prefixes = prefixes
	}
}

// Recognise says what a secret looks like: whether it begins like one of p's, of which kind it is
// then, and the name of another provider whose credentials begin like that, when p's do not. A
// provider behind an endpoint of the operator's own may have credentials of any form.
func (r *Roster) Recognise(p *Provider, secret string) (kind, other string) {
	best := 0
	for prefix, k := range p.Prefixes {
		if strings.HasPrefix(secret, prefix) && len(prefix) > best {
			kind, best = k, len(prefix)
		}
	}
	if p.Routes[0].Upstream != "" {
		return kind, ""
	}
	for _, q := range r.Providers() {
		for prefix := range q.Prefixes {
			if q.Name != p.Name && strings.HasPrefix(secret, prefix) && len(prefix) > best {
				other, best = q.Name, len(prefix)
			}
		}
	}
	if other != "" {
		kind = ""
	}
	return kind, other
}
