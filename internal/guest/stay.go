package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"terok/internal/control"
)

// Pauses between attempts to reach a supervisor that went away, and how long one must have lived
// for the next attempt to be quick again.
const (
	stayFirst = 50 * time.Millisecond
	stayMax   = 2 * time.Second
	stayCalm  = 10 * time.Second
)

// keep holds a connection to the supervisor for as long as the container runs. When it ends, a
// new worker serves in a moment; or supervisor and worker have died and the container has no
// network, until an operator lets another supervisor take over. That one gets back what the first
// one sealed: the certificate authority that running programs trust, and their tokens.
func (s *supervisor) keep(ctx context.Context, key ed25519.PublicKey, sealed []byte) {
	for pause := stayFirst; ; pause = min(2*pause, stayMax) {
		started := time.Now()
		_ = s.stay(ctx, key, sealed) // whatever ended it, the answer is to come back
		if time.Since(started) > stayCalm {
			pause = stayFirst
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// stay introduces itself once and returns when the connection ends. What it brings is of no use
// to somebody else who answers; the proof only tells a supervisor from a passer-by who would keep
// us waiting.
func (s *supervisor) stay(ctx context.Context, key ed25519.PublicKey, sealed []byte) error {
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	body, err := json.Marshal(control.Stay{Nonce: nonce, Sealed: sealed})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := time.AfterFunc(helloDeadline, cancel)
	defer answered.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/v1/stay", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the supervisor answers %s", res.Status)
	}
	// A connection that is kept open: the answer is the first line, not all there is.
	answer := io.LimitReader(res.Body, maxStay)
	var w control.Welcome
	if err := json.NewDecoder(answer).Decode(&w); err != nil {
		return fmt.Errorf("the supervisor's answer: %w", err)
	}
	if !signed(key, nonce, &w) {
		return errUnproven
	}
	answered.Stop()
	_, err = io.Copy(io.Discard, answer)
	return err
}

// maxStay bounds what a supervisor says on a connection that is kept open, in bytes.
const maxStay = 64 << 10
