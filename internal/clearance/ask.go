package clearance

import (
	"context"
	"slices"
	"time"

	"terok/internal/control"
	"terok/internal/shield/policy"
)

// Bounds of an agent's questions (spec: shield.md §8.8).
const (
	askEvery   = 10 * time.Second
	askPerHour = 20
)

// Ask is an agent's question about a target. It waits for the verdict until ctx ends: then the
// request stays, and the answer is AskPending.
func (d *Docket) Ask(ctx context.Context, a Attempt) control.AskState {
	a.Kind = control.AgentAsked
	if s := d.known(a.Target); s != control.AskPending {
		return s
	}
	if !d.mayAsk() {
		return control.AskLimited
	}
	e := d.note(a)
	if e == nil {
		if s := d.known(a.Target); s != control.AskPending {
			return s
		}
		return control.AskLimited // folded into a flood
	}
	d.mu.Lock()
	decided := e.decided
	d.mu.Unlock()
	select {
	case <-decided:
	case <-ctx.Done():
	}
	return d.known(a.Target)
}

// known is what policy says about a target by now.
func (d *Docket) known(t Target) control.AskState {
	switch d.cfg.Judge(t) {
	case policy.Allow:
		return control.AskAllowed
	case policy.Ask:
		return control.AskPending
	}
	return control.AskDenied
}

// mayAsk takes one question from the agent's rate.
func (d *Docket) mayAsk() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	d.asked = slices.DeleteFunc(d.asked, func(t time.Time) bool { return now.Sub(t) >= time.Hour || t.After(now) })
	if n := len(d.asked); n >= askPerHour || n > 0 && now.Sub(d.asked[n-1]) < askEvery {
		return false
	}
	d.asked = append(d.asked, now)
	return true
}
