package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/gate/view"
	"terok/internal/problem"
)

// push puts a commit into a task's repository as its server would; what is the content of a file.
func (w *world) push(t store.Task, branch, what string) string {
	w.T.Helper()
	work := filepath.Join(w.Dir, "push-"+filepath.Base(t.Repo)+strings.ReplaceAll(branch, "/", "-"))
	if _, err := os.Stat(work); err != nil {
		w.Git(w.Dir, "clone", "-q", "-b", t.Branch, t.Repo, work)
	}
	gatetest.WriteFile(w.T, work, "work.txt", what)
	id := w.Commit(work, what)
	w.Git(work, "push", "-q", "-f", "origin", "HEAD:refs/heads/"+branch)
	return id
}

// TestGCNeverBreaksABorrower: as long as a task borrows from the base nothing leaves it, not even
// what upstream rewrote and no ref of the base reaches any more.
//
// spec/gate.md §20: 54 (borrow: no inode is shared, the borrower's writes leave the base whole), 55.
func TestGCNeverBreaksABorrower(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	task := w.Task("k3v9p")
	workspace := filepath.Join(w.Dir, "workspace")
	w.Git(w.Dir, "init", "-q", workspace)
	gatetest.WriteFile(t, workspace, ".git/objects/info/alternates", w.base()+"/objects\n")
	w.Git(workspace, "fetch", "-q", task.Repo, "+refs/heads/*:refs/remotes/origin/*")
	w.Git(workspace, "checkout", "-q", "-B", "main", "refs/remotes/origin/main")
	old := w.Git(workspace, "rev-parse", "HEAD")
	for i := range 4 { // several packs, and a rewrite that orphans what the workspace uses
		w.Git(w.Upstream, "commit", "-q", "--amend", "-m", "rewritten "+strings.Repeat("x", i+1))
		w.sync(store.Options{Destructive: true, Backups: store.Backups{Off: true, LoseCommits: true}})
	}
	long := w.Store.Now
	w.Store.Now = func() time.Time { return time.Now().Add(365 * 24 * time.Hour) }
	report, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Keep: time.Hour, Backups: store.DefaultBackups})
	if err != nil || len(report) != 2 || !strings.Contains(report[1].Action, "1 tasks borrow") {
		t.Fatalf("%+v, %v", report, err)
	}
	w.Git(workspace, "fsck", "--strict")
	w.Git(task.Repo, "fsck", "--strict")
	if got := w.Git(workspace, "log", "-1", "--format=%H", old); got != old {
		t.Error("the old tip is gone")
	}
	// The borrower's own objects: its files, its inodes.
	_ = filepath.WalkDir(workspace+"/.git/objects", func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			_ = os.Chmod(p, 0o600)
			_ = os.WriteFile(p, []byte("garbage"), 0o600)
		}
		return nil
	})
	w.Git(w.base(), "fsck", "--strict")
	if err := store.Verify(w.base()); err != nil {
		t.Error(err)
	}
	// Without a borrower the base may forget.
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Keep: time.Hour, Backups: store.DefaultBackups}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.TryGit(w.base(), "cat-file", "-e", old); err == nil {
		t.Error("nothing was dropped without a borrower")
	}
	w.Git(w.base(), "fsck", "--strict")
	w.Store.Now = long
	dry, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{DryRun: true})
	if err != nil || len(dry) != 1 || dry[0].Before != dry[0].After {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
}

// TestGCOfATask drops what nothing reaches after its time, and keeps what is young.
func TestGCOfATask(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	task := w.Task("k3v9p")
	gone := w.push(task, "x", "first")
	id := w.push(task, "x", "second")
	w.Git(task.Repo, "update-ref", "refs/heads/x", task.Start)
	w.Git(task.Repo, "update-ref", "refs/heads/y", gone)
	for _, keep := range []time.Duration{24 * time.Hour, 0} {
		if keep == 0 {
			w.Store.Now = func() time.Time { return time.Now().Add(time.Hour) }
		}
		if _, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Keep: keep, Backups: store.DefaultBackups}); err != nil {
			t.Fatal(err)
		}
		_, err := w.TryGit(task.Repo, "cat-file", "-e", id)
		if (err == nil) != (keep > 0) {
			t.Errorf("kept for %s: %v", keep, err)
		}
		if _, err := w.TryGit(task.Repo, "cat-file", "-e", gone); err != nil {
			t.Errorf("a branch's commit is gone: %v", err)
		}
		w.Git(task.Repo, "fsck", "--strict")
	}
}

