package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often Follow looks for new lines. It polls, since inotify instances are
// charged to the user and run out.
const pollEvery = 100 * time.Millisecond

// Follow is Read that goes on: it calls fn for what is there and then for every new event that
// matches, until ctx ends or fn fails, and returns that error. It waits for a ledger that does
// not exist yet, and rotation loses nothing. Damaged lines are passed over.
func Follow(ctx context.Context, path string, f Filter, fn func(Event) error) error {
	w := &follower{path: path, filter: f, fn: fn, seq: f.After}
	defer w.close()
	// Tail speaks of what is there now; everything after it is new.
	if f.Tail > 0 {
		last := w.seq
		err := Read(path, Filter{After: w.seq}, func(e Event) error { last = max(last, e.Seq); return nil })
		if err == nil {
			err = Read(path, f, func(e Event) error {
				if e.Seq > last {
					return nil // written in between; it comes as new
				}
				return fn(e)
			})
		}
		if _, damaged := errors.AsType[*DamagedError](err); err != nil && !damaged && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w.seq, w.filter.Tail = last, 0
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := w.poll(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// follower remembers how far a ledger was read.
type follower struct {
	path   string
	filter Filter
	fn     func(Event) error
	seq    uint64 // last one seen, matching or not
	f      *os.File
	rest   []byte // an unfinished line
}

func (w *follower) close() {
	if w.f != nil {
		w.f.Close()
	}
}

// poll reads what is new in the open file, and goes on to the next one after a rotation.
func (w *follower) poll() error {
	for {
		if w.f == nil {
			// Rotated files may hold lines that were not seen yet.
			if err := w.catchUp(); err != nil || w.f == nil {
				return err
			}
		}
		if err := w.drain(); err != nil {
			return err
		}
		now, err := os.Lstat(w.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // between the two steps of a rotation
		}
		if err != nil {
			return err
		}
		open, err := w.f.Stat()
		if err != nil {
			return err
		}
		if os.SameFile(now, open) {
			if at, err := w.f.Seek(0, io.SeekCurrent); err != nil || at <= open.Size() {
				return err
			}
			// Cut by a repair: read again what is left of it.
		}
		// The old file may have grown between the last read and its rotation: catchUp reads it.
		w.f.Close()
		w.f, w.rest = nil, nil
	}
}

// catchUp opens the file and reads all that comes before and in it after seq.
func (w *follower) catchUp() error {
	f, err := os.OpenFile(w.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files, err := sources(w.path)
	if err != nil {
		f.Close()
		return err
	}
	w.f = f
	for _, src := range files {
		if src.name == w.path {
			continue
		}
		err := src.lines(func(line []byte, _ int, _ bool) error { return w.line(line) })
		if err == errMoved { // look again at the next poll; what was seen is known by its number
			w.f.Close()
			w.f = nil
			return nil
		}
		if _, damaged := errors.AsType[*DamagedError](err); err != nil && !damaged {
			return err
		}
	}
	return nil
}

// drain reads the open file to its end.
func (w *follower) drain() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		w.rest = append(w.rest, buf[:n]...)
		for {
			line, after, found := bytes.Cut(w.rest, []byte("\n"))
			if !found {
				break
			}
			if err := w.line(line); err != nil {
				return err
			}
			w.rest = after
		}
		w.rest = append([]byte(nil), w.rest...)
		if len(w.rest) > maxLine {
			w.rest = w.rest[:maxLine] // no line of ours; its end is looked for, its text is not kept
		}
		if err == io.EOF || n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (w *follower) line(line []byte) error {
	var e Event
	if json.Unmarshal(line, &e) != nil || e.Seq <= w.seq {
		return nil
	}
	w.seq = e.Seq
	if !w.filter.match(&e) {
		return nil
	}
	return w.fn(e)
}
