package audit

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxUnpacked bounds what one rotated file may unpack to, in bytes.
const maxUnpacked = 256 << 20

// Filter selects events; the zero value selects all.
type Filter struct {
	Ev     []string  // prefixes of Event.Ev, e.g. "flow_"; empty: all
	Since  time.Time // at or after
	Until  time.Time // before; zero: no end
	After  uint64    // sequence number above
	Before uint64    // sequence number below; 0: no end
	Tail   int       // only the last n that match; 0: all
}

func (f Filter) match(e *Event) bool {
	if e.Seq <= f.After && f.After > 0 || e.TS.Before(f.Since) ||
		!f.Until.IsZero() && !e.TS.Before(f.Until) || f.Before > 0 && e.Seq >= f.Before {
		return false
	}
	return len(f.Ev) == 0 || slices.ContainsFunc(f.Ev, func(p string) bool { return strings.HasPrefix(e.Ev, p) })
}

// DamagedError says where a ledger cannot be read.
type DamagedError struct {
	File   string
	Line   int // from 1
	Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason) }

// Read calls fn for the selected events of the ledger at path, rotated files first. Lines that
// cannot be read are passed over; the first of them is returned as *DamagedError at the end. An
// unfinished last line is not damage: its writer is about to finish it. A missing ledger is
// fs.ErrNotExist.
func Read(path string, f Filter, fn func(Event) error) error {
	var damaged error
	var tail []Event
	var seen uint64
again: // after a rotation in between, which moved the files
	files, err := sources(path)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	for _, src := range files {
		err := src.lines(func(line []byte, n int, whole bool) error {
			var e Event
			if !whole && src.name == path {
				return nil
			}
			if err := json.Unmarshal(line, &e); err != nil {
				if damaged == nil {
					damaged = &DamagedError{src.name, n, "not a line of a ledger"}
				}
				return nil
			}
			seen = max(seen, e.Seq)
			if !f.match(&e) {
				return nil
			}
			if f.Tail > 0 {
				if tail = append(tail, e); len(tail) >= 2*f.Tail {
					tail = append(tail[:0], tail[len(tail)-f.Tail:]...)
				}
				return nil
			}
			return fn(e)
		})
		if err == errMoved {
			f.After = max(f.After, seen)
			goto again
		}
		if d, ok := errors.AsType[*DamagedError](err); ok {
			if damaged == nil {
				damaged = d
			}
		} else if err != nil {
			return err
		}
	}
	for _, e := range tail[max(0, len(tail)-f.Tail):] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return damaged
}

// source is one file of a ledger.
type source struct {
	name string
	gz   bool
	info fs.FileInfo
}

// sources lists the files of a ledger from the oldest to the newest.
func sources(path string) ([]source, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	type numbered struct {
		source
		n int
	}
	var found []numbered
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok {
			continue
		}
		src := numbered{source: source{name: filepath.Join(dir, e.Name())}}
		switch number, gz := strings.CutSuffix(rest, ".gz"); {
		case rest == "":
		case rest == ".1":
			src.n = 1
		case gz && strings.HasPrefix(number, "."):
			n, err := strconv.Atoi(number[1:])
			if err != nil || n < 1 {
				continue
			}
			// A ".1" beside it is newer: it waits for its compression.
			src.n, src.gz = n+2, true
		default:
			continue
		}
		if src.info, err = e.Info(); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, err
		}
		found = append(found, src)
	}
	// A crash, or this very moment, between the last two steps of a compression leaves both.
	if i := slices.IndexFunc(found, func(s numbered) bool { return s.n == 3 }); i >= 0 {
		found = slices.DeleteFunc(found, func(s numbered) bool { return s.n == 1 })
	}
	slices.SortFunc(found, func(a, b numbered) int { return b.n - a.n })
	out := make([]source, len(found))
	for i, s := range found {
		out[i] = s.source
	}
	return out, nil
}

// errMoved says that a rotation came between listing the files and opening this one.
var errMoved = errors.New("the ledger was rotated meanwhile")

// lines calls fn for each line (without newline; valid until fn returns) with its number; whole
// is false for a last line that has no newline. What cannot be a line is a *DamagedError.
func (s source) lines(fn func(line []byte, n int, whole bool) error) error {
	f, err := os.OpenFile(s.name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errMoved
	}
	if errors.Is(err, unix.ELOOP) {
		return &DamagedError{s.name, 0, "a symbolic link"}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return &DamagedError{s.name, 0, "not a regular file"}
	case !os.SameFile(fi, s.info):
		return errMoved
	}
	var r io.Reader = f
	if s.gz {
		zr, err := gzip.NewReader(f)
		if err != nil {
			return &DamagedError{s.name, 0, "not a gzip file: " + err.Error()}
		}
		r = zr
	}
	return scan(s.name, io.LimitReader(r, maxUnpacked), fn)
}

// scan splits r into lines of less than maxLine bytes.
func scan(name string, r io.Reader, fn func(line []byte, n int, whole bool) error) error {
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		switch {
		case err == nil:
			err = fn(line[:len(line)-1], n, true)
		case err == io.EOF && len(line) == 0:
			return nil
		case err == io.EOF:
			return fn(line, n, false)
		case errors.Is(err, bufio.ErrBufferFull):
			return &DamagedError{name, n, fmt.Sprintf("a line of more than %d bytes", maxLine)}
		default:
			return &DamagedError{name, n, err.Error()}
		}
		if err != nil {
			return err
		}
	}
}
