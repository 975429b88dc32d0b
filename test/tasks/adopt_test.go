package tasks

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/internal/demo/provider"
)

// TestAdoptedAgentGoesOn: the supervisor of a task is killed while the real Claude Code works.
// Adopted, the same process goes on through the vault, with the certificate that it has trusted
// from its start and the token that it was given, and pushes to the gate.
func TestAdoptedAgentGoesOn(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	script := append([]provider.Step{bash(`touch waiting && until [ -e go ]; do sleep 0.1; done; rm go waiting`)}, repair()...)
	tr.withVault(0, script...)
	repo := tr.repo("greet")
	task := tr.start(repo, "claude", "-p", "Repair it.")
	ref := "greet/" + task.ID
	defer func() {
		if t.Failed() {
			logs, _, _ := tr.try(0, "", "", "task", "logs", ref)
			t.Logf("the agent's log:\n%s", tail(logs))
		}
	}()
	tr.wait(60*time.Second, "Claude is in the middle of its work", func() bool { return exists(filepath.Join(task.Workspace, "waiting")) })
	mine := phantom(t, task)

	var st struct {
		Posture          string
		Adopted, Waiting bool
		Vault            string
		Services         []string
		Parent, Worker   struct{ PID int }
	}
	tr.decode(&st, "", "shield", "status", ref)
	for _, pid := range []int{st.Parent.PID, st.Worker.PID} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
	tr.wait(20*time.Second, "the supervisor is gone", func() bool {
		return syscall.Kill(st.Parent.PID, 0) != nil && syscall.Kill(st.Worker.PID, 0) != nil
	})
	if out, _ := tr.run(0, "", "task", "status", ref); !strings.Contains(out, "shield adopt") || !strings.Contains(out, "task restart") {
		t.Errorf("the status does not name the two cures:\n%s", out)
	}
	var adopted struct{ Complete bool }
	tr.decode(&adopted, "", "shield", "adopt", ref)
	// The new worker asks for the vault's session on its own; nothing waits for that.
	tr.wait(30*time.Second, "the vault is there again", func() bool {
		tr.decode(&st, "", "shield", "status", ref)
		return st.Vault == "unlocked"
	})
	if !adopted.Complete || st.Posture != "up" || !st.Adopted || st.Waiting || st.Vault != "unlocked" {
		t.Errorf("complete %v, %+v", adopted.Complete, st)
	}
	if now := phantom(t, task); now != mine {
		t.Error("the token has changed")
	}
	podman(t, "exec", task.Container.ID, "touch", "/workspace/go")
	tr.wait(120*time.Second, "Claude ends its work", func() bool {
		for _, v := range tr.tasks() {
			if v.ID == task.ID {
				return v.Container == nil || !v.Container.Running
			}
		}
		return false
	})
	logs, _ := tr.run(0, "", "task", "logs", ref)
	if !strings.Contains(logs, "The work is done.") {
		t.Errorf("Claude did not end well:\n%s", tail(logs))
	}
	out, _ := tr.run(0, "", "review", "show", ref)
	if !strings.Contains(out, "Greet the first argument") {
		t.Errorf("the work is not in the gate:\n%s", tail(out))
	}
}
