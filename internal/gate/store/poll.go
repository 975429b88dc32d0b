package store

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/state"
	"terok/internal/text"
)

// maxBackoff is the longest pause after failures.
const maxBackoff = time.Hour

// Poll asks upstream for its refs, one round trip, fetches nothing, and writes down what differs
// from the last sync and when to ask again: after interval, ±10 %, or twice as long after each
// failure in a row, at most an hour. Before that time it asks only when forced; asked says whether
// it did.
func (s *Store) Poll(ctx context.Context, project string, interval time.Duration, forced bool) (c Check, asked bool, err error) {
	st, err := s.load(project)
	if err != nil {
		return c, false, err
	}
	if st.Checked != nil {
		c = *st.Checked
	}
	now := s.now().UTC()
	if st.Upstream == "" || !forced && now.Before(c.Next) {
		return c, false, nil
	}
	up, err := ParseUpstream(st.Upstream)
	if err != nil {
		return c, false, err
	}
	failures := c.Failures
	c = Check{At: now.Truncate(time.Second)}
	if err = s.compare(ctx, project, up, &c); err != nil {
		if ctx.Err() != nil {
			return c, true, ctx.Err()
		}
		c.Failures, c.Error = failures+1, text.Line(err.Error(), 300)
		interval = min(interval<<min(c.Failures, 10), maxBackoff)
	}
	jitter := time.Duration((rand.Float64() - 0.5) * 0.2 * float64(interval))
	c.Next = now.Add(interval + jitter).Truncate(time.Second)
	// Only what was learned is written: a sync may have changed the rest meanwhile.
	unlock, lerr := s.Lock(ctx, project)
	if lerr != nil {
		return c, true, lerr
	}
	defer unlock()
	if st, lerr = s.load(project); lerr != nil {
		return c, true, lerr
	}
	if st.Checked == nil || st.Checked.Behind != c.Behind || st.Checked.Gone != c.Gone || (st.Checked.Error == "") != (c.Error == "") {
		s.record(audit.Event{Project: project, Ev: "gate_polled", Actor: s.actor(), Count: uint64(c.Behind + c.Gone), Reason: c.Error})
	}
	st.Checked = &c
	return c, true, state.WriteJSON(s.statePath(project), st)
}

// PollDue reports whether Poll would ask upstream. It reads one small file.
func (s *Store) PollDue(project string) bool {
	st, err := s.load(project)
	return err == nil && st.Upstream != "" && (st.Checked == nil || !s.now().Before(st.Checked.Next))
}

// compare counts the branches that upstream has moved, made or deleted since the last sync.
func (s *Store) compare(ctx context.Context, project string, up Upstream, c *Check) error {
	base := s.Roots.GateBase(project)
	if err := Verify(base); err != nil {
		return err
	}
	conn, err := s.Connect(ctx, project, up)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := remote{Store: s, conn: conn, up: up, dir: base}
	l, err := r.list(ctx)
	if err != nil {
		return err
	}
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	snapshot := refs.below(SnapshotRefs)
	for _, ref := range slices.Sorted(maps.Keys(l.refs)) {
		b, ok := strings.CutPrefix(ref, refname.Heads)
		if ok && snapshot[b] != l.refs[ref] {
			c.Behind++
			c.Branches = shortList(c.Branches, b)
		}
	}
	for _, b := range slices.Sorted(maps.Keys(snapshot)) {
		if l.refs[refname.Heads+b] == "" {
			c.Gone++
			c.Deleted = shortList(c.Deleted, b)
		}
	}
	return nil
}

// shortList adds a branch to a list, if its name can be shown.
func shortList(list []string, b string) []string {
	if len(list) < 20 && refname.Check(b) == nil {
		list = append(list, b)
	}
	return list
}
