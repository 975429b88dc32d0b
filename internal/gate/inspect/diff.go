package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/refname"
)

// entry is one changed path as git says it, unchecked and unescaped.
type entry struct {
	path, oldMode, newMode, oldID, newID string
	status                               byte
	ins, del                             int
	binary                               bool
	patch                                []byte // hunks, as far as they are kept
	cut                                  bool
	large                                *large    // what it points to in LFS
	huge                                 int64     // bytes of a file that is too large to be compared
	sum                                  hash.Hash // of the hunks without their places
}

// diff is one comparison and who wants to see it.
type diff struct {
	line    string // for git diff-tree --stdin: "COMMIT [PARENT]" or "TREE TREE"
	head    string // what git prints before it
	entries []entry

	sums    bool                        // wants entry.sum
	keep    *int                        // bytes of hunks that may still be kept, shared
	wanted  func(path string) bool      // whose hunks are kept; nil: all
	onAdded func(e *entry, line []byte) // every added line, at most 64 KiB of it
}

func commitDiff(commit, parent string) *diff {
	if parent == "" {
		return &diff{line: commit, head: commit}
	}
	return &diff{line: commit + " " + parent, head: commit}
}

func treeDiff(from, to string) *diff { return &diff{line: from + " " + to, head: from + " " + to} }

// errEnough stops git when as much as maxScan was read.
var errEnough = errors.New("enough read")

// What git prints beside the changed paths: lines that are counted, and patches.
var (
	counts  = []string{"--numstat"}
	patches = []string{"--numstat", "-p", "-U3"}
)

// diffs runs all comparisons in one git; args are counts, patches or nothing, and paths. more reports that
// there was more than is looked at.
func (p *repo) diffs(ctx context.Context, list []*diff, args ...string) (more bool, err error) {
	if len(list) == 0 {
		return false, nil
	}
	var in strings.Builder
	for _, d := range list {
		in.WriteString(d.line + "\n")
	}
	s := &stream{left: list}
	c := p.cmd("diff-tree", "--stdin", "-r", "--root", "-z", "--raw", "--full-index", "--no-renames", "--no-ext-diff",
		"--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=none", "--src-prefix=a/", "--dst-prefix=b/", "--no-indent-heuristic")
	c.Args = append(c.Args, args...)
	if slices.Contains(args, "--") {
		c.Env = append(c.Env, "GIT_LITERAL_PATHSPECS=0") // they say that they are literal
	}
	c.Stdin = strings.NewReader(in.String())
	err = p.git.Stream(ctx, c, s)
	if s.err == errEnough {
		return true, nil
	}
	if s.err != nil {
		return false, s.err
	}
	if err == nil {
		err = s.end()
	}
	return false, err
}

// stream reads what git diff-tree --stdin -z --raw --numstat -p prints, however it is cut:
//
//	HEAD (NUL or LF)
//	:MODE MODE ID ID STATUS NUL PATH NUL   for each file
//	INS TAB DEL TAB PATH NUL               for each file again, "-" for binary ones
//	NUL                                    then patches, in the same order, until the next HEAD
//
// A line inside a patch begins with one of " +-\@", or is one of git's own header lines, none of
// which begins like an id; so the next head cannot be imitated by content.
type stream struct {
	left []*diff // not begun yet
	cur  *diff
	err  error
	read int64

	phase  phase
	buf    []byte // of the head, field or line that is being read
	long   bool   // the line's end is passed over
	isLine bool   // the line is known not to be a head
	meta   string // raw entry that waits for its path
	stats  int    // numstat entries seen
	file   int    // index of the file whose patch is read, -1 before the first
	second bool   // the second patch of a file that changed its type
	inHunk bool
}

type phase int

const (
	readHead phase = iota
	readField
	readPatch
)

