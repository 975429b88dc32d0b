package supervisor

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"

	"terok/internal/control"
	"terok/internal/peer"
	"terok/internal/sandbox"
)

// secrets are what belongs to one start of a container. They exist in the memory of parent and
// worker, and sealed in the memory of the guest: when both processes have died, a parent that
// takes the container over gets them back from there, and what runs in the container goes on
// with the certificate it trusts and the tokens it was given. The key to the box lies in the
// sandbox file and is the parent's alone, so neither the container nor a worker that was taken
// over can make a box or look into one, and the file alone reveals nothing.
type secrets struct {
	Authority []byte            `json:"authority,omitempty"` // vault/front.Authority
	Phantoms  map[string]string `json:"phantoms,omitempty"`  // provider → phantom token
	GateToken string            `json:"gate_token,omitempty"`
	GateTurn  int               `json:"gate_turn,omitempty"` // how often it was replaced (rotate.go)
	Proof     []byte            `json:"proof,omitempty"`     // by which the guest shows that it is the guest
}

// errForeignBox says that a box was not sealed by a parent of this start.
var errForeignBox = errors.New("what the guest brought is not of this start")

// boxContext says what a box is about: a box of another start opens nowhere else.
func boxContext(f *sandbox.File, containerID string, initPID int) ([]byte, error) {
	start, err := peer.StartTime(initPID)
	if err != nil {
		return nil, fmt.Errorf("the container's init: %w", err)
	}
	return fmt.Appendf(nil, "terok start v1\x00%s\x00%s\x00%d\x00%d", f.Launch, containerID, initPID, start), nil
}

// seal encrypts the secrets of a start (AES-256-GCM with a random nonce).
func seal(key, context []byte, s *secrets) ([]byte, error) {
	box, err := newBox(key)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sealed := box.Seal(nil, nil, data, context)
	if len(sealed) > control.MaxSealed {
		return nil, fmt.Errorf("the secrets of a start have %d bytes, at most %d can be kept", len(sealed), control.MaxSealed)
	}
	return sealed, nil
}

// unseal opens what came from the container. Nothing is looked at before it proves to be ours.
func unseal(key, context, sealed []byte) (*secrets, error) {
	box, err := newBox(key)
	if err != nil {
		return nil, err
	}
	data, err := box.Open(nil, nil, sealed, context)
	if err != nil {
		return nil, errForeignBox
	}
	var s secrets
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the secrets of this start: %w", err)
	}
	return &s, nil
}

func newBox(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, errors.New("the sandbox file has no sealing key")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
