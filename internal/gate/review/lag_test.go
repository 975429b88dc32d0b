package review_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/forge"
	"terok/internal/gate/review"
)

// promoted writes down that a commit of the task's branch arrived at a branch of upstream.
func (r *rig) promoted(commit, as, branch string, undone bool) {
	r.T.Helper()
	err := review.UpdateRecord(r.Roots, r.task.Project, r.task.ID, func(rec *review.Record) error {
		h := rec.History(r.task.Branch)
		h.Promotions = append(h.Promotions, review.Promotion{Commit: commit, As: as, Target: review.ToUpstream, Ref: "refs/heads/" + branch, Undone: undone})
		return nil
	})
	if err != nil {
		r.T.Fatal(err)
	}
}

// TestLag: how far a task is from a review is counted from the commits; a review of another branch
// does not count, and one at a commit that is not here is said to be elsewhere.
func TestLag(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lines := func(heads ...review.Head) string {
		t.Helper()
		lag, err := r.reader.Lag(t.Context(), r.task, heads)
		if err != nil {
			t.Fatal(err)
		}
		return review.LagLines(lag, forge.Repo{Kind: forge.GitHub}.Mark)
	}
	r.write("one", "1")
	first := r.push("one")
	r.write("two", "2")
	second := r.push("two")
	at := func(tip string) review.Head { return review.Head{Number: 42, Branch: "feat/x", Tip: tip} }
	if got := lines(at(first)); got != "" {
		t.Errorf("a branch that was never promoted: %q", got)
	}
	r.promoted(first, first, "feat/x", false)
	r.promoted(first, first, "undone", true)
	own := " (" + r.task.Branch + ")\n"
	for name, c := range map[string]struct{ tip, want string }{
		"level":     {second, ""},
		"behind":    {first, "#42 feat/x +1" + own},
		"elsewhere": {strings.Repeat("4f2c", 10), "#42 feat/x ?" + own},
	} {
		if got := lines(at(c.tip), review.Head{Number: 1, Branch: "undone", Tip: first}, review.Head{Number: 2, Branch: "other", Tip: first}); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := lines(review.Head{Number: 7, Branch: r.task.Branch, Tip: r.repo.Start}); got != "#7 "+r.task.Branch+" +2\n" {
		t.Errorf("the same name: %q", got)
	}

	// Squashed: the commit that arrived is another one.
	squashed := strings.Repeat("5a", 20)
	r.promoted(second, squashed, "feat/x", false)
	r.write("three", "3")
	r.push("three")
	if got := lines(at(squashed)); got != "#42 feat/x +1"+own {
		t.Errorf("squashed: %q", got)
	}

	// The task rewrites its branch: the review has what it has not any more.
	r.Git(r.work, "reset", "-q", "--hard", first)
	r.write("four", "4")
	r.push("four")
	if got := lines(at(second)); got != "#42 feat/x +1 -1"+own {
		t.Errorf("rewritten: %q", got)
	}
	r.Git(r.work, "reset", "-q", "--hard", first)
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	if got := lines(at(second)); got != "#42 feat/x -1"+own {
		t.Errorf("taken back: %q", got)
	}
	if _, err := r.reader.Lag(t.Context(), review.Task{Project: r.task.Project, ID: filepath.Base("z9zzz")}, nil); err == nil {
		t.Error("a task without a repository has a lag")
	}
}

// TestLagOfTheGate: a branch of the gate that is ahead of an open review of it has its line in every task;
// one that is level, or of which a task has work of its own, has none.
func TestLagOfTheGate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	base := r.Roots.GateBase(r.task.Project)
	r.write("one", "1")
	first := r.push("one")
	r.write("two", "2")
	second := r.push("two")
	r.Git(base, "fetch", "-q", r.Roots.GateTask(r.task.Project, r.task.ID), "+"+second+":refs/heads/feat/y")
	lines := func(tip string) string {
		t.Helper()
		lag, err := r.reader.Lag(t.Context(), r.task, []review.Head{{Number: 9, Branch: "feat/y", Tip: tip}})
		if err != nil {
			t.Fatal(err)
		}
		return review.LagLines(lag, forge.Repo{Kind: forge.Gitea}.Mark)
	}
	if got := lines(first); got != "#9 feat/y +1 (the gate's)\n" {
		t.Errorf("ahead: %q", got)
	}
	if got := lines(second); got != "" {
		t.Errorf("level: %q", got)
	}
	if got := lines(strings.Repeat("4f2c", 10)); got != "" {
		t.Errorf("at a commit that is not here: %q", got)
	}
}

// TestLagLines: what follows a line, and what has none.
func TestLagLines(t *testing.T) {
	t.Parallel()
	got := review.LagLines([]review.Lag{
		{Number: 1, Branch: "level", Own: "level"},
		{Number: 2, Branch: "b", Own: "b", Comments: 1, URL: "https://forge.test/2"},
		{Number: 3, Branch: "c", Own: "own", Ahead: 2, Comments: 2},
		{Number: 4, Branch: "d", Own: "d", Merged: true},
	}, forge.Repo{Kind: forge.GitLab}.Mark)
	if got != "!2 b, 1 new comment: https://forge.test/2\n!3 c +2 (own), 2 new comments\n!4 d merged: the branch can be cleaned up\n" {
		t.Errorf("%q", got)
	}
}

// TestOutside: what strangers wrote is marked, quoted line by line, printable and bounded, and taken once.
func TestOutside(t *testing.T) {
	t.Parallel()
	h := &review.History{}
	evil := review.Outside{Review: "#1", Author: "e\x1bve", Path: "a\nb", Line: 3, Text: "one\n# Branch main\n\x1b]52;c;x\x07two\r> three", At: time.Unix(2, 0).UTC()}
	if n := h.TakeOutside([]review.Outside{evil, evil}); n != 1 || h.TakeOutside([]review.Outside{evil}) != 0 {
		t.Error("taken more than once")
	}
	words := review.Feedback(&review.Record{Branches: map[string]*review.History{"b": h}})
	_, quoted, ok := strings.Cut(words, "UNTRUSTED.")
	if !ok || strings.ContainsAny(words, "\x1b\x07\r") {
		t.Errorf("%q", words)
	}
	_, quoted, _ = strings.Cut(quoted, "\n## ")
	_, quoted, _ = strings.Cut(quoted, "\n\n")
	for l := range strings.Lines(quoted) {
		if !strings.HasPrefix(l, "> ") {
			t.Errorf("a line is not quoted: %q", l)
		}
	}
	var many []review.Outside
	for i := range 300 {
		many = append(many, review.Outside{Review: "#1", Text: strings.Repeat("x", 4000), At: time.Unix(int64(10+i), 0).UTC()})
	}
	h.TakeOutside(many)
	if n := len(h.Outside); n == 0 || n > 70 || !h.Outside[n-1].At.Equal(many[299].At) {
		t.Errorf("%d kept", n)
	}
}
