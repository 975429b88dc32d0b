package audit

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/state"
)

const (
	maxLine    = 4 << 10 // bytes of a line with its newline
	maxSeq     = 1 << 53 // what JSON readers with floating point numbers tell apart
	defaultMax = 10 << 20
	defaultN   = 5
)

// zeroHash is what the first line of a chain has as Prev.
var zeroHash = strings.Repeat("0", 2*sha256.Size)

// chain is the open file of a ledger. The caller holds the ledger's lock and uses it from one
// goroutine at a time.
type chain struct {
	path    string
	f       *os.File
	size    int64
	seq     uint64 // of the last line
	prev    string // hash of the last line
	maxSize int64
	keep    int
	now     func() time.Time
	gz      sync.WaitGroup // the compression of the last rotated file
}

// openChain opens path, repairs it and finds the chain's head. The notes say what was repaired
// and are to be written first.
func openChain(path string, opts Options) (c *chain, notes []Event, err error) {
	c = &chain{path: path, prev: zeroHash, maxSize: opts.MaxSize, keep: opts.Keep, now: opts.Now}
	if c.maxSize <= 0 {
		c.maxSize = defaultMax
	}
	if c.keep <= 0 {
		c.keep = defaultN
	}
	c.keep = max(c.keep, 2) // with one, a file that waits for its compression would replace another
	if c.now == nil {
		c.now = time.Now
	}
	if _, err := os.Lstat(rotated(path)); err == nil { // a crash came between rename and gzip
		if err := compress(rotated(path)); err != nil {
			return nil, nil, err
		}
	}
	if err := c.openFile(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			c.f.Close()
		}
	}()
	torn, err := c.cutTorn()
	if err != nil {
		return nil, nil, err
	}
	if torn > 0 {
		notes = append(notes, Event{Ev: EvRepaired, Actor: "auto", Detail: map[string]string{"bytes": strconv.FormatInt(torn, 10)}})
	}
	last, err := c.lastLine()
	if err != nil {
		return nil, nil, err
	}
	if last == nil {
		return c, notes, nil
	}
	seq, _, headErr := parseHead(last)
	if headErr == nil {
		c.seq, c.prev = seq, hash(last)
		return c, notes, nil
	}
	// A complete last line that is not ours: keep the evidence, start a new chain and say so. Its
	// numbers go on, so that readers see something new, but its first link is no link.
	if err := Read(path, Filter{}, func(e Event) error { c.seq = max(c.seq, e.Seq); return nil }); err != nil {
		if _, damaged := errors.AsType[*DamagedError](err); !damaged {
			return nil, nil, err
		}
	}
	c.seq = max(c.seq, 1) // a chain that starts again never looks like one that starts
	kept := path + ".damaged-" + c.now().UTC().Format("20060102T150405.000000Z")
	if err := os.Rename(path, kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	c.f.Close()
	if err := c.openFile(); err != nil {
		return nil, nil, err
	}
	return c, []Event{{Ev: EvRestarted, Actor: "auto", Detail: map[string]string{"kept": filepath.Base(kept)}}}, nil
}

func (c *chain) openFile() error {
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", c.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	c.f, c.size = f, fi.Size()
	return nil
}

// cutTorn cuts everything behind the last newline and returns how many bytes that was.
func (c *chain) cutTorn() (int64, error) {
	end, err := lastNewline(c.f, c.size)
	if err != nil || end == c.size {
		return 0, err
	}
	torn := c.size - end
	if err := c.f.Truncate(end); err != nil {
		return 0, err
	}
	c.size = end
	return torn, nil
}

