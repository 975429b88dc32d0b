// Package promote carries a reviewed commit out of a task's repository: into a person's clone as
// a new branch, or to upstream.
//
// It guarantees: what arrives is exactly the commit id that the caller pinned, and the branch of
// the task still points to it at that moment; a clone gets a new branch and nothing else, its
// checked-out branch, index, files and configuration stay and its hooks do not run; upstream is
// moved with an explicit lease on the value that was seen, forward only; what was done is
// recorded and can be undone as long as nobody moved it since.
//
// It refuses changes with a flag of severity Deny, names that refname refuses, existing branches
// of a clone, upstream's default branch unless that is asked for.
package promote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// Deadlines: copying on this machine, talking to upstream.
const (
	localTimeout = 10 * time.Minute
	pushTimeout  = time.Hour
	listTimeout  = time.Minute
)

// Promoter promotes. Ledger may be nil.
type Promoter struct {
	Store  *store.Store
	Review *review.Reader
	Git    *git.Runner
	Now    func() time.Time
	Ledger audit.Recorder
}

// Source is what is promoted.
type Source struct {
	Task   review.Task
	Branch string // of the task; "" is its own
	Commit string // full id, as it was reviewed
}

// Target is where it goes.
type Target struct {
	Kind         string  // review.ToClone or review.ToUpstream
	Dir          string  // the clone, for ToClone
	Branch       string  // name without refs/heads/
	Expected     *string // ToUpstream: the tip that was seen, "" for none; nil looks now
	AllowDefault bool    // ToUpstream: Branch may be upstream's default branch
}

// Promote brings src to dst and records approval and promotion. A tip that is not src.Commit any
// more is the problem "tip_moved" (exit 7), a clone's branch of that name "branch_exists",
// upstream moved since "lease_lost".
func (p *Promoter) Promote(ctx context.Context, src Source, dst Target) (review.Promotion, error) {
	var done review.Promotion
	if src.Branch == "" {
		src.Branch = src.Task.Branch
	}
	if err := refname.Check(dst.Branch); err != nil {
		return done, problem.New("bad_branch", problem.Usage, "%s is not a usable branch name: %w", text.Show(dst.Branch), err).WithHint("use --as NAME")
	}
	if !refname.IsID(src.Commit) {
		return done, problem.New("bad_commit", problem.Usage, "a full commit id is needed, as terok review --json shows it")
	}
	unlock, err := p.Store.Lock(ctx, src.Task.Project)
	if err != nil {
		return done, err
	}
	defer unlock()
	if err := p.check(ctx, src); err != nil {
		return done, err
	}
	if dst.Kind == review.ToClone {
		done, err = p.toClone(ctx, src, dst)
	} else {
		done, err = p.toUpstream(ctx, src, dst)
	}
	if err != nil {
		return done, err
	}
	done.Commit, done.Target, done.At = src.Commit, dst.Kind, p.now()
	err = review.UpdateRecord(p.Review.Roots, src.Task.Project, src.Task.ID, func(rec *review.Record) error {
		h := rec.History(src.Branch)
		h.Approve(src.Commit, p.now())
		h.Promotions = append(h.Promotions, done)
		return nil
	})
	p.record("promoted", src.Task, done)
	return done, err
}

// Approve records that a person accepts exactly this commit; the tip must still be it.
func (p *Promoter) Approve(ctx context.Context, src Source) error {
	if src.Branch == "" {
		src.Branch = src.Task.Branch
	}
	if err := p.check(ctx, src); err != nil {
		return err
	}
	err := review.UpdateRecord(p.Review.Roots, src.Task.Project, src.Task.ID, func(rec *review.Record) error {
		rec.History(src.Branch).Approve(src.Commit, p.now())
		return nil
	})
	p.record("review_changed", src.Task, review.Promotion{Commit: src.Commit, Ref: refname.Heads + src.Branch})
	return err
}

// check holds the pin: the branch is where the person saw it, and nothing in it is denied.
func (p *Promoter) check(ctx context.Context, src Source) error {
	tip, err := p.Review.Tip(ctx, src.Task, src.Branch)
	if err != nil {
		return err
	}
	if tip != src.Commit {
		return tipMoved(src, tip)
	}
	details, err := p.Review.Show(ctx, src.Task, src.Branch)
	if err != nil {
		return err
	}
	if details.Tip != src.Commit {
		return tipMoved(src, details.Tip) // between the two looks
	}
	for _, f := range details.Flags {
		if f.Severity == review.Deny {
			return problem.New("flag_denied", problem.Conflict, "this change is not promoted: %s in %s", f.Code, strings.Join(f.Where, ", ")).
				WithHint("ask the task to remove it")
		}
	}
	return nil
}

