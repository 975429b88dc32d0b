package cli

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok"
	"terok/internal/gate/gatetest"
	"terok/internal/gate/inspect"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/task"
)

// TestReviewAndPromote: from a pushed commit to a branch in the person's clone and back, by the
// commands a person types, without a terminal.
func TestReviewAndPromote(t *testing.T) {
	w := gatetest.New(t)
	for key, value := range map[string]string{"HOME": w.Dir, "XDG_CONFIG_HOME": w.Dir + "/xc", "XDG_DATA_HOME": w.Dir + "/xd", "XDG_RUNTIME_DIR": w.Dir + "/xr"} {
		t.Setenv(key, value)
	}
	w.Roots = state.Roots{Config: w.Dir + "/xc/terok", Data: w.Dir + "/xd/terok", Runtime: w.Dir + "/xr/terok"}
	w.Store.Roots = w.Roots
	run := func(wantExit int, args ...string) string {
		t.Helper()
		var out, errw bytes.Buffer
		if code := Main(t.Context(), args, strings.NewReader(""), &out, &errw); code != wantExit {
			t.Fatalf("terok %s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, wantExit, out.String(), errw.String())
		}
		return out.String() + errw.String()
	}
	run(problem.OK, "project", "create", "webshop", "--upstream", w.Upstream)
	if out := run(problem.OK, "project", "gate-sync", "webshop"); !strings.Contains(out, "made: 1 branch, default main") {
		t.Errorf("gate-sync: %s", out)
	}
	tk, err := (task.Store{Roots: w.Roots, Now: time.Now}).Create("webshop", "brave-otter", func(tk *task.Task) {})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: "webshop", ID: tk.ID, Branch: tk.Branch})
	if err != nil {
		t.Fatal(err)
	}
	if out := run(problem.OK, "review"); !strings.Contains(out, "nothing waits") {
		t.Errorf("review: %s", out)
	}
	work := filepath.Join(w.Dir, "work")
	w.Git(w.Dir, "clone", "-q", repo.Repo, work)
	gatetest.WriteFile(t, work, "package-lock.json", "{}\n\x1b[31m\u202e\n")
	id := w.Commit(work, "evil \x1b]0;x\x07 subject")
	w.Git(work, "push", "-q", "origin", "HEAD")

	queue := run(problem.OK, "review")
	if !strings.Contains(queue, "webshop/"+tk.ID) || !strings.Contains(queue, "1 commit  +2 −0") || !strings.Contains(queue, "lock file: package-lock.json") {
		t.Errorf("review: %s", queue)
	}
	show := run(problem.OK, "review", "show", tk.ID)
	for _, args := range [][]string{{tk.ID, tk.Branch}, {"webshop", tk.ID}, {"webshop/" + tk.ID, tk.Branch}, {"webshop", tk.ID, tk.Branch}} {
		if got := run(problem.OK, append([]string{"review", "show"}, args...)...); !strings.Contains(got, id) {
			t.Errorf("%v: %s", args, got)
		}
	}
	for _, args := range [][]string{{"--stat"}, {"--path", "*.md"}} {
		if got := run(problem.OK, append([]string{"review", "show", tk.ID}, args...)...); strings.Contains(got, "diff --git") || !strings.Contains(got, "1 file, +2 −0") {
			t.Errorf("%v shows a diff: %s", args, got)
		}
	}
	w.Git(work, "push", "-q", "origin", "HEAD:refs/heads/x;y")
	if out := run(problem.Conflict, "promote", tk.ID, "x;y", "--sha", id, "--yes"); !strings.Contains(out, "terok review approve webshop/"+tk.ID+" 'x;y' --sha "+id) {
		t.Errorf("the cure is for another branch: %s", out)
	}
	w.Git(work, "push", "-q", "origin", ":refs/heads/x;y")
	for _, text := range []string{queue, show} {
		if strings.ContainsAny(text, "\x1b\x07\u202e") {
			t.Errorf("an escape reached the terminal: %q", text)
		}
	}
	if !strings.Contains(show, id) || !strings.Contains(show, `+\x1b[31m\u{202e}`) {
		t.Errorf("show: %s", show)
	}
	var list struct {
		Schema string
		Data   []struct{ Tip string }
	}
	if err := json.Unmarshal([]byte(run(problem.OK, "review", "--json")), &list); err != nil || list.Schema != "terok.review.list/1" || list.Data[0].Tip != id {
		t.Errorf("json: %+v %v", list, err)
	}

	run(problem.Usage, "promote", tk.ID)                                                               // nobody can be asked
	run(problem.Usage, "promote", tk.ID, "--yes")                                                      // --yes is no review
	run(problem.Declined, "promote", tk.ID, "--sha", id)                                               // and --sha no answer
	run(problem.Usage, "promote", tk.ID, "--sha", id[:12], "--yes")                                    // an abbreviation can be forged
	run(problem.Conflict, "promote", tk.ID, "--sha", strings.Repeat("0a", 20), "--approve", "--yes")   // not the tip
	run(problem.Conflict, "promote", tk.ID, "--sha", id, "--yes")                                      // nobody approved it
	run(problem.Conflict, "promote", tk.ID, "--sha", id, "--approve", "--yes", "--as", "main")         // exists
	run(problem.Usage, "promote", tk.ID, "--sha", id, "--approve", "--yes", "--as", "--upload-pack=x") // no name
	if out := run(problem.OK, "promote", tk.ID, "--dry-run"); !strings.Contains(out, "branch brave-otter in ~/clone") {
		t.Errorf("dry run: %s", out)
	}
	run(problem.OK, "promote", tk.ID, "--sha", id, "--approve", "--yes")
	if got := w.Git(w.Upstream, "rev-parse", "brave-otter"); got != id {
		t.Errorf("promoted %s", got)
	}
	if out := run(problem.OK, "review"); !strings.Contains(out, "nothing waits") {
		t.Errorf("review after: %s", out)
	}
	if out := run(problem.OK, "review", "--all"); !strings.Contains(out, "promoted") {
		t.Errorf("review --all: %s", out)
	}
	run(problem.OK, "promote", "--undo", tk.ID)
	if _, err := w.TryGit(w.Upstream, "rev-parse", "-q", "--verify", "refs/heads/brave-otter"); err == nil {
		t.Error("undo left the branch")
	}
	run(problem.NotFound, "promote", "--undo", tk.ID)
	absent := "z9zzz"
	if strings.HasPrefix(tk.ID, absent[:2]) {
		absent = "y9zzz"
	}
	run(problem.NotFound, "review", "show", absent)
}

