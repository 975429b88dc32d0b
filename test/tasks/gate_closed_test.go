package tasks

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gateAnswer is the status with which the gate of a task answers a fetch with a token, "" for none.
func gateAnswer(t *testing.T, task taskView, token string) string {
	t.Helper()
	auth := ""
	if token != "" {
		auth = "-u x:" + token
	}
	return inside(t, task, `curl -sS --max-time 10 -o /dev/null -w '%{http_code}' `+auth+` 'http://10.0.2.2:9418/task.git/info/refs?service=git-upload-pack' 2>&1; true`)
}

// TestGateIsTheTasksOwn: a gate answers its own task's token of this start and no other, guessing closes it,
// the token is in nothing that is shown or stored, and nobody else reaches the gate: neither another
// task nor another user of the host.
//
// spec/gate.md §20: 25, 26.
func TestGateIsTheTasksOwn(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	a, b := tr.start(repo, "shell", "-p", "sleep infinity & wait"), tr.start(repo, "shell", "-p", "sleep infinity & wait")
	tr.ready(a)
	tr.ready(b)
	const file = "cat /run/terok/gate-token"
	mine, theirs := inside(t, b, file), inside(t, a, file)
	if len(mine) < 40 || mine == theirs {
		t.Fatalf("tokens of %d and %d bytes", len(mine), len(theirs))
	}
	for _, c := range []struct{ what, token, want string }{
		{"its own", mine, "200"}, {"none", "", "401"}, {"a wrong one", mine[:len(mine)-1] + "_", "403"}, {"the other task's", theirs, "403"},
	} {
		if got := gateAnswer(t, b, c.token); got != c.want {
			t.Errorf("%s: %s, not %s", c.what, got, c.want)
		}
	}
	for what, text := range map[string]string{
		"podman inspect":          podman(t, "inspect", b.Container.ID),
		"the environment":         inside(t, b, `env; for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ 2>/dev/null; done; true`),
		"arguments":               inside(t, b, `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; done 2>/dev/null; true`),
		"the clone's settings":    inside(t, b, `cat /workspace/.git/config`),
		"the files of the ledger": string(must(t, os.ReadFile, filepath.Join(tr.data(), "projects", "greet", "tasks", b.ID, "audit", "audit.jsonl"))),
	} {
		if strings.Contains(text, mine) {
			t.Errorf("the token is in %s", what)
		}
	}

	// From inside B: nothing of A is there to be connected to.
	if found := inside(t, b, `find / -xdev -name '*`+a.ID+`*' 2>/dev/null; grep -c `+a.ID+` /proc/self/mountinfo; true`); found != "0" {
		t.Errorf("B sees of A: %s", found)
	}
	reach := inside(t, b, `for h in 10.0.2.2 10.0.2.3 10.0.2.100 127.0.0.1 localhost; do for p in 9418 9419 9420 9421; do
curl -sS --max-time 2 -o /dev/null -w "$h:$p %{http_code}\n" -u x:`+theirs+` "http://$h:$p/task.git/info/refs?service=git-upload-pack" 2>/dev/null; done; done; true`)
	if strings.Contains(reach, " 200") {
		t.Errorf("A's token opens something in B:\n%s", reach)
	}
	// Another user of the host: the kernel knows B's container by other ids than ours, and "unshare" gives us one.
	gate := filepath.Join(tr.data(), "gate")
	for _, path := range []string{gate, filepath.Join(gate, "greet", "tasks", a.ID+".git", "HEAD"), filepath.Join(tr.dir, "run", "terok", "run")} {
		out, err := exec.CommandContext(t.Context(), "podman", "unshare", "setpriv", "--reuid", "5", "--regid", "5", "--clear-groups", "ls", "-d", path+"/.").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Permission denied") {
			t.Errorf("another user and %s: %v %s", path, err, out)
		}
	}
	for _, dir := range []string{gate, filepath.Join(tr.dir, "run", "terok")} {
		if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v %v", dir, info, err)
		}
	}

	// Guessing closes the gate for a while, also to the right token, and is in the ledger.
	guess := inside(t, b, `for i in 1 2 3 4 5 6 7 8; do curl -sS --max-time 10 -o /dev/null -w '%{http_code} ' -u x:wrong$i 'http://10.0.2.2:9418/task.git/info/refs?service=git-upload-pack' & done; wait; true`)
	if !strings.Contains(guess, "429") && gateAnswer(t, b, mine) != "429" {
		t.Errorf("guessing: %s", guess)
	}
	if events, _ := tr.run(0, "", "events", "--kind", "gate", "--json"); !strings.Contains(events, "gate_auth_failed") {
		t.Errorf("no line about wrong tokens: %s", tail(events))
	}
	// A start makes a new token, and a deleted task's is worth nothing.
	tr.run(0, "", "task", "restart", "greet/"+b.ID)
	tr.ready(b)
	b = tr.again(b)
	if now := inside(t, b, file); now == mine || gateAnswer(t, b, mine) != "403" || gateAnswer(t, b, now) != "200" {
		t.Error("the token of an earlier start is worth something, or the new one is not")
	}
	tr.run(0, "", "task", "delete", "greet/"+a.ID, "--yes")
	if got := gateAnswer(t, b, theirs); got != "403" {
		t.Errorf("the deleted task's token: %s", got)
	}
}

