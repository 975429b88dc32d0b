package review_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/review"
	"terok/internal/problem"
)

func (r *rig) approve(tip string, commits ...string) error {
	_, err := r.reader.Approve(r.T.Context(), r.task, review.Decision{Tip: tip, Commits: commits, By: "Ada"})
	return err
}

// Spec/gate.md §20: 36, 37, 38. Approvals name commits: what came on top needs its own, what was
// rewritten has none and says that it is the same change, and a tip that moved is not approved.
func TestApprovalsBindToCommits(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	x := r.push("one")
	if err := r.approve(x); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved || d.List[0].Decided != review.Approved {
		t.Errorf("state %s", d.State)
	}
	r.write("b", "2")
	y := r.push("two")
	if d := r.show(); d.State != review.Updated || d.List[0].Decided != "" || d.List[1].Decided != review.Approved {
		t.Errorf("after a push on top: %s %+v", d.State, d.List)
	}
	if err := r.approve(x); !problem.Is(err, "tip_moved") || problem.Of(err).Exit != problem.Conflict {
		t.Errorf("the tip that was looked at is not the tip: %v", err)
	}
	rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
	if err != nil || len(rec.History(r.task.Branch).Unapproved([]string{y, x}, review.LevelBranch)) != 1 {
		t.Errorf("unapproved: %v", err)
	}
	if err := r.approve(y); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
	// The same changes in other commits.
	r.Git(r.work, "commit", "-q", "--amend", "-m", "two, in other words")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	d := r.show()
	if d.State != review.Updated || d.List[0].Decided != "" || d.List[0].SameAs != y {
		t.Errorf("rewritten: %s, decided %q, same as %q", d.State, d.List[0].Decided, d.List[0].SameAs)
	}
	r.write("b", "3")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "--amend", "-m", "two")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	if d := r.show(); d.List[0].SameAs != "" {
		t.Errorf("another change is called the same as %q", d.List[0].SameAs)
	}
}

// TestCommitLevel: each commit for itself, rejections win until a later approval, comments decide nothing.
func TestCommitLevel(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	x := r.push("one")
	r.write("b", "2")
	y := r.push("two")
	ids := []string{y, x}
	history := func() *review.History {
		rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
		if err != nil {
			t.Fatal(err)
		}
		return rec.History(r.task.Branch)
	}
	if err := r.approve(y, x[:8]); err != nil {
		t.Fatal(err)
	}
	if left := history().Unapproved(ids, review.LevelBranch); len(left) != 1 || left[0] != y {
		t.Errorf("left %v", left)
	}
	if err := r.approve(y, y); err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{review.LevelBranch, review.LevelCommit} {
		if left := history().Unapproved(ids, level); len(left) != 0 {
			t.Errorf("%s: left %v", level, left)
		}
	}
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
	now := time.Now().Add(time.Minute)
	r.reader.Now = func() time.Time { return now }
	decide := review.Decision{Tip: y, Commits: []string{x}, By: "Ada", Text: "no \x1b[31m sleeps \u202e"}
	if _, err := r.reader.Comment(t.Context(), r.task, decide); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved || len(d.List[1].Comments) != 1 {
		t.Errorf("a comment decided: %s", d.State)
	}
	if _, err := r.reader.Reject(t.Context(), r.task, decide); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Rejected || d.List[1].Decided != review.Rejected {
		t.Errorf("state %s", d.State)
	}
	rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
	if err != nil {
		t.Fatal(err)
	}
	words := review.Feedback(rec)
	if !strings.Contains(words, "Rejected: commit "+x[:7]) || !strings.Contains(words, `no \x1b[31m sleeps \u{202e}`) || strings.ContainsAny(words, "\x1b\u202e") {
		t.Errorf("feedback %q", words)
	}
	now = now.Add(time.Minute)
	if err := r.approve(y, x); err != nil {
		t.Fatal(err)
	}
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
	for _, bad := range []review.Decision{{Tip: y, Commits: []string{"0000"}}, {Tip: y, Commits: []string{"x"}}, {Tip: y, Commits: []string{r.repo.Start}}} {
		if _, err := r.reader.Approve(t.Context(), r.task, bad); err == nil {
			t.Errorf("%+v passed", bad)
		}
	}
	if _, err := r.reader.Reject(t.Context(), r.task, review.Decision{Tip: y}); !problem.Is(err, "usage") {
		t.Errorf("a rejection without a reason: %v", err)
	}
}

