package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Kinds of changes.
const (
	Create      = "create"       // applied: upstream has a branch that the base had not
	FastForward = "fast_forward" // applied: upstream moved forward
	Rewrite     = "rewrite"      // not applied: upstream's branch no longer contains what it had
	Delete      = "delete"       // not applied: upstream's branch is gone
	Diverged    = "diverged"     // not applied: both sides have commits of their own
	Ahead       = "ahead"        // nothing to do: the base has commits that upstream has not
)

// Change is one branch that differs between base and upstream.
type Change struct {
	Branch   string `json:"branch"`
	Kind     string `json:"kind"`
	Old      string `json:"old"`       // the base's tip, "" for none
	New      string `json:"new"`       // upstream's tip, "" for none
	Lossless bool   `json:"lossless"`  // the base holds nothing there that upstream never had
	GateOnly int    `json:"gate_only"` // commits of the base's tip that are not in upstream's
}

// Report is what a sync did and what it left.
type Report struct {
	Path     string   `json:"path"`
	Upstream string   `json:"upstream"`
	Created  bool     `json:"created"`
	Head     string   `json:"head"`     // default branch
	Branches int      `json:"branches"` // in the base
	Applied  []Change `json:"applied"`
	Pending  []Change `json:"pending"` // need a person's decision
	Ahead    []Change `json:"ahead"`
	GateOnly []string `json:"gate_only"` // branches that upstream never had
	Notes    []string `json:"notes"`
}

// Init makes a project's base, or brings an existing one up to date: see Sync. An existing gate
// with another upstream is the problem "upstream_differs". upstream is a path or URL in the forms
// of ParseUpstream; "" makes an empty base.
func (s *Store) Init(ctx context.Context, project, upstream string) (Report, error) {
	up, err := ParseUpstream(upstream)
	if err != nil {
		return Report{}, err
	}
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	st, err := s.load(project)
	if err == nil && st.Upstream != up.URL {
		return Report{}, problem.New("upstream_differs", problem.Conflict, "the gate of %s belongs to another upstream, %s",
			project, text.Line(st.Upstream, 0)).WithHint("terok project delete %s, or use another project name", project)
	}
	if err != nil && !problem.Is(err, "gate_missing") {
		return Report{}, err
	}
	return s.sync(ctx, project, up)
}

// Sync fetches a project's upstream into its base. Branches are created and moved forward by
// compare-and-swap; rewrites, deletions and divergence are reported as pending and not applied.
// Another sync under way is the problem "gate_busy" (exit 7), an upstream that does not answer
// "upstream_unreachable".
func (s *Store) Sync(ctx context.Context, project string) (Report, error) {
	st, err := s.load(project)
	if err != nil {
		return Report{}, err
	}
	return s.Init(ctx, project, st.Upstream)
}

func (s *Store) sync(ctx context.Context, project string, up Upstream) (Report, error) {
	base := s.Roots.GateBase(project)
	rep := Report{Path: base, Upstream: up.URL}
	r := remote{Store: s, project: project, up: up, dir: base}
	listing, err := r.list(ctx)
	if err != nil {
		return rep, err
	}
	st := &gateState{Schema: stateSchema, Upstream: up.URL, Format: listing.format}
	if old, err := s.load(project); err == nil {
		st = old
	}
	r.format = st.Format
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		rep.Created = true
		if err := r.create(ctx, listing); err != nil {
			return rep, err
		}
	}
	if err := Verify(base); err != nil {
		return rep, err
	}
	before, err := s.refs(ctx, base)
	if err != nil {
		return rep, err
	}
	snapshot := before.below("refs/terok/upstream/")
	if !rep.Created && !listing.equals(before) {
		if err := r.fetch(ctx, base); err != nil {
			return rep, err
		}
	}
	c := classifier{Store: s, ctx: ctx, dir: base, before: before, snapshot: snapshot, rep: &rep}
	if c.after, err = s.refs(ctx, base); err != nil {
		return rep, err
	}
	if err := c.classify(); err != nil {
		return rep, err
	}
	if err := s.finish(ctx, &c, listing); err != nil {
		return rep, err
	}
	if len(rep.Applied) > 0 || rep.Created {
		st.Rev++
	}
	st.LastSync = s.now().UTC().Truncate(time.Second)
	if err := state.WriteJSON(s.statePath(project), st); err != nil {
		return rep, err
	}
	s.record(audit.Event{Project: project, Ev: "gate_synced", Actor: "operator", Count: uint64(len(rep.Applied)),
		Detail: map[string]string{"pending": fmt.Sprint(len(rep.Pending))}})
	s.refreshTasks(ctx, project, &rep)
	return rep, nil
}

