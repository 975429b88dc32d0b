package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/lfs"
	"terok/internal/gate/refname"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// destroy takes upstream's side of what is pending: rewrites and deletions when a person said so,
// and what loses nothing when the project says so. A branch with commits of its own stays until
// it is resolved by name.
func (c *classifier) destroy(o Options) {
	left := c.rep.Pending[:0]
	for _, ch := range c.rep.Pending {
		take := o.Destructive && ch.Kind != Diverged || o.AutoLossless && ch.Lossless
		if !take {
			left = append(left, ch)
			continue
		}
		if err := c.take(c.ctx, c.dir, ch, "sync", o.Backups); err != nil {
			c.rep.Errors = append(c.rep.Errors, fmt.Sprintf("branch %s: %s", text.Line(ch.Branch, 80), text.Line(err.Error(), 200)))
			left = append(left, ch)
			continue
		}
		c.rep.Applied = append(c.rep.Applied, ch)
	}
	c.rep.Pending = left
}

// take moves the base's branch to upstream's tip, or deletes it, in one transaction with the backup
// of what it replaces. A branch that moved since it was listed is the problem "ref_moved".
func (s *Store) take(ctx context.Context, base string, ch Change, why string, b Backups) error {
	var script []string
	if b.Off {
		if ch.GateOnly > 0 && !b.LoseCommits {
			return problem.New("backups_off", problem.Conflict, "%d commits of %s would be lost, and backups are off", ch.GateOnly, text.Line(ch.Branch, 80)).
				WithHint("set gate.backups.enabled in project.yml, or repeat with --yes-lose-commits")
		}
	} else if ch.Old != "" {
		script = append(script, "update "+s.backupRef(ch.Branch, ch.Old)+" "+ch.Old)
	}
	script = append(script, moveHead(ch))
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	for _, ns := range []string{atticRefs, keptRefs} {
		if id := refs[ns+ch.Branch]; id != "" {
			script = append(script, "delete "+ns+ch.Branch+" "+id)
		}
	}
	if refs[refname.Heads+ch.Branch] != ch.Old {
		return moved(ch.Branch)
	}
	if err := s.updateRefs(ctx, base, nil, script...); err != nil {
		if now, rerr := readRefs(base); rerr == nil && now[refname.Heads+ch.Branch] != ch.Old {
			return moved(ch.Branch)
		}
		return err
	}
	s.record(audit.Event{Ev: "gate_ref_moved", Actor: s.actor(), Ref: refname.Heads + text.Line(ch.Branch, 0), Old: ch.Old, New: ch.New, Reason: why,
		Detail: map[string]string{"forced": "true"}})
	return nil
}

func moved(branch string) error {
	return problem.New("ref_moved", problem.Conflict, "branch %s moved since it was listed", text.Line(branch, 80)).
		WithHint("look again, then repeat")
}

func moveHead(ch Change) string {
	switch {
	case ch.New == "":
		return "delete " + refname.Heads + ch.Branch + " " + ch.Old
	case ch.Old == "":
		return "create " + refname.Heads + ch.Branch + " " + ch.New
	}
	return "update " + refname.Heads + ch.Branch + " " + ch.New + " " + ch.Old
}

func (s *Store) backupRef(branch, id string) string {
	return BackupRefs + branch + "/" + s.now().UTC().Format(backupTime) + "-" + id[:12]
}

// Ways to resolve a pending branch.
const (
	Keep         = "keep"          // the base's side stays; nothing is said until upstream moves again
	TakeUpstream = "take-upstream" // upstream's side, after a backup
	Rename       = "rename"        // the base's side becomes BRANCH.local-DATE, upstream's takes the name
)

// Resolve decides one pending branch. It returns what was done; a branch that is not pending is the
// problem "not_pending".
func (s *Store) Resolve(ctx context.Context, project, branch, how string, b Backups) (Change, error) {
	var none Change
	if how != Keep && how != TakeUpstream && how != Rename {
		return none, problem.New("usage", problem.Usage, "%s is not keep, take-upstream or rename", text.Show(how))
	}
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return none, err
	}
	defer unlock()
	rep, err := s.pending(ctx, project)
	if err != nil {
		return none, err
	}
	base := s.Roots.GateBase(project)
	for _, ch := range rep.Pending {
		if ch.Branch != branch {
			continue
		}
		switch how {
		case Keep:
			up := ch.New
			if up == "" {
				up = strings.Repeat("0", len(ch.Old)) // upstream has none; a null id cannot be a ref
			}
			err = s.keep(ctx, base, ch, up)
		case TakeUpstream:
			err = s.take(ctx, base, ch, "resolved: take-upstream", b)
		case Rename:
			err = s.rename(ctx, base, ch)
		}
		if err != nil {
			return none, err
		}
		return ch, s.publish(ctx, project)
	}
	return none, problem.New("not_pending", problem.NotFound, "branch %s of %s needs no decision", text.Line(branch, 80), project).
		WithHint("terok project gate-sync %s --dry-run", project)
}

