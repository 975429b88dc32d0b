package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/text"
)

// Namespaces of a base. A fetch goes to the staging ones: snapshot, attic and branches then move in
// one transaction, so that a killed sync has either all of it or nothing and the next one still
// knows what upstream had before.
const (
	SnapshotRefs = "refs/terok/upstream/"
	snapshotTags = "refs/terok/upstream-tags/"
	stagedRefs   = "refs/terok/fetched/"
	stagedTags   = "refs/terok/fetched-tags/"
	atticRefs    = "refs/terok/attic/"
	keptRefs     = "refs/terok/kept/" // upstream's tip that a person decided to ignore
	BackupRefs   = "refs/terok/backup/"
)

// classifier compares base and upstream; the rules are those of gate.md §5.1 with §5.2.
type classifier struct {
	*Store
	ctx      context.Context
	dir      string
	only     []string          // branches; empty: all
	before   refMap            // refs before the sync
	upstream map[string]string // upstream's branches now
	tagsUp   map[string]string // upstream's tags now
	rep      *Report
	script   []string // ref updates that nobody can disagree with: snapshot, attic, tags
}

func (c *classifier) classify() error {
	gate, snapshot := c.before.below(refname.Heads), c.before.below(SnapshotRefs)
	attic, kept := c.before.below(atticRefs), c.before.below(keptRefs)
	all := map[string]bool{}
	for _, m := range []map[string]string{gate, c.upstream, attic, snapshot, kept} {
		for b := range m {
			all[b] = true
		}
	}
	for _, b := range slices.Sorted(maps.Keys(all)) {
		if len(c.only) > 0 && !slices.Contains(c.only, b) {
			continue
		}
		if c.upstream[b] != snapshot[b] {
			c.script = append(c.script, view.Move(SnapshotRefs+b, snapshot[b], c.upstream[b]))
		}
		if err := refname.Check(b); err != nil {
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("branch %s of upstream is not offered: %s", text.Line(b, 80), err))
			continue
		}
		known := attic[b]
		if known == "" {
			known = snapshot[b]
		}
		change, err := c.branch(b, gate[b], c.upstream[b], known, kept[b])
		if err != nil {
			return err
		}
		c.attic(b, change, known, attic[b])
		if kept[b] != "" && kept[b] != c.upstream[b] && !refname.IsZero(kept[b]) {
			c.script = append(c.script, "delete "+keptRefs+b+" "+kept[b])
		}
	}
	for ref, id := range c.before {
		if strings.HasPrefix(ref, stagedRefs) || strings.HasPrefix(ref, stagedTags) {
			c.script = append(c.script, "delete "+ref+" "+id)
		}
	}
	return c.tags()
}

// branch classifies one branch from the base's tip, upstream's tip, the last common tip, and
// upstream's tip that a person decided to ignore.
func (c *classifier) branch(b, tip, up, known, kept string) (Change, error) {
	ch := Change{Branch: b, Old: tip, New: up, Known: known, Lossless: tip == known}
	switch {
	case tip == up:
		return Change{}, nil
	case tip == "" && up != "":
		ch.Kind, ch.Lossless = Create, true
		c.rep.Applied = append(c.rep.Applied, ch)
		return ch, nil
	case tip == "":
		return Change{}, nil // gone on both sides
	case up == "" && known == "":
		c.rep.GateOnly = append(c.rep.GateOnly, b)
		return Change{}, nil
	case up == "":
		ch.Kind = Delete
	}
	if ch.Kind == "" {
		forward, err := c.isAncestor(tip, up)
		if err != nil {
			return ch, err
		}
		behind, err := c.isAncestor(up, tip)
		if err != nil {
			return ch, err
		}
		moved := false
		if known != "" && !forward && !behind {
			continued, err := c.isAncestor(known, up)
			if err != nil {
				return ch, err
			}
			moved = !continued
		}
		switch {
		case forward:
			ch.Kind, ch.Lossless = FastForward, true
			c.rep.Applied = append(c.rep.Applied, ch)
			return ch, nil
		case behind && tip != known:
			ch.Kind = Ahead
		case behind || moved:
			ch.Kind = Rewrite // behind and tip == known: upstream went back
		default:
			ch.Kind = Diverged
		}
	}
	n, err := c.count(tip, up)
	if err != nil {
		return ch, err
	}
	ch.GateOnly = n
	if ch.Kind == Ahead || kept != "" && kept == up {
		c.rep.Ahead = append(c.rep.Ahead, ch)
		return Change{}, nil
	}
	c.rep.Pending = append(c.rep.Pending, ch)
	return ch, nil
}

