package control

// The probe of `terok verify`: `terok guest verify` in the container reads one VerifyPlan from
// stdin and prints one VerifyRow per line. It tries to get out, so it knows nothing that the
// workload must not know.

// VerifyPlan says what the probe tries.
type VerifyPlan struct {
	Nonce   string        `json:"nonce"`    // makes names of this run unique; an echo answers with it
	Allowed uint16        `json:"allowed"`  // port of the host's loopback that is open to this container
	Closed  uint16        `json:"closed"`   // one that listens and is not
	Web     uint16        `json:"web"`      // 80 when it is open and the verifier listens there; 0: it is open, and whoever listens must not be reached
	Also    []string      `json:"also"`     // names and addresses that must be refused as well
	HostIPs []string      `json:"host_ips"` // the host's own addresses
	Sockets []string      `json:"sockets"`  // paths on the host that must not exist here
	Routed  []string      `json:"routed"`   // hosts that the vault relays
	Vault   []VerifyVault `json:"vault"`    // providers that the container may use
	Gate    bool          `json:"gate"`     // there is a gate
	Range   string        `json:"range"`    // of synthetic addresses
	Alone   bool          `json:"alone"`    // nothing else runs in the container
	MayHold bool          `json:"may_hold"` // somebody can be asked: a refusal may wait for an answer
}

// VerifyVault is a provider whose front the probe attacks. Every request in it is one that the front
// itself must refuse.
type VerifyVault struct {
	Provider     string   `json:"provider"`
	Host         string   `json:"host"`
	Env          []string `json:"env"`           // variables that hold the phantom
	Method       string   `json:"method"`        // of a request that is allowed …
	Open         string   `json:"open"`          // … to this path
	DeniedMethod string   `json:"denied_method"` // of one that is refused …
	Denied       string   `json:"denied"`        // … by its path
	Fetch        string   `json:"fetch"`         // path that takes messages; "" for none, or when the provider may fetch
	Forge        string   `json:"forge"`         // "github", "gitlab" or ""
	Confined     bool     `json:"confined"`      // writes are confined to the project's repository
}

// VerifyRow is the outcome of one attack or control.
type VerifyRow struct {
	Row   string `json:"row"`
	OK    bool   `json:"ok"`
	Proof string `json:"proof"` // what happened, in words
	MS    int64  `json:"ms"`
}

// EchoWord begins the line that an allowed target answers; the nonce follows.
const EchoWord = "terok-verify "