// keep makes the base's side the last word about upstream's tip. Where upstream has no such branch
// any more the branch becomes one of the gate alone.
func (s *Store) keep(ctx context.Context, base string, ch Change, up string) error {
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	var script []string
	if !refname.IsZero(up) {
		script = append(script, "update "+keptRefs+ch.Branch+" "+up)
	}
	if id := refs[atticRefs+ch.Branch]; id != "" {
		script = append(script, "delete "+atticRefs+ch.Branch+" "+id)
	}
	return s.updateRefs(ctx, base, nil, script...)
}

func (s *Store) rename(ctx context.Context, base string, ch Change) error {
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	name := ch.Branch + ".local-" + s.now().UTC().Format("20060102")
	for n := 2; refs[refname.Heads+name] != "" && refs[refname.Heads+name] != ch.Old; n++ {
		name = fmt.Sprintf("%s.local-%s-%d", ch.Branch, s.now().UTC().Format("20060102"), n)
	}
	if err := refname.Check(name); err != nil {
		return problem.New("bad_branch", problem.Usage, "the new name cannot be used: %w", err).WithHint("resolve it with keep or take-upstream")
	}
	script := []string{"update " + refname.Heads + name + " " + ch.Old, moveHead(ch)}
	for _, ns := range []string{atticRefs, keptRefs} {
		if id := refs[ns+ch.Branch]; id != "" {
			script = append(script, "delete "+ns+ch.Branch+" "+id)
		}
	}
	return s.updateRefs(ctx, base, nil, script...)
}

// Pending compares base and snapshot without asking upstream.
func (s *Store) Pending(ctx context.Context, project string) (Report, error) {
	if _, err := s.load(project); err != nil {
		return Report{}, err
	}
	return s.pending(ctx, project)
}

func (s *Store) pending(ctx context.Context, project string) (Report, error) {
	base := s.Roots.GateBase(project)
	st, err := s.load(project)
	if err != nil {
		return Report{}, err
	}
	if err := Verify(base); err != nil {
		return Report{}, err
	}
	up, err := ParseUpstream(st.Upstream)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Path: base, Upstream: up.String(), DryRun: true}
	c := classifier{Store: s, ctx: ctx, dir: base, rep: &rep}
	if c.before, err = readRefs(base); err != nil {
		return rep, err
	}
	c.upstream, c.tagsUp = c.before.below(SnapshotRefs), c.before.below(snapshotTags)
	rep.Branches = len(c.before.below(refname.Heads))
	if rep.Head, err = headOf(base); err != nil {
		return rep, err
	}
	return rep, c.classify()
}

// publish makes a change of the base's refs known: they are packed, so that servers notice, rev
// counts on, and the tasks' views follow.
func (s *Store) publish(ctx context.Context, project string) error {
	st, err := s.load(project)
	if err != nil {
		return err
	}
	if _, err := s.Git.Run(ctx, git.Cmd{GitDir: s.Roots.GateBase(project), Args: []string{"pack-refs", "--all", "--prune"}}); err != nil {
		return err
	}
	st.Rev++
	if err := state.WriteJSON(s.statePath(project), st); err != nil {
		return err
	}
	var rep Report
	s.refreshTasks(ctx, project, &rep)
	return nil
}

// Publish is what a caller that moved refs of the base under Lock does at the end: rev counts on
// and running tasks see it.
func (s *Store) Publish(ctx context.Context, project string) error { return s.publish(ctx, project) }

