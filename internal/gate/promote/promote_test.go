package promote_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/promote"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
)

type rig struct {
	*gatetest.World
	task review.Task
	repo store.Task
	work string
	p    *promote.Promoter
	src  promote.Source
}

// newRig makes a task with one pushed commit. With bare, upstream is a bare repository.
func newRig(t *testing.T, bare bool) *rig {
	t.Helper()
	w := gatetest.New(t)
	if bare {
		dir := filepath.Join(w.Dir, "upstream.git")
		w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, dir)
		w.Upstream = dir
	}
	r := &rig{World: w, repo: w.Gate("k3v9p"), work: filepath.Join(w.Dir, "work")}
	r.task = review.Task{Project: gatetest.Project, ID: "k3v9p", Name: "brave-otter", Branch: r.repo.Branch, Start: r.repo.Start}
	now := time.Unix(1_700_000_000, 0)
	r.p = &promote.Promoter{Store: w.Store, Review: review.NewReader(w.Roots, gatetest.Self(t), false), Git: &git.Runner{}, Ledger: w.Ledger,
		Now: func() time.Time { now = now.Add(time.Second); return now }}
	w.Git(w.Dir, "clone", "-q", r.repo.Repo, r.work)
	r.src = promote.Source{Task: r.task, Commit: r.push("a", "1"), By: "Ada", Approve: true}
	return r
}

func (r *rig) push(path, content string) string {
	r.T.Helper()
	gatetest.WriteFile(r.T, r.work, path, content)
	id := r.Commit(r.work, "change "+path)
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	return id
}

func (r *rig) tip(dir, ref string) string {
	out, _ := r.TryGit(dir, "rev-parse", "-q", "--verify", ref)
	return out
}

func (r *rig) want(err error, code string, exit int) {
	r.T.Helper()
	if !problem.Is(err, code) || problem.Of(err).Exit != exit {
		r.T.Errorf("want %s (exit %d), got %v", code, exit, err)
	}
}

func (r *rig) clone(branch string) promote.Target {
	return promote.Target{Kind: review.ToClone, Dir: r.Upstream, Branch: branch}
}

func (r *rig) upstream(branch string) promote.Target {
	return promote.Target{Kind: review.ToUpstream, Branch: branch}
}

// state is everything in a clone that a promotion leaves alone.
func (r *rig) state() string {
	r.T.Helper()
	var b strings.Builder
	for _, f := range []string{".git/HEAD", ".git/index", ".git/config", "README.md", "dirty"} {
		data, err := os.ReadFile(filepath.Join(r.Upstream, f))
		if err != nil {
			r.T.Fatal(err)
		}
		b.Write(data)
	}
	if _, err := os.Lstat(filepath.Join(r.Upstream, ".git/FETCH_HEAD")); err == nil {
		b.WriteString("FETCH_HEAD")
	}
	return b.String() + r.Git(r.Upstream, "for-each-ref")
}