const maxContent = 64 << 10 // bytes of a line that are looked at

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	if s.err == nil {
		s.read += int64(len(p))
		s.err = s.take(p)
		if s.err == nil && s.read > maxScan {
			s.err = errEnough
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

func (s *stream) take(p []byte) error {
	for len(p) > 0 {
		var err error
		switch s.phase {
		case readHead:
			p, err = s.head(p)
		case readField:
			p, err = s.field(p)
		case readPatch:
			p, err = s.patch(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) head(p []byte) ([]byte, error) {
	i := bytes.IndexAny(p, "\x00\n")
	if i < 0 {
		i = len(p)
	}
	if s.buf = append(s.buf, p[:i]...); len(s.buf) > 200 {
		return nil, fmt.Errorf("git diff-tree: unexpected line %.80q", s.buf)
	}
	if i == len(p) {
		return nil, nil
	}
	head := string(s.buf)
	for len(s.left) > 0 && s.left[0].head != head {
		s.left = s.left[1:] // nothing changed there
	}
	if len(s.left) == 0 {
		return nil, fmt.Errorf("git diff-tree: answer to a question that was not asked: %.80q", head)
	}
	s.cur, s.left = s.left[0], s.left[1:]
	s.buf, s.stats, s.file, s.second, s.meta, s.inHunk = s.buf[:0], 0, -1, false, "", false
	s.phase, s.isLine = readField, false
	return p[i+1:], nil
}

// headLike reports what b, the beginning of a field or line, is: a head, something else, or too
// short to say.
func headLike(b []byte) (yes, sure bool) {
	n := 0
	for n < len(b) && (b[n] >= '0' && b[n] <= '9' || b[n] >= 'a' && b[n] <= 'f') {
		n++
	}
	switch {
	case n == len(b) && n <= 64:
		return false, false
	case (n == 40 || n == 64) && (b[n] == 0 || b[n] == ' '):
		return true, true
	}
	return false, true
}

func (s *stream) field(p []byte) ([]byte, error) {
	if s.meta == "" && !s.isLine && (len(s.buf) > 0 || p[0] != 0 && p[0] != ':') {
		s.buf = append(s.buf, p[0])
		p = p[1:]
		switch yes, sure := headLike(s.buf); {
		case yes:
			return s.back(p)
		case sure:
			s.isLine = true
		}
		if b := s.buf[len(s.buf)-1]; b != 0 {
			return p, nil
		}
		s.buf = s.buf[:len(s.buf)-1] // a whole field
		return p, s.endField()
	}
	i := bytes.IndexByte(p, 0)
	if i < 0 {
		if s.buf = append(s.buf, p...); len(s.buf) > 1<<20 {
			return nil, errors.New("git diff-tree: a path longer than 1 MiB")
		}
		return nil, nil
	}
	s.buf = append(s.buf, p[:i]...)
	return p[i+1:], s.endField()
}

// back begins a new head with what was read of it.
func (s *stream) back(p []byte) ([]byte, error) {
	head := append([]byte(nil), s.buf...)
	s.buf, s.phase = s.buf[:0], readHead
	if _, err := s.head(head); err != nil {
		return nil, err
	}
	return p, nil
}

func (s *stream) endField() error {
	f := string(s.buf)
	s.buf, s.isLine = s.buf[:0], false
	switch {
	case s.meta != "":
		e, err := parseRaw(s.meta, f)
		if err != nil {
			return err
		}
		s.meta = ""
		s.cur.entries = append(s.cur.entries, e)
	case strings.HasPrefix(f, ":"):
		s.meta = f
	case f == "": // before patches
		s.phase = readPatch
	default:
		ins, rest, ok := strings.Cut(f, "\t")
		del, path, ok2 := strings.Cut(rest, "\t")
		if !ok || !ok2 || s.stats >= len(s.cur.entries) || s.cur.entries[s.stats].path != path {
			return fmt.Errorf("git diff-tree: unexpected field %.80q", f)
		}
		e := &s.cur.entries[s.stats]
		s.stats++
		if ins == "-" {
			e.binary = true
			break
		}
		var err1, err2 error
		e.ins, err1 = strconv.Atoi(ins)
		e.del, err2 = strconv.Atoi(del)
		if err1 != nil || err2 != nil || e.ins < 0 || e.del < 0 {
			return fmt.Errorf("git diff-tree: unexpected field %.80q", f)
		}
	}
	return nil
}

func parseRaw(meta, path string) (entry, error) {
	f := strings.Fields(meta[1:])
	if len(f) != 5 || !modeText.MatchString(f[0]) || !modeText.MatchString(f[1]) || !refname.IsID(f[2]) || !refname.IsID(f[3]) || f[4] == "" {
		return entry{}, fmt.Errorf("git diff-tree: unexpected field %.80q", meta)
	}
	return entry{path: path, oldMode: f[0], newMode: f[1], oldID: f[2], newID: f[3], status: f[4][0]}, nil
}

func (s *stream) patch(p []byte) ([]byte, error) {
	if !s.isLine {
		if len(s.buf) == 0 && strings.IndexByte(" +-\\@", p[0]) >= 0 {
			s.isLine = true
		} else {
			s.buf = append(s.buf, p[0])
			p = p[1:]
			switch yes, sure := headLike(s.buf); {
			case yes:
				if err := s.closeDiff(); err != nil {
					return nil, err
				}
				return s.back(p)
			case sure:
				s.isLine = true
				if s.buf[len(s.buf)-1] == '\n' {
					s.buf = s.buf[:len(s.buf)-1]
					return p, s.endLine()
				}
			}
			return p, nil
		}
	}
	i := bytes.IndexByte(p, '\n')
	part := p
	if i >= 0 {
		part = p[:i]
	}
	if room := maxContent - len(s.buf); len(part) > room {
		part, s.long = part[:room], true
	}
	s.buf = append(s.buf, part...)
	if i < 0 {
		return nil, nil
	}
	return p[i+1:], s.endLine()
}

func (s *stream) endLine() error {
	line := s.buf
	long := s.long
	s.buf, s.isLine, s.long = s.buf[:0], false, false
	if len(line) == 0 {
		return nil
	}
	switch first := line[0]; {
	case bytes.HasPrefix(line, []byte("diff --git ")):
		return s.nextFile()
	case first == '@' && s.file >= 0:
		s.inHunk = true
	case !s.inHunk || strings.IndexByte(" +-\\", first) < 0:
		return nil // git's header: it repeats what the raw entry says
	}
	if s.file < 0 {
		return fmt.Errorf("git diff-tree: a patch without a file: %.80q", line)
	}
	e := &s.cur.entries[s.file]
	if line[0] == '+' && s.cur.onAdded != nil {
		s.cur.onAdded(e, line[1:])
	}
	if s.cur.sums && line[0] != '@' {
		if e.sum == nil {
			e.sum = sha256.New()
		}
		e.sum.Write(line)
		e.sum.Write([]byte{'\n'})
	}
	s.keepLine(e, line, long)
	return nil
}

func (s *stream) keepLine(e *entry, line []byte, long bool) {
	switch {
	case s.cur.keep == nil || s.cur.wanted != nil && !s.cur.wanted(e.path):
	case len(line)+1 > *s.cur.keep:
		e.cut = true
	default:
		kept := line[:min(len(line), 2*maxLine)] // shown with at most maxLine
		*s.cur.keep -= len(kept) + 1
		e.patch = append(append(e.patch, kept...), '\n')
		if long {
			e.cut = true
		}
	}
}

// nextFile goes to the file whose patch begins: patches come in the order of the raw entries, and a
// file that changed its type has two.
func (s *stream) nextFile() error {
	s.inHunk = false
	if s.file >= 0 && s.cur.entries[s.file].status == 'T' && !s.second {
		s.second = true
		return nil
	}
	s.second = false
	if s.file++; s.file >= len(s.cur.entries) {
		return errors.New("git diff-tree: more patches than files")
	}
	return nil
}

// closeDiff makes sure that no file was left out.
func (s *stream) closeDiff() error {
	if s.cur != nil && s.file != len(s.cur.entries)-1 {
		return fmt.Errorf("git diff-tree: %d patches for %d files", s.file+1, len(s.cur.entries))
	}
	return nil
}

func (s *stream) end() error {
	if s.phase == readPatch && len(s.buf) > 0 {
		if err := s.endLine(); err != nil {
			return err
		}
	}
	if s.phase == readField && len(s.buf) > 0 {
		return errors.New("git diff-tree: its answer ends in the middle")
	}
	if s.cur == nil || s.phase == readField {
		return nil // nothing changed, or no patches
	}
	return s.closeDiff()
}
