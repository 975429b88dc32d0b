package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/lfs"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Kinds of changes.
const (
	Create      = "create"       // applied: upstream has a branch that the base had not
	FastForward = "fast_forward" // applied: upstream moved forward
	Rewrite     = "rewrite"      // needs a decision: upstream's branch no longer contains what it had
	Delete      = "delete"       // needs a decision: upstream's branch is gone
	Diverged    = "diverged"     // needs a decision: both sides have commits of their own
	Ahead       = "ahead"        // nothing to do: the base has commits that upstream has not
)

// Change is one branch that differs between base and upstream.
type Change struct {
	Branch   string `json:"branch"`
	Kind     string `json:"kind"`
	Old      string `json:"old"`       // the base's tip, "" for none
	New      string `json:"new"`       // upstream's tip, "" for none
	Known    string `json:"known"`     // last tip that both had, "" when never
	Lossless bool   `json:"lossless"`  // the base holds nothing there that upstream never had
	GateOnly int    `json:"gate_only"` // commits of the base's tip that are not in upstream's
}

// Destructive reports whether taking upstream's side moves the base's branch other than forward.
func (c Change) Destructive() bool {
	return c.Kind == Rewrite || c.Kind == Delete || c.Kind == Diverged
}

// Report is what a sync did and what it left.
type Report struct {
	Path     string   `json:"path"`
	Upstream string   `json:"upstream"` // without credentials
	Created  bool     `json:"created"`
	DryRun   bool     `json:"dry_run"`
	Head     string   `json:"head"`     // default branch
	Branches int      `json:"branches"` // in the base
	Applied  []Change `json:"applied"`
	Pending  []Change `json:"pending"` // need a person's decision
	Ahead    []Change `json:"ahead"`
	GateOnly []string `json:"gate_only"` // branches that upstream never had
	Notes    []string `json:"notes"`
	Errors   []string `json:"errors"` // what failed while the rest was done

	Submodules []Submodule `json:"submodules,omitempty"` // of the default branch
	LFS        *LFSFetched `json:"lfs,omitempty"`        // null: there was nothing to fetch
}

// Options of a sync. The zero value brings the whole base up to date and waits BusyWait for
// another one that is under way.
type Options struct {
	Branches    []string // only these; nothing is pruned. Empty: all
	DryRun      bool     // fetch and compare, move nothing
	Wait        bool     // wait for another sync as long as ctx lives
	Destructive bool     // also take upstream's side of rewrites and deletions, after a backup
	Reinit      bool     // make the base anew; refused while tasks borrow from it
	Bundle      string   // first sync: take objects from this bundle file before asking upstream
	Reference   string   // first sync: take objects from this repository of the same machine
	Backups     Backups
	// AutoLossless takes upstream's side without asking where the base has nothing of its own.
	AutoLossless bool
	// FsckSkip are full ids of objects of upstream that git's checks refuse and the operator wants.
	FsckSkip []string
	// LFS fetches the files that branches keep in Git LFS, from LFSURL, or from where the upstream's own
	// address leads when it is "".
	LFS    bool
	LFSURL string

	lfsFrom lfs.Dir // of the base that is made anew
}

