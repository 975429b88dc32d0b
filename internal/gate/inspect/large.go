package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"terok/internal/gate/lfs"
	"terok/internal/text"
)

// A file in Git LFS is a pointer for git, and what it says is in no diff. Where the gate has the files
// (Request.LFS) those that a task points to are looked at: texts are flagged, and compared as git compares
// files, so that a reader sees their lines and the flags of files that git has apply to them.

// LargeFile is a pointer to a file in Git LFS that a branch adds or changes.
type LargeFile struct {
	Path string `json:"path"` // printable
	lfs.Object
	// State is LFSHere or LFSMissing where the gate has files in LFS (gate.lfs: proxy); the inspector does not know it.
	State string `json:"state,omitempty"`
	// Content is LFSText, LFSLong, LFSBinary or LFSUnread, "" where the file was not looked at.
	Content string `json:"content,omitempty"`
}

// LargeText is how a text in Git LFS changed; the change of its pointer is the File's own.
type LargeText struct {
	Patch      string `json:"patch,omitempty"` // hunks, printable
	Cut        bool   `json:"cut,omitempty"`   // of Patch
	Insertions int    `json:"insertions"`
	Deletions  int    `json:"deletions"`
	// Whole: what the file was before is not in the gate, or no text that is compared; all lines are new ones here.
	Whole bool `json:"whole,omitempty"`
}

// States of large files.
const (
	LFSHere    = "here"
	LFSMissing = "missing"
)

// What is in large files.
const (
	LFSText   = "text"
	LFSLong   = "long text" // too large to be compared
	LFSBinary = "binary"
	LFSUnread = "unread" // not what a text begins with, and too large to be read whole
)

const (
	maxLarge     = 200                // pointers that are listed
	usualLines   = 12                 // that a change of a pointer file adds, as git-lfs writes it
	pointerLines = lfs.MaxPointer / 4 // that it can add at most
	textHead     = 8000               // bytes that say whether a file is a text, as many as git reads for that
	maxText      = 1 << 20            // bytes of a text that is compared
	maxTexts     = 32 << 20           // bytes of all of them
	maxTextFiles = 1000
	maxBinaries  = 512 << 20 // bytes of files that are no texts, which are read for their digest
)

// large is what a pointer leads to.
type large struct {
	content string
	whole   bool   // nothing is known of the file before
	absent  string // digest, where the gate does not have it
	old     []byte // nil: none
	new     []byte // nil: not to be compared
	entry   entry  // of the comparison
	flags   []*flagSet
	keep    bool // its hunks are shown
}

// larges are the pointers of one look.
type larges struct {
	*repo
	objects *objects
	seen    map[string]*large // by path and both ids
	texts   []*large
	size    int   // of texts
	room    int64 // bytes of binaries that may still be read
}

// large looks at the pointers to files in LFS: at those that a branch leaves changed, which are listed, and
// where the gate has the files at those of every commit, since all of them go where the commits go.
func (p *repo) large(ctx context.Context, objects *objects, works []*work, keep *int) error {
	l := &larges{repo: p, objects: objects, seen: map[string]*large{}, room: maxBinaries}
	done := map[*diff]bool{}
	for _, w := range works {
		if p.LFS {
			for _, c := range w.commits {
				if c.diff != nil && !done[c.diff] {
					done[c.diff] = true
					l.diff(ctx, c.diff, &c.flags, nil)
				}
			}
		}
		if w.net != nil {
			l.diff(ctx, w.net, &w.flags, w)
		}
	}
	if err := l.compare(ctx, keep); err != nil {
		return err
	}
	for _, w := range works {
		w.absent = map[string]bool{}
		for _, c := range w.commits {
			c.diff.lacks(w.absent)
		}
		w.net.lacks(w.absent)
		if w.slow = w.slow || ctx.Err() != nil; w.slow {
			w.flags.add(Deny, "too_large", "not everything was looked at: it took more than a minute")
		}
	}
	return nil
}

// lacks collects the files in LFS that are not here.
func (d *diff) lacks(absent map[string]bool) {
	if d == nil {
		return
	}
	for i := range d.entries {
		if at := d.entries[i].large; at != nil && at.absent != "" {
			absent[at.absent] = true
		}
	}
}