func tipMoved(src Source, tip string) error {
	return problem.New("tip_moved", problem.Conflict, "%s is at %.12s now, not at %.12s: the task pushed since you looked",
		src.Branch, tip, src.Commit).WithHint("terok review show %s/%s", src.Task.Project, src.Task.ID).With("tip", tip)
}

// toClone makes a new branch in a person's clone. Objects first, without any ref; then the ref,
// only if there is none of that name: nothing the clone has can move.
func (p *Promoter) toClone(ctx context.Context, src Source, dst Target) (review.Promotion, error) {
	ref := refname.Heads + dst.Branch
	done := review.Promotion{Place: dst.Dir, Ref: ref}
	if err := p.isClone(ctx, dst.Dir); err != nil {
		return done, err
	}
	if _, err := p.Git.Run(ctx, clone(dst.Dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref)); err == nil {
		return done, branchExists(dst)
	} else if !git.IsExit(err, 1) {
		return done, err
	}
	fetch := clone(dst.Dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
		"--", p.Review.Roots.GateTask(src.Task.Project, src.Task.ID), src.Commit)
	fetch.Protocols = []string{"file"}
	fetch.Config = append(fetch.Config, "protocol.version=2", "fetch.fsckObjects=true", "fetch.prune=false", "fetch.pruneTags=false",
		"fetch.writeCommitGraph=false", "fetch.unpackLimit=100", "core.bigFileThreshold=16m")
	if _, err := p.Git.Run(ctx, fetch); err != nil {
		return done, fmt.Errorf("copy commits into %s: %w", text.Show(dst.Dir), err)
	}
	zero := strings.Repeat("0", len(src.Commit))
	message := fmt.Sprintf("terok: promoted from %s/%s", src.Task.Project, src.Task.ID)
	if _, err := p.Git.Run(ctx, clone(dst.Dir, "update-ref", "--no-deref", "-m", message, ref, src.Commit, zero)); err != nil {
		if _, there := p.Git.Run(ctx, clone(dst.Dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref)); there == nil {
			return done, branchExists(dst)
		}
		return done, fmt.Errorf("make branch %s in %s: %w", dst.Branch, text.Show(dst.Dir), err)
	}
	return done, nil
}

func branchExists(dst Target) error {
	return problem.New("branch_exists", problem.Conflict, "%s has a branch %s already", text.Show(dst.Dir), dst.Branch).WithHint("use --as NAME")
}

// clone is a git command in a person's clone: trusted, but its hooks and programs do not run.
func clone(dir string, args ...string) git.Cmd {
	return git.Cmd{Dir: dir, Args: args, Timeout: localTimeout}
}

func (p *Promoter) isClone(ctx context.Context, dir string) error {
	if !filepath.IsAbs(dir) {
		return problem.New("no_clone", problem.Usage, "%s is not an absolute path", text.Show(dir))
	}
	if _, err := p.Git.Run(ctx, clone(dir, "rev-parse", "--git-dir")); err != nil {
		return problem.New("no_clone", problem.NotFound, "%s is no git repository: %w", text.Show(dir), err)
	}
	return nil
}

// toUpstream pushes exactly the commit, forward only, under a lease.
func (p *Promoter) toUpstream(ctx context.Context, src Source, dst Target) (review.Promotion, error) {
	ref := refname.Heads + dst.Branch
	up, err := p.Store.Upstream(src.Task.Project)
	if err != nil {
		return review.Promotion{}, err
	}
	done := review.Promotion{Place: up.URL, Ref: ref}
	if up.URL == "" {
		return done, problem.New("no_upstream", problem.Usage, "project %s has no upstream", src.Task.Project)
	}
	head, seen, err := p.observe(ctx, up, ref)
	if err != nil {
		return done, err
	}
	if ref == head && !dst.AllowDefault {
		return done, problem.New("protected_branch", problem.Conflict, "%s is upstream's default branch", dst.Branch).
			WithHint("to push to it all the same: --as %s --yes", dst.Branch)
	}
	if dst.Expected != nil {
		seen = *dst.Expected
	}
	done.Old = seen
	if seen != "" {
		if err := p.forward(ctx, src, dst.Branch, seen); err != nil {
			return done, err
		}
	}
	return done, p.push(ctx, src.Task, up, ref, src.Commit, seen)
}