// Init makes a project's base, or brings an existing one up to date: see Sync. An existing gate
// with another upstream is the problem "upstream_differs". upstream is a path or URL in the forms
// of ParseUpstream; "" makes an empty base.
func (s *Store) Init(ctx context.Context, project, upstream string) (Report, error) {
	return s.SyncWith(ctx, project, upstream, Options{Backups: DefaultBackups})
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

// SyncWith is Init with options. A sync of which a part failed is the problem "sync_partial" (exit
// 11) beside its report.
func (s *Store) SyncWith(ctx context.Context, project, upstream string, o Options) (Report, error) {
	up, err := ParseUpstream(upstream)
	if err != nil {
		return Report{}, err
	}
	for _, b := range o.Branches {
		if err := refname.Check(b); err != nil {
			return Report{}, problem.New("bad_branch", problem.Usage, "%s is no usable branch name: %w", text.Show(b), err)
		}
	}
	asked := s.now()
	shared := func() bool { return s.sharedSync(project, up, o, asked) }
	unlock, err := s.waitLock(ctx, project, o.Wait, false, shared)
	if errors.Is(err, errNotNeeded) {
		return s.sharedReport(ctx, project)
	}
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	if shared() { // by whom we waited for
		return s.sharedReport(ctx, project)
	}
	if err := s.recoverReinit(ctx, project); err != nil {
		return Report{}, err
	}
	st, err := s.load(project)
	if err == nil && st.Upstream != up.URL && !o.Reinit {
		return Report{}, problem.New("upstream_differs", problem.Conflict, "the gate of %s belongs to another upstream, %s",
			project, text.Line(st.Upstream, 0)).WithHint("terok project gate-sync %s --force-reinit, or use another project name", project)
	}
	if err != nil && !problem.Is(err, "gate_missing") {
		return Report{}, err
	}
	if st == nil { // said once, by the command that needs git first
		if _, _, err := s.Git.Version(ctx); err != nil {
			return Report{}, err
		}
	}
	if o.Reinit && st != nil {
		return s.reinit(ctx, project, up, o)
	}
	return s.sync(ctx, project, up, o)
}

// sharedSync reports whether a sync that began after this one was asked for has done all of it: of many
// that start together, all but the first two learn what the second found.
func (s *Store) sharedSync(project string, up Upstream, o Options, asked time.Time) bool {
	if o.DryRun || o.Destructive || o.Reinit || o.Bundle != "" || o.Reference != "" {
		return false
	}
	st, err := s.load(project)
	return err == nil && (st.LFS != nil) == o.LFS && st.Upstream == up.URL && st.LastError == "" && (st.Pending == 0 || !o.AutoLossless) &&
		st.Listed.After(asked) && !st.Listed.After(s.now()) // a clock that was set back proves nothing
}

func (s *Store) sharedReport(ctx context.Context, project string) (Report, error) {
	rep, err := s.pending(ctx, project)
	rep.DryRun = false
	return rep, err
}

func (s *Store) sync(ctx context.Context, project string, up Upstream, o Options) (Report, error) {
	base := s.Roots.GateBase(project)
	rep := Report{Path: base, Upstream: up.String(), DryRun: o.DryRun}
	st := &gateState{Schema: stateSchema, Upstream: up.URL}
	if old, err := s.load(project); err == nil {
		st = old
	}
	conn, err := s.Connect(ctx, project, up)
	if err != nil {
		return rep, err
	}
	defer conn.Close()
	skip, err := s.skipFile(project, o.FsckSkip)
	if err != nil {
		return rep, err
	}
	r := remote{Store: s, conn: conn, up: up, dir: base, branches: o.Branches, skip: skip}
	listed := s.now().UTC()
	listing, err := r.list(ctx)
	if err != nil {
		s.remember(project, st, err)
		return rep, err
	}
	s.step("listed")
	if st.Format == "" {
		st.Format = listing.format
	}
	r.format = st.Format
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		rep.Created = true
		if err := r.create(ctx, listing, o); err != nil {
			s.remember(project, st, err)
			return rep, err
		}
	}
	if err := s.checked(project, base); err != nil {
		return rep, err
	}
	view.SweepLocks(base, s.now())
	c := classifier{Store: s, ctx: ctx, dir: base, rep: &rep, only: o.Branches}
	if c.before, err = readRefs(base); err != nil {
		return rep, err
	}
	c.upstream, c.tagsUp = c.before.below(SnapshotRefs), c.before.below(snapshotTags)
	if !rep.Created && !listing.equals(c.before, o.Branches) {
		if c.upstream, c.tagsUp, err = r.fetchStaged(ctx, listing, c.before); err != nil {
			s.remember(project, st, err)
			return rep, err
		}
		s.step("fetched")
	}
	if err := c.classify(); err != nil {
		return rep, err
	}
	if o.DryRun {
		return rep, nil
	}
	s.step("classified")
	switch {
	case !o.LFS:
		st.LFS = nil
	case st.LFS == nil || st.LFS.Missing > 0 || st.LFS.Rev != st.Rev || rep.Created || !listing.equals(c.before, o.Branches):
		if st.LFS, err = s.syncLFS(ctx, project, up, &c, o); err != nil {
			return rep, err
		}
		s.step("lfs")
	}
	moved, err := s.finish(ctx, &c, listing, o)
	if err != nil {
		s.remember(project, st, err)
		return rep, err
	}
	s.step("packed")
	if len(rep.Applied) > 0 || rep.Created {
		st.Rev++
	}
	if st.LFS != nil {
		st.LFS.Rev = st.Rev
	}
	st.LastSync, st.LastError = s.now().UTC().Truncate(time.Second), ""
	st.Pending, st.Listed = len(rep.Pending), time.Time{}
	if len(o.Branches)+len(rep.Errors) == 0 {
		st.Listed = listed
	}
	if st.Checked != nil && len(o.Branches) == 0 {
		st.Checked = &Check{At: st.LastSync, Next: st.Checked.Next}
	}
	if err := state.WriteJSON(s.statePath(project), st); err != nil {
		return rep, err
	}
	s.step("stated")
	s.record(audit.Event{Project: project, Ev: "gate_synced", Actor: s.actor(), Count: uint64(len(rep.Applied)),
		Detail: map[string]string{"pending": fmt.Sprint(len(rep.Pending))}})
	if moved { // a task that could not be told then catches up by itself
		s.refreshTasks(ctx, project, &rep)
	}
	if o.Backups.Retention > 0 && (moved || len(c.before.below(BackupRefs)) > 0) {
		if _, err := s.pruneBackups(ctx, base, o.Backups, nil); err != nil {
			rep.Errors = append(rep.Errors, "old backups could not be removed: "+text.Line(err.Error(), 0))
		}
	}
	s.refreshBitmap(ctx, project, st, &rep)
	if len(rep.Errors) > 0 {
		return rep, problem.New("sync_partial", problem.Attention, "the gate of %s is synced but for %d: %s", project, len(rep.Errors), text.Line(rep.Errors[0], 200)).
			WithHint("terok project gate-sync %s", project)
	}
	return rep, nil
}

