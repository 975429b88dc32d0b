package tasks

import (
	"strings"
	"testing"
	"time"
)

// inside runs a shell command in the container of a task, beside the agent.
func inside(t *testing.T, task taskView, script string) string {
	t.Helper()
	return podman(t, "exec", task.Container.ID, "sh", "-c", script)
}

// ask is a request to the model with a key, as seen in a container: the status code.
func ask(t *testing.T, task taskView, key string) string {
	t.Helper()
	return inside(t, task, `curl -sS --cacert /run/terok/ca/bundle.pem --max-time 5 -o /dev/null -w '%{http_code}' -H "x-api-key: `+key+`" https://api.anthropic.com/v1/models 2>&1; true`)
}

// phantom is what stands for the key in the container of a task.
func phantom(t *testing.T, task taskView) string {
	t.Helper()
	p := inside(t, task, `jq -er '[.[] | select(startswith("terok-p-"))][0]' /run/terok/env.json`)
	if len(p) < 20 {
		t.Fatalf("no phantom: %q", p)
	}
	return p
}

// ready waits until the workspace of a task is prepared.
func (tr *tree) ready(task taskView) {
	tr.t.Helper()
	tr.wait(30*time.Second, "ready", func() bool {
		var v struct{ Ready_at *time.Time }
		tr.decode(&v, "", "task", "status", "greet/"+task.ID)
		return v.Ready_at != nil
	})
}

// TestPanic: an open stream is cut, the vault is locked and nothing starts until --clear.
func TestPanic(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(time.Hour, repair()...) // the model thinks for an hour
	repo := tr.repo("greet")
	idle := tr.start(repo, "script")
	tr.ready(idle)
	if code := ask(t, idle, phantom(t, idle)); code != "200" {
		t.Fatalf("before: %s", code)
	}
	tr.start(repo, "script", "-p", "Repair it.")
	tr.wait(30*time.Second, "the model thinks", func() bool { return tr.model.Thinking() > 0 })
	answered := func() bool { // the model's side notes a request at its end
		for _, r := range tr.model.Requests() {
			if r.Kind == "step" {
				return true
			}
		}
		return false
	}
	if answered() {
		t.Fatal("the stream ended by itself")
	}
	start := time.Now()
	out, _ := tr.run(0, "", "panic")
	if !within(t.Context(), 2*time.Second, answered) || time.Since(start) > 2*time.Second {
		t.Errorf("the stream was not cut within 2 s")
	}
	t.Logf("cut after %s: %s", time.Since(start).Round(time.Millisecond), out)
	var vault struct{ State string }
	tr.decode(&vault, "", "vault", "status")
	if vault.State != "locked" {
		t.Errorf("the vault is %s", vault.State)
	}
	if code := ask(t, idle, "sk-ant-any"); code == "200" || code == "403" {
		t.Errorf("the other task still has a network: %s", code)
	}
	_, errs := tr.run(7, repo, "run", "shell", "-p", "true")
	if !strings.Contains(errs, "→ terok panic --clear") {
		t.Errorf("a new run: %s", errs)
	}
	tr.run(7, "", "vault", "unlock", "--passphrase-file", tr.dir+"/passphrase")
	tr.run(7, "", "task", "restart", "greet/"+idle.ID)

	tr.run(0, "", "panic", "--clear")
	tr.run(0, "", "vault", "unlock", "--passphrase-file", tr.dir+"/passphrase")
	tr.run(0, "", "task", "restart", "greet/"+idle.ID)
	tr.ready(idle)
	if code := ask(t, idle, phantom(t, idle)); code != "200" {
		t.Errorf("after the restart: %s", code)
	}
}
