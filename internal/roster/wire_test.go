package roster

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"terok/internal/problem"
	"terok/internal/sandbox"
)

// TestMatrix: who can use whom. spec/agents.md §4, §17: 10.
func TestMatrix(t *testing.T) {
	r := load(t, map[string]string{"providers/mine.yml": "host: llm.example.org\nserves: {openai-responses: /v1, openai-chat: /v1}\ndefault_model: big\n"})
	for agent, want := range map[string]string{
		"claude":   "anthropic openrouter opper",
		"codex":    "openai mine",
		"copilot":  "copilot openai anthropic blablador kisski mine mistral openrouter opper",
		"opencode": "anthropic openai mistral openrouter blablador kisski mine opper",
		"pi":       "anthropic openai mistral openrouter blablador kisski mine opper",
		"vibe":     "mistral",
		"script":   "anthropic",
		"shell":    "",
	} {
		a, err := r.Agent(agent)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range r.ProvidersFor(a) {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", agent, got, want)
		}
	}
}

// TestChoose: the wanted provider is never replaced; else the first that a credential is stored
// for; else the agent's own, for which the vault asks.
func TestChoose(t *testing.T) {
	r := load(t, nil)
	has := func(names ...string) func(string) (bool, error) {
		return func(n string) (bool, error) { return slices.Contains(names, n), nil }
	}
	for _, c := range []struct {
		agent, want string
		stored      []string
		provider    string
		code        string
	}{
		{"opencode", "", []string{"kisski", "openai"}, "openai", ""},
		{"opencode", "", []string{"opper", "kisski"}, "kisski", ""},
		{"opencode", "", nil, "anthropic", ""},
		{"opencode", "kisski", []string{"openai"}, "kisski", ""},
		{"claude", "kisski", []string{"kisski"}, "", "provider_incompatible"},
		{"codex", "anthropic", []string{"anthropic"}, "", "provider_incompatible"},
		{"claude", "nope", nil, "", "provider_unknown"},
		{"shell", "openai", nil, "", "provider_unused"},
		{"shell", "", nil, "", ""},
	} {
		a, _ := r.Agent(c.agent)
		p, err := r.Choose(a, c.want, has(c.stored...))
		name := ""
		if p != nil {
			name = p.Name
		}
		if got := problem.Of(err); name != c.provider || (c.code == "") != (err == nil) || err != nil && got.Code != c.code {
			t.Errorf("%+v: %q, %v", c, name, err)
		}
	}
	a, _ := r.Agent("pi")
	if _, err := r.Choose(a, "", func(string) (bool, error) { return false, errors.New("locked") }); err == nil {
		t.Error("an error of the vault is lost")
	}
}

// launched is what a launch with a provider writes for the wrapper, and its managed settings.
func launched(t *testing.T, agent, provider string, l Launch) (sandbox.Agent, *Prepared) {
	t.Helper()
	r := load(t, nil)
	a, err := r.Agent(agent)
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Provider(provider)
	if err != nil {
		t.Fatal(err)
	}
	prep, err := a.Prepare(p, l)
	if err != nil {
		t.Fatalf("%s with %s: %v", agent, provider, err)
	}
	return wired(specOf(t, prep, agent), p, l.Kind), prep
}

// wired is what the wrapper makes of an agent when the vault has a credential of a kind.
func wired(spec sandbox.Agent, p *Provider, kind string) sandbox.Agent {
	if kind == "" {
		kind = p.Kinds[0]
	}
	spec.Env, spec.Home = spec.Kinds[kind].Env, spec.Kinds[kind].Home
	return spec
}

