package keyholder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
)

// A phantom token that turns up in another container is a leak. Containers' supervisors do not
// know each other, so each tells the keyholder the digests of its own phantoms, and asks about a
// stranger's. A digest says nothing about a token of 160 random bits, and only who has the whole
// token has its digest: nobody can have another task's token revoked by its public handle.

// Operations of supervisors.
const (
	OpPhantoms = "phantoms" // Digests are those of this container start's phantoms
	OpLeaked   = "leaked"   // Digests is one, of a phantom that this container used and does not own
)

// MaxPhantoms bounds the phantoms of one container.
const MaxPhantoms = 64

// DigestOf is the SHA-256 of a phantom token in hex.
func DigestOf(phantom string) string {
	sum := sha256.Sum256([]byte(phantom))
	return hex.EncodeToString(sum[:])
}

// Guard makes the phantoms of this container known, now and after each Attach, and calls leaked,
// on a goroutine of its own, with one that another container used, and which that is. Call it once,
// before Attach.
func (s *Session) Guard(phantoms []string, leaked func(phantom, by string)) {
	own := map[string]string{}
	for _, p := range phantoms {
		own[DigestOf(p)] = p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own, s.leaked = own, leaked
	s.tell()
}

// tell sends the digests; the answer says nothing. The caller holds mu.
func (s *Session) tell() {
	if s.conn == nil || len(s.own) == 0 {
		return
	}
	s.id++
	req := Request{V: 1, ID: s.id, Op: OpPhantoms}
	for d := range s.own {
		req.Digests = append(req.Digests, d)
	}
	_ = send(s.conn, req) // a connection that fails shows it to its reader
}

// Owner says whose a phantom is, "" when no running container has it, and tells its supervisor.
func (s *Session) Owner(ctx context.Context, phantom string) (string, error) {
	resp, _, err := s.ask(ctx, Request{Op: OpLeaked, Digests: []string{DigestOf(phantom)}})
	return resp.Task, err
}