// attic keeps the last common tip while a branch is pending and drops it when that is over.
func (c *classifier) attic(b string, ch Change, known, kept string) {
	switch {
	case ch.Destructive() && kept == "" && known != "":
		c.script = append(c.script, "create "+atticRefs+b+" "+known)
	case !ch.Destructive() && kept != "":
		c.script = append(c.script, "delete "+atticRefs+b+" "+kept)
	}
}

// tags publishes upstream's tags. A tag with a branch's name would make every short name
// ambiguous; a tag that moved keeps its first value.
func (c *classifier) tags() error {
	have, snapshot := c.before.below("refs/tags/"), c.before.below(snapshotTags)
	all := maps.Clone(c.tagsUp)
	for t := range snapshot {
		if _, ok := all[t]; !ok {
			all[t] = ""
		}
	}
	note := func(format string, args ...any) { c.rep.Notes = append(c.rep.Notes, fmt.Sprintf(format, args...)) }
	for _, t := range slices.Sorted(maps.Keys(all)) {
		id := all[t]
		if id != snapshot[t] {
			c.script = append(c.script, view.Move(snapshotTags+t, snapshot[t], id))
		}
		switch {
		case id == "" || have[t] == id:
		case c.upstream[t] != "" || c.before[refname.Heads+t] != "":
			note("tag %s has the name of a branch and is not offered", text.Line(t, 80))
		case have[t] != "":
			note("tag %s moved upstream; the gate keeps %.12s", text.Line(t, 80), have[t])
		case refname.Check(t) != nil:
			note("tag %s is not offered: its name is not acceptable", text.Line(t, 80))
		default:
			c.script = append(c.script, "create refs/tags/"+t+" "+id)
		}
	}
	return nil
}

// apply moves the refs: all in one transaction; when somebody else moved one of them meanwhile, or
// a name stands in the way, one by one, and what lost is a note until the next sync.
func (c *classifier) apply() error {
	lines := slices.Clone(c.script)
	for _, ch := range c.rep.Applied {
		lines = append(lines, updateLine(ch))
	}
	if done, err := c.applyBulk(lines); done || err != nil {
		return err
	}
	if len(lines) == 0 || c.updateRefs(c.ctx, c.dir, nil, lines...) == nil {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	// The snapshot first: without it a later sync would not know what upstream had.
	if err := c.updateRefs(c.ctx, c.dir, nil, c.script...); err != nil {
		var failed error
		for _, line := range c.script {
			if err := c.updateRefs(c.ctx, c.dir, nil, line); err != nil {
				failed = err
			}
		}
		if failed != nil {
			c.rep.Errors = append(c.rep.Errors, "the record of upstream's refs is not complete: "+text.Line(failed.Error(), 200))
		}
	}
	kept := c.rep.Applied[:0]
	for _, ch := range c.rep.Applied {
		if err := c.updateRefs(c.ctx, c.dir, nil, updateLine(ch)); err != nil {
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("branch %s could not be moved; the next sync tries again", text.Line(ch.Branch, 80)))
			continue
		}
		kept = append(kept, ch)
	}
	c.rep.Applied = kept
	return nil
}

func updateLine(ch Change) string {
	if ch.Old == "" {
		return "create " + refname.Heads + ch.Branch + " " + ch.New
	}
	return "update " + refname.Heads + ch.Branch + " " + ch.New + " " + ch.Old
}

func (c *classifier) isAncestor(a, b string) (bool, error) {
	_, err := c.Git.Run(c.ctx, git.Cmd{GitDir: c.dir, Args: []string{"merge-base", "--is-ancestor", a, b}})
	if git.IsExit(err, 1) {
		return false, nil
	}
	return err == nil, err
}

// count returns how many commits of tip are not in other.
func (c *classifier) count(tip, other string) (int, error) {
	args := []string{"rev-list", "--count", tip}
	if other != "" {
		args = append(args, "^"+other)
	} else {
		args = append(args, "--not", "--glob="+SnapshotRefs+"*")
	}
	out, err := c.Git.Run(c.ctx, git.Cmd{GitDir: c.dir, Args: args})
	if err != nil {
		return 0, err
	}
	var n int
	_, err = fmt.Fscan(bytes.NewReader(out), &n)
	return n, err
}

// headOf reads the branch that HEAD of a repository of ours names.
func headOf(dir string) (string, error) {
	data, err := readSmall(filepath.Join(dir, "HEAD"))
	if err != nil {
		return "", err
	}
	branch, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "ref: "+refname.Heads)
	if !ok || refname.Check(branch) != nil {
		return "", fmt.Errorf("HEAD of %s names no branch", dir)
	}
	return branch, nil
}
