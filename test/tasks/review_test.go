package tasks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inside runs a command in a task's container, as its user.
func (tr *tree) inside(task taskView, command string) string {
	tr.t.Helper()
	var list taskView
	tr.decode(&list, "", "task", "status", task.Project+"/"+task.ID)
	out, err := exec.CommandContext(tr.t.Context(), "podman", "exec", list.Container.ID, "/bin/sh", "-c", command).CombinedOutput()
	if err != nil {
		tr.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// Spec/gate.md §20: 40, 42. A rejection reaches the task that runs, without what could drive a terminal;
// the diff of a workspace whose git configuration is hostile is computed inside, while the container
// runs and after it stopped, and nothing of it runs on the host.
func TestRejectAndWorktree(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	canary := filepath.Join(tr.dir, "canary")
	secret := tr.file("host-secret", "never shown\n")
	task := tr.start(repo, "shell", "-p", fmt.Sprintf(`set -eu
echo one >one; git add one; git commit -qm one; git push -q origin HEAD
echo not committed >two; ln -s / root; echo changed >>greet.sh
git config core.fsmonitor "touch %[1]s"; git config core.hooksPath /workspace/hooks; git config core.worktree /
git config filter.evil.clean "touch %[1]s; cat"; git config diff.external "touch %[1]s"; git config diff.evil.textconv "touch %[1]s"
echo '* filter=evil diff=evil' >.gitattributes
mkdir -p hooks; printf '#!/bin/sh\ntouch %[1]s\n' >hooks/post-index-change; chmod +x hooks/post-index-change
echo %[2]s >>.git/objects/info/alternates
touch /tmp/ready; sleep infinity & wait`, canary, filepath.Dir(secret)))
	tr.wait(30*time.Second, "the workspace", func() bool {
		return exec.Command("podman", "exec", task.Container.ID, "test", "-e", "/tmp/ready").Run() == nil
	})
	check := func(when string) {
		t.Helper()
		var d struct {
			Files []struct{ Path, Patch string }
		}
		tr.decode(&d, repo, "diff", task.ID, "--worktree")
		found := map[string]string{}
		for _, f := range d.Files {
			found[f.Path] = f.Patch
		}
		if !strings.Contains(found["two"], "+not committed") || !strings.Contains(found["one"], "+one") || !strings.Contains(found["greet.sh"], "+changed") {
			t.Errorf("%s: the diff of the files: %+v", when, d.Files)
		}
		for path, patch := range found {
			if strings.Contains(patch, "never shown") || strings.HasPrefix(path, "etc/") || strings.HasPrefix(path, "/") {
				t.Errorf("%s: %s is not of the workspace", when, path)
			}
		}
		if _, err := os.Lstat(canary); err == nil {
			t.Fatalf("%s: the workspace's configuration ran on the host", when)
		}
	}
	check("running")
	start := time.Now()
	tr.run(0, repo, "review", "reject", task.ID, "--sha", tr.tip(task), "-m", "the test \x1b[31m still \u202e sleeps")
	t.Logf("rejected and delivered in %s", time.Since(start).Round(time.Millisecond))
	words := tr.inside(task, "cat /home/dev/.terok/review-feedback.md")
	if !strings.Contains(words, `the test \x1b[31m still \u{202e} sleeps`) || strings.ContainsAny(words, "\x1b\u202e") {
		t.Errorf("feedback %q", words)
	}
	var queue []change
	tr.decode(&queue, repo, "review", "--state", "rejected")
	if len(queue) != 1 || queue[0].Task != task.ID {
		t.Errorf("queue %+v", queue)
	}
	if _, errs := tr.run(7, repo, "promote", task.ID, "--sha", tr.tip(task), "--yes"); !strings.Contains(errs, "not approved") {
		t.Errorf("a rejected commit: %s", errs)
	}
	tr.run(0, "", "task", "stop", task.ID, "--timeout", "1s")
	check("stopped")
	if out, _ := tr.run(0, repo, "review", "comment", task.ID, "--sha", tr.tip(task), "-m", "and say why"); !strings.Contains(out, "at its next start") {
		t.Errorf("a task that does not run: %s", out)
	}
}

// TestRejectSends: a finished headless task goes on with the reason; its workspace is as it was.
func TestRejectSends(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "run", "shell", "-p", "echo one >one; git add one; git commit -qm one; git push -q origin HEAD")
	task := tr.tasks()[0]
	// The agent without an agent runs its prompt as a script: the reason is a line of it.
	tr.run(0, repo, "review", "reject", task.ID, "--sha", tr.tip(task), "-m", "test -e one && cp /home/dev/.terok/review-feedback.md followed", "--send")
	tr.wait(30*time.Second, "the follow-up", func() bool {
		data, err := os.ReadFile(filepath.Join(task.Workspace, "followed"))
		return err == nil && strings.Contains(string(data), "test -e one && cp")
	})
}

// TestReceipt: a promotion leaves a receipt as a note, which verifies offline until one byte of the
// task's ledger differs; deleting the task takes its ledger to the archive, where it is found.
func TestReceipt(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "run", "shell", "-p", "curl -s --max-time 5 http://refused.example/ ; echo one >one; git add one; git commit -qm one; git push -q origin HEAD")
	task := tr.tasks()[0]
	tip := tr.tip(task)
	tr.run(0, repo, "promote", task.ID, "--sha", tip, "--approve", "--yes", "--as", "taken")
	var v struct {
		Source   string
		Verified bool
		Receipt  struct{ Task, Commit, Agent, Reviewer string }
		Ledgers  []struct {
			Of, Path, Verdict string
			Count             int
		}
	}
	tr.decode(&v, repo, "receipt", "verify", repo, "taken")
	if !v.Verified || v.Source != "note" || v.Receipt.Commit != tip || v.Receipt.Task != task.ID || v.Receipt.Agent != "shell" || len(v.Ledgers) != 2 || v.Ledgers[0].Count == 0 {
		t.Fatalf("receipt %+v", v)
	}
	tr.run(6, repo, "receipt", "verify", repo, "main")
	ledger := v.Ledgers[0].Path
	data, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, len(data) / 2, len(data) - 2} {
		spoiled := append([]byte(nil), data...)
		spoiled[at] ^= 1
		copied := tr.file("tampered.jsonl", string(spoiled))
		if _, errs := tr.run(1, repo, "receipt", "verify", repo, "taken", "--ledger", copied); !strings.Contains(errs, "ledger") {
			t.Errorf("byte %d: %s", at, errs)
		}
	}
	tr.run(0, "", "task", "delete", task.ID, "--yes")
	tr.decode(&v, repo, "receipt", "verify", repo, "taken")
	if !v.Verified || !strings.Contains(v.Ledgers[0].Path, "/archive/") {
		t.Errorf("after the task was deleted: %+v", v)
	}
	if got := gitOut(t, repo, "notes", "--ref=terok", "show", "taken"); !strings.Contains(got, "BEGIN SSH SIGNATURE") {
		t.Errorf("note %q", got)
	}
}
