// Package keyholder is the language of the keyholder, the one process per user that holds the
// unlocked vault, and its two kinds of clients. The process itself is package holder, so that a
// supervisor, which uses this package, never links the vault's store.
//
//   - Operator: Dial, then Unlock, Lock, Status, Put, List, Delete, and what is done to the vault
//     itself: slots, key, backup. Only processes in the
//     operator's own user namespace are served.
//   - Supervisor: the parent calls Register once the container's init exists and then Keep (or
//     Connect), and hands each connection to its worker, which makes a Session of it. The
//     connection is bound to one sandbox file: it can fetch the credentials granted there while
//     that container lives, and nothing else. It outlives the worker, not the keyholder.
//
// `vault lock` ends the keyholder, since only the end of a process surely forgets what a garbage
// collected heap held. Sessions then say ErrLocked; after the next unlock Keep connects again and
// the parent passes the new connection to Session.Attach. A kill -9 of the keyholder looks the same.
//
//	conn, err := keyholder.Connect(ctx, file.Keyholder, sandboxFile) // parent
//	s := keyholder.NewSession(conn)                                  // worker
//	secret, err := s.Credential(ctx, "anthropic")
//
// The socket is $XDG_RUNTIME_DIR/terok/keyholder.sock, mode 0600, type SOCK_SEQPACKET: a message
// is one JSON object, never split, so that a worker which died in the middle of an exchange
// leaves nothing that could confuse the next. Secrets travel as base64 in JSON, over this socket
// only. They are never logged and no error text holds one.
package keyholder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
)

// MaxMessage bounds a message in bytes; longer ones are refused, not cut.
const MaxMessage = 64 << 10

// Errors that callers decide on. A Client wraps them with the keyholder's words.
var (
	ErrLocked       = errors.New("the vault is locked")
	ErrNoCredential = errors.New("no credential is stored for this provider")
	ErrNotGranted   = errors.New("this task has no grant for this provider")
	ErrRefused      = errors.New("the keyholder refused the connection")
	ErrWrong        = errors.New("wrong passphrase")
	ErrReauth       = errors.New("the sign-in has ended")
	ErrRefresh      = errors.New("the token has ended and cannot be refreshed now")
)

// Secret is a credential as the front needs it. Value, Also and Public are shared by all who got
// it: never write to them, and do not keep them longer than the request.
type Secret struct {
	Kind  string // "api_key", "oauth" or "pat"
	Value []byte // visible ASCII, 12 bytes to 8 KiB
	// Also holds further secrets of the credential that answers must not carry. It is empty:
	// refresh and ID tokens stay in the keyholder, which alone talks to token endpoints, so no
	// provider's answer to a container can hold one, and a worker that was taken over neither.
	Also      [][]byte
	Public    map[string]string // login, plan, account_id, …
	ExpiresAt time.Time         // zero: never, or unknown
}

// Digest names a token without telling it.
func (s Secret) Digest() string {
	sum := sha256.Sum256(s.Value)
	return hex.EncodeToString(sum[:])
}

// Revocation is a request with which a token takes itself back.
type Revocation struct {
	Method       string `json:"method"`
	URL          string `json:"url"` // https
	Header       string `json:"header"`
	Prefix       string `json:"prefix,omitempty"`
	CAFile       string `json:"ca_file,omitempty"`
	AllowPrivate bool   `json:"allow_private,omitempty"`
}

// Credential describes a stored credential without its secrets. Times are UTC; zero means unknown
// or never.
type Credential struct {
	Scope      string            `json:"scope"`    // "shared" or "project:<name>"
	Provider   string            `json:"provider"` // roster name
	Account    string            `json:"account"`  // label, "default" when nobody chose one
	Kind       string            `json:"kind"`     // api_key, oauth or pat
	State      string            `json:"state"`    // ok, unverified, reauth_required or invalid
	LastError  string            `json:"last_error,omitempty"`
	Public     map[string]string `json:"public,omitempty"` // login, plan, scopes, host, account_id, …
	Hint       string            `json:"hint"`             // last four characters
	ExpiresAt  time.Time         `json:"expires_at,omitzero"`
	RefreshAt  time.Time         `json:"refresh_at,omitzero"` // when a new token is due; zero: never by itself
	Refreshing bool              `json:"refreshing,omitempty"`
	Endpoint   *oauth.Endpoint   `json:"endpoint,omitempty"` // where the refresh token goes
	CreatedAt  time.Time         `json:"created_at"`
	UpdatedAt  time.Time         `json:"updated_at"`
	VerifiedAt time.Time         `json:"verified_at,omitzero"`
	Revision   uint64            `json:"revision"`
}

