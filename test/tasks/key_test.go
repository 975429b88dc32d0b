package tasks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
)

// TestNoRealKeyAnywhere: acceptance 5, while the real Claude Code is in the middle of its work the
// real key is nowhere in or of its container; the same search finds the phantom, which is worth
// nothing elsewhere and nothing afterwards. spec/vault.md §10: 9.
func TestNoRealKeyAnywhere(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	marker := "marker-" + random()
	script := append(repair(), bash(`echo `+marker+` | tee mark ~/mark /tmp/mark && git add mark && git commit -qm mark && git push -q origin HEAD && touch waiting && until [ -e go ]; do sleep 0.1; done`))
	tr.withVault(0, script...)
	repo := tr.repo("greet")
	task := tr.start(repo, "claude", "-p", "Work.")
	tr.wait(60*time.Second, "Claude is in the middle of its work", func() bool { return exists(filepath.Join(task.Workspace, "waiting")) })
	mine := phantom(t, task)

	_, inspect := tr.sweepTask(task, map[string]string{"key": strings.TrimPrefix(tr.key, "sk-ant-api03-REAL-"), "phantom": mine, "marker": marker})
	texts := map[string]string{"inspect": inspect}
	texts["log"] = podman(t, "logs", task.Container.ID)
	texts["raw log"], _ = tr.run(0, "", "task", "logs", "--raw", "greet/"+task.ID)
	texts["status"], _ = tr.run(0, "", "task", "status", "--json", "greet/"+task.ID)
	objects := ""
	repos, err := filepath.Glob(filepath.Join(tr.data(), "gate", "greet", "tasks", "*.git"))
	if base, berr := filepath.Glob(filepath.Join(tr.data(), "gate", "greet", "*.git")); err == nil {
		repos, err = append(repos, base...), berr
	}
	if err != nil || len(repos) < 2 {
		t.Errorf("repositories: %v %v", repos, err)
	}
	for _, dir := range repos {
		out, err := exec.CommandContext(t.Context(), "git", "--git-dir", dir, "cat-file", "--batch-all-objects", "--batch").Output()
		if err != nil {
			t.Errorf("git cat-file in %s: %v", dir, err)
		}
		objects += string(out)
	}
	texts["git objects"] = objects
	for name, text := range texts {
		if strings.Contains(text, strings.TrimPrefix(tr.key, "sk-ant-api03-REAL-")) {
			t.Errorf("the key is in %s", name)
		}
	}
	if strings.Contains(inspect, mine) {
		t.Error("the phantom is in podman inspect")
	}
	if !strings.Contains(objects, marker) || !strings.Contains(texts["log"], "mark") {
		t.Error("objects or log do not hold what the agent did")
	}

	// The phantom works where it belongs, and nowhere else. One that turns up in another task is
	// revoked where it belongs, too: that is a third task's, which does nothing else.
	other, third := tr.start(repo, "script"), tr.start(repo, "script")
	tr.ready(other)
	tr.ready(third)
	strayed := phantom(t, third)
	theirs := phantom(t, other)
	if theirs == mine {
		t.Error("two tasks have the same phantom")
	}
	for _, c := range []struct {
		what      string
		task      taskView
		key, want string
	}{
		{"own phantom", task, mine, "200"},
		{"own phantom of the other", other, theirs, "200"},
		{"own phantom of the third", third, strayed, "200"},
		{"phantom of another task", other, strayed, "403"},
		{"foreign key", task, "sk-ant-api03-foreign-0123456789abcdef", "403"},
		{"the real key itself", task, tr.key, "403"},
	} {
		if code := ask(t, c.task, c.key); code != c.want {
			t.Errorf("%s: %s, not %s", c.what, code, c.want)
		}
	}
	tr.wait(10*time.Second, "the strayed phantom is revoked", func() bool { return ask(t, third, strayed) == "401" })
	// Each alert names the other.
	for _, c := range []struct{ task, says string }{{other.ID, `"owner":"greet/` + third.ID + `"`}, {third.ID, `"user":"greet/` + other.ID + `"`}} {
		tr.wait(10*time.Second, "the alert", func() bool {
			ledger, err := os.ReadFile(sandbox.LedgerPath(filepath.Join(tr.data(), "projects", "greet", "tasks", c.task)))
			return err == nil && strings.Contains(string(ledger), "vault_leak") && strings.Contains(string(ledger), c.says) && !strings.Contains(string(ledger), strayed)
		})
	}
	// An unknown secret behind a handle that is known says nothing, and harms nobody.
	if code := ask(t, other, mine[:len(mine)-8]+"aaaaaaaa"); code != "401" {
		t.Errorf("a known handle with a wrong secret: %s", code)
	}
	if code := ask(t, task, mine); code != "200" {
		t.Errorf("the task whose handle that is: %s", code)
	}
	// A task that commits what is in its environment: the push is refused, the token is worth nothing until
	// the next start, and the operator reads of it. Spec/vault.md §10: 5.
	if said := inside(t, other, `cd /workspace && cp /run/terok/env.json env.json && git add env.json && git commit -qm env && git push origin HEAD 2>&1; true`); !strings.Contains(said, "env.json holds a secret: phantom token of terok") {
		t.Errorf("the phantom was pushed: %s", said)
	}
	tr.wait(10*time.Second, "the pushed phantom is revoked", func() bool { return ask(t, other, theirs) == "401" })
	if events, _ := tr.run(0, "", "events", "--kind", "vault", "--json"); !strings.Contains(events, `"phantom_in_push"`) {
		t.Errorf("no alert: %s", tail(events))
	}
	tr.run(0, "", "task", "restart", "greet/"+other.ID)
	tr.ready(other)
	if code := ask(t, other, theirs); code != "401" {
		t.Errorf("the phantom of an earlier start: %s", code)
	}
	release(t, task, "go")
	tr.wait(30*time.Second, "Claude goes on to its end", tr.model.Finished)
	tr.run(0, "", "task", "delete", "greet/"+task.ID, "--yes")
	if code := ask(t, other, mine); code != "401" {
		t.Errorf("the phantom of a deleted task: %s", code)
	}
	if code := ask(t, other, phantom(t, other)); code != "200" {
		t.Errorf("the other task's own phantom: %s", code)
	}
	if wrong := tr.model.WrongKeys(); len(wrong) > 0 {
		t.Errorf("%d requests with another key reached the model's side", len(wrong))
	}
}
