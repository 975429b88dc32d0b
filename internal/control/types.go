// Package control is the language between a supervisor and everybody who talks to it: HTTP and
// JSON on a unix socket, for the operator's faces; and the guest's small protocol on the
// container's side (guest.go). It holds the types, the client and the listening side (Listen,
// CheckPeer, Handler); what an answer means is the backend's business.
//
// The socket is $XDG_RUNTIME_DIR/terok/run/<key>/control.sock, directory 0700, socket 0600,
// never mounted into a container; the peer's uid and uid_map are checked.
//
//	GET  /v1/status            Status
//	GET  /v1/events            server-sent events: one Snapshot, then StreamItems (stream.go);
//	                           ?answers=1 and ?since_seq=N
//	GET  /v1/requests          []Request, open ones first
//	POST /v1/verdict           VerdictChange → Request
//	POST /v1/undo              UndoChange → Request
//	GET  /v1/rules             []RuleView
//	POST /v1/rules             RuleChange → RuleView
//	POST /v1/explain           Target → Explanation
//	POST /v1/posture           PostureChange → Status
//	POST /v1/revoke            Revocation → Revoked
//	POST /v1/rotate            Rotation → Rotated
//	POST /v1/reload            → Status; policy.json is read again
//
// A refusal has a 4xx status and an Error body.
package control

import "time"

// Posture is the state of a container's egress (spec: shield.md §1.1).
type Posture string

// Postures as they are written to disk and JSON.
const (
	Up         Posture = "up"
	Down       Posture = "down"
	DownAll    Posture = "down-all"
	Quarantine Posture = "quarantine"
	Offline    Posture = "offline" // never on the wire: no supervisor is expected
	Failing    Posture = "error"   // supervisor missing or its table is not as generated
)

// Revocation takes the container's tokens away until its next start.
type Revocation struct {
	Provider string `json:"provider,omitempty"` // "": of every provider
	Now      bool   `json:"now,omitempty"`      // also what is in flight is cut
	Via      string `json:"via,omitempty"`      // face of the operator
}

// Revoked says whose tokens were good until now.
type Revoked struct {
	Providers []string `json:"providers"`
}

// Rotation asks for a new token of the task's gate.
type Rotation struct {
	Via string `json:"via,omitempty"` // face of the operator
}

// Rotated says that the gate takes a new token, and the one of before no more.
type Rotated struct {
	Delivered bool `json:"delivered"` // git in the container finds the new one; false: it was not heard to
}

// Status is what a supervisor says of itself.
type Status struct {
	Key         string    `json:"key"`
	Project     string    `json:"project"`
	Task        string    `json:"task"`
	ContainerID string    `json:"container_id"`
	Launch      string    `json:"launch"`
	Posture     Posture   `json:"posture"`
	Desired     Posture   `json:"desired"`
	Verified    bool      `json:"verified"` // the kernel's table equals the generated one
	Ready       bool      `json:"ready"`    // the guest reported that the workspace is ready
	Parent      Process   `json:"parent"`
	Worker      Process   `json:"worker"`
	Restarts    int       `json:"restarts"` // worker restarts since the container's start
	Version     string    `json:"version"`
	StartedAt   time.Time `json:"started_at"`
	Counters    Counters  `json:"counters"`
	Rules       int       `json:"rules"`
	Vault       string    `json:"vault"` // "none", "unlocked", "locked" or "unreachable"
	Services    []string  `json:"services"`
	// Adopted is true when this supervisor took over a running container whose own had died.
	// Waiting is true until the guest has come back to it: vault and gate are closed until then.
	Adopted bool `json:"adopted"`
	Waiting bool `json:"waiting"`
	// Scope is the systemd scope that holds both processes, "" for none.
	Scope string `json:"scope"`
	// Landlock is the ABI that confines the worker's files, 0 for none; Degraded says in words
	// which layers of confinement this kernel lacks.
	Landlock int      `json:"landlock"`
	Degraded []string `json:"degraded"`

	Since  *time.Time `json:"posture_since"`  // nil: since the start
	Until  *time.Time `json:"posture_until"`  // nil: until changed; the supervisor ends it by its own clock
	Reason string     `json:"posture_reason"` // why the operator changed it, or why it is not as desired
	Ledger string     `json:"ledger"`         // "ok", or why it cannot be written

	Traffic  []NameTraffic `json:"traffic"`  // of this supervisor's life, most bytes first, at most 20
	Warnings []string      `json:"warnings"` // what an operator should look at
}

