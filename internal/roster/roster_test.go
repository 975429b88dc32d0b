package roster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// roots makes a configuration root with the given files.
func roots(t *testing.T, files map[string]string) state.Roots {
	t.Helper()
	r := state.Roots{Config: t.TempDir()}
	for name, content := range files {
		if err := state.WriteFile(filepath.Join(r.Config, name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func load(t *testing.T, files map[string]string) *Roster {
	t.Helper()
	r, err := Load(roots(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestUnknownNamesSuggest(t *testing.T) {
	r := load(t, nil)
	_, err := r.Agent("cluade")
	p := problem.Of(err)
	if p == nil || p.Code != "agent_unknown" || p.Exit != problem.Usage || p.Hint != "did you mean claude?" {
		t.Errorf("%+v", p)
	}
	_, err = r.Provider("antropic")
	if p := problem.Of(err); p == nil || p.Code != "provider_unknown" || p.Hint != "did you mean anthropic?" {
		t.Errorf("%+v", p)
	}
	for _, word := range []string{"claude", "anthropic"} {
		if p, err := r.Credential(word); err != nil || p.Name != "anthropic" {
			t.Errorf("Credential(%s) = %v, %v", word, p, err)
		}
	}
	if _, err := r.Credential("shell"); !problem.Is(err, "agent_needs_no_credential") {
		t.Error(err)
	}
}

func TestProviderFileChangesOnlyItsKeys(t *testing.T) {
	r := load(t, map[string]string{"providers/anthropic.yml": "upstream: https://127.0.0.1:8443\nca_file: ca.pem\nallow_private: true\n"})
	p, err := r.Provider("anthropic")
	if err != nil {
		t.Fatal(err)
	}
	first := p.Routes[0]
	if first.Upstream != "https://127.0.0.1:8443" || !first.AllowPrivate || !filepath.IsAbs(first.CAFile) || filepath.Base(filepath.Dir(first.CAFile)) != "providers" {
		t.Errorf("%+v", first)
	}
	if first.Host != "api.anthropic.com" || len(first.Policy) < 5 || p.Auth[sandbox.APIKey].Header != "x-api-key" || p.Auth[sandbox.APIKey].Env["ANTHROPIC_API_KEY"] != sandbox.PhantomMark {
		t.Errorf("%+v", p)
	}
	if again, _ := load(t, nil).Provider("anthropic"); again.Routes[0].Upstream != "" {
		t.Error("one roster's file changed another roster")
	}
}

func TestBrokenFileTakesOutItsEntryOnly(t *testing.T) {
	r := load(t, map[string]string{
		"providers/anthropic.yml": "upstrem: https://x.test\n",
		"providers/plain.yml":     "host: a.test\nupstream: http://a.test\n",
		"agents/mine.yml":         "command: mine\nheadless: []\nproviders: [nowhere]\n",
		"agents/Bad.yml":          "command: x\n",
		"agents/.swp.yml":         "::",
	})
	_, err := r.Provider("anthropic")
	if err == nil || !strings.Contains(err.Error(), "anthropic.yml:1:1") || !strings.Contains(err.Error(), `upstream`) {
		t.Errorf("the error must name file, line and the near key: %v", err)
	}
	if _, err := r.Provider("plain"); err == nil || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("an upstream without TLS: %v", err)
	}
	if _, err := r.Agent("mine"); !problem.Is(err, "provider_unknown") {
		t.Errorf("an agent with an unknown provider: %v", err)
	}
	if _, err := r.Agent("claude"); err != nil {
		t.Errorf("claude must keep working: %v", err)
	}
	if n := len(r.Problems()); n != 4 {
		t.Errorf("%d problems: %v", n, r.Problems())
	}
}

func TestProviderFileRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"an address as host":    "host: 10.0.0.1",
		"a name without a dot":  "host: localhost",
		"a framing header":      "host: a.test\nauth: {api_key: {header: Host}}",
		"a header with a space": "host: a.test\nauth: {pat: {header: 'x y'}}",
		"a colon in a user":     "host: a.test\nauth: {pat: {basic_user: 'a:b'}}",
		"query and header":      "host: a.test\nauth: {pat: {query: key, header: X}}",
		"a file outside":        "host: a.test\nauth: {pat: {files: [{path: ../x}]}}",
		"two main hosts":        "host: a.test\nroutes: {a.test: {}}",
		"a bad host":            "host: a.test\nroutes: {10.0.0.1: {}}",
		"a bad rule of a route": "host: a.test\nroutes: {b.test: {policy: [deny v1]}}",
		"a refresh half made":   "host: a.test\noauth_refresh: {client_id: x}",
		"a protocol's path":     "host: a.test\nserves: {openai-chat: v1}",
		"user in upstream":      "host: a.test\nupstream: https://u:p@a.test",
		"a relative path":       "host: a.test\npolicy: [deny v1]",
		"no host":               "title: x",
	} {
		t.Run(name, func(t *testing.T) {
			r := load(t, map[string]string{"providers/x.yml": content + "\n"})
			if _, err := r.Provider("x"); err == nil {
				t.Errorf("%q was taken", content)
			}
		})
	}
}

func TestUserAgent(t *testing.T) {
	r := load(t, map[string]string{"agents/mine.yml": "title: Mine\ncommand: mine\nheadless: [--batch]\npermission: [--yes]\nenv: {A: b}\n"})
	a, err := r.Agent("mine")
	if err != nil {
		t.Fatal(err)
	}
	prep, err := a.Prepare(nil, Launch{Headless: true, Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(t, prep, "mine")
	if spec.Program != "mine" || spec.Headless[0] != "--batch" || spec.Env["A"] != "b" {
		t.Errorf("%+v", spec)
	}
}

func specOf(t *testing.T, p *Prepared, name string) sandbox.Agent {
	t.Helper()
	for _, f := range p.Files {
		if f.Path == sandbox.AgentSpecPath(name) {
			var a sandbox.Agent
			if err := json.Unmarshal([]byte(f.Content), &a); err != nil {
				t.Fatal(err)
			}
			return a
		}
	}
	t.Fatal("no description of the agent")
	return sandbox.Agent{}
}

func TestPrepare(t *testing.T) {
	r := load(t, nil)
	a, _ := r.Agent("claude")
	p, _ := r.ProviderFor(a, "")
	secret := "do it; $(id) \"quoted\"\n"
	prep, err := a.Prepare(p, Launch{Headless: true, Prompt: secret, Restricted: true, Facts: Facts{Branch: "terok/x", Remote: "origin", Hosts: []string{"registry.npmjs.org"}}, Notes: "Use tabs."})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(append(prep.Argv, prep.Attach...), " "), "do it") {
		t.Error("the prompt is in an argument")
	}
	found := map[string]string{}
	for _, f := range prep.Files {
		found[f.Path] = f.Content
	}
	if found[sandbox.PromptFile] != secret {
		t.Errorf("prompt %q", found[sandbox.PromptFile])
	}
	for _, want := range []string{"terok/x", "registry.npmjs.org", "Use tabs.", "guest why", "guest ask"} {
		if !strings.Contains(found[sandbox.Instructions], want) {
			t.Errorf("the instructions lack %q", want)
		}
	}
	if spec := specOf(t, prep, "claude"); !spec.Restricted || !strings.HasPrefix(spec.Program, sandbox.BundleMount+"/claude/") {
		t.Errorf("%+v", spec)
	}
	if _, err := a.Prepare(p, Launch{Headless: true}); !problem.Is(err, "prompt_missing") {
		t.Error(err)
	}
	if _, err := a.Prepare(p, Launch{Headless: true, Prompt: strings.Repeat("x", MaxPrompt+1)}); !problem.Is(err, "prompt_too_long") {
		t.Error(err)
	}
}

func TestGrantIsACopy(t *testing.T) {
	p, _ := load(t, nil).Provider("anthropic")
	g := p.Grant("shared", "", nil)
	g.Auth[sandbox.APIKey].Env["ANTHROPIC_API_KEY"] = "changed"
	g.Routes[0].Policy[0] = "changed"
	if p.Routes[0].Policy[0] == "changed" || p.Auth[sandbox.APIKey].Env["ANTHROPIC_API_KEY"] != sandbox.PhantomMark {
		t.Error("a grant changed the roster")
	}
}

func TestInstallResolve(t *testing.T) {
	in := builtinAgents()["claude"].Install
	for arch, want := range map[string]string{"amd64": "-linux-x64", "arm64": "-linux-arm64"} {
		got, err := in.Resolve(arch)
		if err != nil || !strings.HasSuffix(got.Package, want) || !strings.Contains(got.Bin, want+"/") {
			t.Errorf("%s: %+v %v", arch, got, err)
		}
	}
	if _, err := in.Resolve("riscv64"); err == nil {
		t.Error("a machine without a package")
	}
}

func TestUnreadableDirectory(t *testing.T) {
	r := roots(t, nil)
	if err := os.WriteFile(filepath.Join(r.Config, "agents"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(r); !problem.Is(err, "config_unreadable") {
		t.Error(err)
	}
}
