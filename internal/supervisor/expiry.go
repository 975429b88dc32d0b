package supervisor

import (
	"slices"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// settle drops the rules that have ended from a list and notes them, and those that deserve a
// remark, for the ledger. Rules that have ended decide nothing anyway; this is about saying so.
// Called with the lock held; loaded is true when the list has just been read.
func (r *rules) settle(list []policy.Rule, loaded bool) []policy.Rule {
	now := r.now()
	return slices.DeleteFunc(slices.Clone(list), func(x policy.Rule) bool {
		if !x.Live(now) {
			r.remarks = append(r.remarks, remark("entry_expired", x))
			return true
		}
		if loaded && x.Tier == policy.Override && x.Allows() && x.Range() {
			// An override is meant for one host: a range opens what nobody has looked at.
			r.remarks = append(r.remarks, remark("override_range", x))
		}
		return false
	})
}

func remark(ev string, x policy.Rule) audit.Event {
	e := audit.Event{Ev: ev, Actor: "auto", Rule: x.Text, Tier: x.Tier.String(), Name: x.Target(), Reason: x.Reason,
		Detail: map[string]string{"source": x.Source}}
	if !x.Expires.IsZero() {
		e.Expires = x.Expires.UTC().Format(time.RFC3339)
	}
	return e
}

// tell records what settle noted, once the ledger is there.
func (r *rules) tell() {
	r.mu.Lock()
	if !r.attached {
		r.mu.Unlock()
		return
	}
	events := r.remarks
	r.remarks = nil
	r.mu.Unlock()
	for _, e := range events {
		r.record(e)
	}
}
