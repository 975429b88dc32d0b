package control

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

// MaxWindow bounds how long a lowered posture may be asked for.
const MaxWindow = 366 * 24 * time.Hour

// Desired is the posture file of a task directory: what the operator wants, since when and why. The
// supervisor writes it; a command writes it only while there is no supervisor.
type Desired struct {
	Posture Posture   `json:"posture"`
	Until   time.Time `json:"until,omitzero"` // zero: until changed; afterwards Up
	Since   time.Time `json:"since,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	Actor   string    `json:"actor,omitempty"` // "operator", or "auto" when its end came
	Via     string    `json:"via,omitempty"`   // face: "cli", "tui", "web", "menu"
}

// Lowered reports whether the posture opens what the policy does not.
func (p Posture) Lowered() bool { return p == Down || p == DownAll }

// Settable reports whether an operator can ask for the posture.
func (p Posture) Settable() bool {
	return slices.Contains([]Posture{Up, Down, DownAll, Quarantine}, p)
}

// At is the posture that holds at a moment by the wall clock: a monotonic clock stops while the
// machine sleeps, and a sleeping machine must not lengthen a window.
func (d Desired) At(now time.Time) Posture {
	if !d.Until.IsZero() && !now.Before(d.Until) {
		return Up
	}
	return d.Posture
}

// ReadDesired reads the posture file. A file that does not exist means Up; one that cannot be used
// is an error, and means Quarantine.
func ReadDesired(path string) (Desired, error) {
	var d Desired
	err := state.ReadJSON(path, &d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Desired{Posture: Up}, nil
	case err != nil:
		return Desired{Posture: Quarantine}, err
	case !d.Posture.Settable():
		return Desired{Posture: Quarantine}, fmt.Errorf("%s has the unknown posture %q", path, d.Posture)
	}
	return d, nil
}

// WriteDesired writes the posture file.
func WriteDesired(path string, d Desired) error { return state.WriteJSON(path, d) }

// Desired turns a change into what is written. It refuses what no operator can ask for.
func (c PostureChange) Desired(now time.Time) (Desired, error) {
	bad := func(format string, args ...any) (Desired, error) {
		return Desired{}, problem.New("posture_invalid", problem.Usage, format, args...)
	}
	switch {
	case !c.Posture.Settable():
		return bad("posture %q is not up, down, down-all or quarantine", c.Posture)
	case c.Seconds < 0 || c.Seconds > int(MaxWindow/time.Second):
		return bad("a posture can last from 1s to %dd", int(MaxWindow/(24*time.Hour)))
	case c.Seconds > 0 && !c.Posture.Lowered():
		return bad("only a lowered shield ends by itself")
	case c.Posture.Lowered() && c.Reason == "":
		return bad("lowering the shield needs a reason")
	}
	d := Desired{Posture: c.Posture, Since: now.UTC(), Reason: c.Reason, Actor: c.Actor, Via: c.Via}
	if d.Actor == "" {
		d.Actor = "operator"
	}
	if c.Seconds > 0 {
		d.Until = now.Add(time.Duration(c.Seconds) * time.Second).UTC()
	}
	return d, nil
}
