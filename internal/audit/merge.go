package audit

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
)

// errDone ends a Read whose consumer wants no more.
var errDone = errors.New("done")

// Merge calls fn for the selected events of several ledgers, by time; those of one ledger stay in
// their order. f.Tail is the last n of all. Damaged lines are passed over, and so is a ledger that
// does not exist; the first damage is returned at the end.
func Merge(ctx context.Context, paths []string, f Filter, fn func(path string, e Event) error) error {
	type stream struct {
		path string
		next func() (Event, bool)
		head Event
	}
	var damaged error
	var open []*stream
	for _, p := range paths {
		events := func(yield func(Event) bool) {
			err := Read(p, f, func(e Event) error {
				if !yield(e) {
					return errDone
				}
				return nil
			})
			if err != nil && damaged == nil && !errors.Is(err, errDone) && !errors.Is(err, fs.ErrNotExist) {
				damaged = err
			}
		}
		next, stop := iter.Pull(iter.Seq[Event](events))
		defer stop()
		if e, ok := next(); ok {
			open = append(open, &stream{p, next, e})
		}
	}
	type found struct {
		path string
		e    Event
	}
	var tail []found
	for len(open) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := 0 // few ledgers have anything to say: no heap
		for i, s := range open {
			if s.head.TS.Before(open[at].head.TS) {
				at = i
			}
		}
		s := open[at]
		if f.Tail > 0 {
			if tail = append(tail, found{s.path, s.head}); len(tail) >= 2*f.Tail {
				tail = append(tail[:0], tail[len(tail)-f.Tail:]...)
			}
		} else if err := fn(s.path, s.head); err != nil {
			return err
		}
		if e, ok := s.next(); ok {
			s.head = e
		} else {
			open = slices.Delete(open, at, at+1)
		}
	}
	for _, t := range tail[max(0, len(tail)-f.Tail):] {
		if err := fn(t.path, t.e); err != nil {
			return err
		}
	}
	return damaged
}
