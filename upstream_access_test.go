package terok

import (
	"net/url"
	"os"
	"path/filepath"
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

// TestProviderOf: a provider of one's own is asked for the forge whose very host it has a route to.
func TestProviderOf(t *testing.T) {
	dir := t.TempDir()
	roots := state.Roots{Config: dir, Data: dir, Runtime: dir}
	for name, text := range map[string]string{"bitbucket": "host: api.bitbucket.org\n", "ours": "host: git.corp.example\nport: 8443\n"} {
		if err := state.MkdirAll(roots.ProvidersDir()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(roots.ProvidersDir(), name+".yml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := roster.Load(roots)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"api.bitbucket.org": "bitbucket", "git.corp.example:8443": "ours", "git.corp.example": "",
		"bitbucket.org": "", "api.bitbucket.org.evil.test": "", "": ""} {
		got := ""
		if p := providerOf(set, host); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}
