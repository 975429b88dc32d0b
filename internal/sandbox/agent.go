package sandbox

import "path"

// Places inside the container that agents use. They lie in the home of dev and are written at
// each start; nothing in them is secret and nothing of them is trusted by the host.
const (
	AgentDir      = "/home/dev/.terok"                        // prompt, instructions, session ids, shims
	ShimDir       = AgentDir + "/bin"                         // first on PATH: `claude` is the wrapper
	PromptFile    = AgentDir + "/prompt.txt"                  // of a headless task, given to the agent as its stdin
	OpeningFile   = AgentDir + "/initial-prompt.txt"          // of an interactive task, given to the agent once
	OpeningDone   = AgentDir + "/initial-prompt.consumed.txt" // what OpeningFile becomes when the agent got it
	FeedbackFile  = AgentDir + "/review-feedback.md"          // what reviewers said of the task's work
	ReviewStatus  = AgentDir + "/review-status"               // how far the task is from reviews that are open at the forge
	Instructions  = AgentDir + "/instructions.md"             // what terok and the operator tell the agent
	TmuxConf      = AgentDir + "/tmux.conf"                   // of session TmuxSession
	TmuxSession   = "main"                                    // every login lands in it
	GuestProgram  = "/run/terok/bin/terok"                    // the guest binary
	BundleMount   = "/opt/terok/agents"                       // NAME below it is the agent's bundle, read-only
	TaskAgentEnv  = "TEROK_AGENT"                             // name of the task's agent
	SSHAgentSock  = "/run/terok/ssh-agent.sock"               // SSH_AUTH_SOCK, where the task has SSH keys
	GitConfig     = "/run/terok/git/config"                   // configuration of git that the user's own includes
	UpstreamLogin = "/run/terok/upstream-login"               // the phantom for the upstream's git server, as git's credential helpers write it
	SSHHosts      = "/run/terok/ssh/known_hosts"              // the host keys that its ssh believes
)

// AgentSpecPath is where the wrapper `terok guest agent NAME` finds its Agent.
func AgentSpecPath(name string) string { return path.Join(AgentDir, "agents", name+".json") }

// Agent is what the wrapper inside the container needs to know about one agent: data of the
// roster, written as JSON into the container at each start.
type Agent struct {
	Name         string            `json:"name"`
	Program      string            `json:"program"`                // absolute path, or a name looked up in PATH without ShimDir
	Args         []string          `json:"args,omitempty"`         // always, first
	Interactive  []string          `json:"interactive,omitempty"`  // added without a prompt on stdin
	Headless     []string          `json:"headless,omitempty"`     // added by --headless; the prompt is the agent's stdin
	Opening      []string          `json:"opening,omitempty"`      // added last at the first interactive start; "{prompt}" is the opening prompt
	Permission   []string          `json:"permission,omitempty"`   // added when the task is unrestricted
	Model        []string          `json:"model,omitempty"`        // selects a model; "{model}" is its name, filled in by the launch
	Instructions []string          `json:"instructions,omitempty"` // added when the file exists; "{file}" is its path
	NewSession   []string          `json:"new_session,omitempty"`  // added after Headless or Interactive; "{id}" is a fresh UUID
	Resume       []string          `json:"resume,omitempty"`       // instead, to go on; "{id}" is the stored one. Without NewSession: the agent's last session
	SessionFile  string            `json:"session_file,omitempty"` // glob below the home directory, "{id}"; only if it exists the session is resumed
	Refuse       map[string]string `json:"refuse,omitempty"`       // first argument → what to say instead
	Provider     string            `json:"provider,omitempty"`     // whose credential it needs; "" is none
	SignIn       string            `json:"sign_in,omitempty"`      // the host's command that stores one
	Kinds        map[string]Wiring `json:"kinds,omitempty"`        // what each kind of that credential that it can use takes; it cannot use others
	Env          map[string]string `json:"env,omitempty"`          // quiet settings, without a provider; marks as in HomeFile
	Home         []HomeFile        `json:"home,omitempty"`         // written before each start of the agent, without a provider
	Author       Identity          `json:"author"`                 // git author of the agent's commits
	Committer    Identity          `json:"committer"`              // git committer of the agent's commits
	Restricted   bool              `json:"restricted,omitempty"`   // no Permission args
	Timeout      int               `json:"timeout,omitempty"`      // seconds that a headless run may take, 0 for no limit
}

// Wiring is what an agent is started with to use its provider with one kind of credential.
type Wiring struct {
	Env  map[string]string `json:"env,omitempty"`
	Home []HomeFile        `json:"home,omitempty"`
}

// HomeFile is a file below the home directory that the wrapper writes before it starts the
// agent. "{env:VAR}" and "{tail20:VAR}" in Content become the value of an environment variable
// of the container and its last 20 characters.
type HomeFile struct {
	Path    string `json:"path"` // relative to the home directory
	Mode    uint32 `json:"mode"`
	Content string `json:"content"`
	// Merge: Content is a JSON object, merged into the existing one member by member (lists are
	// joined without duplicates); else an existing file is replaced.
	Merge bool `json:"merge,omitempty"`
	// Directory: Path is a directory, made and given Mode; Content is nothing.
	Directory bool `json:"directory,omitempty"`
}

// Identity is a git identity.
type Identity struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}
