package roster

import "terok/internal/sandbox"

// builtinAgents makes the agents that terok knows by itself. Facts about vendors' programs are
// measured on the pinned version.
func builtinAgents() map[string]*Agent {
	return map[string]*Agent{
		"claude": {
			Name:  "claude",
			Title: "Claude Code",
			// The platform package holds the native binary alone: no install script, no Node.
			Install: Install{
				Package: "@anthropic-ai/claude-code-linux-{arch}",
				Version: "2.1.332",
				Bin:     "node_modules/@anthropic-ai/claude-code-linux-{arch}/claude",
			},
			Command:   "claude",
			Providers: []string{"anthropic"},
			Stream:    "claude",
			// Managed settings outrank the command line and every settings.json. A restricted task
			// keeps Claude's questions whatever the repository's own settings say.
			Managed: []Managed{{
				Path:         "/etc/claude-code/managed-settings.json",
				Unrestricted: `{"permissions":{"defaultMode":"bypassPermissions"}}`,
				Restricted:   `{"permissions":{"defaultMode":"default","disableBypassPermissionsMode":"disable"}}`,
			}},
			Spec: sandbox.Agent{
				Headless:     []string{"-p", "--output-format", "stream-json", "--verbose"},
				Permission:   []string{"--dangerously-skip-permissions"},
				Opening:      []string{"--", "{prompt}"},
				Model:        []string{"--model", "{model}"},
				Instructions: []string{"--append-system-prompt-file", "{file}"},
				NewSession:   []string{"--session-id", "{id}"},
				Resume:       []string{"--resume", "{id}"},
				SessionFile:  ".claude/projects/*/{id}.jsonl",
				Refuse: map[string]string{
					"setup-token": "it would make a long-lived credential inside the container; on the host: terok auth claude",
				},
				Env: map[string]string{
					"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC":             "1",
					"DISABLE_AUTOUPDATER":                                  "1",
					"CLAUDE_CODE_DISABLE_TERMINAL_TITLE":                   "1",
					"CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
				},
				Home: []sandbox.HomeFile{
					{
						Path: ".claude.json", Mode: 0o600, Merge: true,
						// The last 20 characters of an API key that came by environment are what
						// Claude remembers as approved.
						Content: `{"hasCompletedOnboarding":true,"theme":"dark","bypassPermissionsModeAccepted":true,` +
							`"customApiKeyResponses":{"approved":["{tail20:ANTHROPIC_API_KEY}"]},` +
							`"projects":{"{env:PWD}":{"hasTrustDialogAccepted":true}}}`,
					},
				},
				Author: sandbox.Identity{Name: "Claude", Email: "noreply@anthropic.com"},
			},
		},
		"script": {
			Name:      "script",
			Title:     "small built-in agent without Claude Code",
			Command:   sandbox.GuestProgram,
			Providers: []string{"anthropic"},
			Stream:    "claude",
			Spec: sandbox.Agent{
				Args:     []string{"guest", "agent", "--scripted"},
				Headless: []string{},
				Author:   sandbox.Identity{Name: "terok script", Email: "noreply@terok.ai"},
			},
		},
		"shell": {
			Name:    "shell",
			Title:   "a shell, no agent",
			Command: "bash",
			Stream:  "plain",
			Spec: sandbox.Agent{
				Headless: []string{"-s"}, // the prompt is a script on stdin
			},
		},
	}
}
