package tasks

import (
	"encoding/json"
	"strings"
	"testing"
)

type taskEnd struct {
	Project, ID                     string
	Exit_code, Commits, Lines_added int
	Tokens                          int64
	Result                          *string
}

// TestClaudeHeadless: acceptance 7, without a person.
func TestClaudeHeadless(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(0, repair()...)
	repo := tr.repo("greet")
	out, errs := tr.run(0, repo, "run", "claude", "-p", "The greeting is wrong. Repair it, commit, push.")
	if !strings.Contains(out, "done in ") || !strings.Contains(out, "1 commit, +1 −1") || !strings.Contains(out, "tokens") {
		t.Errorf("no usage line in:\n%s", out)
	}
	if !strings.Contains(errs, "through the vault; everything else is refused") || !strings.Contains(errs, "terok promote ") {
		t.Errorf("stderr:\n%s", errs)
	}
	if r, ok := tr.model.Result(1); !ok || !strings.Contains(r.Text, "ok: Hello, World!") {
		t.Errorf("the agent's test: %+v", r)
	}
	if !tr.model.Finished() || len(tr.model.WrongKeys()) > 0 {
		t.Errorf("finished: %v, wrong keys: %d", tr.model.Finished(), len(tr.model.WrongKeys()))
	}
	for _, r := range tr.model.Requests() {
		if r.Kind == "step" && !strings.Contains(r.Header.Get("User-Agent"), "claude") {
			t.Errorf("that was not Claude Code: %q", r.Header.Get("User-Agent"))
		}
	}
	var queue []change
	tr.decode(&queue, repo, "review")
	if len(queue) != 1 || queue[0].Commits != 1 {
		t.Fatalf("review: %+v", queue)
	}
	var shown change
	tr.decode(&shown, repo, "review", "show", queue[0].Task)
	if !strings.Contains(shown.Patch, `+echo "Hello, $1!"`) {
		t.Errorf("the diff: %s", shown.Patch)
	}

	var end taskEnd
	tr.decode(&end, repo, "run", "claude", "-p", "Once more.")
	if end.Exit_code != 0 || end.Commits != 1 || end.Lines_added != 1 || end.Tokens == 0 || end.Result == nil || *end.Result != "The work is done." {
		t.Errorf("--json: %+v", end)
	}
}

// TestAgentFails: the agent's exit code is known, and is 20 for a script.
func TestAgentFails(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	out, errs := tr.run(20, repo, "run", "shell", "-p", "echo working; exit 3")
	if !strings.Contains(out, "working\n") || !strings.Contains(out, "failed (exit code 3)") || !strings.Contains(errs, "→ terok task logs ") {
		t.Errorf("stdout:\n%s\nstderr:\n%s", out, errs)
	}
	_, errs = tr.run(20, repo, "run", "shell", "--json", "-q", "-p", "exit 3")
	var failure struct {
		Error struct {
			Code    string
			Exit    int
			Details struct {
				Exit_code int
			}
		}
	}
	if err := json.Unmarshal([]byte(errs), &failure); err != nil || failure.Error.Code != "agent_failed" || failure.Error.Exit != 20 || failure.Error.Details.Exit_code != 3 {
		t.Errorf("%v, %+v in %s", err, failure, errs)
	}
}
