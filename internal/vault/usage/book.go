package usage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"terok/internal/sandbox"
	"terok/internal/state"
)

// Entry is one line of a book: one request, or, after the book was shortened, the requests of one
// day, provider and model.
type Entry struct {
	Day      string `json:"day"` // 2006-01-02, UTC
	Provider string `json:"provider"`
	Model    string `json:"model"` // "" when the provider did not say
	Requests int64  `json:"requests"`
	Tokens
	MicroUSD  int64 `json:"micro_usd"`
	Unpriced  int64 `json:"unpriced,omitempty"`  // of Requests: no price is known for the model
	Estimated int64 `json:"estimated,omitempty"` // of Requests: the answer ended before it said what it used
}

// Total is a sum of entries.
type Total struct {
	Requests int64 `json:"requests"`
	Tokens
	MicroUSD  int64 `json:"micro_usd"`
	Unpriced  int64 `json:"unpriced"`
	Estimated int64 `json:"estimated"`
}

// Add adds an entry.
func (t *Total) Add(e Entry) {
	t.Requests = plus(t.Requests, e.Requests)
	t.Tokens.Add(e.Tokens)
	t.MicroUSD = plus(t.MicroUSD, e.MicroUSD)
	t.Unpriced = plus(t.Unpriced, e.Unpriced)
	t.Estimated = plus(t.Estimated, e.Estimated)
}

// Plus adds another total.
func (t *Total) Plus(o Total) {
	t.Add(Entry{Requests: o.Requests, Tokens: o.Tokens, MicroUSD: o.MicroUSD, Unpriced: o.Unpriced, Estimated: o.Estimated})
}

// Day is the day of a time as books write it.
func Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

const (
	suffix    = ".jsonl"
	shortenAt = 1 << 20 // bytes
	maxLine   = 4 << 10
	rereadAll = time.Second // how often the books of other tasks are looked at
)

// Path is the file of a task's book in a project's directory of books.
func Path(dir, task string) string { return filepath.Join(dir, task+suffix) }

// Read calls fn for the entries of a book. A missing book is empty; a line that was torn by the
// end of its writer, or is not ours, is left out.
func Read(path string, fn func(Entry) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull: // not a line of ours: skip it
			for err == bufio.ErrBufferFull {
				_, err = r.ReadSlice('\n')
			}
		case err == nil:
			if e, ok := decode(line); ok {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// decode reads a line. Another task's worker may have been taken over: nothing it writes lowers
// a sum.
func decode(line []byte) (Entry, bool) {
	var e Entry
	if json.Unmarshal(line, &e) != nil {
		return e, false
	}
	if _, err := time.Parse(time.DateOnly, e.Day); err != nil {
		return e, false
	}
	e.max0()
	for _, n := range []*int64{&e.Requests, &e.MicroUSD, &e.Unpriced, &e.Estimated} {
		*n = min(max(*n, 0), 1e15)
	}
	return e, true
}

// Sum adds up a book: all of it, and of one day.
func Sum(path, day string) (all, today Total, err error) {
	err = Read(path, func(e Entry) error {
		all.Add(e)
		if e.Day == day {
			today.Add(e)
		}
		return nil
	})
	return all, today, err
}

// Book is the book of one task, open for writing. A task has one writer.
type Book struct {
	dir, path string
	now       func() time.Time

	mu    sync.Mutex
	file  *os.File
	torn  bool // the last write failed
	all   Total
	day   string
	today Total

	others map[string]*other // of the other tasks, by file name
	looked time.Time
	rest   Total // sum of others
	restOf Total // of this day
}

// other is the book of another task as it was when last read.
type other struct {
	size       int64
	day        string
	all, today Total
}

// Open opens or makes the book of a task, and shortens one that has grown.
func Open(dir, task string, now func() time.Time) (*Book, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &Book{dir: dir, path: Path(dir, task), now: now, day: Day(now()), others: map[string]*other{}}
	if st, err := os.Stat(b.path); err == nil && st.Size() > shortenAt {
		if err := shorten(b.path); err != nil {
			return nil, err
		}
	}
	var err error
	if b.all, b.today, err = Sum(b.path, b.day); err != nil {
		return nil, err
	}
	if b.file, err = os.OpenFile(b.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	// A torn last line must not swallow the next one.
	if _, err = b.file.Write([]byte("\n")); err != nil {
		b.file.Close()
		return nil, err
	}
	return b, nil
}

// shorten writes a book anew with one line per day, provider and model.
func shorten(path string) error {
	type key struct{ day, provider, model string }
	sums := map[key]*Total{}
	var order []key
	err := Read(path, func(e Entry) error {
		k := key{e.Day, e.Provider, e.Model}
		sum := sums[k]
		if sum == nil {
			sum = &Total{}
			sums[k], order = sum, append(order, k)
		}
		sum.Add(e)
		return nil
	})
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	for _, k := range order {
		t := sums[k]
		if err := enc.Encode(Entry{k.day, k.provider, k.model, t.Requests, t.Tokens, t.MicroUSD, t.Unpriced, t.Estimated}); err != nil {
			return err
		}
	}
	return state.WriteFile(path, buf.Bytes())
}

// Add writes one request down. It is in the file before Add returns; what cannot be written still
// counts until this process ends.
func (b *Book) Add(e Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll()
	e.Day = b.day
	b.all.Add(e)
	b.today.Add(e)
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if b.torn { // the line before may have no end
		line = append([]byte{'\n'}, line...)
	}
	if _, err := b.file.Write(line); err != nil {
		b.torn = true
		return fmt.Errorf("usage: %w", err)
	}
	b.torn = false
	return nil
}

// roll begins a new day. The caller holds mu.
func (b *Book) roll() {
	if day := Day(b.now()); day != b.day {
		b.day, b.today, b.looked = day, Total{}, time.Time{}
	}
}

// Total is what a span has used so far.
func (b *Book) Total(span Span) Total {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll()
	switch span {
	case sandbox.PerDay:
		b.look()
		sum := b.today
		sum.Plus(b.restOf)
		return sum
	case sandbox.PerProject:
		b.look()
		sum := b.all
		sum.Plus(b.rest)
		return sum
	}
	return b.all
}

// look reads the books of the other tasks that have grown. The caller holds mu.
func (b *Book) look() {
	now := b.now()
	if d := now.Sub(b.looked); d >= 0 && d < rereadAll {
		return
	}
	b.looked = now
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return // what was known goes on to count
	}
	b.rest, b.restOf = Total{}, Total{}
	for _, d := range entries {
		name := d.Name()
		if !strings.HasSuffix(name, suffix) || name == filepath.Base(b.path) {
			continue
		}
		o := b.others[name]
		if info, err := d.Info(); err == nil && (o == nil || o.size != info.Size() || o.day != b.day) {
			if all, today, err := Sum(filepath.Join(b.dir, name), b.day); err == nil {
				o = &other{info.Size(), b.day, all, today}
				b.others[name] = o
			}
		}
		if o != nil {
			b.rest.Plus(o.all)
			b.restOf.Plus(o.today)
		}
	}
}

// Close ends the book.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.file.Close()
}
