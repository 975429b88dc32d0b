package roster

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/text"
)

// Launch says how one container start wants its agent.
type Launch struct {
	Headless   bool             // the container's command is the agent, with Prompt
	Prompt     string           // of a headless run; reaches the agent as its stdin, never as an argument. Else what an interactive one begins with, once
	Model      string           // "" is the agent's own choice
	Timeout    time.Duration    // of a headless run, whole seconds; 0 is no limit
	Kind       string           // of the provider's stored credential, "" is its usual one
	SignIn     string           // the host's command that stores another one
	Version    string           // of the agent's bundle, "" without one
	Restricted bool             // leave the agent's own permission prompts on
	Human      sandbox.Identity // the operator's git identity
	Authorship string           // git.authorship: who is author and who committer of the agent's commits
	Notes      string           // the operator's instructions, appended to terok's own
	Facts      Facts            // what terok's own instructions tell
}

// Facts fill terok's own instructions to the agent.
type Facts struct {
	Workspace string   // "/workspace"
	Branch    string   // the task's branch, "" without a gate
	Remote    string   // "origin", "" without a repository
	Gate      string   // the remote that is a gate: Remote, or "gate" beside it; "" for none
	Online    bool     // Remote is the real upstream
	Hosts     []string // hosts that are open, in words of a person
}

// Prepared is what a launch adds to the container.
type Prepared struct {
	Env   map[string]string   // for sandbox.Start.Env; the wrapper adds the agent's own
	Files []sandbox.StartFile // for sandbox.Start.Files
	Argv  []string            // headless: the container's command after `guest init`
	// Attach is run with `podman exec -it` and joins the task's one tmux session, starting the
	// agent in it the first time.
	Attach  []string
	Egress  []string            // rules, tier agent
	Managed []sandbox.StartFile // administrative settings: to be mounted read-only, not written
}

// MaxPrompt bounds a headless run's prompt, in bytes. It is a file and never an argument.
const MaxPrompt = 4 << 20

// MaxOpening bounds the prompt that an interactive agent begins with, in bytes: agents take it as
// an argument only, and Linux takes at most 128 KiB in one (execve(2)).
const MaxOpening = 100 << 10

