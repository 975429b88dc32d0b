package review_test

import (
	"path/filepath"
	"strings"
	"testing"

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