// diff looks at one comparison. list lists what it finds.
func (l *larges) diff(ctx context.Context, d *diff, flags *flagSet, list *work) {
	for i := range d.entries {
		e := &d.entries[i]
		if ctx.Err() != nil || !l.LFS && len(list.lfs) == maxLarge {
			return
		}
		o, ok := l.pointer(e)
		if !ok {
			continue
		}
		flags.add(Info, "lfs", e.path)
		if l.LFS {
			key := e.path + "\x00" + e.oldID + e.newID
			at := l.seen[key]
			if at == nil {
				at = l.look(e, o)
				l.seen[key] = at
			}
			e.large = at
			at.keep = at.keep || d.keep != nil && (d.wanted == nil || d.wanted(e.path))
			at.tell(flags)
		}
		if list != nil && len(list.lfs) < maxLarge {
			f := LargeFile{Path: text.Show(e.path), Object: o}
			if e.large != nil {
				f.Content = e.large.content
			}
			list.lfs = append(list.lfs, f)
		}
	}
}

// pointer reads the pointer that an entry leaves. Its mode says nothing: promotion takes files along for
// whatever reads like one.
func (l *larges) pointer(e *entry) (lfs.Object, bool) {
	switch {
	case e.binary || e.oldID == e.newID || e.ins > pointerLines || e.newMode == "000000" || e.newMode == "160000",
		!l.LFS && (e.ins == 0 || e.ins > usualLines): // they are named, and nothing depends on it
		return lfs.Object{}, false
	}
	return l.parse(e.newID)
}

func (l *larges) parse(id string) (lfs.Object, bool) {
	data, whole, err := l.objects.get(id, "blob", lfs.MaxPointer)
	if err != nil || !whole {
		return lfs.Object{}, false
	}
	return lfs.Parse(data)
}

// tell flags what was found, for another commit too that has the same change.
func (at *large) tell(flags *flagSet) {
	if at.content == LFSText || at.content == LFSLong {
		flags.add(Warn, "lfs_text", at.entry.path)
	}
	if at.content == LFSLong || at.content == LFSUnread {
		flags.add(Warn, "unread_file", at.entry.path)
	}
	at.flags = append(at.flags, flags)
}

// look reads what a pointer leads to and what was there before.
func (l *larges) look(e *entry, o lfs.Object) *large {
	at := &large{entry: entry{path: e.path, oldMode: "100644", newMode: "100644"}}
	var data []byte
	if data, at.content = l.read(o); at.content == "" {
		if o.Size > 0 {
			at.absent = o.OID
		}
		return at
	}
	if data == nil {
		return at
	}
	if e.oldMode != "000000" && e.oldMode != "160000" {
		at.old = l.before(e.oldID)
		at.whole = at.old == nil
	}
	if l.size += len(data) + len(at.old); l.size > maxTexts || len(l.texts) == maxTextFiles {
		at.content, at.old = LFSLong, nil
		return at
	}
	at.new = data
	l.texts = append(l.texts, at)
	return at
}

// before is the text that a file was, in LFS or not; nil where it cannot be compared.
func (l *larges) before(id string) []byte {
	if o, ok := l.parse(id); ok {
		data, _ := l.read(o)
		return data
	}
	data, whole, err := l.objects.get(id, "blob", maxText)
	if err != nil || !whole || !isText(data[:min(len(data), textHead)]) {
		return nil
	}
	return data
}

// read says what is in a file, "" where it is not here, and gives the text where it can be compared.
func (l *larges) read(o lfs.Object) (data []byte, content string) {
	for _, dir := range []string{l.Repo, l.base()} {
		f, err := lfs.Of(dir).Open(o) // no link, nothing but a plain file of that size
		if err != nil {
			continue
		}
		data, content = l.judge(f, o)
		f.Close()
		if content != "" {
			return data, content
		}
	}
	return nil, ""
}

// judge reads a file. What is said of it is true of what its digest names: a supervisor that was taken over
// can put another file there for the look.
func (l *larges) judge(f io.Reader, o lfs.Object) ([]byte, string) {
	head, err := io.ReadAll(io.LimitReader(f, textHead))
	sum := sha256.New()
	sum.Write(head)
	data, content := head, LFSText
	switch {
	case err != nil:
		return nil, ""
	case !isText(head):
		if l.room < o.Size {
			return nil, LFSUnread
		}
		l.room -= o.Size
		data, content = nil, LFSBinary
		_, err = io.Copy(sum, io.LimitReader(f, o.Size))
	case o.Size > maxText:
		return nil, LFSLong
	default:
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(f, maxText))
		sum.Write(rest)
		data = append(data, rest...)
	}
	if err != nil || hex.EncodeToString(sum.Sum(nil)) != o.OID {
		return nil, "" // promotion finds the same
	}
	return data, content
}