func must[T any](t *testing.T, f func(string) (T, error), arg string) T {
	t.Helper()
	v, err := f(arg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// again reads a task anew: a restart may have made another container.
func (tr *tree) again(old taskView) taskView {
	tr.t.Helper()
	var v taskView
	tr.decode(&v, "", "task", "status", "greet/"+old.ID)
	if v.Container == nil || v.Supervisor == nil {
		tr.t.Fatalf("task %s does not run: %+v", old.ID, v)
	}
	return v
}

// TestKilledBetweenRefAndLedger: the supervisor is killed when a push has moved its ref and not been
// recorded. The next start finds that out and records it, the chain holds, and a changed byte in it is
// found with the number of its line.
//
// spec/gate.md §20: 28.
func TestKilledBetweenRefAndLedger(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	task := tr.start(repo, "shell", "-p", "sleep infinity & wait")
	ref := "greet/" + task.ID
	ledger := filepath.Join(tr.data(), "projects", "greet", "tasks", task.ID, "audit", "audit.jsonl")
	recovered := false
	for round := 0; round < 6 && !recovered; round++ {
		tr.ready(task)
		task = tr.again(task)
		branch := fmt.Sprintf("b%d", round)
		loose := filepath.Join(tr.data(), "gate", "greet", "tasks", task.ID+".git", "refs", "heads", branch)
		push := exec.CommandContext(t.Context(), "podman", "exec", task.Container.ID, "sh", "-c", `cd /workspace && git push -q origin HEAD:refs/heads/`+branch)
		if err := push.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); !exists(loose); { // no sleep: the moment is short
			if time.Now().After(deadline) {
				t.Fatal("the push never came")
			}
		}
		for _, pid := range []int{task.Supervisor.Worker.PID, task.Supervisor.Parent.PID} {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatalf("kill %d: %v", pid, err)
			}
		}
		_ = push.Wait()
		tr.run(0, "", "task", "restart", ref)
		tr.ready(task)
		line := func(ev string) bool {
			data, err := os.ReadFile(ledger)
			if err != nil {
				t.Fatal(err)
			}
			for l := range bytes.Lines(data) {
				if bytes.Contains(l, []byte(`"`+ev+`"`)) && bytes.Contains(l, []byte("refs/heads/"+branch+`"`)) {
					return true
				}
			}
			return false
		}
		tr.wait(30*time.Second, "the push is in the ledger", func() bool { return line("push_received") || line("push_recovered") })
		// Killed between the ledger and the ref that says what the ledger has, both lines are there:
		// a push is recorded at least once. Only the other moment proves something.
		recovered = line("push_recovered") && !line("push_received")
		if out, _ := tr.run(0, "", "audit", "verify"); strings.Contains(out, "broken") {
			t.Errorf("%s", out)
		}
		t.Logf("round %d: recovered %v", round, recovered)
	}
	if !recovered {
		t.Error("the supervisor was never killed between the ref and the ledger")
	}
	tr.run(0, "", "task", "stop", ref, "--timeout", "2s")
	data, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	third := bytes.Replace(lines[2], []byte(`"ev":"`), []byte(`"ev":"x`), 1)
	if bytes.Equal(third, lines[2]) {
		t.Fatalf("no event in %s", lines[2])
	}
	lines[2] = third
	if err := os.WriteFile(ledger, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs := tr.run(1, "", "audit", "verify", ledger)
	if !strings.Contains(out+errs, "BROKEN") || !strings.Contains(out+errs, "line 3 of") && !strings.Contains(out+errs, "line 4 of") {
		t.Errorf("what is broken is not said:\n%s%s", out, errs)
	}
}
