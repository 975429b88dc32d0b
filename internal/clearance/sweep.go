package clearance

import (
	"context"
	"maps"
	"slices"
	"time"

	"terok/internal/control"
)

// Sweep ends what its time has come for, and returns when to call it again; the zero time means
// not before something changes.
func (d *Docket) Sweep() (next time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	soon := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	live := slices.Collect(maps.Values(d.open))
	if d.flood != nil {
		live = append(live, d.flood)
	}
	for _, e := range live {
		if e.r.State == control.RequestOpen && !now.Before(e.r.ExpiresAt) {
			d.finish(e, control.RequestExpired)
			continue
		}
		for w := range e.waiters {
			if !now.Before(w.deadline) {
				d.release(e, w)
				d.touch(e)
			} else {
				soon(w.deadline)
			}
		}
		switch due := e.published.Add(publishEvery); {
		case !e.dirty:
		case !now.Before(due):
			d.publish(e)
		default:
			soon(due)
		}
		soon(e.r.ExpiresAt)
	}
	return next
}

// Run calls Sweep in time until ctx ends.
func (d *Docket) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
		if next := d.Sweep(); next.IsZero() {
			timer.Stop()
		} else {
			// Wall clock: at least every minute, since timers stop in suspend.
			timer.Reset(min(max(next.Sub(d.cfg.Now()), time.Millisecond), time.Minute))
		}
	}
}