// TestLFSTextIsDrawn: on a terminal and elsewhere the lines of a text in Git LFS stand below its pointer's, and
// what is not known of it is said.
func TestLFSTextIsDrawn(t *testing.T) {
	files := []terok.ReviewFile{{Path: "a.csv", Status: "M", OldMode: "100644", NewMode: "100644", Patch: "@@ -2 +2 @@\n-oid a\n+oid b\n",
		LFS: &inspect.LargeText{Patch: "@@ -0,0 +1 @@\n+hello\n", Insertions: 1, Whole: true, Cut: true}}}
	for _, p := range []painter{{width: 80}, {width: 80, fancy: true}} {
		var b strings.Builder
		p.diff(&b, files, false)
		p.stat(&b, files, 1, 1, 1)
		p.head(&b, terok.ChangeDetails{Change: review.Change{Range: inspect.Range{LFS: []inspect.LargeFile{{Path: "a.csv", Content: review.LFSText}, {Path: "b.csv", Content: review.LFSLong}}}}})
		out := b.String()
		cut := map[bool]string{true: "[too large to show whole]", false: "[the rest of this file's diff is not shown]"}[p.fancy]
		for _, want := range []string{"oid b", "a.csv (text in Git LFS)", review.WholeLFS, "hello", cut, "in LFS +1 −0", "a.csv, 0 B, a text: its lines", "b.csv, 0 B, a text that is too large"} {
			if !strings.Contains(out, want) {
				t.Errorf("fancy %v: no %q in\n%s", p.fancy, want, out)
			}
		}
		if strings.Index(out, "oid b") > strings.Index(out, "hello") {
			t.Errorf("not below its pointer:\n%s", out)
		}
	}
}
