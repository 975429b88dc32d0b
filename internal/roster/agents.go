package roster

import "terok/internal/sandbox"

// builtinAgents makes the agents that terok knows by itself. Facts about vendors' programs are
// measured on the pinned versions (docs/agents.md).
func builtinAgents() map[string]*Agent {
	m := map[string]*Agent{}
	for _, a := range []*Agent{claudeAgent(), codexAgent(), copilotAgent(), opencodeAgent(), piAgent(), vibeAgent(), scriptAgent(), shellAgent()} {
		m[a.Name] = a
	}
	return m
}

// runtimes are programs that run agents and are shared by them.
func runtimes() map[string]Install {
	return map[string]Install{
		"node": {Package: "node-linux-{arch}", Version: "24.22.1", Bin: "node_modules/node-linux-{arch}/bin/node"},
	}
}

// Credentials of a subscription work with the vendor's own program only.
var allKinds = []string{sandbox.APIKey, sandbox.PAT, sandbox.OAuth}

func claudeAgent() *Agent {
	return &Agent{
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
		Wires: []Wire{
			{
				Providers: []string{"anthropic"},
				// The last 20 characters of an API key that came by environment are what Claude
				// remembers as approved.
				Home: []sandbox.HomeFile{{Path: ".claude.json", Mode: 0o600, Merge: true,
					Content: `{"customApiKeyResponses":{"approved":["{tail20:ANTHROPIC_API_KEY}"]}}`}},
			},
			{Providers: []string{"anthropic"}, Kinds: []string{sandbox.OAuth}},
			{
				Protocol: sandbox.AnthropicMessages,
				Env: map[string]string{"ANTHROPIC_BASE_URL": "{base}", "ANTHROPIC_AUTH_TOKEN": "{env:{key}}",
					"ANTHROPIC_MODEL": "{model}", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}"},
				NeedModel: true,
			},
		},
		Stream: "claude",
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
			Home: []sandbox.HomeFile{{
				Path: ".claude.json", Mode: 0o600, Merge: true,
				Content: `{"hasCompletedOnboarding":true,"theme":"dark","bypassPermissionsModeAccepted":true,` +
					`"projects":{"{env:PWD}":{"hasTrustDialogAccepted":true}}}`,
			}},
			Author: sandbox.Identity{Name: "Claude", Email: "noreply@anthropic.com"},
		},
	}
}

// codexQuiet is what Codex is told in every mode. Without it Codex asks chatgpt.com for models and
// plugins, with an API key as well; hosted search reads an index and never a page the agent names.
const codexQuiet = `
developer_instructions = {instructions}
check_for_update_on_startup = false
web_search = "cached"
{wire}
[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
apps = false
api_key_model_discovery = false
daemon_auto_start = false

[projects."/workspace"]
trust_level = "trusted"
`

func codexAgent() *Agent {
	return &Agent{
		Name:  "codex",
		Title: "Codex",
		Install: Install{
			Package: "@openai/codex", Version: "0.171.0", Suffix: "-linux-{arch}",
			Bin: "node_modules/@openai/codex/vendor/{machine}-unknown-linux-musl/bin/codex",
		},
		Command:   "codex",
		Providers: []string{"openai"},
		Wires: []Wire{
			{
				// Codex reads a key from its file only; the phantom of this start is put there.
				Providers: []string{"openai"},
				Home:      []sandbox.HomeFile{{Path: ".codex/auth.json", Mode: 0o400, Content: `{"OPENAI_API_KEY":"{env:{key}}"}` + "\n"}},
			},
			{Providers: []string{"openai"}, Kinds: []string{sandbox.OAuth}},
			{
				Protocol: sandbox.OpenAIResponses,
				Fill: "model_provider = \"terok\"\n" +
					"model_providers.terok = { name = \"{title}\", base_url = \"{base}\", env_key = \"{key}\", wire_api = \"responses\" }\n",
				FillModel: "model = \"{model}\"\n",
				NeedModel: true,
			},
		},
		Stream: "codex",
		// This file outranks ~/.codex/config.toml and a repository's own.
		Managed: []Managed{{
			Path:         "/etc/codex/managed_config.toml",
			Unrestricted: "approval_policy = \"never\"\nsandbox_mode = \"danger-full-access\"" + codexQuiet,
			// The container is the sandbox in this mode too: Codex's own needs namespaces that a
			// container has not.
			Restricted: "approval_policy = \"untrusted\"\nsandbox_mode = \"danger-full-access\"" + codexQuiet,
		}},
		Spec: sandbox.Agent{
			Headless:    []string{"exec", "--json", "--skip-git-repo-check"},
			Opening:     []string{"--", "{prompt}"},
			Model:       []string{"-c", "model={model}"},
			Resume:      []string{"resume", "--last"},
			SessionFile: ".codex/sessions/*/*/*/rollout-*.jsonl",
			Refuse: map[string]string{
				"login":  "keys stay outside the container; on the host: terok auth codex",
				"logout": "keys stay outside the container; on the host: terok auth codex --remove",
			},
			Env:    map[string]string{"RUST_LOG": "off"}, // its stream of events says the same in words for a person
			Author: sandbox.Identity{Name: "Codex", Email: "noreply@openai.com"},
		},
	}
}

