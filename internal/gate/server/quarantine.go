package server

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the pack format's own checksum, not a signature
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"terok/internal/git"
	"terok/internal/text"
)

// errRefused is why nothing of a push is taken; its text is the reply for every ref.
type errRefused string

func (e errRefused) Error() string { return "terok: " + string(e) }

// quarantine holds the pack of one push apart from the repository: git checks and indexes it here,
// we look into every object, and only then it becomes part of the repository. Until that moment no
// ref and no other process can reach it. No hook is involved: the worker may execute nothing but
// git.
type quarantine struct {
	h     *Server
	dir   string // an object directory below objects/, so that moving is renaming
	packs int64  // bytes of the packs in it
	empty bool   // the client sent a pack without objects
}

// packHeader is "PACK", version, number of objects (gitformat-pack(5)).
const packHeader = 12

// receivePackFile takes the pack from in and checks it. Progress goes to tell. An errRefused says
// what is wrong with it; what the client sent further is not read.
func (h *Server) receivePackFile(ctx context.Context, in io.Reader, tell io.Writer, room int64) (*quarantine, error) {
	head := make([]byte, packHeader)
	if _, err := io.ReadFull(in, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errRefused("the pack is missing or cut off")
		}
		return nil, err
	}
	if v := binary.BigEndian.Uint32(head[4:]); string(head[:4]) != "PACK" || v != 2 && v != 3 {
		return nil, errRefused("what was sent is not a pack")
	}
	count := binary.BigEndian.Uint32(head[8:])
	if int64(count) > int64(h.Limits.MaxObjects) {
		return nil, errRefused(fmt.Sprintf("%d objects in one push, the limit is %d; push fewer commits at a time", count, h.Limits.MaxObjects))
	}
	dir, err := os.MkdirTemp(filepath.Join(h.Repo, "objects"), "incoming-")
	if err != nil {
		return nil, err
	}
	q := &quarantine{h: h, dir: dir, empty: count == 0}
	if q.empty {
		_, err := io.Copy(io.Discard, in)
		return q, err
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "pack"), 0o700), os.Mkdir(filepath.Join(dir, "info"), 0o700)); err != nil {
		return q, err
	}
	strict := "--strict"
	if h.Lenient {
		strict += "=" + strings.Join(git.OldMistakes, "=ignore,") + "=ignore"
	}
	c := q.cmd("index-pack", "--stdin", "--fix-thin", strict, "--show-resolving-progress", fmt.Sprintf("--max-input-size=%d", room))
	// Git's words for the person, as they come; and a sign of life while it only computes.
	alive := &keepalive{w: tell}
	c.Stderr = alive
	stop := alive.start(h.Limits.Idle / 12)
	err = h.stream(ctx, c, io.MultiReader(bytes.NewReader(head), in), io.Discard)
	stop()
	if err == nil {
		q.packs, err = q.size()
		return q, err
	}
	var exit *git.ExitError
	switch {
	case errors.Is(err, errTooLarge) || errors.Is(err, errBomb) || ctx.Err() != nil:
		return q, err
	case errors.As(err, &exit):
		return q, errRefused(packFault(exit, room))
	}
	return q, err
}

// cmd is a git process that sees the quarantine first and the repository behind it.
func (q *quarantine) cmd(args ...string) git.Cmd {
	c := q.h.cmd(args...)
	c.Env = append(c.Env, "GIT_OBJECT_DIRECTORY="+q.dir, "GIT_ALTERNATE_OBJECT_DIRECTORIES="+filepath.Join(q.h.Repo, "objects"))
	return c
}

// alone is cmd that sees only what is new.
func (q *quarantine) alone(args ...string) git.Cmd {
	c := q.h.cmd(args...)
	c.Env = append(c.Env, "GIT_OBJECT_DIRECTORY="+q.dir)
	return c
}