// finish applies what was classified, sets HEAD and packs the refs, so that a task's view is one
// file.
func (s *Store) finish(ctx context.Context, c *classifier, l *listing) error {
	if err := c.apply(); err != nil {
		return err
	}
	refs, err := s.refs(ctx, c.dir)
	if err != nil {
		return err
	}
	heads := refs.below(refname.Heads)
	c.rep.Branches = len(heads)
	head, err := headOf(c.dir)
	if err != nil {
		return err
	}
	switch {
	case l.head != "" && heads[l.head] != "":
	case heads[head] != "" || len(heads) == 0:
		l.head = head
	default: // upstream's default branch is not offered: any branch is better than none
		l.head = slices.Sorted(maps.Keys(heads))[0]
	}
	c.rep.Head = l.head
	if l.head != head {
		if _, err := s.Git.Run(ctx, git.Cmd{GitDir: c.dir, Args: []string{"symbolic-ref", "HEAD", refname.Heads + l.head}}); err != nil {
			return err
		}
	}
	_, err = s.Git.Run(ctx, git.Cmd{GitDir: c.dir, Args: []string{"pack-refs", "--all", "--prune"}})
	return err
}

// classifier compares base and upstream; the rules are those of gate.md §5.1 with §5.2.
type classifier struct {
	*Store
	ctx           context.Context
	dir           string
	before, after refMap            // refs before and after the fetch
	snapshot      map[string]string // upstream's branches at the sync before
	rep           *Report
	script        []string // further ref updates: attic and tags
}

func (c *classifier) classify() error {
	gate := c.before.below(refname.Heads)
	upstream := c.after.below("refs/terok/upstream/")
	attic := c.before.below("refs/terok/attic/")
	all := map[string]bool{}
	for _, m := range []map[string]string{gate, upstream, attic} {
		for b := range m {
			all[b] = true
		}
	}
	for _, b := range slices.Sorted(maps.Keys(all)) {
		if err := refname.Check(b); err != nil {
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("branch %s of upstream is not offered: %s", text.Line(b, 80), err))
			continue
		}
		known := attic[b]
		if known == "" {
			known = c.snapshot[b]
		}
		change, err := c.branch(b, gate[b], upstream[b], known)
		if err != nil {
			return err
		}
		c.attic(b, change, known, attic[b])
	}
	return c.tags(upstream)
}

// branch classifies one branch from the base's tip, upstream's tip and the last common tip.
func (c *classifier) branch(b, tip, up, known string) (Change, error) {
	ch := Change{Branch: b, Old: tip, New: up, Lossless: tip == known}
	switch {
	case tip == up:
		return Change{}, nil
	case tip == "" && up != "":
		ch.Kind, ch.Lossless = Create, true
		c.rep.Applied = append(c.rep.Applied, ch)
		return ch, nil
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
	if ch.Kind == Ahead {
		c.rep.Ahead = append(c.rep.Ahead, ch)
		return Change{}, nil
	}
	c.rep.Pending = append(c.rep.Pending, ch)
	return ch, nil
}

// attic keeps the last common tip while a branch is pending and drops it when that is over.
func (c *classifier) attic(b string, ch Change, known, kept string) {
	pending := ch.Kind == Rewrite || ch.Kind == Delete || ch.Kind == Diverged
	switch {
	case pending && kept == "" && known != "":
		c.script = append(c.script, "create refs/terok/attic/"+b+" "+known)
	case !pending && kept != "":
		c.script = append(c.script, "delete refs/terok/attic/"+b+" "+kept)
	}
}

// tags publishes upstream's tags. A tag with a branch's name would make every short name
// ambiguous; a tag that moved keeps its first value.
func (c *classifier) tags(upstream map[string]string) error {
	have := c.before.below("refs/tags/")
	for _, t := range slices.Sorted(maps.Keys(c.after.below("refs/terok/upstream-tags/"))) {
		id := c.after["refs/terok/upstream-tags/"+t]
		switch {
		case have[t] == id:
		case upstream[t] != "" || c.before[refname.Heads+t] != "":
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("tag %s has the name of a branch and is not offered", text.Line(t, 80)))
		case have[t] != "":
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("tag %s moved upstream; the gate keeps %.12s", text.Line(t, 80), have[t]))
		case refname.Check(t) != nil:
			c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("tag %s is not offered: its name is not acceptable", text.Line(t, 80)))
		default:
			c.script = append(c.script, "create refs/tags/"+t+" "+id)
		}
	}
	return nil
}

// apply moves the refs: all in one transaction; when somebody else moved one of them meanwhile,
// one by one, and what lost the race is a note until the next sync.
func (c *classifier) apply() error {
	lines := slices.Clone(c.script)
	for _, ch := range c.rep.Applied {
		lines = append(lines, updateLine(ch))
	}
	if len(lines) == 0 || c.updateRefs(c.ctx, c.dir, nil, lines...) == nil {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
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
	for _, line := range c.script {
		_ = c.updateRefs(c.ctx, c.dir, nil, line) // tried again by the next sync as well
	}
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
		args = append(args, "--not", "--glob=refs/terok/upstream/*")
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
