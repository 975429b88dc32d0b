package control

import "time"

// RequestState is how far a request is (spec: shield.md §8.3).
type RequestState string

// States. A verdict whose application failed puts a request back to open.
const (
	RequestOpen       RequestState = "open"
	RequestApplying   RequestState = "applying"
	RequestApplied    RequestState = "applied"
	RequestSuperseded RequestState = "superseded" // a rule made elsewhere answers it
	RequestExpired    RequestState = "expired"    // nobody asked again; it allows and denies nothing
	RequestCancelled  RequestState = "cancelled"  // the container stopped
)

// RequestKind is why there is a request.
type RequestKind string

// Kinds.
const (
	NameBlocked  RequestKind = "name_blocked"  // a connection to a name no rule lists
	FlowBlocked  RequestKind = "flow_blocked"  // a literal address, or a listed name on another port
	NameMismatch RequestKind = "name_mismatch" // SNI or Host is another name than the connection's
	AgentAsked   RequestKind = "request"       // `terok guest ask`
	VaultBudget  RequestKind = "vault_budget"  // a budget of tokens or money is used up
	OverBudget   RequestKind = "budget"        // an egress budget is used up
	Flood        RequestKind = "flood"         // stands for many that are not shown
)

// Choice is what an operator can answer.
type Choice string

// Choices. Each grants the exact host, port and protocol of the request; ChoiceDomain adds the
// names below it.
const (
	ChoiceOnce       Choice = "once"    // allow for 15 minutes
	ChoiceTask       Choice = "task"    // allow until the task is deleted
	ChoiceProject    Choice = "project" // allow, written into project.yml
	ChoiceDomain     Choice = "domain"  // allow the name and all below it, for the task
	ChoiceDeny       Choice = "deny"    // no, and do not ask again for an hour
	ChoiceDenyAlways Choice = "deny-always"
)

// Request is an attempt that waits, or waited, for an operator's verdict (design §4). Strings that
// come from the container (Host, Names, Reason, Process) are sanitised, printable ASCII, and never
// parsed back: a verdict names ID and Hash.
type Request struct {
	ID         string       `json:"id"`   // "r1", …; new ones after a worker restart
	Hash       string       `json:"hash"` // of what was shown; a verdict quotes it
	Key        string       `json:"key"`  // the supervisor's
	Project    string       `json:"project"`
	Task       string       `json:"task"`
	Kind       RequestKind  `json:"kind"`
	State      RequestState `json:"state"`
	Host       string       `json:"host"` // name, or address when there is no name
	Port       uint16       `json:"port"`
	Proto      string       `json:"proto"`           // "tcp" or "udp"
	Names      []string     `json:"names,omitempty"` // of a mismatch: the connection's own name (Host is what it claims, and what a verdict is about); a sample of a flood
	NameSource string       `json:"name_source"`     // dns, sni, host or none
	Tier       string       `json:"tier"`            // that left it open
	Risk       []string     `json:"risk,omitempty"`  // write-capable, anyone-hosts, private, …
	Reason     string       `json:"reason,omitempty"`
	Process    string       `json:"process,omitempty"` // of the first attempt, if it was found: "NAME, pid N"; it chose the name, the number is the host's
	Held       int          `json:"held"`              // connections that wait now
	Count      uint64       `json:"count"`             // attempts so far
	FirstSeen  time.Time    `json:"first_seen"`
	LastSeen   time.Time    `json:"last_seen"`
	ExpiresAt  time.Time    `json:"expires_at"`
	Choices    []Choice     `json:"choices"` // that this request accepts, the usual one first
	Decision   *Decision    `json:"decision,omitempty"`
	// Elsewhere says in words how the project's other running tasks took a verdict for the project,
	// or its undoing. No supervisor knows it: it is in the answer to the face that gave the verdict.
	Elsewhere string `json:"elsewhere,omitempty"`
	Seq       uint64 `json:"seq"` // of this state of the request; higher is newer
}

// Decision is the verdict that won.
type Decision struct {
	Choice  Choice    `json:"choice"`
	Actor   string    `json:"actor"` // user name
	Via     string    `json:"via"`   // cli, menu, clearance, notification, tui, web
	At      time.Time `json:"at"`
	Rule    string    `json:"rule,omitempty"` // what was granted or denied, policy grammar
	Expires time.Time `json:"expires,omitzero"`
	Error   string    `json:"error,omitempty"` // why it could not be applied; the request is open again
}

// VerdictChange answers a request. Host, Port and Proto repeat what the person saw; another target
// than the request's is refused, as is another Hash.
type VerdictChange struct {
	ID     string `json:"id"`
	Hash   string `json:"hash"`
	Host   string `json:"host"`
	Port   uint16 `json:"port"`
	Proto  string `json:"proto"`
	Choice Choice `json:"choice"`
	Actor  string `json:"actor,omitempty"`
	Via    string `json:"via,omitempty"`
}

// UndoChange takes the verdict on a request back.
type UndoChange struct {
	ID    string `json:"id"`
	Actor string `json:"actor,omitempty"`
	Via   string `json:"via,omitempty"`
}

// Codes of refused verdicts.
const (
	CodeUnknownRequest = "unknown_request"
	CodeStale          = "stale_request"    // what is asked changed since it was shown
	CodeMismatch       = "verdict_mismatch" // another target than the request's
	CodeInvalidChoice  = "invalid_choice"
	CodeAlreadyDecided = "already_decided" // Message names by whom, what and when
	CodeNotDecided     = "not_decided"     // nothing to undo, or the rule is not the verdict's any more
	CodeOutranked      = "rule_outranked"  // a rule of an earlier tier keeps the target closed
	CodeApplyFailed    = "apply_failed"    // the request is open again
)
