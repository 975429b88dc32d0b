package roster

import (
	"encoding/json"
	"fmt"

	"terok/internal/problem"
	"terok/internal/sandbox"
)

// Launch says how one container start wants its agent.
type Launch struct {
	Headless   bool             // the container's command is the agent, with Prompt
	Prompt     string           // of a headless run; reaches the agent as its stdin, never as an argument
	Restricted bool             // leave the agent's own permission prompts on
	Human      sandbox.Identity // the operator's git identity: committer of the agent's commits
	Notes      string           // the operator's instructions, appended to terok's own
	Facts      Facts            // what terok's own instructions tell
}

// Facts fill terok's own instructions to the agent.
type Facts struct {
	Workspace string   // "/workspace"
	Branch    string   // the task's branch, "" without a gate
	Remote    string   // "origin", "" without a gate
	Hosts     []string // hosts that are open, in words of a person
}

// Prepared is what a launch adds to the container.
type Prepared struct {
	Env   map[string]string   // for sandbox.Start.Env; the wrapper adds the agent's own
	Files []sandbox.StartFile // for sandbox.Start.Files
	Argv  []string            // headless: the container's command after `guest init`
	// Attach is run with `podman exec -it` and joins the task's one tmux session, starting the
	// agent in it the first time.
	Attach []string
	Egress []string // rules, tier agent
}

// MaxPrompt bounds a prompt, in bytes. The prompt is a file and never an argument.
const MaxPrompt = 4 << 20

// Prepare turns an agent and its provider (nil when it needs none) into what a launch adds.
func (a *Agent) Prepare(p *Provider, l Launch) (*Prepared, error) {
	if l.Headless && l.Prompt == "" {
		return nil, problem.New("prompt_missing", problem.Usage, "a headless run needs a prompt").
			WithHint("terok run %s -p \"what to do\"", a.Name)
	}
	if len(l.Prompt) > MaxPrompt {
		return nil, problem.New("prompt_too_long", problem.Usage, "the prompt has %d bytes, at most %d are taken", len(l.Prompt), MaxPrompt)
	}
	if l.Headless && a.Spec.Headless == nil {
		return nil, problem.New("agent_not_headless", problem.Usage, "%s cannot run without a person", a.Name).
			WithHint("terok run %s", a.Name)
	}
	program, err := a.Program()
	if err != nil {
		return nil, err
	}
	spec := a.Spec
	spec.Name, spec.Program, spec.Restricted = a.Name, program, l.Restricted
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
		Egress: a.Egress,
	}
	if l.Human.Name != "" {
		prep.Env["TEROK_HUMAN_NAME"], prep.Env["TEROK_HUMAN_EMAIL"] = l.Human.Name, l.Human.Email
	}
	if l.Headless {
		prep.Files = append(prep.Files, sandbox.StartFile{Path: sandbox.PromptFile, Mode: 0o600, Content: l.Prompt})
		prep.Argv = []string{sandbox.GuestProgram, "guest", "agent", "--headless", a.Name}
	}
	return prep, nil
}
