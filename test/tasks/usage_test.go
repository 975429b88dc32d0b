package tasks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type usageView struct {
	Total struct {
		Requests, Tokens_out int64
		Cost_usd             float64
	}
	Lines   []struct{ Provider, Model string }
	Budgets []struct {
		Budget string
		Used   float64
	}
}

// TestUsageOfATask: what a real agent used is counted from the provider's answers, survives the
// deletion of the task, and is in the ledger; a used up budget stops the next request.
// spec/vault.md §10: 41, and 80 as far as every request has one record.
func TestUsageOfATask(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(0, repair()...)
	repo := tr.repo("greet")
	out, _ := tr.run(0, repo, "run", "claude", "-p", "The greeting is wrong. Repair it, commit, push.")
	id := tr.tasks()[0].ID
	var u usageView
	tr.decode(&u, repo, "task", "usage", id)
	steps := 0
	for _, r := range tr.model.Requests() {
		if r.Kind == "step" {
			steps++
		}
	}
	if u.Total.Requests < int64(steps) || u.Total.Tokens_out == 0 || len(u.Lines) == 0 || u.Lines[0].Provider != "anthropic" || u.Lines[0].Model == "" {
		t.Errorf("%d steps, usage %+v", steps, u)
	}
	if want := fmt.Sprintf("%d", u.Total.Requests); !strings.Contains(out, "tokens") || want == "0" {
		t.Errorf("the last line: %s", out)
	}
	audit, _ := tr.run(0, repo, "task", "audit-credentials", id, "--last", "0")
	if n := strings.Count(audit, "POST"); n != len(tr.model.Requests())-gets(tr) {
		t.Errorf("%d POSTs in the ledger, the provider saw %d:\n%s", n, len(tr.model.Requests())-gets(tr), audit)
	}
	if strings.Contains(audit, tr.key) {
		t.Error("the ledger holds the key")
	}

	// The project's budget is used up by a task that is gone.
	tr.run(0, repo, "task", "delete", id, "--yes")
	project := filepath.Join(tr.dir, "config", "terok", "projects", "greet", "project.yml")
	f, err := os.OpenFile(project, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("\nvault: {budget: [1 tokens/project]}\n")
	f.Close()
	before := len(tr.model.Requests())
	tr.run(20, repo, "run", "claude", "--timeout", "3m", "-p", "Once more.")
	for _, r := range tr.model.Requests()[before:] {
		if r.Kind == "step" {
			t.Error("a request went over the budget")
		}
	}
	tr.decode(&u, repo, "task", "usage", "--project", "greet")
	if len(u.Budgets) != 1 || u.Budgets[0].Used < 1 {
		t.Errorf("%+v", u.Budgets)
	}
	events, _ := tr.run(0, repo, "events", "--kind", "vault", "-n", "0")
	if !strings.Contains(events, "vault_budget") {
		t.Errorf("no event of the budget:\n%s", events)
	}
}

func gets(tr *tree) (n int) {
	for _, r := range tr.model.Requests() {
		if r.Method != "POST" {
			n++
		}
	}
	return n
}

// TestRevokeCredentials: a stream is cut, the token stays worthless when the worker is killed, and a
// restart gives the task a new one, with which the old one does not come back. Meanwhile another
// task's container serves on behind the same certificate. spec/vault.md §10: 12, 14 (adapted), 16, 33.
func TestRevokeCredentials(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(time.Hour, repair()...) // the model thinks for an hour
	repo := tr.repo("greet")
	other, task := tr.start(repo, "script"), tr.start(repo, "script")
	tr.ready(other)
	tr.ready(task)
	theirs, mine := phantom(t, other), phantom(t, task)
	inside(t, task, `nohup curl -sS --cacert /run/terok/ca/bundle.pem -H "x-api-key: `+mine+`" -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d '{"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"Repair it."}]}' https://api.anthropic.com/v1/messages >/tmp/stream 2>&1 &`)
	tr.wait(time.Minute, "the stream is open", func() bool {
		var v taskView
		tr.decode(&v, "", "task", "status", "greet/"+task.ID)
		return v.Supervisor != nil && v.Supervisor.Counters.Open == 1
	})
	if code := ask(t, task, mine) + ask(t, other, theirs); code != "200200" {
		t.Fatalf("control: %s", code)
	}
	out, _ := tr.run(0, repo, "task", "revoke-credentials", task.ID, "--now")
	if !strings.Contains(out, "anthropic revoked") {
		t.Error(out)
	}
	tr.wait(time.Minute, "the stream ends as if it were cut", func() bool {
		return strings.Contains(inside(t, task, "cat /tmp/stream"), "curl: (") // its error: not an answer that is whole
	})
	if code := ask(t, task, mine); code != "401" {
		t.Errorf("the revoked token: %s", code)
	}
	for _, v := range []taskView{other, task} {
		var now taskView
		tr.decode(&now, "", "task", "status", "greet/"+v.ID)
		if err := syscall.Kill(now.Supervisor.Worker.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	tr.wait(time.Minute, "the other task's next worker serves the same phantom with the same CA", func() bool { return ask(t, other, theirs) == "200" })
	tr.wait(time.Minute, "a killed worker's revocation stands", func() bool { return ask(t, task, mine) == "401" })
	tr.run(0, repo, "task", "restart", task.ID)
	tr.ready(task)
	fresh := phantom(t, task)
	if fresh == mine {
		t.Error("the restart gave the same token")
	}
	if code := ask(t, task, fresh) + ask(t, task, mine) + ask(t, task, theirs); code != "200401403" {
		t.Errorf("new, old and somebody else's token: %s", code)
	}
	log, _ := tr.run(0, repo, "task", "audit-credentials", task.ID, "--last", "0")
	for _, want := range []string{"token_revoked", "leak foreign_phantom", "revoked user"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if out, _ := tr.run(0, "", "audit", "verify"); strings.Contains(out, "broken") {
		t.Error(out)
	}
	tr.run(0, repo, "task", "stop", task.ID)
	tr.run(7, repo, "task", "revoke-credentials", task.ID)
}
