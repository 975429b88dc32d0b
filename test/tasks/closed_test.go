package tasks

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// TestDenyOfARelayedHost: the launch denies the model's host "only through the vault"; an operator
// who denies it closes the vault's way too, for this task alone, and cuts what is open.
func TestDenyOfARelayedHost(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(time.Hour, repair()...) // the model thinks for an hour
	repo := tr.repo("greet")
	idle, other := tr.start(repo, "script"), tr.start(repo, "script")
	tr.ready(idle)
	tr.ready(other)
	open := func(task taskView) int {
		var v taskView
		tr.decode(&v, "", "task", "status", "greet/"+task.ID)
		if v.Supervisor == nil {
			return -1
		}
		return v.Supervisor.Counters.Open
	}
	mine, theirs := phantom(t, idle), phantom(t, other)
	inside(t, other, `nohup curl -sS --cacert /run/terok/ca/bundle.pem -H "x-api-key: `+theirs+`" -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d '{"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"Repair it."}]}' https://api.anthropic.com/v1/messages >/tmp/stream 2>&1 &`)
	tr.wait(30*time.Second, "the stream is open", func() bool { return open(other) == 1 })
	if code := ask(t, idle, mine) + ask(t, other, theirs); code != "200200" {
		t.Fatalf("control: %s", code)
	}
	tr.run(0, "", "shield", "deny", "greet/"+other.ID, "api.anthropic.com")
	if n := open(other); n != 0 {
		t.Errorf("%d connections to the model are still open", n)
	}
	if code := ask(t, other, theirs); !strings.HasSuffix(code, "000") { // no answer at all
		t.Errorf("a denied model answers %s", code)
	}
	out, _ := tr.run(0, "", "shield", "explain", "greet/"+other.ID, "api.anthropic.com:443", "--json")
	if !strings.Contains(out, `"deny"`) || !strings.Contains(out, "-api.anthropic.com") || strings.Contains(out, "only through the vault") {
		t.Errorf("explain: %s", out)
	}
	if code := ask(t, idle, mine); code != "200" {
		t.Errorf("the other task: %s", code)
	}
	tr.run(0, "", "shield", "allow", "greet/"+other.ID, "api.anthropic.com")
	if code := ask(t, other, theirs); code != "200" {
		t.Errorf("after allow: %s", code)
	}
	if code := ask(t, other, "sk-ant-api03-foreign-0123456789abcdef"); code != "403" {
		t.Errorf("allow opened a way around the vault: %s", code)
	}
}

// TestQuarantineClosesGateAndVault: design §2.2.
func TestQuarantineClosesGateAndVault(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(0)
	repo := tr.repo("greet")
	task := tr.start(repo, "script")
	tr.ready(task)
	mine := phantom(t, task)
	gate := func() string { // the status code of the gate; 401 says that it serves
		return inside(t, task, `curl -sS --max-time 5 -o /dev/null -w '%{http_code}' 'http://10.0.2.2:9418/task.git/info/refs?service=git-receive-pack' 2>&1; true`)
	}
	works := func(when string) {
		t.Helper()
		if g, a := gate(), ask(t, task, mine); g != "401" || a != "200" {
			t.Fatalf("%s: gate %s, vault %s", when, g, a)
		}
	}
	works("control")
	f, err := sandbox.Load(sandbox.Path(filepath.Join(tr.data(), "projects", "greet", "tasks", task.ID)))
	if err != nil {
		t.Fatal(err)
	}
	set := func(p control.Posture) {
		t.Helper()
		if _, err := control.Dial(sandbox.ControlPath(f.RuntimeDir)).SetPosture(t.Context(), control.PostureChange{Posture: p}); err != nil {
			t.Fatal(err)
		}
	}
	set(control.Quarantine)
	if code := gate(); code != "403" && !strings.HasSuffix(code, "000") {
		t.Errorf("the gate serves in quarantine: %s", code)
	}
	if out := inside(t, task, "cd /workspace && git push origin HEAD:refs/heads/x 2>&1; echo exit $?"); strings.HasSuffix(out, "exit 0") {
		t.Errorf("a push works in quarantine: %s", out)
	}
	if code := ask(t, task, mine); !strings.HasSuffix(code, "000") {
		t.Errorf("the vault serves in quarantine: %s", code)
	}
	set(control.Up)
	works("after up")
}