// lastNewline returns the offset behind the last newline in the first size bytes of r, or 0.
func lastNewline(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 16<<10)
	for size > 0 {
		n := min(int64(len(buf)), size)
		if _, err := r.ReadAt(buf[:n], size-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}

// lastLine returns the last line of the ledger without its newline: of the file, or of the
// newest rotated one when the file is empty. It is nil for a new ledger.
func (c *chain) lastLine() ([]byte, error) {
	if c.size > 0 {
		start, err := lastNewline(c.f, c.size-1)
		if err != nil {
			return nil, err
		}
		line := make([]byte, min(c.size-1-start, maxLine+1))
		_, err = c.f.ReadAt(line, start)
		return line, err
	}
	files, err := sources(c.path)
	if err != nil {
		return nil, err
	}
	for i := len(files) - 1; i >= 0; i-- {
		if files[i].name == c.path {
			continue
		}
		var last []byte
		err := files[i].lines(func(line []byte, _ int, _ bool) error {
			last = append(last[:0], line...)
			return nil
		})
		if err != nil {
			return []byte("damaged"), nil // parseHead refuses it, and a new chain starts
		}
		return last, nil
	}
	return nil, nil
}

// append writes events as one write. On failure nothing of them stays and the chain is as before.
func (c *chain) append(events []Event) error {
	var buf bytes.Buffer
	seq, prev := c.seq, c.prev
	for i := range events {
		e := &events[i]
		seq++
		e.V, e.Seq, e.Prev = Schema, seq, prev
		line, err := encode(*e)
		if err != nil {
			return err
		}
		prev = hash(line)
		buf.Write(line)
		buf.WriteByte('\n')
	}
	if c.size > 0 && c.size+int64(buf.Len()) > c.maxSize {
		if err := c.rotate(); err != nil {
			return err
		}
	}
	if _, err := c.f.Write(buf.Bytes()); err != nil {
		return errors.Join(err, c.f.Truncate(c.size))
	}
	c.size += int64(buf.Len())
	c.seq, c.prev = seq, prev
	return nil
}

// rotated is the name of a full file until it is compressed.
func rotated(path string) string { return path + ".1" }

func rotatedGz(path string, n int) string { return fmt.Sprintf("%s.%d.gz", path, n) }

// rotate moves the full file aside and goes on in a new one. It may be cut off anywhere: readers
// go by number, whatever is missing, and openChain compresses what was left.
func (c *chain) rotate() error {
	c.gz.Wait()
	if err := c.f.Sync(); err != nil {
		return err
	}
	if _, err := os.Lstat(rotated(c.path)); err == nil { // its compression failed, on a full disk for instance
		if err := compress(rotated(c.path)); err != nil {
			return err
		}
	}
	for n := c.keep - 1; n >= 1; n-- {
		err := os.Rename(rotatedGz(c.path, n), rotatedGz(c.path, n+1))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(c.path, rotated(c.path)); err != nil {
		return err
	}
	old := c.f
	if err := c.openFile(); err != nil {
		return errors.Join(err, os.Rename(rotated(c.path), c.path))
	}
	old.Close()
	c.gz.Go(func() { _ = compress(rotated(c.path)) }) // tried again at the next rotation and the next Open
	return nil
}

// compress makes name.gz of a rotated file and removes it.
func compress(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := name + ".gz.tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	zw := gzip.NewWriter(out)
	_, err = io.Copy(zw, in)
	err = errors.Join(err, zw.Close())
	if err == nil {
		err = out.Sync()
	}
	err = errors.Join(err, out.Close())
	if err == nil {
		err = os.Rename(tmp, name+".gz")
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Remove(name)
}

func (c *chain) close() error {
	c.gz.Wait()
	return errors.Join(c.f.Sync(), c.f.Close())
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// parseHead reads what the chain needs of a line.
func parseHead(line []byte) (seq uint64, prev string, err error) {
	if len(line) >= maxLine {
		return 0, "", fmt.Errorf("longer than %d bytes", maxLine)
	}
	var h struct {
		V    int    `json:"v"`
		Seq  uint64 `json:"seq"`
		Prev string `json:"prev"`
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return 0, "", fmt.Errorf("not a line of a ledger: %w", err)
	}
	if h.V < 1 || h.Seq < 1 || h.Seq > maxSeq || len(h.Prev) != len(zeroHash) {
		return 0, "", errors.New("not a line of a ledger")
	}
	return h.Seq, h.Prev, nil
}

// encode makes the line of an event, cutting values until it fits.
func encode(e Event) ([]byte, error) {
	for _, limit := range []int{0, 512, 128, 32, 8} {
		if limit > 0 {
			e = clip(e, limit)
		}
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
		if buf.Len() <= maxLine {
			return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
		}
	}
	return nil, errors.New("an event does not fit into a line") // 22 strings of 8 bytes and no detail always do
}

// clip returns e with strings of at most n bytes; details go one after the other.
func clip(e Event, n int) Event {
	for _, s := range []*string{&e.Project, &e.Task, &e.Sandbox, &e.Ev, &e.Actor, &e.Via, &e.Name, &e.IP, &e.Proto,
		&e.NameSource, &e.Tier, &e.Rule, &e.Verdict, &e.Scope, &e.Expires, &e.Reason, &e.RequestID,
		&e.Provider, &e.Method, &e.Ref, &e.Old, &e.New} {
		*s = cut(*s, n)
	}
	if e.Detail == nil {
		return e
	}
	kept := map[string]string{}
	for k, v := range e.Detail {
		if len(k) <= 32 && len(kept) < n/16 {
			kept[k] = cut(v, n)
		}
	}
	kept["cut"] = "true"
	e.Detail = kept
	return e
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// lockWait is how long AppendOne waits for another writer.
const lockWait = 5 * time.Second

// AppendOne appends one event to the ledger at path, for programs that live shortly: it takes the
// lock (waiting up to five seconds), repairs and rotates as Open does, and lets go. A ledger that
// a long-lived writer holds is an error that is state.ErrLocked.
func AppendOne(path string, e Event) (err error) {
	unlock, err := state.LockFor(path, lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	c, notes, err := openChain(path, Options{})
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	now := c.now()
	notes = append(notes, e)
	for i := range notes {
		stamp(&notes[i], now)
		notes[i].Project, notes[i].Task, notes[i].Sandbox = e.Project, e.Task, e.Sandbox
	}
	if err := c.append(notes); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// stamp gives an event its time unless it has one.
func stamp(e *Event, now time.Time) {
	if e.TS.IsZero() {
		e.TS = now
	}
	e.TS = e.TS.UTC().Truncate(time.Microsecond)
}