// observe reads upstream's default branch and the tip of ref, "" when there is none.
func (p *Promoter) observe(ctx context.Context, up store.Upstream, ref string) (head, tip string, err error) {
	out, err := p.Git.Run(ctx, p.Store.Transport(up, "", listTimeout, "ls-remote", "--symref", "--", up.URL, "HEAD", ref))
	if err != nil {
		return "", "", store.Unreachable(up, err)
	}
	for line := range strings.Lines(string(out)) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if target, ok := strings.CutPrefix(id, "ref: "); ok && name == "HEAD" {
			head = target
		} else if name == ref && refname.IsID(id) {
			tip = id
		}
	}
	return head, tip, nil
}

// repo is a git command in the task's repository, which was verified by check.
func (p *Promoter) repo(t review.Task, c git.Cmd) git.Cmd {
	c.GitDir = p.Review.Roots.GateTask(t.Project, t.ID)
	c.Alternates = []string{p.Store.ObjectsDir(t.Project)}
	return c
}

// forward refuses to take commits away from upstream: a lease alone would allow it.
func (p *Promoter) forward(ctx context.Context, src Source, branch, seen string) error {
	if !refname.IsID(seen) {
		return problem.New("bad_commit", problem.Usage, "the expected tip is not a commit id")
	}
	_, err := p.Git.Run(ctx, p.repo(src.Task, git.Cmd{Args: []string{"merge-base", "--is-ancestor", seen, src.Commit}}))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return problem.New("not_fast_forward", problem.Conflict, "upstream's %s has commits that %.12s does not contain", branch, src.Commit).
		WithHint("terok project gate-sync %s, then let the task merge upstream/%s; or use --as NAME", src.Task.Project, branch)
}

// push moves ref at upstream from old to commit; commit "" deletes it, old "" means that it must
// not exist. Without the lease another push in between would be lost.
func (p *Promoter) push(ctx context.Context, t review.Task, up store.Upstream, ref, commit, old string) error {
	c := p.Store.Transport(up, "", pushTimeout, "push", "--porcelain", "--atomic", "--no-verify", "--no-follow-tags", "--no-signed",
		"--recurse-submodules=no", "--force-with-lease="+ref+":"+old, "--", up.URL, commit+":"+ref)
	out, err := p.Git.Run(ctx, p.repo(t, c))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "!") {
			continue
		}
		if strings.Contains(line, "(stale info)") || strings.Contains(line, "(fetch first)") {
			return problem.New("lease_lost", problem.Conflict, "upstream's %s moved meanwhile; nothing was changed", strings.TrimPrefix(ref, refname.Heads)).
				WithHint("terok project gate-sync %s", t.Project)
		}
		fields := strings.Split(strings.TrimSpace(line), "\t")
		return problem.New("push_rejected", problem.Failed, "upstream refused: %s", text.Show(fields[len(fields)-1]))
	}
	return store.Unreachable(up, err)
}

// Undo takes back the last promotion of a task that still stands. The target must be as the
// promotion left it, else the problem "promotion_moved"; a branch that is checked out stays
// ("branch_in_use"). No promotion is "nothing_promoted".
func (p *Promoter) Undo(ctx context.Context, t review.Task) (review.Promotion, error) {
	var done review.Promotion
	unlock, err := p.Store.Lock(ctx, t.Project)
	if err != nil {
		return done, err
	}
	defer unlock()
	err = review.UpdateRecord(p.Review.Roots, t.Project, t.ID, func(rec *review.Record) error {
		last := lastStanding(rec)
		if last == nil {
			return problem.New("nothing_promoted", problem.NotFound, "nothing of %s/%s is promoted", t.Project, t.ID).WithHint("terok review")
		}
		undo := p.undoUpstream
		if last.Target == review.ToClone {
			undo = p.undoClone
		}
		if err := undo(ctx, t, *last); err != nil {
			return err
		}
		last.Undone = true
		done = *last
		return nil
	})
	if err == nil {
		p.record("promotion_undone", t, done)
	}
	return done, err
}

func lastStanding(rec *review.Record) *review.Promotion {
	var last *review.Promotion
	for _, h := range rec.Branches {
		for i := range h.Promotions {
			if q := &h.Promotions[i]; !q.Undone && (last == nil || !q.At.Before(last.At)) {
				last = q
			}
		}
	}
	return last
}

func (p *Promoter) undoClone(ctx context.Context, _ review.Task, q review.Promotion) error {
	branch := strings.TrimPrefix(q.Ref, refname.Heads)
	if err := p.isClone(ctx, q.Place); err != nil {
		return err
	}
	out, err := p.Git.Run(ctx, clone(q.Place, "worktree", "list", "--porcelain"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if strings.TrimSpace(line) == "branch "+q.Ref {
			return problem.New("branch_in_use", problem.Conflict, "%s is checked out in %s", branch, text.Show(q.Place)).
				WithHint("git -C %s switch -", text.Show(q.Place))
		}
	}
	tip, err := p.Git.Run(ctx, clone(q.Place, "rev-parse", "--verify", "--quiet", "--end-of-options", q.Ref))
	if git.IsExit(err, 1) {
		return nil // the person removed it already
	}
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(tip)) != q.Commit {
		return moved(branch, q.Place)
	}
	if _, err := p.Git.Run(ctx, clone(q.Place, "update-ref", "--no-deref", "-d", q.Ref, q.Commit)); err != nil {
		return moved(branch, q.Place)
	}
	return nil
}

func (p *Promoter) undoUpstream(ctx context.Context, t review.Task, q review.Promotion) error {
	up, err := store.ParseUpstream(q.Place)
	if err != nil {
		return err
	}
	if err := store.Verify(p.Review.Roots.GateTask(t.Project, t.ID), p.Store.ObjectsDir(t.Project)); err != nil {
		return err
	}
	err = p.push(ctx, t, up, q.Ref, q.Old, q.Commit)
	if problem.Is(err, "lease_lost") {
		return moved(strings.TrimPrefix(q.Ref, refname.Heads), q.Place)
	}
	return err
}

func moved(branch, place string) error {
	return problem.New("promotion_moved", problem.Conflict, "%s in %s has moved since it was promoted; it stays", branch, text.Show(place))
}

// Name proposes a branch name for a clone: the task's slug, with a number when it is taken.
func (p *Promoter) Name(ctx context.Context, dir, slug string) (string, error) {
	if refname.Check(slug) != nil {
		slug = "terok"
	}
	for n := 1; n < 100; n++ {
		name := slug
		if n > 1 {
			name = fmt.Sprintf("%s-%d", slug, n)
		}
		_, err := p.Git.Run(ctx, clone(dir, "rev-parse", "--verify", "--quiet", "--end-of-options", refname.Heads+name))
		if git.IsExit(err, 1) {
			return name, nil
		}
		if err != nil {
			return "", problem.New("no_clone", problem.NotFound, "%s is no git repository: %w", text.Show(dir), err)
		}
	}
	return "", problem.New("branch_exists", problem.Conflict, "%s has ninety-nine branches like %s", text.Show(dir), slug).WithHint("use --as NAME")
}

// IsBare reports whether the repository at dir has no working tree.
func (p *Promoter) IsBare(ctx context.Context, dir string) (bool, error) {
	if _, err := os.Stat(dir); err != nil {
		return false, problem.New("no_clone", problem.NotFound, "the clone is not there: %w", err)
	}
	out, err := p.Git.Run(ctx, clone(dir, "rev-parse", "--is-bare-repository"))
	if err != nil {
		return false, errors.Join(p.isClone(ctx, dir), err)
	}
	return strings.TrimSpace(string(out)) == "true", nil
}

func (p *Promoter) now() time.Time {
	if p.Now != nil {
		return p.Now().UTC()
	}
	return time.Now().UTC()
}

func (p *Promoter) record(ev string, t review.Task, q review.Promotion) {
	if p.Ledger != nil {
		p.Ledger.Record(audit.Event{Project: t.Project, Task: t.ID, Ev: ev, Actor: "operator", Ref: q.Ref, Old: q.Old, New: q.Commit,
			Detail: map[string]string{"target": q.Target, "place": text.Line(q.Place, 0)}})
	}
}