// TestEveryPairIsReady: for each agent and each provider it can use a launch leaves no mark of the
// roster's own unfilled, its JSON and TOML parse, and a bare phantom's variable is named.
func TestEveryPairIsReady(t *testing.T) {
	r := load(t, nil)
	pairs := 0
	for _, a := range r.Agents() {
		for _, p := range r.ProvidersFor(a) {
			for _, kind := range p.Kinds {
				if _, ok := a.wire(p, kind); !ok {
					continue
				}
				pairs++
				prep, err := a.Prepare(p, Launch{Kind: kind, Model: map[bool]string{true: "some-model"}[len(a.Spec.Model) > 0], Version: "1.2.3", Notes: "say \"hi\"\n\x7f"})
				if err != nil {
					t.Errorf("%s with %s (%s): %v", a.Name, p.Name, kind, err)
					continue
				}
				if spec := specOf(t, prep, a.Name); spec.Provider != p.Name || len(spec.Kinds) == 0 {
					t.Errorf("%s with %s: for %q, kinds %v", a.Name, p.Name, spec.Provider, spec.Kinds)
				}
				spec := wired(specOf(t, prep, a.Name), p, kind)
				all, _ := json.Marshal(spec)
				text := strings.NewReplacer("{id}", "", "{file}", "", "{prompt}", "", "{model}", "", "{qualified}", "").Replace(string(all))
				for _, mark := range []string{"{provider}", "{title}", "{host}", "{base}", "{key}", "{wire}", "{bundle}", "{version}", "{arch}", "{instructions}", "{env:}"} {
					if strings.Contains(text, mark) {
						t.Errorf("%s with %s: %s is left in %s", a.Name, p.Name, mark, text)
					}
				}
				if v := spec.Env["OPENCODE_CONFIG_CONTENT"]; v != "" && !json.Valid([]byte(v)) {
					t.Errorf("%s with %s: %s", a.Name, p.Name, v)
				}
				for _, h := range spec.Home {
					if strings.HasSuffix(h.Path, ".json") && !json.Valid([]byte(h.Content)) {
						t.Errorf("%s with %s: %s: %s", a.Name, p.Name, h.Path, h.Content)
					}
				}
				for _, m := range prep.Managed {
					var v map[string]any
					if strings.HasSuffix(m.Path, ".toml") {
						err = toml.Unmarshal([]byte(m.Content), &v)
					} else {
						err = json.Unmarshal([]byte(m.Content), &v)
					}
					if err != nil || strings.Contains(m.Content, "{wire}") {
						t.Errorf("%s with %s: %v in %s", a.Name, p.Name, err, m.Content)
					}
				}
			}
		}
	}
	if pairs < 30 {
		t.Errorf("only %d pairs", pairs)
	}
}

// TestNoBaseURL: an agent that knows its provider is given no base URL; the transparent front
// serves the provider's own name.
func TestNoBaseURL(t *testing.T) {
	for agent, providers := range map[string][]string{
		"claude": {"anthropic"}, "codex": {"openai"}, "vibe": {"mistral"},
		"opencode": {"anthropic", "openai", "mistral", "openrouter"}, "pi": {"anthropic", "openai", "mistral", "openrouter"},
	} {
		for _, p := range providers {
			spec, prep := launched(t, agent, p, Launch{})
			all, _ := json.Marshal([]any{spec, prep.Managed})
			if strings.Contains(string(all), "https://") {
				t.Errorf("%s with %s: %s", agent, p, all)
			}
		}
	}
}