// TestFrozen: nothing of a frozen task or project is promoted; undoing goes on. Spec/gate.md §8, §11.4.
func TestFrozen(t *testing.T) {
	r := newRig(t, false)
	if _, err := r.p.Promote(t.Context(), r.src, r.clone("before")); err != nil {
		t.Fatal(err)
	}
	before := r.Git(r.Upstream, "for-each-ref")
	for _, frozen := range []string{"", r.task.ID} {
		if err := r.Store.Freeze(gatetest.Project, frozen, "incident 7"); err != nil {
			t.Fatal(err)
		}
		_, err := r.p.Promote(t.Context(), r.src, r.clone("after"))
		r.want(err, "gate_frozen", problem.Conflict)
		if err != nil && !strings.Contains(err.Error(), "incident 7") {
			t.Errorf("no reason: %v", err)
		}
		if err := r.Store.Thaw(gatetest.Project, frozen); err != nil {
			t.Fatal(err)
		}
	}
	if now := r.Git(r.Upstream, "for-each-ref"); now != before {
		t.Errorf("something moved:\n%s", now)
	}
	if err := r.Store.Freeze(gatetest.Project, "", "incident 8"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil {
		t.Errorf("undo while frozen: %v", err)
	}
	if err := r.Store.Freeze(gatetest.Project, "other", ""); err == nil {
		t.Error("a task that is not there was frozen")
	}
}

// TestToClone: a new branch and nothing else; hooks of the clone stay silent; undo takes it back.
func TestToClone(t *testing.T) {
	r := newRig(t, false)
	canary := filepath.Join(r.Dir, "canary")
	for _, hook := range []string{"reference-transaction", "post-checkout", "post-merge", "pre-push", "pre-auto-gc"} {
		if err := os.WriteFile(filepath.Join(r.Upstream, ".git/hooks", hook), []byte("#!/bin/sh\ntouch "+canary+"\n"), 0o755); err != nil {
			// git init may have made no hooks directory (no templates)
			if err := os.MkdirAll(filepath.Join(r.Upstream, ".git/hooks"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(r.Upstream, ".git/hooks", hook), []byte("#!/bin/sh\ntouch "+canary+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.World.Write("dirty", "uncommitted")
	before := r.state()
	done, err := r.p.Promote(t.Context(), r.src, r.clone("brave-otter"))
	if err != nil {
		t.Fatal(err)
	}
	if r.tip(r.Upstream, "refs/heads/brave-otter") != r.src.Commit || done.Commit != r.src.Commit || done.Ref != "refs/heads/brave-otter" {
		t.Errorf("promotion: %+v", done)
	}
	r.Git(r.Upstream, "fsck", "--connectivity-only")
	if again, err := r.p.Promote(t.Context(), r.src, r.clone("brave-otter")); err != nil || again.At != done.At {
		t.Errorf("done already: %+v %v", again, err)
	}
	_, err = r.p.Promote(t.Context(), r.src, r.clone("main"))
	r.want(err, "branch_exists", problem.Conflict)
	if name, err := r.p.Name(t.Context(), r.Upstream, "brave-otter"); err != nil || name != "brave-otter-2" {
		t.Errorf("name %q %v", name, err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil {
		t.Fatal(err)
	}
	if after := r.state(); after != before {
		t.Errorf("the clone changed:\n%s\n---\n%s", before, after)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a hook of the clone ran")
	}
	_, err = r.p.Undo(t.Context(), r.task)
	r.want(err, "nothing_promoted", problem.NotFound)
	if len(r.Ledger.Events("promoted")) != 1 || len(r.Ledger.Events("promotion_undone")) != 1 {
		t.Error("ledger")
	}
}

func TestUndoRefuses(t *testing.T) {
	r := newRig(t, false)
	promoteTo := func(name string) {
		t.Helper()
		if _, err := r.p.Promote(t.Context(), r.src, r.clone(name)); err != nil {
			t.Fatal(err)
		}
	}
	promoteTo("one")
	r.Git(r.Upstream, "checkout", "-q", "one")
	_, err := r.p.Undo(t.Context(), r.task)
	r.want(err, "branch_in_use", problem.Conflict)
	own := r.Commit(r.Upstream, "mine on top")
	r.Git(r.Upstream, "checkout", "-q", "main")
	_, err = r.p.Undo(t.Context(), r.task)
	r.want(err, "promotion_moved", problem.Conflict)
	if r.tip(r.Upstream, "refs/heads/one") != own {
		t.Error("the person's commit is gone")
	}
}

// TestTipMoved: what was pushed after the review is not promoted, and the pin names one commit.
func TestTipMoved(t *testing.T) {
	r := newRig(t, false)
	reviewed := r.src
	r.src.Commit = r.push("b", "2")
	_, err := r.p.Promote(t.Context(), reviewed, r.clone("x"))
	r.want(err, "tip_moved", problem.Conflict)
	_, err = r.p.Review.Approve(t.Context(), r.task, review.Decision{Tip: reviewed.Commit})
	r.want(err, "tip_moved", problem.Conflict)
	if r.tip(r.Upstream, "refs/heads/x") != "" {
		t.Error("promoted all the same")
	}
	short := r.src
	short.Commit = short.Commit[:12]
	_, err = r.p.Promote(t.Context(), short, r.clone("x"))
	r.want(err, "bad_commit", problem.Usage)
	if _, err := r.p.Review.Approve(t.Context(), r.task, review.Decision{Tip: r.src.Commit}); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	r := newRig(t, false)
	for _, name := range []string{"", "-x", "--upload-pack=touch", "HEAD", "a..b", "x\x1b", "refs/heads/x", "a b", r.src.Commit} {
		_, err := r.p.Promote(t.Context(), r.src, r.clone(name))
		r.want(err, "bad_branch", problem.Usage)
	}
	_, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToClone, Dir: r.Dir, Branch: "x"})
	r.want(err, "no_clone", problem.NotFound)
}

func TestToUpstream(t *testing.T) {
	r := newRig(t, true)
	main := r.tip(r.Upstream, "refs/heads/main")
	refs := r.Git(r.Upstream, "for-each-ref")
	r.Git(r.repo.Repo, "update-ref", "refs/tags/evil", r.src.Commit) // tags never follow
	_, err := r.p.Promote(t.Context(), r.src, r.upstream("main"))
	r.want(err, "protected_branch", problem.Conflict)
	done, err := r.p.Promote(t.Context(), r.src, r.upstream("feature"))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Git(r.Upstream, "for-each-ref"); got != r.src.Commit+" commit\trefs/heads/feature\n"+refs || done.Old != "" {
		t.Errorf("upstream:\n%s", got)
	}
	second := r.src
	second.Commit = r.push("b", "2")
	if done, err = r.p.Promote(t.Context(), second, r.upstream("feature")); err != nil || done.Old != r.src.Commit {
		t.Fatalf("forward: %+v %v", done, err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil || r.tip(r.Upstream, "refs/heads/feature") != r.src.Commit {
		t.Errorf("first undo: %v", err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil || r.Git(r.Upstream, "for-each-ref") != refs {
		t.Errorf("second undo: %v", err)
	}
	dst := r.upstream("main")
	dst.AllowDefault = true
	if _, err := r.p.Promote(t.Context(), second, dst); err != nil || r.tip(r.Upstream, "refs/heads/main") != second.Commit {
		t.Errorf("asked-for default branch: %v", err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil || r.tip(r.Upstream, "refs/heads/main") != main {
		t.Errorf("undo on main: %v", err)
	}
}

// TestLease: upstream moved after the person looked: nothing changes.
func TestLease(t *testing.T) {
	r := newRig(t, true)
	seen := ""
	dst := r.upstream("feature")
	dst.Expected = &seen
	other := r.Git(r.Upstream, "commit-tree", "-p", "main", "-m", "colleague's", "main^{tree}")
	r.Git(r.Upstream, "update-ref", "refs/heads/feature", other)
	_, err := r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lease_lost", problem.Conflict)
	main := r.tip(r.Upstream, "refs/heads/main")
	dst.Expected = &main
	_, err = r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lease_lost", problem.Conflict)
	_, err = r.p.Promote(t.Context(), r.src, r.upstream("feature")) // looked at now: not contained
	r.want(err, "not_fast_forward", problem.Conflict)
	if r.tip(r.Upstream, "refs/heads/feature") != other {
		t.Error("the colleague's commit is gone")
	}
	rec, err := review.LoadRecord(r.Roots, gatetest.Project, "k3v9p")
	if h := rec.History(r.task.Branch); err != nil || len(h.Promotions) != 0 || h.Intent != nil {
		t.Errorf("a failed promotion was recorded: %+v %v", h, err)
	}
}

// TestLeaseRace: of many promotions of one commit to one new branch exactly one makes it; the others
// find it done.
func TestLeaseRace(t *testing.T) {
	r := newRig(t, false)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = r.p.Promote(t.Context(), r.src, r.clone("contested")) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	rec, err := review.LoadRecord(r.Roots, gatetest.Project, "k3v9p")
	if err != nil || len(rec.History(r.task.Branch).Promotions) != 1 || len(r.Ledger.Events("promoted")) != 1 {
		t.Errorf("%+v %v", rec, err)
	}
}

// TestUndoUpstreamMoved: somebody built on the promoted branch: it stays.
func TestUndoUpstreamMoved(t *testing.T) {
	r := newRig(t, true)
	if _, err := r.p.Promote(t.Context(), r.src, r.upstream("feature")); err != nil {
		t.Fatal(err)
	}
	other := r.Git(r.Upstream, "commit-tree", "-p", "feature", "-m", "on top", "feature^{tree}")
	r.Git(r.Upstream, "update-ref", "refs/heads/feature", other)
	_, err := r.p.Undo(t.Context(), r.task)
	r.want(err, "promotion_moved", problem.Conflict)
	if r.tip(r.Upstream, "refs/heads/feature") != other {
		t.Error("feature moved")
	}
}

func TestUpstreamRefuses(t *testing.T) {
	r := newRig(t, true)
	if err := os.MkdirAll(filepath.Join(r.Upstream, "hooks"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Git(r.Upstream, "config", "receive.denyNonFastForwards", "true")
	r.Git(r.Upstream, "config", "receive.maxInputSize", "1")
	_, err := r.p.Promote(t.Context(), r.src, r.upstream("feature"))
	r.want(err, "push_rejected", problem.Failed)
	if err := os.RemoveAll(r.Upstream); err != nil {
		t.Fatal(err)
	}
	_, err = r.p.Promote(t.Context(), r.src, r.upstream("feature"))
	r.want(err, "upstream_unreachable", problem.Failed)
}

// TestDenied: a change that a checkout would confuse with .git is not promoted.
func TestDenied(t *testing.T) {
	r := newRig(t, false)
	tree := r.Git(r.work, "rev-parse", "HEAD^{tree}")
	blob := r.Git(r.work, "rev-parse", "HEAD:README.md")
	sub, err := (&git.Runner{}).Run(t.Context(), git.Cmd{GitDir: r.repo.Repo, Alternates: []string{r.Store.ObjectsDir(gatetest.Project)},
		Stdin: strings.NewReader("100644 blob " + blob + "\t.GIT\n040000 tree " + tree + "\tx\n"), Args: []string{"mktree"}})
	if err != nil {
		t.Fatal(err)
	}
	evil := r.Git(r.repo.Repo, "commit-tree", "-p", r.src.Commit, "-m", "evil", strings.TrimSpace(string(sub)))
	r.Git(r.repo.Repo, "update-ref", "refs/heads/"+r.task.Branch, evil)
	r.src.Commit = evil
	_, err = r.p.Promote(t.Context(), r.src, r.clone("x"))
	r.want(err, "flag_denied", problem.Conflict)
}
