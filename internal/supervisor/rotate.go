package supervisor

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// A new token for the task's gate, while the container runs. The parent makes it, since it holds and
// seals what belongs to a start. The worker lets nobody in with the old one from then on, and gives
// the new one to the guest, which shows by its proof that it is pid 1 of this container: another
// container in the same network namespace learns nothing.
//
// What the guest brings each time it comes says which token the container has, so a step that got
// lost is done again by whoever serves next. How often the token was replaced is on disk before
// there is a new one (gateTurn): a parent that takes the container over with an older box makes
// another token, and one that was replaced is never good again.

const (
	gateTokenPrefix = "terok-g-" // leak knows it
	gateTokenSize   = len(gateTokenPrefix) + 48
	proofSize       = 32
)

func newGateToken() string {
	var token [24]byte
	_, _ = rand.Read(token[:]) // never fails
	return gateTokenPrefix + hex.EncodeToString(token[:])
}

// gateTurn is the file sandbox.GateTurnPath.
type gateTurn struct {
	Start string `json:"start"` // digest of what boxContext says of the start
	Turn  int    `json:"turn"`  // secrets.GateTurn of the newest token
}

func startDigest(about []byte) string {
	sum := sha256.Sum256(about)
	return hex.EncodeToString(sum[:])
}

// outdated reports whether a token was replaced. A file that cannot be read is an answer: yes.
func (p *parent) outdated(about []byte, s *secrets) bool {
	var last gateTurn
	err := state.ReadJSON(sandbox.GateTurnPath(p.hand.File.Dir), &last)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || last.Start == startDigest(about) && last.Turn > s.GateTurn
}

// turn gives s another token and seals it. It is on disk before that the old one is over.
func (p *parent) turn(s *secrets, about []byte) (box []byte, err error) {
	path, next := sandbox.GateTurnPath(p.hand.File.Dir), gateTurn{Start: startDigest(about), Turn: s.GateTurn + 1}
	var last gateTurn
	if err := state.ReadJSON(path, &last); err == nil && last.Start == next.Start {
		next.Turn = max(next.Turn, last.Turn+1)
	}
	if err := state.WriteJSON(path, next); err != nil {
		return nil, err
	}
	s.GateToken, s.GateTurn = newGateToken(), next.Turn
	return seal(p.sealing, about, s)
}

// turnEvery is how often a worker gets a new token: one that was taken over must not keep the disk busy.
const turnEvery = 100 * time.Millisecond

// rotate makes the next token of the running container.
func (p *parent) rotate() (token string, box []byte, err error) {
	if p.hand.GateToken == "" || len(p.hand.Proof) != proofSize {
		return "", nil, errors.New("there is no gate token of this start")
	}
	if time.Since(p.turned) < turnEvery {
		return "", nil, errors.New("the last one was made a moment ago")
	}
	p.turned = time.Now()
	about, err := boxContext(&p.hand.File, p.hand.ContainerID, p.initPID)
	if err != nil {
		return "", nil, err
	}
	next := p.hand.secrets
	if box, err = p.turn(&next, about); err != nil {
		return "", nil, err
	}
	p.hand.secrets, p.hand.Sealed = next, box
	return next.GateToken, box, nil
}

// appendTurn is the answer to opToken: the token, and the rest is its box. Nothing is a refusal.
func appendTurn(token string, box []byte) []byte { return append([]byte(token), box...) }

// turned puts the parent's answer to use: from here on the old token opens nothing.
func (s *service) turned(block []byte) {
	var err error
	if len(block) <= gateTokenSize || s.gate == nil {
		err = errors.New("the supervisor could not make a new gate token; its log says why")
	} else {
		token, box := string(block[:gateTokenSize]), block[gateTokenSize:]
		s.gate.SetToken(token)
		s.guest.mu.Lock()
		s.hand.GateToken, s.hand.Sealed = token, box
		s.guest.mu.Unlock()
		s.guest.changed()
	}
	select {
	case s.turns <- err:
	default: // nobody waits any more
	}
}

// Bounds of a rotation.
const (
	guestWithin = 3 * time.Second // for the guest to be there: it comes back within two
	turnWithin  = 2 * time.Second // for the parent's answer
	tokenWithin = 4 * time.Second // for the guest to have the new token
)

// RotateGateToken implements control.Backend.
func (s *service) RotateGateToken(ctx context.Context, c control.Rotation) (control.Rotated, error) {
	if s.hand.File.Gate == nil {
		return control.Rotated{}, problem.New("no_gate", problem.NotFound, "this container has no gate")
	}
	s.turning.Lock()
	defer s.turning.Unlock()
	if s.gate == nil || !s.guest.wait(ctx, guestWithin, func(r *renewals) bool { return r.here > 0 }) {
		return control.Rotated{}, problem.New("guest_not_there", problem.Conflict, "the container's init does not answer, or is of an older terok, so it could not get a new token; nothing was changed").
			WithHint("terok task restart %s", s.subject())
	}
	select { // two commands at once are no reason for the parent to refuse the second
	case <-time.After(turnEvery - time.Since(s.lastTurn)):
	case <-ctx.Done():
		return control.Rotated{}, ctx.Err()
	}
	select {
	case <-s.turns: // one that nobody waited for
	default:
	}
	if err := s.link.say(opToken, nil); err != nil {
		return control.Rotated{}, err
	}
	select {
	case err := <-s.turns:
		s.lastTurn = time.Now()
		if err != nil {
			return control.Rotated{}, problem.New("not_rotated", problem.Failed, "%w", err)
		}
	case <-time.After(turnWithin):
		return control.Rotated{}, problem.New("not_rotated", problem.Failed, "the supervisor's parent does not answer; run the command again")
	}
	s.ledger.Record(audit.Event{Ev: "gate_token_rotated", Actor: "operator", Via: c.Via})
	s.guest.mu.Lock()
	box := s.hand.Sealed
	s.guest.mu.Unlock()
	return control.Rotated{Delivered: s.guest.wait(ctx, tokenWithin, func(r *renewals) bool { return bytes.Equal(r.has, box) })}, nil
}

// renewals is what the guest has of the newest token.
type renewals struct {
	state sync.Mutex
	here  int           // connections of the guest
	has   []byte        // the box that it brought last
	news  chan struct{} // closed at the next change
}

// change runs f and wakes who waits.
func (r *renewals) change(f func()) {
	r.state.Lock()
	defer r.state.Unlock()
	f()
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
}

func (r *renewals) changed() { r.change(func() {}) }

// next is closed at the next change.
func (r *renewals) next() <-chan struct{} {
	if r.news == nil {
		r.news = make(chan struct{})
	}
	return r.news
}

// wait waits until ok is true.
func (r *renewals) wait(ctx context.Context, within time.Duration, ok func(*renewals) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		r.state.Lock()
		done, news := ok(r), r.next()
		r.state.Unlock()
		if done {
			return true
		}
		select {
		case <-news:
		case <-ctx.Done():
			return false
		}
	}
}

// renew serves a connection of the guest, which has box: as soon as there is a newer one, say tells it.
func (g *guestAPI) renew(ctx context.Context, box []byte, say func(*control.Renewal) bool) {
	g.change(func() { g.here++; g.has = box })
	defer g.change(func() { g.here-- })
	for {
		g.state.Lock()
		news := g.next()
		g.state.Unlock()
		g.mu.Lock()
		now := control.Renewal{GateToken: g.hand.GateToken, Sealed: g.hand.Sealed}
		g.mu.Unlock()
		if now.GateToken != "" && len(now.Sealed) > 0 && !bytes.Equal(box, now.Sealed) {
			if say(&now) {
				<-ctx.Done() // it comes back with the new one
			}
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}