// TestSince: what came since a decision: the new commits alone, or how the branch was rewritten.
func TestSince(t *testing.T) {
	r := newRig(t)
	if _, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: "last"}); !problem.Is(err, "no_such_branch") && !problem.Is(err, "nothing_pushed") && !problem.Is(err, "not_reviewed") {
		t.Errorf("nothing was decided: %v", err)
	}
	r.write("a", "1\n")
	x := r.push("one")
	if err := r.approve(x); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a line that stays\n", 30)
	r.write("b", "2\n"+long)
	y := r.push("two")
	d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: "last"})
	if err != nil || d.Since != x || d.Range != "" || len(d.List) != 1 || d.List[0].ID != y || strings.Contains(d.Patch, "\n+1\n") || !strings.Contains(d.Patch, "\n+2\n") {
		t.Errorf("since the approval: %+v %v", d, err)
	}
	r.write("b", "3\n"+long)
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "--amend", "-m", "two")
	// As the gate's server does: a tip that a push replaces is kept.
	r.Git(r.repo.Repo, "update-ref", "refs/terok/backup/"+r.task.Branch+"/20260101T000000Z-"+y[:12], y)
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	d, err = r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: y[:10]})
	if err != nil || !strings.Contains(d.Range, "= ") || !strings.Contains(d.Range, "! ") || !strings.Contains(d.Range, "3") {
		t.Errorf("rewritten: %q %v", d.Range, err)
	}
	// A branch: what differs from its tip, wherever it is.
	r.World.Write("README.md", "hello again\n")
	main := r.Commit(r.Upstream, "upstream goes on")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	d, err = r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: "main"})
	if err != nil || d.Since != main || d.Range != "" || !strings.Contains(d.Patch, "\n-hello again\n") || !strings.Contains(d.Patch, "\n+3\n") {
		t.Errorf("since main: %+v %v", d, err)
	}
	for _, word := range []string{"no-such", "../x", "-x", "refs/heads/main"} {
		if _, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{Since: word}); !problem.Is(err, "no_such_branch") {
			t.Errorf("since %s: %v", word, err)
		}
	}
}

// TestViews: one commit, each commit, some paths, numbers only.
func TestViews(t *testing.T) {
	r := newRig(t)
	r.write("a.md", "1\n")
	x := r.push("one")
	r.write("src/b.go", "2\n")
	r.push("two")
	show := func(v review.View) review.Details {
		t.Helper()
		d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{View: v})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := show(review.View{Commit: x[:6]}); len(d.List) != 1 || d.List[0].ID != x || !strings.Contains(d.List[0].Files[0].Patch, "+1") || d.Patch != "" {
		t.Errorf("one commit: %+v", d.List)
	}
	if d := show(review.View{PerCommit: true}); !strings.Contains(d.List[0].Files[0].Patch, "+2") || !strings.Contains(d.List[1].Files[0].Patch, "+1") {
		t.Errorf("each: %+v", d.List)
	}
	if d := show(review.View{Globs: []string{"*.md"}}); !strings.Contains(d.Patch, "+1") || strings.Contains(d.Patch, "+2") || len(d.Files) != 2 {
		t.Errorf("paths: %s", d.Patch)
	}
	if d := show(review.View{Stat: true}); d.Patch != "" || d.Insertions != 2 {
		t.Errorf("numbers: %+v", d)
	}
	raw, err := r.reader.Raw(t.Context(), r.task, review.ShowOptions{})
	if err != nil || !strings.Contains(string(raw), "diff --git a/src/b.go b/src/b.go") {
		t.Errorf("raw: %s %v", raw, err)
	}
}