// modelName is what may be handed to an agent as a model's name; it never looks like an option.
var modelName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,127}$`) })

// Check reports what of a launch the agent cannot do: a Problem of exit 2.
func (a *Agent) Check(l Launch) error {
	if l.Headless && l.Prompt == "" {
		return problem.New("prompt_missing", problem.Usage, "a headless run needs a prompt").
			WithHint("terok run %s -p \"what to do\"", a.Name)
	}
	if len(l.Prompt) > MaxPrompt {
		return problem.New("prompt_too_long", problem.Usage, "the prompt has %d bytes, at most %d are taken", len(l.Prompt), MaxPrompt).
			WithHint("put it into a file of the repository and name that")
	}
	if l.Headless && a.Spec.Headless == nil {
		return problem.New("agent_not_headless", problem.Usage, "%s cannot run without a person", a.Name).
			WithHint("terok run %s", a.Name)
	}
	if !l.Headless && l.Prompt != "" {
		if len(a.Spec.Opening) == 0 {
			return problem.New("agent_no_opening", problem.Usage, "%s takes no prompt when it starts with a person", a.Name).
				WithHint("leave --mode interactive out")
		}
		if len(l.Prompt) > MaxOpening || strings.ContainsRune(l.Prompt, 0) {
			return problem.New("prompt_too_long", problem.Usage, "an interactive agent begins with at most %d bytes of text, not with %d", MaxOpening, len(l.Prompt)).
				WithHint("put it into a file of the repository and name that")
		}
	}
	if l.Restricted && a.CannotAsk {
		return problem.New("agent_cannot_ask", problem.Usage, "%s has no mode in which it asks before it acts", a.Name).
			WithHint("leave --restricted out: the container is what keeps it in")
	}
	if l.Model == "" {
		return nil
	}
	if len(a.Spec.Model) == 0 {
		return problem.New("agent_no_model", problem.Usage, "%s has no choice of models", a.Name).WithHint("leave --model out")
	}
	if !modelName().MatchString(l.Model) {
		return problem.New("bad_model", problem.Usage, "%q is not a model's name", text.Line(l.Model, 80)).WithHint("e.g. --model sonnet")
	}
	return nil
}

// Prepare turns an agent and its provider (nil when it needs none) into what a launch adds.
func (a *Agent) Prepare(p *Provider, l Launch) (*Prepared, error) {
	if err := a.Check(l); err != nil {
		return nil, err
	}
	program, args, err := a.Program()
	if err != nil {
		return nil, err
	}
	f, err := a.filler(p, l)
	if err != nil {
		return nil, err
	}
	spec := a.Spec
	spec.Name, spec.Program, spec.Restricted = a.Name, program, l.Restricted
	spec.Args, spec.Model = append(args, spec.Args...), nil
	if l.Model != "" {
		for _, arg := range a.Spec.Model {
			spec.Args = append(spec.Args, f.marks.Replace(arg))
		}
	}
	mode := a.Unrestricted
	if l.Restricted {
		mode = a.Restricted
	}
	managed := a.managed(f, l)
	if p == nil {
		spec.Env, spec.Home = f.env(a.Spec.Env, mode), f.home(a.Spec.Home)
	} else {
		spec.Provider, spec.SignIn, spec.Kinds = p.Name, l.SignIn, a.wirings(p, l, mode, managed)
	}
	spec.Author, spec.Committer = Authorship(l.Authorship, spec.Author, l.Human)
	if l.Headless {
		spec.Timeout = int(l.Timeout / time.Second)
	}
	encoded, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode agent %s: %w", a.Name, err)
	}
	prep := &Prepared{
		Env: map[string]string{
			sandbox.TaskAgentEnv: a.Name,
			"PATH":               sandbox.ShimDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		},
		Files: []sandbox.StartFile{
			{Path: sandbox.AgentSpecPath(a.Name), Mode: 0o644, Content: string(encoded) + "\n"},
			{Path: sandbox.ShimDir + "/" + a.Name, Mode: 0o755, Content: "#!/bin/sh\nexec " + sandbox.GuestProgram + " guest agent " + a.Name + " -- \"$@\"\n"},
			{Path: sandbox.Instructions, Mode: 0o644, Content: instructions(l)},
			{Path: sandbox.TmuxConf, Mode: 0o644, Content: tmuxConf},
		},
		Attach: []string{sandbox.GuestProgram, "guest", "agent", "--attach", a.Name},
		Egress: a.Egress, Managed: managed,
	}
	if a.Guide != "" {
		prep.Files = append(prep.Files, sandbox.StartFile{Path: sandbox.AgentDir + "/" + a.Guide, Mode: 0o644, Content: instructions(l)})
	}
	if !l.Headless && l.Prompt != "" {
		prep.Files = append(prep.Files, sandbox.StartFile{Path: sandbox.OpeningFile, Mode: 0o600, Content: l.Prompt})
	}
	if l.Headless {
		prep.Files = append(prep.Files, sandbox.StartFile{Path: sandbox.PromptFile, Mode: 0o600, Content: l.Prompt})
		prep.Argv = []string{sandbox.GuestProgram, "guest", "agent", "--headless", a.Name}
	}
	return prep, nil
}

// managed are the administrative settings of a launch.
func (a *Agent) managed(f *filler, l Launch) (files []sandbox.StartFile) {
	for _, m := range a.Managed {
		content := m.Unrestricted
		if l.Restricted {
			content = m.Restricted
		}
		if content != "" {
			files = append(files, sandbox.StartFile{Path: m.Path, Mode: 0o644, Content: f.marks.Replace(content) + "\n"})
		}
	}
	return files
}

// wirings are what the agent takes with each kind of its provider's credential: the one that is
// stored can be replaced by another while the task runs. A kind that would need other administrative
// settings than those that are mounted is none.
func (a *Agent) wirings(p *Provider, l Launch, mode map[string]string, managed []sandbox.StartFile) map[string]sandbox.Wiring {
	out := map[string]sandbox.Wiring{}
	for kind := range p.Auth {
		l.Kind = kind
		f, err := a.filler(p, l)
		if err != nil || !slices.Equal(a.managed(f, l), managed) {
			continue
		}
		out[kind] = sandbox.Wiring{Env: f.env(a.Spec.Env, mode, f.wire.Env), Home: f.home(a.Spec.Home, f.wire.Home)}
	}
	return out
}

// Authorship says who is author and who committer of what the agent commits (spec: tasks.md §10).
// A program that is no agent (Author without a name, a plain shell) commits as the person.
func Authorship(mode string, agent, human sandbox.Identity) (author, committer sandbox.Identity) {
	if agent.Name == "" {
		return human, human
	}
	if human.Name == "" {
		human = agent
	}
	switch mode {
	case "human":
		return human, human
	case "agent":
		return agent, agent
	case "human-agent":
		return human, agent
	}
	return agent, human
}