// TestHandover: a new task begins with another one's work, and nothing of it is in the base.
func TestHandover(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	a := w.Task("aaaaa")
	main, side := w.push(a, a.Branch, "main work"), w.push(a, "side", "side work")
	b, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "bbbbb", Branch: "terok/bbbbb-x",
		From: &store.Handover{Task: "aaaaa", Own: a.Branch}})
	if err != nil || b.Start != main {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "aaaaa"); err != nil { // it needs nothing of the other
		t.Fatal(err)
	}
	w.Git(b.Repo, "fsck", "--strict")
	if got := w.Git(b.Repo, "rev-parse", "refs/heads/side"); got != side {
		t.Errorf("side is %s", got)
	}
	if _, err := w.TryGit(w.base(), "cat-file", "-e", main); err == nil {
		t.Error("the work is in the base")
	}
	c, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "ccccc", Branch: "terok/ccccc-x",
		From: &store.Handover{Task: "bbbbb", Branch: "side"}})
	if err != nil || c.Start != side {
		t.Fatalf("%+v, %v", c, err)
	}
	if out, _ := w.TryGit(c.Repo, "rev-parse", "-q", "--verify", "refs/heads/terok/bbbbb-x"); out != "" {
		t.Error("one branch was asked for, another came along")
	}
	_, err = w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "ddddd", Branch: "terok/ddddd-x",
		From: &store.Handover{Task: "bbbbb", Branch: "nope"}})
	if !problem.Is(err, "no_such_branch") {
		t.Errorf("%v", err)
	}
	if ids, _ := w.Store.Tasks(gatetest.Project); len(ids) != 2 {
		t.Errorf("a failed one left something: %v", ids)
	}
}

// TestBundleOfATask: what was not promoted survives the task in a bundle that verifies.
//
// spec/gate.md §20: 58 (with the command: internal/cli, test/tasks).
func TestBundleOfATask(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	task := w.Task("k3v9p")
	file := filepath.Join(w.Dir, "archive", "commits.bundle")
	if wrote, err := w.Store.Bundle(t.Context(), gatetest.Project, "k3v9p", file); err != nil || wrote {
		t.Fatalf("a bundle of nothing: %v %v", wrote, err)
	}
	id := w.push(task, task.Branch, "work")
	old := w.push(task, "x", "replaced")
	w.Git(task.Repo, "update-ref", "refs/terok/backup/x/20260101T000000Z-"+old[:12], old)
	before := w.Git(w.base(), "for-each-ref")
	if wrote, err := w.Store.Bundle(t.Context(), gatetest.Project, "k3v9p", file); err != nil || !wrote {
		t.Fatalf("%v %v", wrote, err)
	}
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(task.Repo); err == nil {
		t.Error("the repository is still there")
	}
	if w.Git(w.base(), "for-each-ref") != before {
		t.Error("the base changed")
	}
	w.Git(w.base(), "bundle", "verify", "-q", file)
	heads := w.Git(w.Dir, "bundle", "list-heads", file)
	if !strings.Contains(heads, id) || !strings.Contains(heads, old) {
		t.Errorf("heads: %s", heads)
	}
}

// TestReset moves the branch to the checkpoint and keeps what it had.
func TestReset(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	task := w.Task("k3v9p")
	id := w.push(task, task.Branch, "work")
	ref, err := w.Store.Reset(t.Context(), gatetest.Project, "k3v9p", task.Branch)
	if err != nil || w.Git(task.Repo, "rev-parse", task.Branch) != task.Start || w.Git(task.Repo, "rev-parse", ref) != id {
		t.Fatalf("%s, %v", ref, err)
	}
	if ref, err = w.Store.Reset(t.Context(), gatetest.Project, "k3v9p", task.Branch); err != nil || ref != "" {
		t.Errorf("again: %s, %v", ref, err)
	}
	list, err := w.Store.ListBackups(t.Context(), gatetest.Project, "k3v9p")
	if err != nil || len(list) != 1 || list[0].Task != "k3v9p" {
		t.Fatalf("%+v %v", list, err)
	}
	if _, _, err := w.Store.Restore(t.Context(), gatetest.Project, "k3v9p", list[0].Ref); err != nil || w.Git(task.Repo, "rev-parse", task.Branch) != id {
		t.Errorf("restore: %v", err)
	}
}

