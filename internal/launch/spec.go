// Package launch turns a specification into a running container whose only network is its
// supervisor: it writes the sandbox file and the policy, composes the arguments of one
// `podman run -d`, and starts it.
//
// What it guarantees: the container starts with `--network none`, with the capabilities, the
// seccomp profile and the namespaces that the hook checks again on the final OCI specification;
// no secret is in the arguments, the environment, the labels or a stored mount; a launch that
// was interrupted at any point is found by its labels and swept by the next one.
//
// What it refuses: mounts that would hand the container a power over the host (mounts.go), and
// every way to choose another network, user namespace or privilege: there is no field for it.
package launch

import (
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
)

// Privilege says what root inside the container may do.
type Privilege string

// Privileges (spec: runtime.md §4.2).
const (
	Sudo Privilege = "sudo" // podman's default bounding set less SETFCAP, SETPCAP and more; sudo works
	None Privilege = "none" // no capability at all, no new privileges
)

// Modes of a container, label io.terok.mode.
const (
	ModeCommand     = "command" // terok sandbox run
	ModeAuth        = "auth"    // terok auth, with a vendor's program
	ModeInteractive = "interactive"
	ModeHeadless    = "headless"
)

// Spec is one container to be. Key, Name, Dir, Image and Argv are required.
type Spec struct {
	Key     string // names the runtime directory: NAME, or PROJECT-TASK
	Name    string // container name
	Project string
	Task    string
	Mode    string // one of the modes; "" is ModeCommand
	Launch  string // id of this launch; "" draws one
	Dir     string // task directory on the host; made if missing

	Image   string   // image in the local store, by reference or id; never pulled
	Argv    []string // the command, run by the guest once the workspace is ready
	TTY     bool     // allocate a terminal for the command
	Stdin   bool     // keep the command's stdin open for an attached client
	Remove  bool     // remove the container when its command ends
	Command string   // words of the person's command for messages, e.g. "terok sandbox run"

	Privilege Privilege // "" is Sudo

	AuditRequired bool // quarantine while the ledger cannot be written
	// WithoutLandlock starts the container also on a kernel that cannot confine the files of the
	// supervisor's worker.
	WithoutLandlock bool

	Policy policy.Document // rules of all tiers but session, and settings
	Start  sandbox.Start   // Env of the container goes here, never into podman's arguments
	Gate   *sandbox.Gate
	Vault  *sandbox.Vault
	SSH    *sandbox.SSH

	Mounts  []Mount // by a person or a project file: judged by the rules of mounts.go
	Trusted []Mount // by terok itself (agent bundles, the gate's base objects): not judged

	StopTimeout int    // seconds between SIGTERM and SIGKILL; 0 is 10
	ShmSize     string // "" is "1g"
	Memory      int64  // bytes; 0 is three quarters of the machine's
	CPUs        string // "" is no limit, e.g. "1.5"
	PidsLimit   int    // 0 is 4096
}

// Mount is one bind mount, always nosuid and nodev.
type Mount struct {
	Source   string // absolute path on the host
	Target   string // absolute path inside the container
	ReadOnly bool
	NoExec   bool
}

// Container is what was started.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Key     string `json:"key"`
	Launch  string `json:"launch"`
	ImageID string `json:"image_id"`
	Dir     string `json:"dir"`
}
