package roster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/sandbox"
)

var hugo = sandbox.Identity{Name: "Hugo", Email: "h@x"}

func prepare(t *testing.T, files map[string]string, agent string, l Launch) *Prepared {
	t.Helper()
	a, err := load(t, files).Agent(agent)
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Prepare(nil, l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestManagedSettings: in a restricted task the administrative settings forbid what the
// repository's own settings could switch on.
func TestManagedSettings(t *testing.T) {
	for restricted, want := range map[bool]string{
		false: `{"permissions":{"defaultMode":"bypassPermissions"}}`,
		true:  `{"permissions":{"defaultMode":"default","disableBypassPermissionsMode":"disable"}}`,
	} {
		p := prepare(t, nil, "claude", Launch{Restricted: restricted})
		if len(p.Managed) != 1 || p.Managed[0].Path != "/etc/claude-code/managed-settings.json" || p.Managed[0].Content != want+"\n" {
			t.Errorf("restricted %v: %+v", restricted, p.Managed)
		}
		if slices.ContainsFunc(p.Files, func(f sandbox.StartFile) bool { return strings.HasPrefix(f.Path, "/etc/") }) {
			t.Error("they are written inside the container, where root changes them, instead of mounted")
		}
	}
	p := prepare(t, map[string]string{"agents/mine.yml": "command: mine\nmanaged:\n  - {path: /etc/mine/x.toml, unrestricted: a=1}\n"}, "mine", Launch{Restricted: true})
	if len(p.Managed) != 0 {
		t.Errorf("a file without content for restricted tasks: %+v", p.Managed)
	}
}

// TestManagedPaths: an agent's file never stands for one of the system's.
func TestManagedPaths(t *testing.T) {
	for path, good := range map[string]bool{
		"/etc/demo/settings.json": true, "/etc/demo/conf.d/10-terok.json": true,
		"/etc/passwd": false, "/etc/../root/x": false, "/etc/demo/../passwd": false, "/etc/demo/": false, "etc/demo/x": false,
		"/home/dev/.demo/x": false, "/etc//x": false, "/etc/demo/.x": false, "/etc/demo/a b": false, "": false, "/etc/demo/x:ro": false,
	} {
		_, err := load(t, map[string]string{"agents/mine.yml": "command: mine\nmanaged:\n  - path: \"" + path + "\"\n"}).Agent("mine")
		if (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestModel: the model is an argument of every start of this task and never looks like an option.
func TestModel(t *testing.T) {
	for _, model := range []string{"opus", "claude-sonnet-4-5@20250929", "anthropic/claude-3.5", "sonnet[1m]"} {
		spec := specOf(t, prepare(t, nil, "claude", Launch{Headless: true, Prompt: "x", Model: model}), "claude")
		if !slices.Equal(spec.Args, []string{"--model", model}) {
			t.Errorf("arguments %q", spec.Args)
		}
	}
	a, err := load(t, nil).Agent("claude")
	if err != nil {
		t.Fatal(err)
	}
	for _, model := range []string{"-x", "--dangerously", "a b", "a\nb", "a\x00", strings.Repeat("x", 200), "é"} {
		if err := a.Check(Launch{Headless: true, Prompt: "x", Model: model}); problem.Of(err) == nil || problem.Of(err).Code != "bad_model" {
			t.Errorf("%q: %v", model, err)
		}
	}
	if spec := specOf(t, prepare(t, nil, "claude", Launch{}), "claude"); len(spec.Args) != 0 {
		t.Errorf("without one: %q", spec.Args)
	}
}

func TestTimeoutIsOfHeadlessRuns(t *testing.T) {
	if spec := specOf(t, prepare(t, nil, "claude", Launch{Headless: true, Prompt: "x", Timeout: 90 * time.Second}), "claude"); spec.Timeout != 90 {
		t.Errorf("%d seconds", spec.Timeout)
	}
	if spec := specOf(t, prepare(t, nil, "claude", Launch{Timeout: time.Hour}), "claude"); spec.Timeout != 0 {
		t.Errorf("%d seconds for a person", spec.Timeout)
	}
}

func TestOpeningPrompt(t *testing.T) {
	find := func(p *Prepared, path string) string {
		for _, f := range p.Files {
			if f.Path == path {
				return f.Content
			}
		}
		return ""
	}
	if p := prepare(t, nil, "claude", Launch{Prompt: "explain"}); find(p, sandbox.OpeningFile) != "explain" || find(p, sandbox.PromptFile) != "" || len(p.Argv) != 0 {
		t.Errorf("interactive: %+v", p.Argv)
	}
	if p := prepare(t, nil, "claude", Launch{Headless: true, Prompt: "work"}); find(p, sandbox.OpeningFile) != "" || find(p, sandbox.PromptFile) != "work" {
		t.Errorf("headless: %+v", p.Argv)
	}
	a, err := load(t, nil).Agent("claude")
	if err != nil {
		t.Fatal(err)
	}
	for _, prompt := range []string{strings.Repeat("x", MaxOpening+1), "a\x00b"} {
		if err := a.Check(Launch{Prompt: prompt}); !problem.Is(err, "prompt_too_long") {
			t.Errorf("%d bytes: %v", len(prompt), err)
		}
	}
}

// TestAuthorship: spec tasks.md §10.
func TestAuthorship(t *testing.T) {
	claude := sandbox.Identity{Name: "Claude", Email: "noreply@anthropic.com"}
	for mode, want := range map[string][2]sandbox.Identity{
		"agent-human": {claude, hugo}, "": {claude, hugo}, "human-agent": {hugo, claude}, "agent": {claude, claude}, "human": {hugo, hugo},
	} {
		spec := specOf(t, prepare(t, nil, "claude", Launch{Human: hugo, Authorship: mode}), "claude")
		if got := [2]sandbox.Identity{spec.Author, spec.Committer}; got != want {
			t.Errorf("%q: %v, want %v", mode, got, want)
		}
	}
	spec := specOf(t, prepare(t, nil, "shell", Launch{Human: hugo, Authorship: "agent"}), "shell")
	if spec.Author != hugo || spec.Committer != hugo {
		t.Errorf("a shell is no agent: %v %v", spec.Author, spec.Committer)
	}
	spec = specOf(t, prepare(t, map[string]string{"agents/mine.yml": "command: mine\n"}, "mine", Launch{Human: hugo}), "mine")
	if spec.Author != (sandbox.Identity{Name: "AI Agent", Email: "ai-agent@localhost"}) || spec.Committer != hugo {
		t.Errorf("an agent without a name of its own: %v %v", spec.Author, spec.Committer)
	}
}