// NameTraffic is what one name or literal address got.
type NameTraffic struct {
	Name      string `json:"name"`
	Flows     uint64 `json:"flows"` // allowed connections
	Refused   uint64 `json:"refused"`
	BytesUp   uint64 `json:"bytes_up"` // out of the container
	BytesDown uint64 `json:"bytes_down"`
}

// Process describes one of the supervisor's two processes.
type Process struct {
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	CapEff    string    `json:"cap_eff"` // 16 hex digits as in /proc/<pid>/status
	CapBnd    string    `json:"cap_bnd"`
	Seccomp   int       `json:"seccomp"` // 2 = filter
}

// Counters are exact, also where events are folded.
type Counters struct {
	Open        uint64 `json:"open"` // relayed connections now
	Allowed     uint64 `json:"allowed"`
	Denied      uint64 `json:"denied"`
	BytesUp     uint64 `json:"bytes_up"` // out of the container
	BytesDown   uint64 `json:"bytes_down"`
	DNSQueries  uint64 `json:"dns_queries"`
	DNSRefused  uint64 `json:"dns_refused"`
	DNSSent     uint64 `json:"dns_sent"` // queries that went to the host's resolver
	EventsLost  uint64 `json:"events_lost"`
	VaultCalls  uint64 `json:"vault_calls"`
	GatePushes  uint64 `json:"gate_pushes"`
	LimitsHit   uint64 `json:"limits_hit"`
	WorkerStart uint64 `json:"worker_start"`
}

// Target names what a rule or a question is about.
type Target struct {
	Host  string `json:"host"` // name or address
	Port  uint16 `json:"port"` // 0: the default ports
	Proto string `json:"proto,omitempty"`
}

// RuleChange adds a live rule or takes one away.
type RuleChange struct {
	Rule    string `json:"rule"` // policy grammar, e.g. "+example.org:443" or "-example.org"
	Remove  bool   `json:"remove,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Expires string `json:"expires,omitempty"` // RFC 3339
	Actor   string `json:"actor,omitempty"`
}

// RuleView is a rule as it is shown.
type RuleView struct {
	Rule    string `json:"rule"`
	Tier    string `json:"tier"`
	Source  string `json:"source"` // file:line, or who and when
	Reason  string `json:"reason,omitempty"`
	Expires string `json:"expires,omitempty"`
}

// Explanation answers "why is this allowed or refused".
type Explanation struct {
	Target  Target    `json:"target"`
	Verdict string    `json:"verdict"` // allow, deny, ask
	Tier    string    `json:"tier"`
	Rule    *RuleView `json:"rule"` // nil: the default decided
	Reason  string    `json:"reason"`
	Hint    string    `json:"hint"`    // command that would change it
	Askable bool      `json:"askable"` // an attempt, or `terok guest ask`, becomes a request
}

// PostureChange asks for another posture.
type PostureChange struct {
	Posture Posture `json:"posture"`
	Seconds int     `json:"seconds,omitempty"` // lowered postures end by themselves; 0: until changed
	Reason  string  `json:"reason,omitempty"`
	Actor   string  `json:"actor,omitempty"`
	Via     string  `json:"via,omitempty"` // face: "cli", "tui", "web", "menu"
}

// Error is the body of a refusal.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }
