package supervisor

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
)

// standing is what holds now and why.
type standing struct {
	now      control.Posture
	desired  control.Desired
	tampered bool
	rules    int
	broken   error // why the state on disk cannot be used
	unlogged error // why the ledger that is required cannot be written
}

func (r *rules) state() standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	return standing{now: r.posture(), desired: r.desired, tampered: r.tampered,
		rules: len(r.document.Rules) + len(r.session), broken: r.broken, unlogged: r.unlogged}
}

// setPosture writes the desired posture, then applies it.
func (r *rules) setPosture(c control.PostureChange) (was, is control.Desired, err error) {
	d, err := c.Desired(r.now())
	if err != nil {
		return was, is, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := control.WriteDesired(sandbox.PosturePath(r.dir), d); err != nil {
		return was, is, err
	}
	was, r.desired = r.desired, d
	if r.broken != nil {
		r.read() // a torn posture file was the reason
	}
	r.swap()
	return was, r.desired, nil
}

// lapse ends a window whose time is over and returns the event that tells of it. The end is written
// down, so that a clock that is set back does not open the window again. Called with the lock held.
func (r *rules) lapse() *audit.Event {
	was := r.desired
	if r.broken != nil || was.Until.IsZero() || r.now().Before(was.Until) {
		return nil
	}
	const why = "the window has ended"
	r.desired = control.Desired{Posture: control.Up, Since: was.Until, Reason: why, Actor: "auto"}
	if err := control.WriteDesired(sandbox.PosturePath(r.dir), r.desired); err != nil {
		log.Printf("write the posture: %v", err) // the clock says the same after a restart
	}
	e := audit.Event{Ev: evPosture, Actor: "auto", Verdict: string(control.Up), Reason: why,
		Detail: map[string]string{"from": string(was.Posture)}}
	return &e
}

// evPosture is a change of posture: Verdict is the new one, Detail "from" the one before, Expires
// its end.
const evPosture = "posture_changed"

func changed(was, is control.Desired) audit.Event {
	e := audit.Event{Ev: evPosture, Actor: is.Actor, Via: is.Via, UID: operatorUID(is.Actor), Verdict: string(is.Posture),
		Reason: is.Reason, Detail: map[string]string{"from": string(was.Posture)}}
	if !is.Until.IsZero() {
		e.Expires = is.Until.Format(time.RFC3339)
	}
	return e
}

// SetPosture writes and applies another posture; a higher one has cut what it refuses when this
// returns.
func (s *service) SetPosture(ctx context.Context, c control.PostureChange) (control.Status, error) {
	was, is, err := s.rules.setPosture(c)
	if err != nil {
		return control.Status{}, err
	}
	s.recheck()
	s.ledger.Record(changed(was, is))
	return s.Status(ctx)
}

// require quarantines while err is not nil: the ledger cannot be written, and the operator wants
// no work that leaves no record.
func (r *rules) require(err error) {
	r.mu.Lock()
	r.unlogged = err
	r.swap()
	r.mu.Unlock()
	r.recheck()
}

// tell fills in what Status says of the posture.
func (st standing) tell(s *control.Status) {
	s.Posture, s.Desired, s.Rules, s.Verified = st.now, st.desired.Posture, st.rules, !st.tampered
	s.Reason = st.desired.Reason
	if t := st.desired.Since; !t.IsZero() {
		s.Since = &t
	}
	if t := st.desired.Until; !t.IsZero() && st.now == st.desired.Posture {
		s.Until = &t
	}
	switch {
	case st.tampered:
		s.Posture, s.Reason = control.Failing, "links or tables of the container's network namespace were changed from outside"
	case st.broken != nil:
		s.Posture, s.Reason = control.Quarantine, fmt.Sprintf("its state on disk cannot be used: %v", st.broken)
	case st.unlogged != nil:
		s.Reason = fmt.Sprintf("audit.required: the ledger cannot be written: %v", st.unlogged)
	}
}

// operatorUID is the uid on the host of everybody who may use the control socket: the supervisor's
// own, as it is outside Podman's user namespace (user_namespaces(7), uid_map).
func operatorUID(actor string) int {
	var inside, outside, size int
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || actor != "operator" {
		return 0
	}
	if _, err := fmt.Sscan(string(data), &inside, &outside, &size); err != nil || os.Geteuid() < inside || os.Geteuid() >= inside+size {
		return 0
	}
	return outside + os.Geteuid() - inside
}
