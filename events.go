package terok

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/sandbox"
)

// EventKinds are what `terok events --kind` takes, with the beginnings of the events' names.
var EventKinds = map[string][]string{
	"network": {"flow_", "name_", "dns_", "limit", "flood"},
	"verdict": {"verdict", "request", "entry_", "posture_", "policy_"},
	"vault":   {"vault_", "credential"},
	"gate":    {"gate_", "push_", "lfs_", "promote", "promotion", "review", "leak_", "task_reset"},
	"task":    {"start", "stop", "note", "supervisor_", "task_", "project_", "sandbox_"},
	"trouble": {"error", "verify_", "ledger", "events_lost", "gap", "panic", "flood", "limit"},
}

// EventsQuery selects events.
type EventsQuery struct {
	Target  string // a task or sandbox; "": all of them, and the host's
	Project string // without Target: only what concerns this project
	Kinds   []string
	Since   time.Time // zero: from the beginning
	Last    int       // only the last n; 0: all
	Follow  bool      // go on with what happens, until ctx ends
}

// watchEvery is how often Events looks for tasks that are new.
const watchEvery = time.Second

// Events calls fn for what the ledgers have, by time: of one task together with what the operator
// did to it, or of everything. With Follow new events come as they are written.
func (a *App) Events(ctx context.Context, q EventsQuery, fn func(audit.Event) error) error {
	f := audit.Filter{Since: q.Since}
	for _, k := range q.Kinds {
		prefixes, ok := EventKinds[k]
		if !ok {
			return problem.New("usage", problem.Usage, "--kind takes %s, not %q", strings.Join(slices.Sorted(maps.Keys(EventKinds)), ", "), k)
		}
		f.Ev = append(f.Ev, prefixes...)
	}
	w := ledgerWatch{list: func() ([]string, error) { return a.ledgers() }, filter: f, last: map[string]uint64{}, fn: fn,
		keep: func(audit.Event) bool { return true }}
	if q.Project != "" {
		w.keep = func(e audit.Event) bool { return e.Project == q.Project }
	}
	if q.Target != "" {
		s, err := a.shielded(q.Target)
		if err != nil {
			return err
		}
		paths := []string{sandbox.LedgerPath(s.dir), a.Roots.HostLedger()}
		w.list = func() ([]string, error) { return paths, nil }
		w.keep = func(e audit.Event) bool { // the host's ledger has other tasks as well
			return e.Sandbox == s.file.Key || e.Task != "" && e.Task == s.file.Task && e.Project == s.file.Project
		}
	}
	if err := w.past(ctx, q); err != nil || !q.Follow {
		return err
	}
	return w.follow(ctx)
}

// ledgerWatch reads several ledgers.
type ledgerWatch struct {
	list   func() ([]string, error) // the ledgers there are now
	filter audit.Filter
	keep   func(audit.Event) bool
	fn     func(audit.Event) error
	paths  []string          // those that past read
	last   map[string]uint64 // sequence number of the last line of each that past read
}

// past hands on what is there, by time. What is damaged does not keep a watcher from watching.
func (w *ledgerWatch) past(ctx context.Context, q EventsQuery) error {
	var err error
	if w.paths, err = w.list(); err != nil {
		return err
	}
	for _, p := range w.paths { // what is written from here on is new, whether or not it is selected
		err := audit.Read(p, audit.Filter{Tail: 1}, func(e audit.Event) error { w.last[p] = e.Seq; return nil })
		if _, damaged := errors.AsType[*audit.DamagedError](err); err != nil && !damaged && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f := w.filter
	if q.Target == "" {
		f.Tail = q.Last
	}
	var tail []audit.Event // of one task: lines of others must not count
	err = audit.Merge(ctx, w.paths, f, func(path string, e audit.Event) error {
		if q.Follow && e.Seq > w.last[path] || !w.keep(e) {
			return nil // it comes as new, or is another's
		}
		if q.Last == 0 || f.Tail > 0 {
			return w.fn(e)
		}
		if tail = append(tail, e); len(tail) >= 2*q.Last {
			tail = append(tail[:0], tail[len(tail)-q.Last:]...)
		}
		return nil
	})
	if _, damaged := errors.AsType[*audit.DamagedError](err); err != nil && !(damaged && q.Follow) {
		return err
	}
	for _, e := range tail[max(0, len(tail)-q.Last):] {
		if err := w.fn(e); err != nil {
			return err
		}
	}
	return nil
}

// follow hands on what is written from now on, also into ledgers that are new.
func (w *ledgerWatch) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	following := map[string]bool{}
	start := func(path string) {
		if following[path] {
			return
		}
		following[path] = true
		f := w.filter
		f.After = w.last[path]
		wg.Go(func() {
			err := audit.Follow(ctx, path, f, func(e audit.Event) error {
				if !w.keep(e) {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				return w.fn(e)
			})
			if ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		now, err := w.list()
		if err != nil {
			return err
		}
		for _, p := range now {
			start(p)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