// isText reports whether the beginning of a file is that of a text: git would show its changes, or an
// interpreter would read it.
func isText(head []byte) bool {
	if disguised(head) {
		return true
	}
	if len(head) == textHead { // it may end within a character
		for n := 1; n < utf8.UTFMax; n++ {
			if b := head[len(head)-n]; utf8.RuneStart(b) {
				if b >= utf8.RuneSelf {
					head = head[:len(head)-n]
				}
				break
			}
		}
	}
	return len(head) > 0 && utf8.Valid(head) && bytes.IndexByte(head, 0) < 0
}

// compare gives git all texts as files of two trees, which it writes to the scratch directory.
func (l *larges) compare(ctx context.Context, keep *int) error {
	if len(l.texts) == 0 || ctx.Err() != nil {
		return nil
	}
	if l.small && l.size > maxHeldSize {
		return errNotHeld // files cannot be as large there
	}
	h := &held{objects: map[string]object{}, idLen: len(l.Branches[0]) / 2}
	put := func(kind string, data []byte) []byte {
		id := objectID(kind, data, l.Branches[0])
		h.objects[id] = object{kind: kind, data: data}
		raw, _ := hex.DecodeString(id) // it was made so
		return raw
	}
	var old, now []byte
	names := map[string]*large{}
	for i, at := range l.texts {
		name := fmt.Sprintf("%04d", i)
		names[name] = at
		if at.old != nil {
			old = append(append(old, "100644 "+name+"\x00"...), put("blob", at.old)...)
		}
		now = append(append(now, "100644 "+name+"\x00"...), put("blob", at.new)...)
	}
	d := treeDiff(hex.EncodeToString(put("tree", old)), hex.EncodeToString(put("tree", now)))
	h.build()
	if err := h.write(l.Scratch, "large"); err != nil {
		return err
	}
	d.keep, d.wanted = keep, func(name string) bool { return names[name] != nil && names[name].keep }
	d.onAdded = func(e *entry, line []byte) {
		at := names[e.path]
		if at == nil {
			return
		}
		for _, flags := range at.flags {
			flags.added(&at.entry, line)
		}
	}
	more, err := l.diffs(ctx, []*diff{d}, "--numstat", "-p", "-U3", "--text")
	if err != nil && ctx.Err() == nil {
		return err
	}
	if more {
		for _, at := range l.texts {
			for _, flags := range at.flags {
				flags.add(Deny, "too_large", "not everything was looked at: more than 64 MiB of diff")
			}
		}
	}
	for _, e := range d.entries {
		if at := names[e.path]; at != nil {
			at.entry.ins, at.entry.del, at.entry.patch, at.entry.cut = e.ins, e.del, e.patch, e.cut
		}
	}
	return nil
}

// text is what is shown of it, nil for anything but a text that was compared.
func (at *large) text() *LargeText {
	if at == nil || at.new == nil {
		return nil
	}
	return &LargeText{Patch: text.Block(string(at.entry.patch), 1<<20, maxLine), Cut: at.entry.cut, Insertions: at.entry.ins, Deletions: at.entry.del, Whole: at.whole}
}

// Shown reports whether there is anything to show: the diff, or that it was left out for its size.
func (t *LargeText) Shown() bool { return t != nil && (t.Patch != "" || t.Cut) }

func (t *LargeText) clean() error {
	if t == nil {
		return nil
	}
	if t.Insertions < 0 || t.Deletions < 0 {
		return errors.New("an impossible count")
	}
	t.Patch = text.Block(t.Patch, 1<<20, maxLine)
	return nil
}

func cleanLarge(list []LargeFile) error {
	if len(list) > maxLarge {
		return errors.New("an impossible count")
	}
	for i := range list {
		f := &list[i]
		switch {
		case !lfs.ValidOID(f.OID) || f.Size < 0:
			return errors.New("an impossible file in LFS")
		case !slices.Contains([]string{"", LFSText, LFSLong, LFSBinary, LFSUnread}, f.Content):
			return errors.New("an impossible content of a file in LFS")
		}
		f.Path, f.State = text.Show(f.Path), ""
	}
	return nil
}