// TestCache: a second look asks no inspector, a changed base does, and the cache decides nothing.
func TestCache(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	r.push("one")
	first, err := r.reader.Queue(t.Context(), r.task)
	if err != nil || len(first) != 1 {
		t.Fatal(first, err)
	}
	self := r.reader.Inspect.Self
	r.reader.Inspect.Self = "/bin/false"
	again, err := r.reader.Queue(t.Context(), r.task)
	if err != nil || len(again) != 1 || again[0].Insertions != first[0].Insertions || again[0].Tip != first[0].Tip {
		t.Errorf("from the cache: %+v %v", again, err)
	}
	r.write("a", "2")
	r.push("two")
	if _, err := r.reader.Queue(t.Context(), r.task); err == nil {
		t.Error("a tip that nobody looked at came from the cache")
	}
	r.reader.Inspect.Self = self
	cache := filepath.Join(r.Roots.GateDir(gatetest.Project), "review", "cache", r.task.ID+".json")
	if err := os.WriteFile(cache, []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if q, err := r.reader.Queue(t.Context(), r.task); err != nil || q[0].Commits != 2 {
		t.Errorf("a broken cache: %+v %v", q, err)
	}
}

// TestRefs: refs are read without git, and nothing in the repository leads that elsewhere.
func TestRefs(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	tip := r.push("one")
	heads := filepath.Join(r.repo.Repo, "refs", "heads")
	for name, content := range map[string]string{"symbolic": "ref: refs/heads/main\n", "half": tip[:20], "zero": strings.Repeat("0", 40) + "\n", "x.lock": tip + "\n", "fine": tip + "\n"} {
		gatetest.WriteFile(t, heads, name, content)
	}
	q, err := r.reader.Queue(t.Context(), r.task)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, c := range q {
		names = append(names, c.Branch)
		if c.PushedAt.IsZero() {
			t.Errorf("%s was pushed at no time", c.Branch)
		}
	}
	if got := strings.Join(names, " "); got != r.task.Branch+" fine" {
		t.Errorf("branches %s", got)
	}
	if got, err := r.reader.Tip(t.Context(), r.task, ""); err != nil || got != tip {
		t.Errorf("tip %s %v", got, err)
	}
	if _, err := r.reader.Tip(t.Context(), r.task, "symbolic"); !problem.Is(err, "no_such_branch") {
		t.Errorf("a symbolic ref: %v", err)
	}
}

// FuzzUnified: a diff that a container printed gives printable files, whatever it is.
func FuzzUnified(f *testing.F) {
	f.Add("diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+\x1b[31m\n")
	f.Add("diff --git \"a/\\033\" \"b/\\033\"\nBinary files differ\ndiff --git a/y b/y\n@@\n-1\n\\ No newline\n")
	f.Fuzz(func(t *testing.T, raw string) {
		files := review.ParseUnified(raw)
		data, err := json.Marshal(files)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(string(data), "\x1b\u202e\u0085") || strings.Contains(string(data), `\u001b`) {
			t.Errorf("%s", data)
		}
		for _, file := range files {
			if len(file.NewMode) != 6 || len(file.OldMode) != 6 {
				t.Errorf("%+v", file)
			}
		}
		_ = review.Unified(files)
	})
}

func TestParseUnified(t *testing.T) {
	files := review.ParseUnified("diff --git a/a b c b/a b c\nindex 1..2 100644\n--- a/a b c\n+++ b/a b c\n@@ -1 +1 @@\n-old\n+new\n" +
		"diff --git \"a/f\\303\\274\" \"b/f\\303\\274\"\nnew file mode 100755\n--- /dev/null\n+++ x\n@@ -0,0 +1,2 @@\n+diff --git a/x b/x\n++++ b/y\n")
	if len(files) != 2 || files[0].Path != "a b c" || files[0].Insertions != 1 || files[0].Deletions != 1 || files[1].Path != `f\u{fc}` || files[1].Status != "A" ||
		files[1].Insertions != 2 || files[1].NewMode != "100755" {
		t.Errorf("%+v", files)
	}
}
