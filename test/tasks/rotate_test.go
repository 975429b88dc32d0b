package tasks

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRotate: the token of a running task's gate is replaced. The old one opens nothing from then on, also
// after the worker or both processes of the supervisor were killed at the worst moment; git in the container
// goes on without anybody's doing.
//
// spec/gate.md §8; §20: 25.
func TestRotate(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	task := tr.start(repo, "shell", "-p", "sleep infinity & wait")
	tr.ready(task)
	ref := "greet/" + task.ID
	const file = "cat /run/terok/gate-token"
	pushes := func(when string) {
		t.Helper()
		inside(t, task, `cd /workspace && echo "`+when+`" >>log && git add log && git commit -qm "`+when+`" && git push -q origin HEAD`)
	}
	dead := map[string]string{}
	in := func(when string) {
		t.Helper()
		now := inside(t, task, file)
		for old, of := range dead {
			if got := gateAnswer(t, task, old); got != "403" || now == old {
				t.Errorf("%s: the token %s opens the gate (%s), or git has it", when, of, got)
			}
		}
		if got := gateAnswer(t, task, now); got != "200" {
			t.Errorf("%s: what git has gets %s", when, got)
		}
		pushes(when)
	}
	in("before")

	first := inside(t, task, file)
	var out struct {
		Task                        string
		Running, Rotated, Delivered bool
	}
	tr.decode(&out, "", "gate", "rotate", ref)
	tr.decode(&out, "", "gate", "rotate", ref) // at once again: that waits its turn
	if out.Task != ref || !out.Running || !out.Rotated || !out.Delivered {
		t.Errorf("%+v", out)
	}
	dead[first] = "of before"
	in("rotated")
	second := inside(t, task, file)
	for what, text := range map[string]string{
		"podman inspect":  podman(t, "inspect", task.Container.ID),
		"the environment": inside(t, task, `env; for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ 2>/dev/null; done; true`),
		"the settings":    inside(t, task, `cat /workspace/.git/config ~/.gitconfig 2>/dev/null; true`),
		"the ledger":      string(must(t, os.ReadFile, filepath.Join(tr.data(), "projects", "greet", "tasks", task.ID, "audit", "audit.jsonl"))),
		"the file beside": string(must(t, os.ReadFile, filepath.Join(tr.data(), "projects", "greet", "tasks", task.ID, "gate-token.json"))),
	} {
		if strings.Contains(text, second) || strings.Contains(text, first) {
			t.Errorf("the token is in %s", what)
		}
	}
	if events, _ := tr.run(0, "", "gate", "log", "greet", task.ID, "--json"); strings.Count(events, "gate_token_rotated") != 4 { // the task's and the person's, twice
		t.Errorf("the ledger: %s", tail(events))
	}
	tr.run(0, "", "audit", "verify")

	// Somebody who is in the container, and so can have the old connection's bytes, is no guest.
	if got := inside(t, task, `n=$(head -c 32 /dev/zero | base64); curl -sS --max-time 2 -H 'Content-Type: application/json' -d "{\"nonce\":\"$n\",\"sealed\":\"eA==\",\"proof\":\"$n\"}" http://10.0.2.2:9421/v1/stay 2>/dev/null; true`); !strings.Contains(got, "signature") || strings.Contains(got, "gate_token") {
		t.Errorf("a stranger's stay: %s", got)
	}

	var st struct {
		Waiting, Ready bool
		Parent, Worker struct{ PID int }
	}
	tr.decode(&st, "", "shield", "status", ref)
	kill(t, st.Worker.PID)
	tr.wait(20*time.Second, "another worker serves the gate", func() bool { return gateAnswer(t, task, second) == "200" })
	in("after the worker's death")

	// The guest stands still, so it does not get the next one; then both processes die.
	guest, err := strconv.Atoi(strings.TrimSpace(podman(t, "inspect", "--format", "{{.State.Pid}}", task.Container.ID)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(guest, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, errs := tr.run(11, "", "gate", "rotate", ref); !strings.Contains(errs, "terok task restart "+ref) {
		t.Errorf("not delivered: %s", errs)
	}
	if got := gateAnswer(t, task, second); got != "403" {
		t.Errorf("the old token, while git does not have the new one: %s", got)
	}
	tr.decode(&st, "", "shield", "status", ref)
	kill(t, st.Parent.PID)
	kill(t, st.Worker.PID)
	tr.wait(20*time.Second, "the supervisor is gone", func() bool {
		return syscall.Kill(st.Parent.PID, 0) != nil && syscall.Kill(st.Worker.PID, 0) != nil
	})
	if err := syscall.Kill(guest, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	tr.run(0, "", "shield", "adopt", ref)
	dead[second] = "that was not replaced everywhere"
	tr.wait(30*time.Second, "the container is in step", func() bool { return gateAnswer(t, task, inside(t, task, file)) == "200" })
	in("adopted")
	third := inside(t, task, file)
	tr.decode(&out, "", "gate", "rotate", ref)
	if dead[third] = "of the adopted one"; !out.Delivered {
		t.Errorf("adopted: %+v", out)
	}
	in("rotated once more")

	tr.run(0, "", "task", "stop", ref, "--timeout", "2s")
	out.Rotated, out.Delivered = false, false
	if tr.decode(&out, "", "gate", "rotate", ref); out.Running || out.Rotated {
		t.Errorf("stopped: %+v", out)
	}
	if words, _ := tr.run(0, "", "gate", "rotate", ref); !strings.Contains(words, "its next start makes a new one") {
		t.Errorf("stopped: %s", words)
	}
}

// kill ends a process that may have ended.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Fatal(err)
	}
}