func copilotAgent() *Agent {
	own := func(kind, api string) map[string]string {
		env := map[string]string{"COPILOT_PROVIDER_BASE_URL": "{base}", "COPILOT_PROVIDER_TYPE": kind,
			"COPILOT_PROVIDER_API_KEY": "{env:{key}}", "COPILOT_MODEL": "{model}", "COPILOT_OFFLINE": "true"}
		if api != "" {
			env["COPILOT_PROVIDER_WIRE_API"] = api
		}
		return env
	}
	return &Agent{
		Name:  "copilot",
		Title: "GitHub Copilot",
		Install: Install{
			Package: "@github/copilot-linux-{arch}", Version: "1.0.102",
			Bin: "node_modules/@github/copilot-linux-{arch}/copilot", Unpack: true,
		},
		Command:   "copilot",
		Providers: []string{"copilot", "openai", "anthropic"},
		Wires: []Wire{
			{Providers: []string{"copilot"}, Kinds: allKinds},
			{Protocol: sandbox.OpenAIResponses, Env: own("openai", "responses"), NeedModel: true},
			{Protocol: sandbox.OpenAIChat, Env: own("openai", "completions"), NeedModel: true},
			{Protocol: sandbox.AnthropicMessages, Env: own("anthropic", ""), NeedModel: true},
		},
		Models:       map[string]string{"openai": "gpt-5.4", "anthropic": "claude-sonnet-4-6", "mistral": "devstral-latest"},
		Stream:       "copilot",
		Unrestricted: map[string]string{"COPILOT_ALLOW_ALL": "true"},
		Guide:        "copilot/terok.instructions.md",
		Spec: sandbox.Agent{
			Headless:   []string{"--output-format", "json"},
			Opening:    []string{"-i", "{prompt}"},
			Model:      []string{"--model", "{model}"},
			NewSession: []string{"--session-id", "{id}"},
			Resume:     []string{"--session-id", "{id}"},
			Refuse: map[string]string{
				"login":  "tokens stay outside the container; on the host: terok auth copilot",
				"update": "tasks share one installation; on the host: terok agents update copilot",
			},
			Env: map[string]string{
				"COPILOT_AUTO_UPDATE":              "false",
				"COPILOT_CLI_DIST_DIR":             "{bundle}/home/.cache/copilot/pkg/linux-{arch}/{version}",
				"COPILOT_CUSTOM_INSTRUCTIONS_DIRS": sandbox.AgentDir + "/copilot",
			},
			Author: sandbox.Identity{Name: "Copilot", Email: "noreply@github.com"},
		},
	}
}

