package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
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
// one sealed: the certificate authority that running programs trust, and their tokens. One that has
// a new token of the gate gives it to who brings what is sealed from before.
func (s *supervisor) keep(ctx context.Context, key ed25519.PublicKey, me *stayer) {
	for pause := stayFirst; ; pause = min(2*pause, stayMax) {
		started := time.Now()
		renewed, _ := s.stay(ctx, key, me) // whatever ended it, the answer is to come back
		if renewed {
			pause = 0 // it waits to hear that the token is there
		} else if pause = max(pause, stayFirst); time.Since(started) > stayCalm {
			pause = stayFirst
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// stayer is what pid 1 keeps in its memory for the supervisors to come.
type stayer struct {
	sealed, proof []byte // control.Welcome
	tokenFile     string
}

// renew puts a new token into place, and only then what is sealed with it: who brings that says that
// the token is there.
func (me *stayer) renew(r *control.Renewal) error {
	if r.GateToken == "" || len(r.Sealed) == 0 {
		return errors.New("a renewal without a token")
	}
	if err := writeNew(me.tokenFile, []byte(r.GateToken), 0o600); err != nil {
		return err
	}
	me.sealed = r.Sealed
	return nil
}

// stay introduces itself once and returns when the connection ends, or, renewed, once a new token is
// in place. The sealed box is of no use to somebody else who answers, and nobody else answers with
// this key; the signature is checked before anything is taken.
func (s *supervisor) stay(ctx context.Context, key ed25519.PublicKey, me *stayer) (renewed bool, err error) {
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	body, err := json.Marshal(control.Stay{Nonce: nonce, Sealed: me.sealed, Proof: me.proof})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := time.AfterFunc(helloDeadline, cancel)
	defer answered.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/v1/stay", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the supervisor answers %s", res.Status)
	}
	// A connection that is kept open: the answer is the first line, not all there is.
	answer := io.LimitReader(res.Body, maxStay)
	var w control.Welcome
	lines := json.NewDecoder(answer)
	if err := lines.Decode(&w); err != nil {
		return false, fmt.Errorf("the supervisor's answer: %w", err)
	}
	if !signed(key, nonce, &w) {
		return false, errUnproven
	}
	answered.Stop()
	var r control.Renewal
	if err := lines.Decode(&r); err != nil {
		return false, err
	}
	err = me.renew(&r)
	return err == nil, err
}

// maxStay bounds what a supervisor says on a connection that is kept open, in bytes: a box is in
// base64 there.
const maxStay = 8<<10 + control.MaxSealed*4/3