func (q *quarantine) size() (int64, error) {
	packs, err := filepath.Glob(filepath.Join(q.dir, "pack", "*.pack"))
	var sum int64
	for _, p := range packs {
		info, serr := os.Lstat(p)
		if serr != nil {
			return 0, serr
		}
		sum += info.Size()
	}
	return sum, err
}

// keep makes the packs part of the repository: the index comes last, since git finds packs by it.
// It returns what takes them out again, for a push of which nothing landed.
func (q *quarantine) keep() (undo func(), err error) {
	var moved []string
	undo = func() {
		for i := len(moved) - 1; i >= 0; i-- {
			_ = os.Remove(moved[i]) // unreachable objects that gate gc removes
		}
	}
	for _, ext := range []string{".pack", ".rev", ".idx"} {
		files, err := filepath.Glob(filepath.Join(q.dir, "pack", "pack-*"+ext))
		if err != nil {
			return undo, err
		}
		for _, f := range files {
			to := filepath.Join(q.h.Repo, "objects", "pack", filepath.Base(f))
			if _, err := os.Lstat(to); err == nil {
				continue // the same pack was pushed before
			}
			if err := os.Rename(f, to); err != nil {
				undo()
				return func() {}, err
			}
			moved = append(moved, to)
		}
	}
	return undo, nil
}

func (q *quarantine) drop() { _ = os.RemoveAll(q.dir) }

// fsckWords is how git names an object that fails its checks.
var fsckWords = regexp.MustCompile(`(?:error|fatal): (object [0-9a-f]{40,64}: [A-Za-z]+(?:: [^;]*)?|Not all child objects[^;]*|did not receive expected object [0-9a-f]+|unable to read [^;]*)`)

// packFault turns git's refusal of a pack into the reply for the agent: what is wrong with which
// object.
func packFault(exit *git.ExitError, room int64) string {
	switch {
	case strings.Contains(exit.Stderr, "pack exceeds maximum allowed size"):
		return tooLarge(room)
	case strings.Contains(exit.Stderr, "Out of memory") || strings.Contains(exit.Stderr, "out of memory") || strings.Contains(exit.Stderr, "mmap failed"):
		return "the pack needs more memory than this gate gives: a file is too large when unpacked"
	case strings.Contains(exit.Stderr, "No space left"):
		return "the disk of the gate is full; nothing was changed"
	case exit.Code < 0:
		return "the pack could not be unpacked within the limits of this gate"
	}
	if m := fsckWords.FindStringSubmatch(exit.Stderr); m != nil {
		return "malformed content: " + strings.TrimSpace(text.Line(m[1], 160))
	}
	if last := strings.LastIndex(exit.Stderr, "fatal: "); last >= 0 {
		return "malformed pack: " + strings.TrimSpace(text.Line(exit.Stderr[last+7:], 160))
	}
	return "malformed pack"
}

func tooLarge(room int64) string { return fmt.Sprintf("pack exceeds limit of %d MiB", room>>20) }

// emptyPack is a pack without objects, in the hash of the repository: what receive-pack gets, so
// that it checks connectivity and moves refs, after the real one is in place.
func emptyPack(idLen int) []byte {
	pack := []byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00")
	if idLen == 64 {
		sum := sha256.Sum256(pack)
		return append(pack, sum[:]...)
	}
	sum := sha1.Sum(pack) //nolint:gosec // see the import
	return append(pack, sum[:]...)
}

// keepalive passes writes on and writes nothing, which becomes an empty side-band packet, when it
// was silent: clients and proxies take a silent connection for a dead one.
type keepalive struct {
	w    io.Writer
	mu   sync.Mutex
	last time.Time
}

func (k *keepalive) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = time.Now()
	_, _ = k.w.Write(p) // a client that has gone is noticed by its request
	return len(p), nil
}

// start begins the signs of life; stop ends them and waits.
func (k *keepalive) start(every time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	tick := time.NewTicker(every)
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				k.mu.Lock()
				if time.Since(k.last) >= every {
					_, _ = k.w.Write(nil)
				}
				k.mu.Unlock()
			}
		}
	}()
	return func() { close(done); <-ended }
}