// reinit makes the base anew beside the old one, which stays until the new one is whole. Branches
// that only the gate has, and backups, are carried over as backups.
func (s *Store) reinit(ctx context.Context, project string, up Upstream, o Options) (Report, error) {
	base := s.Roots.GateBase(project)
	tasks, err := s.borrowers(project)
	if err != nil {
		return Report{}, err
	}
	if len(tasks) > 0 {
		return Report{}, problem.New("gate_in_use", problem.Conflict, "tasks borrow from the gate of %s: %s", project, strings.Join(tasks, ", ")).
			WithHint("terok task delete %s, with --keep-commits to keep what was not promoted", tasks[0])
	}
	lost, err := s.wouldLose(ctx, project)
	if err != nil {
		return Report{}, err
	}
	if len(lost) > 0 && !o.Destructive {
		return Report{}, problem.New("needs_destructive", problem.Conflict, "the gate of %s has what upstream has not: %s", project, strings.Join(lost, ", ")).
			With("lost", lost).WithHint("terok project gate-sync %s --force-reinit --destructive keeps it as backups", project)
	}
	old := base + ".old-" + s.now().UTC().Format(backupTime)
	oldState, err := os.ReadFile(s.statePath(project))
	if err != nil {
		return Report{}, err
	}
	if err := os.Rename(base, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Report{}, err
	}
	s.step("moved")
	back := func(cause error) (Report, error) {
		err := errors.Join(os.RemoveAll(base), os.Rename(old, base), state.WriteFile(s.statePath(project), oldState))
		return Report{}, errors.Join(cause, err)
	}
	if err := os.Remove(s.statePath(project)); err != nil {
		return back(err)
	}
	o.Reinit, o.Destructive, o.Reference, o.Backups.Retention = false, false, "", 0
	o.lfsFrom = lfs.Of(old)
	rep, err := s.sync(ctx, project, up, o)
	if err != nil {
		return back(err)
	}
	if err := s.carryOver(ctx, old, base); err != nil {
		return back(err)
	}
	s.record(audit.Event{Project: project, Ev: "gate_reinitialised", Actor: s.actor(), Count: uint64(len(lost))})
	return rep, os.RemoveAll(old)
}

// recoverReinit finishes a reinit that was killed: the old base comes back where there is no new
// one, else what it kept is carried over.
func (s *Store) recoverReinit(ctx context.Context, project string) error {
	base := s.Roots.GateBase(project)
	old, err := filepath.Glob(base + ".old-*")
	if err != nil || len(old) == 0 {
		return err
	}
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(old[len(old)-1], base)
	}
	if err := s.carryOver(ctx, old[len(old)-1], base); err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// wouldLose names what only the gate has.
func (s *Store) wouldLose(ctx context.Context, project string) ([]string, error) {
	rep, err := s.pending(ctx, project)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, b := range rep.GateOnly {
		lost = append(lost, "branch "+b)
	}
	for _, ch := range append(rep.Pending, rep.Ahead...) {
		if ch.GateOnly > 0 {
			lost = append(lost, fmt.Sprintf("%d commits of %s", ch.GateOnly, ch.Branch))
		}
	}
	return lost, nil
}

// carryOver brings backups, and the branches of the old base that the new one does not contain, as
// backups into the new one.
func (s *Store) carryOver(ctx context.Context, old, base string) error {
	if err := lfs.Of(base).Take(ctx, lfs.Of(old)); err != nil {
		return fmt.Errorf("carry files in LFS over: %w", err)
	}
	refs, err := readRefs(old)
	if err != nil {
		return err
	}
	c := git.Cmd{GitDir: base, Timeout: time.Hour, Protocols: []string{"file"}, Config: []string{"uploadpack.hideRefs=!refs/terok", "transfer.hideRefs=!refs/terok"},
		Args: []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--", old}}
	n := len(c.Args)
	for ref, id := range refs {
		if b, ok := strings.CutPrefix(ref, refname.Heads); ok {
			c.Args = append(c.Args, ref+":"+s.backupRef(b, id))
		}
	}
	if len(c.Args) == n {
		return nil
	}
	if _, err := s.Git.Run(ctx, c); err != nil {
		return fmt.Errorf("carry branches over: %w", err)
	}
	// Backups are hidden from every fetch; their objects come as one pack.
	var script, tips []string
	for name, id := range refs.below(BackupRefs) {
		script, tips = append(script, "update "+BackupRefs+name+" "+id), append(tips, id)
	}
	if len(script) == 0 {
		return nil
	}
	if err := s.copyObjects(ctx, old, nil, base, tips); err != nil {
		return err
	}
	return s.updateRefs(ctx, base, nil, script...)
}
