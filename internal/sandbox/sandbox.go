// Package sandbox defines the sandbox file: everything that the hook, the supervisor and the
// keyholder need to know about one container, written once by the launcher before podman runs.
//
// The file is the binding between a container and its powers. It lies in the task's directory
// (0700), never inside a container; the container's annotation carries only its path. It holds
// no secret but the signing key that proves the supervisor to the guest.
package sandbox

import "path/filepath"

// Schema is the version of the sandbox file that this program writes.
const Schema = 1

// Annotation is the OCI annotation whose value is the absolute path of the sandbox file.
const Annotation = "io.terok.sandbox"

// Labels that every container of ours carries, so that podman alone can find them.
const (
	LabelManaged = "io.terok.managed" // "1"
	LabelName    = "io.terok.name"    // sandbox key: NAME, or PROJECT-TASK
	LabelProject = "io.terok.project"
	LabelTask    = "io.terok.task"
	LabelMode    = "io.terok.mode"   // interactive, headless, web or command
	LabelLaunch  = "io.terok.launch" // id of the launch that created the container
	LabelDir     = "io.terok.dir"    // task directory
)

// Addresses that only the supervisor answers, inside the container's network namespace.
const (
	GuestAddr    = "10.0.2.100"          // eth0, /24
	GuestAddr6   = "fd74:6572:6f6b::100" // eth0, /64
	ServiceHost  = "10.0.2.2"
	ServiceHost6 = "fd74:6572:6f6b::2"
	ResolverAddr = "10.0.2.3"
	GatePort     = 9418
	VaultPort    = 9419
	SignerPort   = 9420
	GuestPort    = 9421
)

// The veth pair whose ends both lie inside the container's network namespace.
const (
	Link     = "eth0"
	PeerLink = "terok0"
)

// File is the sandbox file.
type File struct {
	Schema  int    `json:"schema"`
	Key     string `json:"key"`     // names the runtime directory: NAME, or PROJECT-TASK
	Name    string `json:"name"`    // container name
	Project string `json:"project"` // "" for a sandbox without a project
	Task    string `json:"task"`
	Mode    string `json:"mode"`
	Launch  string `json:"launch"` // random id, new with every container

	Dir        string `json:"dir"`         // task directory, holds this file, shield/, audit/, logs/
	RuntimeDir string `json:"runtime_dir"` // control.sock lives here
	CIDFile    string `json:"cid_file"`    // podman wrote the container's id here before its start
	StartError string `json:"start_error"` // hook and supervisor leave the reason of a refusal here
	PanicLock  string `json:"panic_lock"`  // while this file exists nothing starts
	Keyholder  string `json:"keyholder"`   // socket of the keyholder

	SeccompSHA256 string   `json:"seccomp_sha256"` // hex digest of the canonical JSON of the profile
	Bounding      []string `json:"bounding"`       // the capabilities that the OCI spec may carry, "CAP_…"
	NoNewPrivs    bool     `json:"no_new_privs"`   // the OCI spec must set noNewPrivileges
	GuestSHA256   string   `json:"guest_sha256"`   // hex digest of the guest binary mounted as pid 1

	SigningKey []byte `json:"signing_key"` // ed25519 seed; proves the supervisor to the guest
	// SealingKey encrypts what the guest keeps for a supervisor that has to take over (32 bytes).
	// Only the supervisor's parent has it. A file without one cannot be adopted with its secrets.
	SealingKey []byte `json:"sealing_key,omitempty"`

	// AuditRequired quarantines the container while its ledger cannot be written.
	AuditRequired bool `json:"audit_required,omitempty"`
	// WithoutLandlock lets the worker run on a kernel that cannot confine its files.
	WithoutLandlock bool `json:"without_landlock,omitempty"`

	Start Start  `json:"start"`           // what the guest is told once per start
	Gate  *Gate  `json:"gate,omitempty"`  // nil: no git service
	Vault *Vault `json:"vault,omitempty"` // nil: no credentials
	SSH   *SSH   `json:"ssh,omitempty"`   // nil: no SSH keys inside
}

// Path is where the sandbox file of a task directory lies.
func Path(dir string) string { return filepath.Join(dir, "sandbox.json") }

