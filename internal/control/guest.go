package control

import "terok/internal/sandbox"

// The guest's side: HTTP and JSON on 10.0.2.2:9421 inside the container's network namespace.
// The workload can reach it as well, so it grants nothing that the workload must not have.
//
//	POST /v1/hello   Hello → Welcome; Welcome.Start only for the first hello of a container start
//	POST /v1/ready   Ready → 204; the workspace is ready, or why not
//	POST /v1/stay    Stay → Welcome without a start, then silence until the supervisor ends, or a
//	                 Renewal for the guest, which proves that it is the one
//	GET  /v1/credentials → Credentials, before each start of an agent
//	GET  /v1/why?host=H&port=N → Explanation
//	POST /v1/ask     AskQuestion → AskAnswer; waits for the operator's verdict

// AskQuestion is an agent's question about a closed host (`terok guest ask`). Everything in it is
// untrusted.
type AskQuestion struct {
	Host    string `json:"host"`
	Port    uint16 `json:"port,omitempty"` // 0: 443
	Reason  string `json:"reason"`         // shown to the operator as the agent's words; cut at 200 bytes
	Seconds int    `json:"seconds"`        // to wait for a verdict, 0 to MaxAskSeconds
}

// MaxAskSeconds bounds how long a question waits.
const MaxAskSeconds = 600

// AskState is the answer to an agent.
type AskState string

// Answers to an agent.
const (
	AskAllowed AskState = "allowed"
	AskDenied  AskState = "denied"
	AskPending AskState = "pending" // nobody has answered yet; the request stays for a while
	AskLimited AskState = "limited" // too many questions; nobody was asked
)

// AskAnswer is what became of a question.
type AskAnswer struct {
	State  AskState `json:"state"`
	Target Target   `json:"target"`
	Reason string   `json:"reason"` // one sentence
}

// Hello is the guest's first message.
type Hello struct {
	Nonce []byte `json:"nonce"` // 32 random bytes
}

// Stay keeps a connection open by which the guest learns that its supervisor is gone, and gives
// an adopting supervisor the secrets of this start back.
type Stay struct {
	Nonce  []byte `json:"nonce"`            // 32 random bytes
	Sealed []byte `json:"sealed,omitempty"` // Welcome.Sealed, or Renewal.Sealed, as it was received last
	Proof  []byte `json:"proof,omitempty"`  // Welcome.Proof
}

// Renewal is a new token for the task's gate. It follows the answer to a Stay whose Proof is right
// and whose Sealed is not the newest; the guest puts it into place and comes back with this Sealed.
type Renewal struct {
	GateToken string `json:"gate_token"`
	Sealed    []byte `json:"sealed"`
}

// MaxSealed bounds Welcome.Sealed, in bytes.
const MaxSealed = 64 << 10

// Welcome proves the supervisor: Signature is ed25519 over HelloContext + nonce.
type Welcome struct {
	Signature []byte         `json:"signature"`
	Start     *sandbox.Start `json:"start"` // with phantoms, token and CA filled in; nil after the first hello
	// Sealed holds the secrets of this start, encrypted with a key that never enters a container.
	// The guest keeps it in memory for a supervisor that has to take over (Stay). Comes with Start.
	Sealed []byte `json:"sealed,omitempty"`
	// Proof tells the guest, which keeps it in memory, from everybody else in the container's network.
	// Comes with Start.
	Proof []byte `json:"proof,omitempty"`
}

// HelloContext is signed before the nonce, so that the key signs nothing else.
const HelloContext = "terok guest hello v1\x00"

// Ready reports the end of the guest's preparation.
type Ready struct {
	Error string `json:"error,omitempty"` // "" when the workspace is ready
}

// Credentials are the providers that a start of an agent may count on now. Which tokens stand for
// them the guest has known since the first hello: who only shares the network learns none here.
type Credentials struct {
	Known bool           `json:"known"` // false: the vault cannot be asked now; what was known before holds
	Held  []sandbox.Held `json:"held"`
}