func opencodeAgent() *Agent {
	return &Agent{
		Name:  "opencode",
		Title: "OpenCode",
		Install: Install{
			Package: "opencode-linux-{arch}", Version: "1.18.33",
			Bin: "node_modules/opencode-linux-{arch}/bin/opencode",
		},
		Command:   "opencode",
		Providers: []string{"anthropic", "openai", "mistral", "openrouter"},
		Wires: []Wire{
			{
				Providers: []string{"anthropic", "openai", "mistral", "openrouter"},
				Fill:      `,"enabled_providers":["{provider}"]`,
				FillModel: `,"model":"{qualified}"`,
			},
			{
				Protocol: sandbox.OpenAIChat,
				Fill: `,"enabled_providers":["{provider}"],"provider":{"{provider}":{"npm":"@ai-sdk/openai-compatible","name":"{title}",` +
					`"options":{"baseURL":"{base}","apiKey":"{env:{key}}"},"models":{"{model}":{}}}}`,
				FillModel: `,"model":"{qualified}"`,
				NeedModel: true,
			},
		},
		Stream:       "opencode",
		Unrestricted: map[string]string{"OPENCODE_PERMISSION": `{"*":"allow"}`},
		// Words instead of patterns, so that no pattern of a repository's own settings is left.
		Restricted: map[string]string{"OPENCODE_PERMISSION": `{"*":"ask","bash":"ask","edit":"ask","webfetch":"ask","task":"ask","external_directory":"ask"}`},
		Spec: sandbox.Agent{
			Headless:    []string{"run", "--format", "json"},
			Opening:     []string{"--prompt", "{prompt}"},
			Model:       []string{"--model", "{qualified}"},
			Resume:      []string{"--continue"},
			SessionFile: ".local/share/opencode/opencode*.db",
			Refuse: map[string]string{
				"auth":    "keys stay outside the container; on the host: terok auth PROVIDER",
				"upgrade": "tasks share one installation; on the host: terok agents update opencode",
			},
			Env: map[string]string{
				"OPENCODE_CONFIG_CONTENT":       `{"autoupdate":false,"share":"disabled","instructions":["` + sandbox.Instructions + `"]{wire}}`,
				"OPENCODE_DISABLE_AUTOUPDATE":   "1",
				"OPENCODE_DISABLE_MODELS_FETCH": "1",
				"OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
			},
			// Into a directory that it can write OpenCode installs packages from the npm registry.
			Home:   []sandbox.HomeFile{{Path: ".config/opencode", Mode: 0o555, Directory: true}},
			Author: sandbox.Identity{Name: "OpenCode", Email: "noreply@opencode.ai"},
		},
	}
}

func piAgent() *Agent {
	return &Agent{
		Name:  "pi",
		Title: "Pi",
		Install: Install{
			Package: "@earendil-works/pi-coding-agent", Version: "1.6.0",
			Bin: "node_modules/@earendil-works/pi-coding-agent/dist/bundle/cli.js", Runtime: "node",
		},
		Command:   "pi",
		Providers: []string{"anthropic", "openai", "mistral", "openrouter"},
		Wires: []Wire{
			{Providers: []string{"anthropic", "openai", "mistral", "openrouter"}},
			{
				Protocol: sandbox.OpenAIChat,
				Home: []sandbox.HomeFile{{Path: ".pi/agent/models.json", Mode: 0o600, Merge: true,
					Content: `{"providers":{"{provider}":{"baseUrl":"{base}","api":"openai-completions","apiKey":"${key}","models":[{"id":"{model}"}]}}}`}},
				NeedModel: true,
			},
		},
		Stream:    "pi",
		CannotAsk: true,
		Spec: sandbox.Agent{
			Headless:     []string{"--mode", "json"},
			Permission:   []string{"--approve"}, // the repository's own settings, nothing else asks
			Opening:      []string{"--", "{prompt}"},
			Model:        []string{"--provider", "{provider}", "--model", "{model}"},
			Instructions: []string{"--append-system-prompt", "{file}"},
			NewSession:   []string{"--session-id", "{id}"},
			Resume:       []string{"--session-id", "{id}"},
			Refuse: map[string]string{
				"auth":   "keys stay outside the container; on the host: terok auth PROVIDER",
				"update": "tasks share one installation; on the host: terok agents update pi",
			},
			Env:    map[string]string{"PI_OFFLINE": "1"},
			Author: sandbox.Identity{Name: "Pi", Email: "noreply@earendil.works"},
		},
	}
}

// vibe is published on PyPI, which terok does not install from; the entry serves images that have
// it. Whether it takes a prompt on its stdin was not measured, so it is not run without a person.
func vibeAgent() *Agent {
	return &Agent{
		Name:  "vibe",
		Title: "Mistral Vibe",
		Install: Install{
			Registry: "pypi.org",
			How:      "pipx install mistral-vibe in an image with Python 3.12 or newer, and name that image as image.base_image",
		},
		Command:      "vibe",
		Providers:    []string{"mistral"},
		Wires:        []Wire{{Providers: []string{"mistral"}}},
		Stream:       "plain",
		Unrestricted: map[string]string{"VIBE_BYPASS_TOOL_PERMISSIONS": "true"},
		Spec: sandbox.Agent{
			Opening:     []string{"{prompt}"},
			Resume:      []string{"--continue"},
			SessionFile: ".vibe/logs/session/session_*/meta.json",
			Author:      sandbox.Identity{Name: "Vibe", Email: "noreply@mistral.ai"},
		},
	}
}

func scriptAgent() *Agent {
	return &Agent{
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
	}
}

func shellAgent() *Agent {
	return &Agent{
		Name:    "shell",
		Title:   "a shell, no agent",
		Command: "bash",
		Stream:  "plain",
		Spec: sandbox.Agent{
			Headless: []string{"-s"}, // the prompt is a script on stdin
		},
	}
}