// Start is what the guest does before it runs the command. Phantom tokens, gate token and CA are
// added by the supervisor at each start; they are never in this file.
type Start struct {
	Env       map[string]string `json:"env"`                 // for the command and every later login
	Files     []StartFile       `json:"files,omitempty"`     // written before the command runs
	Workspace string            `json:"workspace,omitempty"` // working directory, made if missing
	Clone     *Clone            `json:"clone,omitempty"`     // nil: leave the workspace as it is
	SSHAgent  bool              `json:"ssh_agent,omitempty"` // serve an SSH agent at SSHAgentSock
	Trust     string            `json:"trust,omitempty"`     // PEM of further authorities that programs shall trust, image.ca_certificates

	// Filled in by the supervisor at each start, never in the sandbox file.
	CA        string `json:"ca,omitempty"`         // PEM of the certificate that signs routed hosts
	GateToken string `json:"gate_token,omitempty"` // answers of the git credential helper

	Tokens []Token `json:"tokens,omitempty"` // phantoms of every provider that the task may use
	Held   []Held  `json:"held,omitempty"`   // those that programs are told of; later ones by control.Credentials
}

// StartFile is a file that the guest writes inside the container.
type StartFile struct {
	Path    string `json:"path"` // absolute
	Mode    uint32 `json:"mode"`
	Content string `json:"content"`
	Keep    bool   `json:"keep,omitempty"` // leave an existing file alone
}

// Clone fills an empty workspace from the gate, or from the upstream.
type Clone struct {
	URL       string `json:"url"`                // gate address without credentials; "" without gate
	Branch    string `json:"branch"`             // the task's own branch
	Borrow    string `json:"borrow"`             // object directory of the base inside the container, "" for a plain clone
	Origin    string `json:"origin,omitempty"`   // the upstream, where tasks reach it: remote origin, and the gate is the remote gate
	Start     string `json:"start,omitempty"`    // without gate: branch of Origin to begin from; "" is its default
	Config    string `json:"config,omitempty"`   // file of git configuration that the user's own includes
	LFS       bool   `json:"lfs,omitempty"`      // the gate serves files in Git LFS: the workspace gets them with git-lfs, if the image has it
	External  string `json:"external,omitempty"` // upstream as a further remote of that name, without any way to it
	UserName  string `json:"user_name"`          // git identity
	UserEmail string `json:"user_email"`         // git identity
}

// Gate is the git service of one task.
type Gate struct {
	Repo      string   `json:"repo"`      // task repository on the host
	Base      string   `json:"base"`      // base repository on the host, never written
	Protected []string `json:"protected"` // branch names that the task may not move

	// Limits of pushes; 0 is the server's default.
	MaxPackMB int `json:"max_pack_mb,omitempty"` // of one push
	MaxFileMB int `json:"max_file_mb,omitempty"` // of one file in it
	MaxRefs   int `json:"max_refs,omitempty"`    // refs in one push
	QuotaMB   int `json:"quota_mb,omitempty"`    // of the task's repository, beside the base

	// Submodules are mirrors that are served read-only beside the task's repository: name → path.
	Submodules map[string]string `json:"submodules,omitempty"`

	Lenient      bool `json:"lenient,omitempty"`       // let old programs' harmless faults through
	LFS          bool `json:"lfs,omitempty"`           // serve files in Git LFS
	AllowSecrets bool `json:"allow_secrets,omitempty"` // let vendors' keys through, review flags them
}

// SSH lets the programs of a task log in to servers with the project's SSH keys, which stay in the
// vault.
type SSH struct {
	Servers []string `json:"servers"`           // "host" or "host:port" of the upstream, for keys that name none
	Users   []string `json:"users,omitempty"`   // its login name, for keys that name none; none: git
	Unbound bool     `json:"unbound,omitempty"` // also for clients that do not say which server they talk to
}

// Live binds a sandbox file to the processes of the running container. The supervisor's parent
// writes it (keyholder.Register) once the container's init exists; the keyholder serves a
// supervisor only when this record names it and an init that is alive.
type Live struct {
	Schema      int    `json:"schema"`
	Launch      string `json:"launch"`       // File.Launch
	ContainerID string `json:"container_id"` // 64 hex digits, as in File.CIDFile
	InitPID     int    `json:"init_pid"`     // the container's init in the host's pid namespace
	InitStart   uint64 `json:"init_start"`   // field 22 of /proc/<pid>/stat: clock ticks since boot
	ParentPID   int    `json:"parent_pid"`   // the supervisor's parent
	ParentStart uint64 `json:"parent_start"`
}

// LivePath is where the record of a task directory lies.
func LivePath(dir string) string { return filepath.Join(dir, "live.json") }
