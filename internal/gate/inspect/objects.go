package inspect

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"terok/internal/gate/refname"
)

// Sizes of objects that are read whole.
const (
	maxCommit = 1 << 20
	maxTree   = 8 << 20
	maxBlob   = 64 << 10
)

// objects are read from what is held, and else from one git cat-file --batch, asked one object at a
// time and started when it is needed.
type objects struct {
	held   *held
	start  func() *batch
	batch  *batch
	broken error
}

// batch is a git cat-file.
type batch struct {
	in   *io.PipeWriter
	out  *bufio.Reader
	stop context.CancelFunc
	done chan error
}

func (p *repo) objects(ctx context.Context) *objects {
	return &objects{held: p.held, start: func() *batch { return p.batch(ctx) }}
}

func (p *repo) batch(ctx context.Context) *batch {
	ctx, stop := context.WithCancel(ctx)
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	b := &batch{in: in, out: bufio.NewReaderSize(out, 64<<10), stop: stop, done: make(chan error, 1)}
	go func() {
		c := p.cmd("cat-file", "--batch")
		c.Stdin = stdin
		err := p.git.Stream(ctx, c, stdout)
		stdin.CloseWithError(io.ErrClosedPipe)
		stdout.CloseWithError(err)
		b.done <- err
	}()
	return b
}

func (o *objects) close() {
	b := o.batch
	if b == nil {
		return
	}
	b.in.Close()
	go func() { _, _ = io.Copy(io.Discard, b.out) }()
	<-b.done
	b.stop()
}

// get reads one object; what names it is an id, or "id:path". A missing object, and one of another
// type, is nil. More than max bytes are passed over and reported by whole.
func (o *objects) get(name, kind string, max int64) (data []byte, whole bool, err error) {
	if o.broken != nil {
		return nil, false, o.broken
	}
	defer func() { o.broken = err }()
	if strings.ContainsAny(name, "\n\x00") {
		return nil, false, nil
	}
	if data, known := o.held.get(name, kind); known {
		return data[:min(int64(len(data)), max)], int64(len(data)) <= max, nil
	}
	if o.batch == nil {
		o.batch = o.start()
	}
	if _, err := io.WriteString(o.batch.in, name+"\n"); err != nil {
		return nil, false, fmt.Errorf("git cat-file: %w", err)
	}
	head, err := o.batch.out.ReadString('\n')
	if err != nil {
		return nil, false, fmt.Errorf("git cat-file: %w", err)
	}
	f := strings.Fields(head)
	if strings.HasSuffix(head, " missing\n") || strings.HasSuffix(head, " ambiguous\n") || len(f) != 3 {
		return nil, false, nil
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || size < 0 {
		return nil, false, fmt.Errorf("git cat-file: unexpected line %.80q", head)
	}
	keep := min(size, max)
	if f[1] != kind {
		keep = 0
	}
	data = make([]byte, keep)
	if _, err := io.ReadFull(o.batch.out, data); err != nil {
		return nil, false, fmt.Errorf("git cat-file: %w", err)
	}
	if _, err := io.CopyN(io.Discard, o.batch.out, size-keep+1); err != nil { // and the newline behind it
		return nil, false, fmt.Errorf("git cat-file: %w", err)
	}
	if f[1] != kind {
		return nil, false, nil
	}
	return data, keep == size, nil
}

// Object is a commit as git stores it (gitformat-commit; git's commit.c), strings as they are.
type Object struct {
	ID             string
	Tree           string
	Parents        []string
	Author         string
	Email          string
	Time           time.Time
	Committer      string
	CommitterEmail string
	CommitTime     time.Time
	Encoding       string
	Signed         bool
	Message        string
	Head           string
	Extra          bool // its head holds more than git writes by itself
	Odd            bool // its head is not in the order in which git writes and reads it
}

// ParseCommit reads the body of a commit object. What is not there stays empty: an agent can
// write any bytes. Like git it takes a tree in the first line only, parents right behind it only, and of
// further names the first (commit.c, parse_commit_buffer).
func ParseCommit(id string, body []byte) Object {
	c := Object{ID: id}
	head, message, _ := bytes.Cut(body, []byte("\n\n"))
	c.Head, c.Message = string(head), string(message)
	n, parents := 0, true
	for line := range bytes.Lines(append(slices.Clip(head), '\n')) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if n++; n == 1 {
			if key == "tree" && refname.IsID(value) {
				c.Tree = value
			} else {
				c.Odd, parents = true, false
			}
			continue
		}
		if parents && key == "parent" && refname.IsID(value) {
			c.Parents = append(c.Parents, value)
			continue
		}
		if parents {
			parents, c.Odd = false, key != "author"
		}
		switch key {
		case "tree", "parent":
			c.Odd = true
		case "author":
			if c.Author == "" && c.Email == "" {
				c.Author, c.Email, c.Time = parsePerson(value)
			}
		case "committer":
			if c.Committer == "" && c.CommitterEmail == "" {
				c.Committer, c.CommitterEmail, c.CommitTime = parsePerson(value)
			}
		case "encoding":
			if c.Encoding == "" {
				c.Encoding = value
			}
		case "gpgsig", "gpgsig-sha256":
			c.Signed = true
		case "", "mergetag": // the rest of a signature
		default:
			c.Extra = true
		}
	}
	if strings.EqualFold(c.Encoding, "iso-8859-1") || strings.EqualFold(c.Encoding, "latin1") {
		for _, s := range []*string{&c.Author, &c.Committer, &c.Message} {
			*s = latin1(*s)
		}
	}
	return c
}

// latin1 turns text of that encoding into UTF-8; text that is UTF-8 in spite of it stays.
func latin1(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// parsePerson reads "Name <email> seconds zone".
func parsePerson(s string) (name, email string, at time.Time) {
	close := strings.LastIndexByte(s, '>')
	open := strings.IndexByte(s, '<')
	if open < 0 || close < open {
		return strings.TrimSpace(s), "", time.Unix(0, 0).UTC()
	}
	name, email = strings.TrimSpace(s[:open]), s[open+1:close]
	sec := int64(0)
	if f := strings.Fields(s[close+1:]); len(f) > 0 {
		sec, _ = strconv.ParseInt(f[0], 10, 64)
	}
	return name, email, time.Unix(max(0, min(sec, 253402300799)), 0).UTC() // until the year 9999, as JSON has it
}

// treeNames are the names in a tree object.
func treeNames(tree []byte, idLen int) []string {
	var names []string
	for len(tree) > 0 {
		var name, id string
		if _, name, id, tree = cutEntry(tree, idLen); id != "" {
			names = append(names, name)
		}
	}
	return names
}