// remember keeps why the last sync failed, for gate status.
func (s *Store) remember(project string, st *gateState, err error) {
	if _, serr := os.Lstat(s.statePath(project)); serr != nil {
		return // no gate yet
	}
	st.LastError = text.Line(err.Error(), 300)
	_ = state.WriteJSON(s.statePath(project), st) // the error itself is on its way to the person
}

// finish applies what was classified, sets HEAD and packs the refs, so that a task's view is one
// file. It reports whether anything moved, now or in a sync that was killed before it packed.
func (s *Store) finish(ctx context.Context, c *classifier, l *listing, o Options) (moved bool, err error) {
	moved = c.rep.Created || len(c.script)+len(c.rep.Applied) > 0 || hasLooseRefs(c.dir)
	if err := c.apply(); err != nil {
		return moved, err
	}
	s.step("applied")
	if o.Destructive || o.AutoLossless {
		moved = moved || len(c.rep.Pending) > 0
		c.destroy(o)
		s.step("destroyed")
	}
	refs := c.before
	if moved {
		if refs, err = readRefs(c.dir); err != nil {
			return moved, err
		}
	}
	heads := refs.below(refname.Heads)
	c.rep.Branches = len(heads)
	head, err := headOf(c.dir)
	if err != nil {
		return moved, err
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
			return moved, err
		}
	}
	if moved {
		_, err = s.Git.Run(ctx, git.Cmd{GitDir: c.dir, Args: []string{"pack-refs", "--all", "--prune"}})
	}
	return moved, err
}

// hasLooseRefs reports whether a ref lies in a file of its own.
func hasLooseRefs(dir string) bool {
	err := filepath.WalkDir(filepath.Join(dir, "refs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return fs.ErrExist
		}
		return err
	})
	return err != nil // what cannot be read counts as one
}
