package terok

import (
	"net/url"
	"testing"

	"terok/internal/roster"
	"terok/internal/state"
)

// TestForgeAt: a token is for the host of its forge, at that forge's port, and for no other.
func TestForgeAt(t *testing.T) {
	dir := t.TempDir()
	set, err := roster.Load(state.Roots{Config: dir, Data: dir, Runtime: dir})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"https://github.com/a/b":           "github",
		"https://api.github.com/a/b":       "github",
		"https://github.com:443/a/b":       "github",
		"https://gitlab.com/a/b":           "gitlab",
		"https://github.com:8443/a/b":      "",
		"https://evil.test/github.com":     "",
		"https://github.com.evil.test/a":   "",
		"https://notgithub.com/a":          "",
		"https://api.anthropic.com/a":      "", // routed, but no forge
		"https://api.githubcopilot.com/a":  "",
		"https://user@evil.test:443/a.git": "",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if p := forgeAt(set, u); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