// Secrets are the secret parts of a credential to store.
type Secrets struct {
	Secret  []byte // what goes on the wire now
	Refresh []byte // OAuth refresh token, or nil
	IDToken []byte // OpenID token, or nil
}

// Status is what the keyholder says of itself.
type Status struct {
	Unlocked    bool      `json:"unlocked"`
	PID         int       `json:"pid"`
	Version     string    `json:"version"`
	Credentials int       `json:"credentials"`
	Sessions    int       `json:"sessions"`           // connected supervisors
	Opened      string    `json:"opened,omitempty"`   // kind of the slot that opened the vault
	Program     string    `json:"program,omitempty"`  // path of the program that runs
	Outdated    bool      `json:"outdated,omitempty"` // another program lies at that path now
	RolledBack  bool      `json:"rolled_back,omitempty"`
	Since       time.Time `json:"since,omitzero"` // of the keyholder's start
}

// Operations.
const (
	OpUnlock     = "unlock"
	OpLock       = "lock"
	OpStatus     = "status"
	OpList       = "list"
	OpPut        = "put"
	OpOffer      = "offer" // OpPut, unless there is one: Response.Had says which
	OpDelete     = "delete"
	OpAttach     = "attach"     // supervisor: bind this connection to a sandbox file
	OpCredential = "credential" // supervisor: the secret of one grant
	OpHeld       = "held"       // supervisor: for which grants there is a credential, without secrets
	OpRefresh    = "refresh"    // get a new access token now
	OpRevoke     = "revoke"     // delete, and tell the provider
	OpBind       = "bind"       // a project (Name) uses this credential; without a scope: no particular one
)

// Request is one message to the keyholder.
type Request struct {
	V          int    `json:"v"` // 1
	ID         uint64 `json:"id"`
	Op         string `json:"op"`
	Passphrase []byte `json:"passphrase,omitempty"`
	Unattended bool   `json:"unattended,omitempty"` // OpUnlock: no person asks for it
	Scope      string `json:"scope,omitempty"`
	Provider   string `json:"provider,omitempty"`
	Account    string `json:"account,omitempty"` // "": default
	// Credential and the three secrets are what OpPut stores; hint, times of writing and revision
	// are the keyholder's own.
	Credential *Credential `json:"credential,omitempty"`
	Secret     []byte      `json:"secret,omitempty"`
	Refresh    []byte      `json:"refresh,omitempty"`
	IDToken    []byte      `json:"id_token,omitempty"`
	After      int         `json:"after,omitempty"` // OpList: skip so many
	Dry        bool        `json:"dry,omitempty"`   // OpOffer: store nothing

	Name    string   `json:"name,omitempty"`
	Path    string   `json:"path,omitempty"` // absolute
	Slot    *NewSlot `json:"slot,omitempty"`
	Secrets [][]byte `json:"secrets,omitempty"`

	Sandbox string      `json:"sandbox,omitempty"` // absolute path of the sandbox file
	SSH     *SSHRequest `json:"ssh,omitempty"`     // OpSSH

	// Refused is the digest (Secret.Digest) of a token that the provider has just refused:
	// OpCredential then looks for a newer one.
	Refused string   `json:"refused,omitempty"`
	Digests []string `json:"digests,omitempty"` // OpPhantoms, OpLeaked
	// Upstream tells OpRevoke how a token takes itself back; nil for RFC 7009 at the credential's
	// own endpoint.
	Upstream *Revocation `json:"upstream,omitempty"`
}