func TestWires(t *testing.T) {
	spec, prep := launched(t, "codex", "openai", Launch{})
	if len(spec.Home) != 1 || spec.Home[0].Path != ".codex/auth.json" || spec.Home[0].Mode != 0o400 || spec.Home[0].Content != `{"OPENAI_API_KEY":"{env:OPENAI_API_KEY}"}`+"\n" {
		t.Errorf("codex with a key: %+v", spec.Home)
	}
	if m := prep.Managed[0].Content; !strings.Contains(m, `approval_policy = "never"`) || !strings.Contains(m, "# Where you are") {
		t.Errorf("codex: %s", m)
	}
	// With a sign-in the provider's own file is the one that Codex reads.
	if spec, _ := launched(t, "codex", "openai", Launch{Kind: sandbox.OAuth}); len(spec.Home) != 0 {
		t.Errorf("codex with a sign-in: %+v", spec.Home)
	}
	spec, _ = launched(t, "claude", "openrouter", Launch{})
	if spec.Env["ANTHROPIC_BASE_URL"] != "https://openrouter.ai/api" || spec.Env["ANTHROPIC_AUTH_TOKEN"] != "{env:OPENROUTER_API_KEY}" || spec.Env["ANTHROPIC_MODEL"] != "anthropic/claude-sonnet-4.5" {
		t.Errorf("claude with openrouter: %v", spec.Env)
	}
	spec, _ = launched(t, "opencode", "openrouter", Launch{Model: "x/y"})
	if !slices.Equal(spec.Args, []string{"--model", "openrouter/x/y"}) || !strings.Contains(spec.Env["OPENCODE_CONFIG_CONTENT"], `"model":"openrouter/x/y"`) {
		t.Errorf("opencode: %q %v", spec.Args, spec.Env)
	}
	if spec, _ = launched(t, "opencode", "openai", Launch{Model: "openai/gpt"}); !slices.Equal(spec.Args, []string{"--model", "openai/gpt"}) {
		t.Errorf("a model that names its provider: %q", spec.Args)
	}
	spec, _ = launched(t, "opencode", "kisski", Launch{})
	if c := spec.Env["OPENCODE_CONFIG_CONTENT"]; !strings.Contains(c, `"baseURL":"https://chat-ai.academiccloud.de/v1"`) || !strings.Contains(c, `"apiKey":"{env:KISSKI_API_KEY}"`) || !strings.Contains(c, `"model":"kisski/devstral`) {
		t.Errorf("opencode with kisski: %s", c)
	}
	spec, _ = launched(t, "copilot", "openai", Launch{Version: "9.9.9"})
	if spec.Env["COPILOT_PROVIDER_BASE_URL"] != "https://api.openai.com/v1" || spec.Env["COPILOT_PROVIDER_WIRE_API"] != "responses" || spec.Env["COPILOT_MODEL"] == "" || !strings.HasSuffix(spec.Env["COPILOT_CLI_DIST_DIR"], "/9.9.9") {
		t.Errorf("copilot: %v", spec.Env)
	}
	if spec, _ = launched(t, "copilot", "copilot", Launch{}); spec.Env["COPILOT_OFFLINE"] != "" || spec.Env["COPILOT_PROVIDER_BASE_URL"] != "" {
		t.Errorf("copilot with its own subscription: %v", spec.Env)
	}
	spec, _ = launched(t, "pi", "anthropic", Launch{Headless: true, Prompt: "x"})
	if !strings.HasPrefix(spec.Program, sandbox.BundleMount+"/node/") || len(spec.Args) != 1 || !strings.HasPrefix(spec.Args[0], sandbox.BundleMount+"/pi/") {
		t.Errorf("pi: %s %q", spec.Program, spec.Args)
	}
}

// TestModes: without questions in one mode, with them in the other, whatever the repository says.
func TestModes(t *testing.T) {
	for _, restricted := range []bool{false, true} {
		l := Launch{Restricted: restricted}
		_, codex := launched(t, "codex", "openai", l)
		if got := strings.Contains(codex.Managed[0].Content, `approval_policy = "untrusted"`); got != restricted {
			t.Errorf("codex, restricted %v: %s", restricted, codex.Managed[0].Content)
		}
		opencode, _ := launched(t, "opencode", "openai", l)
		var permission map[string]string
		if err := json.Unmarshal([]byte(opencode.Env["OPENCODE_PERMISSION"]), &permission); err != nil || (permission["*"] == "ask") != restricted || restricted && permission["bash"] != "ask" {
			t.Errorf("opencode, restricted %v: %v", restricted, permission)
		}
		copilot, _ := launched(t, "copilot", "openai", l)
		if got := copilot.Env["COPILOT_ALLOW_ALL"] == ""; got != restricted {
			t.Errorf("copilot, restricted %v: %v", restricted, copilot.Env)
		}
	}
	a, _ := load(t, nil).Agent("pi")
	if err := a.Check(Launch{Restricted: true}); !problem.Is(err, "agent_cannot_ask") {
		t.Errorf("pi: %v", err)
	}
}

// TestCredentialKinds: a sign-in is for the vendor's own program; others say what they need.
func TestCredentialKinds(t *testing.T) {
	r := load(t, nil)
	for agent, good := range map[string]bool{"codex": true, "opencode": false, "pi": false, "copilot": false} {
		a, _ := r.Agent(agent)
		p, _ := r.Provider("openai")
		_, err := a.Prepare(p, Launch{Kind: sandbox.OAuth})
		if (err == nil) != good || err != nil && !problem.Is(err, "credential_unusable") {
			t.Errorf("%s: %v", agent, err)
		}
	}
	a, _ := r.Agent("claude")
	p, _ := r.Provider("anthropic")
	if _, err := a.Prepare(p, Launch{Kind: sandbox.OAuth}); err != nil {
		t.Error(err)
	}
	// A provider without a model of its own, for a client that cannot choose one.
	r = load(t, map[string]string{"providers/mine.yml": "host: llm.example.org\nserves: {openai-chat: /v1}\n"})
	a, _ = r.Agent("opencode")
	p, err := r.Provider("mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Prepare(p, Launch{}); !problem.Is(err, "model_missing") {
		t.Errorf("%v", err)
	}
	if _, err := a.Prepare(p, Launch{Model: "m"}); err != nil {
		t.Error(err)
	}
}

