package clearance

import (
	"context"

	"terok/internal/control"
	"terok/internal/shield/policy"
	"terok/internal/text"
)

// Matter is a question that no rule answers, such as a budget that is used up. Its verdict changes
// no policy: ChoiceOnce says yes to this very question, ChoiceDeny says no.
type Matter struct {
	Kind  control.RequestKind
	Host  string   // what it is about, in words or as a name
	Names []string // further words for the person
}

// matterProto keeps matters apart from targets, which are tcp or udp.
const matterProto = "any"

// Decide asks somebody and waits for the verdict. It is false at once when nobody can answer, and
// when the last who can goes, the request expires, or ctx ends.
func (d *Docket) Decide(ctx context.Context, m Matter) bool {
	e, w := d.raise(m)
	if w == nil {
		return false
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, waits := e.waiters[w]; waits {
		d.release(e, w)
		d.touch(e)
	}
	return e.r.State == control.RequestApplied && e.r.Decision.Choice == control.ChoiceOnce
}

// raise makes or finds the request of a matter and waits on it.
func (d *Docket) raise(m Matter) (*entry, *waiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.answerers == 0 {
		return nil, nil
	}
	now := d.cfg.Now()
	t := Target{Host: text.Line(m.Host, 0), Proto: matterProto}
	e := d.open[t]
	if e == nil {
		if !d.admit(now) {
			return nil, nil
		}
		e = d.birth(t, m.Kind, now)
		e.matter, e.r.NameSource = true, "none"
		for _, n := range m.Names {
			e.r.Names = append(e.r.Names, text.Line(n, 0))
		}
		e.r.Choices = []control.Choice{control.ChoiceDeny, control.ChoiceOnce}
		e.r.Hash = d.hash(e)
		d.open[t] = e
		d.record(e, "")
		d.publish(e)
	} else {
		e.r.Count++
		d.see(e, now)
	}
	w := &waiter{done: make(chan struct{}), deadline: now.Add(life)}
	e.waiters[w] = struct{}{}
	e.r.Held = len(e.waiters)
	d.touch(e)
	d.poke()
	return e, w
}

// stands tells whether an entry is still somebody's to answer.
func (d *Docket) stands(e *entry) bool {
	return e.matter || d.cfg.Judge(e.target) == policy.Ask
}
