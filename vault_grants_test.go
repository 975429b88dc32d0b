package terok

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/config"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/state"
)

func TestSplitRepo(t *testing.T) {
	for remote, want := range map[string][2]string{
		"https://github.com/acme/shop.git":           {"github.com", "acme/shop"},
		"https://GitHub.com/Acme/Shop/":              {"github.com", "Acme/Shop"},
		"ssh://git@ssh.github.com:443/acme/shop.git": {"ssh.github.com", "acme/shop"},
		"git@gitlab.com:group/sub/shop.git":          {"gitlab.com", "group/sub/shop"},
		"gitlab.com:group/shop":                      {"gitlab.com", "group/shop"},
		"/srv/git/shop.git":                          {"", ""},
		"../shop":                                    {"", ""},
		"https://github.com/acme":                    {"", ""},
		"https://github.com/acme/../x":               {"", ""},
		"":                                           {"", ""},
		"https://github.com/a b/c":                   {"", ""},
	} {
		if host, repo := splitRepo(remote); host != want[0] || repo != want[1] {
			t.Errorf("%s: %q %q", remote, host, repo)
		}
	}
}

// TestForgeRepos: the project's repository at a forge is its upstream, or the origin of the clone
// that is its upstream; another host's is none.
func TestForgeRepos(t *testing.T) {
	a := &App{}
	dir := t.TempDir()
	for _, args := range [][]string{{"init", "-q", dir}, {"-C", dir, "remote", "add", "origin", "git@github.com:acme/shop.git"}} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v", out, err)
		}
	}
	repos := func(upstream, host string) []string {
		p := &project.Project{}
		p.Git.UpstreamURL = upstream
		pr := &roster.Provider{Name: "x", Forge: "github"}
		pr.Routes = []sandbox.Route{{Host: host, Port: 443}}
		return a.forgeRepos(t.Context(), p, pr)
	}
	for _, c := range []struct {
		upstream, host string
		want           string
	}{
		{"https://github.com/acme/shop", "api.github.com", "acme/shop"},
		{"ssh://git@ssh.github.com:443/acme/shop", "api.github.com", "acme/shop"},
		{dir, "api.github.com", "acme/shop"},
		{dir, "gitlab.com", ""},
		{filepath.Join(dir, "none"), "api.github.com", ""},
		{"https://github.com.evil.test/acme/shop", "api.github.com", ""},
		{"https://git.corp.test/acme/shop", "git.corp.test", "acme/shop"},
		{"", "api.github.com", ""},
	} {
		got := repos(c.upstream, c.host)
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || got[0] != c.want) {
			t.Errorf("%s at %s: %q", c.upstream, c.host, got)
		}
	}
}

// TestGrantsOf: the agent's provider always, others with a credential, a forge where the repository
// is; and what is of no use without a credential waits for one (marked ?), unless the project names
// others. A host that other uses share is left to them until there is one.
func TestGrantsOf(t *testing.T) {
	set, err := roster.Load(state.Roots{Config: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	own, err := set.Provider("anthropic")
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]Credential{"anthropic": {Kind: sandbox.OAuth}, "openai": {Kind: sandbox.APIKey}, "github": {Kind: sandbox.PAT}, "gitlab": {Kind: sandbox.PAT}}
	repos := func(f *roster.Provider) []string {
		if f.Name == "github" {
			return []string{"acme/shop"}
		}
		return nil
	}
	late := " blablador/api_key? coderabbit/api_key?"
	for _, c := range []struct {
		vault  project.Vault
		own    *roster.Provider
		stored map[string]Credential
		want   string
	}{
		{project.Vault{}, own, stored, "anthropic/oauth" + late + " github/pat kisski/api_key? mistral/api_key? openai/api_key openrouter/api_key? opper/api_key?"},
		{project.Vault{}, nil, stored, "anthropic/oauth" + late + " github/pat kisski/api_key? mistral/api_key? openai/api_key openrouter/api_key? opper/api_key?"},
		{project.Vault{}, nil, nil, "anthropic/api_key?" + late + " kisski/api_key? mistral/api_key? openai/api_key? openrouter/api_key? opper/api_key?"},
		{project.Vault{Providers: []string{}}, own, stored, "anthropic/oauth"},
		{project.Vault{Providers: []string{"gitlab", "mistral", "copilot", "sonarcloud"}}, own, stored, "anthropic/oauth gitlab/pat mistral/api_key?"},
	} {
		var got []string
		for _, g := range grantsOf(&project.Project{Config: project.Config{Vault: c.vault}}, config.Defaults(), set, c.own, c.stored, repos) {
			name := g.Provider + "/" + g.Kind
			if g.Waiting {
				name += "?"
			}
			got = append(got, name)
			if _, held := g.Held(); held == g.Waiting {
				t.Errorf("%s: programs are told: %v", name, held)
			}
			if g.AllRepos || g.ServerFetch || g.Widen || g.Provider == "gitlab" && len(g.Repos) != 0 || g.Provider == "github" && len(g.Repos) != 1 {
				t.Errorf("%+v", g)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %s, want %s", c.vault, strings.Join(got, " "), c.want)
		}
	}
	p := &project.Project{Config: project.Config{Vault: project.Vault{ServerFetch: "allow", Repos: "all", Policy: map[string][]string{"github": {"deny /x"}}}}}
	global := config.Defaults()
	global.Vault.AllowWiden = true
	for _, g := range grantsOf(p, global, set, own, stored, repos) {
		if !g.ServerFetch || !g.Widen || g.AllRepos != (g.Forge != "") || (len(g.Project) == 1) != (g.Provider == "github") {
			t.Errorf("%+v", g)
		}
	}
}