// Response answers the request with the same ID. ID 0 is a message of the keyholder's own:
// credentials changed, forget what is cached; or, with Leaked, a phantom leaked.
type Response struct {
	ID          uint64            `json:"id"`
	Code        string            `json:"code,omitempty"` // "" is success
	Message     string            `json:"message,omitempty"`
	Hint        string            `json:"hint,omitempty"` // command that cures it
	Exit        int               `json:"exit,omitempty"` // exit code of the command line, 0 is unclassified
	Kind        string            `json:"kind,omitempty"`
	Secret      []byte            `json:"secret,omitempty"`
	Public      map[string]string `json:"public,omitempty"`
	ExpiresAt   time.Time         `json:"expires_at,omitzero"`
	FreshMS     int64             `json:"fresh_ms,omitempty"` // the secret may be used so long without asking; 0: until told
	Status      *Status           `json:"status,omitempty"`
	Credentials []Credential      `json:"credentials,omitempty"`
	More        bool              `json:"more,omitempty"` // OpList: ask again, after those that came
	Replaced    bool              `json:"replaced,omitempty"`
	Had         string            `json:"had,omitempty"` // OpOffer: HadSame, HadOther, or "" when there was none
	Ways        *Ways             `json:"ways,omitempty"`
	Findings    []Finding         `json:"findings,omitempty"`
	Merged      *Merged           `json:"merged,omitempty"`
	Steps       []Step            `json:"steps,omitempty"`
	Bindings    []Binding         `json:"bindings,omitempty"`
	SSH         *SSHReply         `json:"ssh,omitempty"`
	Held        []sandbox.Held    `json:"held,omitempty"`
	Leaked      string            `json:"leaked,omitempty"` // with ID 0: digest of a phantom of this supervisor that another container used
	// Task is the one at the other end of a leak, as "project/task": who owns the phantom (OpLeaked,
	// "" when nobody has it), or who used it (Leaked).
	Task string `json:"task,omitempty"`
}

// What OpOffer finds.
const (
	HadSame  = "same"  // these very secrets
	HadOther = "other" // other ones, which stay
)

// Codes of refusals, besides those of package store.
const (
	CodeLocked       = "vault_locked"
	CodeWrong        = "wrong_passphrase"
	CodeAttempts     = "too_many_attempts" // exit 1: wait
	CodeNoCredential = "credential_missing"
	CodeNotGranted   = "not_granted"
	CodeReauth       = "reauth_required"     // a person must sign in again
	CodeRefresh      = "refresh_unavailable" // the token has ended, and no new one can be had now
	CodeNoRevocation = "no_revocation"       // the provider has no way that terok knows
	CodeRefused      = "refused"
	CodeBadRequest   = "bad_request"
	CodeFailed       = "failed"
)

// Refusal is the keyholder's answer when it does not do what was asked.
type Refusal struct {
	Code    string
	Message string
	Hint    string
	Exit    int
}

func (r *Refusal) Error() string { return r.Message }

// Is maps codes to the package's errors.
func (r *Refusal) Is(target error) bool {
	switch r.Code {
	case CodeLocked:
		return target == ErrLocked
	case CodeNoCredential:
		return target == ErrNoCredential
	case CodeNotGranted:
		return target == ErrNotGranted
	case CodeWrong:
		return target == ErrWrong
	case CodeReauth:
		return target == ErrReauth
	case CodeRefresh:
		return target == ErrRefresh
	case CodeRefused:
		return target == ErrRefused
	}
	return false
}

func (r *Response) err() error {
	if r.Code == "" {
		return nil
	}
	return &Refusal{r.Code, r.Message, r.Hint, r.Exit}
}

// Wipe overwrites the secrets of a request.
func (r *Request) Wipe() {
	for _, s := range append([][]byte{r.Passphrase, r.Secret, r.Refresh, r.IDToken}, r.Secrets...) {
		clear(s)
	}
	if r.SSH != nil {
		clear(r.SSH.Private)
	}
}

// DecodeRequest reads one message strictly: one JSON object, no unknown fields, nothing after it.
func DecodeRequest(msg []byte) (Request, error) {
	var req Request
	if err := decode(msg, &req); err != nil {
		return Request{}, err
	}
	if req.V != 1 {
		return Request{}, fmt.Errorf("protocol version %d is not spoken here", req.V)
	}
	if req.ID == 0 || req.Op == "" {
		return Request{}, errors.New("a request needs an id and an op")
	}
	return req, nil
}

func decode(msg []byte, v any) error {
	if len(msg) > MaxMessage {
		return errors.New("message too long")
	}
	dec := json.NewDecoder(bytes.NewReader(msg))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return errors.New("not a message of this protocol") // the decoder's words may quote a secret
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("bytes after the message")
	}
	return nil
}