// TestImport: branches of a bundle, and of an old mirror in which they are mixed with upstream's,
// become a task's for review; what upstream knows stays where it is; backups are kept.
//
// spec/gate.md §20: 62.
func TestImport(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	before := w.Git(w.base(), "for-each-ref", "refs/heads")
	old := filepath.Join(w.Dir, "old.git")
	w.Git(w.Dir, "clone", "-q", "--mirror", w.Upstream, old)
	work := filepath.Join(w.Dir, "work")
	w.Git(w.Dir, "clone", "-q", old, work)
	gatetest.WriteFile(t, work, "agent.txt", "x")
	id := w.Commit(work, "agent's")
	w.Git(work, "push", "-q", "origin", "HEAD:refs/heads/feat/x", "HEAD:refs/heads/bad\u202ename")
	w.Git(old, "update-ref", "refs/terok/backup/main/20260101T000000Z-"+id[:12], id)
	task := w.Task("k3v9p")
	got, err := w.Store.ImportTask(t.Context(), gatetest.Project, "k3v9p", old)
	if err != nil || strings.Join(got.Branches, " ") != "feat/x" || got.Backups != 1 || len(got.Skipped) != 1 || strings.Contains(got.Skipped[0], "\u202e") {
		t.Fatalf("%+v, %v", got, err)
	}
	if w.Git(task.Repo, "rev-parse", "refs/heads/feat/x") != id || w.Git(w.base(), "for-each-ref", "refs/heads") != before {
		t.Error("the branch is not where it belongs")
	}
	if list, err := w.Store.ListBackups(t.Context(), gatetest.Project, ""); err != nil || len(list) != 1 || list[0].Tip != id {
		t.Errorf("backups: %+v %v", list, err)
	}
	w.Git(w.base(), "fsck", "--strict")

	bundle := filepath.Join(w.Dir, "x.bundle")
	w.Git(work, "bundle", "create", "-q", bundle, "HEAD", "main", "^origin/main")
	w.Task("q1w2e")
	if got, err = w.Store.ImportTask(t.Context(), gatetest.Project, "q1w2e", bundle); err != nil || strings.Join(got.Branches, " ") != "imported/main" {
		t.Errorf("%+v, %v", got, err)
	}
	gatetest.WriteFile(t, w.Dir, "no.bundle", "not a bundle")
	if _, err := w.Store.ImportTask(t.Context(), gatetest.Project, "q1w2e", filepath.Join(w.Dir, "no.bundle")); !problem.Is(err, "bad_import") {
		t.Errorf("%v", err)
	}
}

// TestFreezeAndStatus: what gate status shows, and a base that was changed freezes itself.
func TestFreezeAndStatus(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	task := w.Task("k3v9p")
	w.push(task, task.Branch, "work")
	if err := w.Store.Freeze(gatetest.Project, "k3v9p", "odd\x1b[2J"); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Freeze(gatetest.Project, "nope1", ""); !problem.Is(err, "task_not_found") {
		t.Errorf("%v", err)
	}
	s, err := w.Store.Status(t.Context(), gatetest.Project)
	if err != nil || s.Branches != 1 || s.Head != "main" || len(s.Tasks) != 1 || s.Tasks[0].Branches != 1 || !strings.HasPrefix(s.Frozen["k3v9p"], "odd") || strings.Contains(s.Frozen["k3v9p"], "\x1b") {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := w.Store.Thaw(gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.base()+"/config", []byte("[core]\n\tbare = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Sync(t.Context(), gatetest.Project); !problem.Is(err, "store_corrupt") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(view.FrozenFile(w.base(), "")); err != nil {
		t.Error("a changed base takes pushes on")
	}
}

// TestPoll: one round trip, no fetch, ±10 % of the interval, and longer pauses after failures.
//
// spec/gate.md §20: 60 (panic: internal/cli).
func TestPoll(t *testing.T) {
	w := newWorld(t)
	w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, "up.git")
	b := w.Serve(w.Dir)
	if _, err := w.Store.Init(t.Context(), gatetest.Project, b.URL+"/up.git"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	w.Store.Now = func() time.Time { return now }
	packs, lists := b.Packs.Load(), b.Lists.Load()
	const interval = 5 * time.Minute
	poll := func(want bool) store.Check {
		t.Helper()
		c, asked, err := w.Store.Poll(t.Context(), gatetest.Project, interval, false)
		if err != nil || asked != want {
			t.Fatalf("asked %v, want %v: %v", asked, want, err)
		}
		return c
	}
	c := poll(true)
	if wait := c.Next.Sub(now); c.Behind+c.Gone != 0 || wait < interval*9/10-time.Second || wait > interval*11/10 {
		t.Errorf("%+v: next in %s", c, wait)
	}
	poll(false)
	now = now.Add(interval * 8 / 10)
	poll(false)
	w.Write("new", "x")
	w.Commit(w.Upstream, "third")
	w.Git(w.Upstream, "push", "-q", filepath.Join(w.Dir, "up.git"), "main", "main:refs/heads/dev")
	now = now.Add(interval)
	if c = poll(true); c.Behind != 2 || strings.Join(c.Branches, " ") != "dev main" {
		t.Errorf("%+v", c)
	}
	if b.Packs.Load() != packs || b.Lists.Load() != lists+2 {
		t.Errorf("%d fetches, %d lists", b.Packs.Load()-packs, b.Lists.Load()-lists)
	}
	b.Password = "closed"
	last := time.Duration(0)
	for i := range 7 {
		now = now.Add(2 * time.Hour)
		c = poll(true)
		wait := c.Next.Sub(now)
		if c.Error == "" || c.Failures != i+1 || wait > 66*time.Minute || i < 3 && wait <= last {
			t.Errorf("failure %d: %+v, next in %s", i, c, wait)
		}
		last = wait
	}
	b.Password = ""
	now = now.Add(2 * time.Hour)
	if c = poll(true); c.Failures != 0 || c.Error != "" {
		t.Errorf("%+v", c)
	}
}