// TestUserWires: an agent of a user's file is pointed to providers like a built-in one.
func TestUserWires(t *testing.T) {
	r := load(t, map[string]string{"agents/mine.yml": `
command: mine
providers: [openai]
wires:
  - protocol: openai-chat
    env: {MINE_URL: "{base}", MINE_KEY: "{env:{key}}"}
    home: [{path: .mine.json, content: '{"model":"{model}"}', merge: true}]
headless: [run]
model: [--model, "{model}"]
`})
	a, err := r.Agent("mine")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := r.Provider("openai")
	prep, err := a.Prepare(p, Launch{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	spec := wired(specOf(t, prep, "mine"), p, "")
	if spec.Env["MINE_URL"] != "https://api.openai.com/v1" || spec.Env["MINE_KEY"] != "{env:OPENAI_API_KEY}" || spec.Home[0].Content != `{"model":"m"}` || spec.Home[0].Mode != 0o600 {
		t.Errorf("%+v", spec)
	}
	for _, bad := range []string{"wires: [{env: {A: b}}]", "wires: [{protocol: telepathy}]", "wires: [{providers: [openai], kinds: [cookie]}]",
		"wires: [{providers: [openai], home: [{path: ../x}]}]", "wires: [{providers: [openai], env: {a-b: c}}]", "restricted_env: {a-b: c}"} {
		if _, err := load(t, map[string]string{"agents/mine.yml": "command: mine\n" + bad + "\n"}).Agent("mine"); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	// A change of one key keeps the files' modes.
	a, err = load(t, map[string]string{"agents/codex.yml": "title: My Codex\n"}).Agent("codex")
	if err != nil || a.Wires[0].Home[0].Mode != 0o400 || a.Install.Suffix == "" || a.Title != "My Codex" {
		t.Errorf("%v %+v", err, a)
	}
}

func TestInstallations(t *testing.T) {
	for goarch, want := range map[string][2]string{
		"amd64": {"-linux-x64", "node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex"},
		"arm64": {"-linux-arm64", "node_modules/@openai/codex/vendor/aarch64-unknown-linux-musl/bin/codex"},
	} {
		in, err := codexAgent().Install.Resolve(goarch)
		if err != nil || in.Suffix != want[0] || in.Bin != want[1] {
			t.Errorf("%s: %+v %v", goarch, in, err)
		}
	}
	if _, err := codexAgent().Install.Resolve("riscv64"); err == nil {
		t.Error("riscv64 has no package")
	}
	if in := vibeAgent().Install; !in.None() || in.Registry != "pypi.org" {
		t.Errorf("%+v", in)
	}
	r := load(t, nil)
	if _, err := r.Agent("node"); !problem.Is(err, "agent_unknown") {
		t.Errorf("a runtime is no agent: %v", err)
	}
	if _, err := r.Agent("kisski"); problem.Of(err).Hint != "terok run copilot|opencode|pi --provider kisski" {
		t.Errorf("%v", problem.Of(err).Hint)
	}
}

// TestKinds: what an agent takes with each kind of its provider's credential is there from the start,
// whichever was stored then; a kind that it cannot use is not.
func TestKinds(t *testing.T) {
	for _, stored := range []string{sandbox.APIKey, sandbox.OAuth} {
		spec, _ := launched(t, "codex", "openai", Launch{Kind: stored, SignIn: "terok auth openai"})
		key, sign := spec.Kinds[sandbox.APIKey], spec.Kinds[sandbox.OAuth]
		if len(spec.Kinds) != 2 || len(key.Home) != 1 || len(sign.Home) != 0 || spec.SignIn != "terok auth openai" {
			t.Errorf("codex, launched with %s: %+v", stored, spec.Kinds)
		}
	}
	if spec, _ := launched(t, "pi", "openai", Launch{}); len(spec.Kinds) != 1 || spec.Kinds[sandbox.APIKey].Env["PI_OFFLINE"] != "1" {
		t.Errorf("pi cannot use a subscription: %+v", spec.Kinds)
	}
	r := load(t, nil)
	a, err := r.Agent("shell")
	if err != nil {
		t.Fatal(err)
	}
	if prep, err := a.Prepare(nil, Launch{}); err != nil || specOf(t, prep, "shell").Provider != "" {
		t.Error("a shell needs no credential", err)
	}
}
