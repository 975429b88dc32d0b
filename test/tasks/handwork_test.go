package tasks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHandWork: a task's work is kept, taken back, carried out and handed on, and what must not be
// pushed is not.
//
// spec/gate.md §20: 54 (borrow), 58; spec/vault.md §10: 5.
func TestHandWork(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	a := tr.start(repo, "shell", "-p", `set -u
try() { touch "$1.began"; shift; "$@"; }
stat -c %h .git/objects/info/alternates; git fsck --strict || echo NOT-WHOLE
test -z "$(git status --porcelain)" || echo NOT-CLEAN
git rev-parse -q --verify refs/remotes/upstream/main || echo NO-UPSTREAM
printf 'protocol=http\nhost=10.0.2.2:9418\n\n' | git credential fill >leak.txt
git add leak.txt; git commit -qm leak; git push origin HEAD; git reset -q --hard HEAD~1
echo one >one; git add one; git commit -qm one; git push -q origin HEAD
until [ -e frozen ]; do sleep 0.1; done; rm frozen
echo two >two; git add two; git commit -qm two; git push origin HEAD && echo PUSHED-WHILE-FROZEN
touch refused; until [ -e thawed ]; do sleep 0.1; done; rm thawed refused
git push -q origin HEAD && echo pushed-again
echo draft >draft; touch done-here; sleep infinity & wait`)
	at := func(name string) string { return filepath.Join(a.Workspace, name) }
	tr.wait(60*time.Second, "the first push", func() bool {
		var queue []change
		tr.decode(&queue, repo, "review")
		return len(queue) == 1 && queue[0].Commits == 1
	})
	tr.run(0, repo, "gate", "freeze", "greet", a.ID, "--reason", "incident seven")
	release(t, a, "frozen")
	tr.wait(60*time.Second, "the refused push", func() bool { return exists(at("refused")) })
	tr.run(0, repo, "gate", "thaw", "greet", a.ID)
	release(t, a, "thawed")
	tr.wait(60*time.Second, "the end of the script", func() bool { return exists(at("done-here")) })
	out, errs := tr.run(0, repo, "task", "logs", "--raw", a.ID)
	out += errs
	for _, want := range []string{"leak.txt holds a secret: gate token of terok", "pushes are frozen: incident seven", "pushed-again"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the agent's output:\n%s", want, out)
		}
	}
	for _, bad := range []string{"NOT-WHOLE", "NOT-CLEAN", "NO-UPSTREAM", "PUSHED-WHILE-FROZEN"} {
		if strings.Contains(out, bad) {
			t.Errorf("%s:\n%s", bad, out)
		}
	}
	log, _ := tr.run(0, repo, "gate", "log", "greet", a.ID)
	for _, want := range []string{"push_received", "leak_suspected", "gate_frozen"} {
		if !strings.Contains(log, want) {
			t.Errorf("gate log has no %s:\n%s", want, log)
		}
	}
	tip := tr.tip(a)

	// Carried out: whole without the gate, with what was not committed.
	file := filepath.Join(tr.dir, "a.tar")
	tr.run(0, repo, "task", "export", a.ID, file)
	into := filepath.Join(tr.dir, "exported")
	if err := os.Mkdir(into, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", into, "-xf", file).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v %s", err, out)
	}
	gitOut(t, into, "fsck", "--strict")
	if got := gitOut(t, into, "rev-parse", "HEAD"); got != tip || !exists(filepath.Join(into, "draft")) || exists(filepath.Join(into, ".git/objects/info/alternates")) {
		t.Errorf("exported %s, not %s with the draft", got, tip)
	}

	// Taken back, and nothing is lost.
	tr.run(0, repo, "task", "reset", a.ID, "--yes")
	if exists(at("draft")) || exists(at("one")) {
		t.Error("the workspace was not reset")
	}
	backups, _ := tr.run(0, repo, "project", "gate-backups", "greet", "--task", a.ID)
	if !strings.Contains(backups, tip[:12]) {
		t.Errorf("backups: %s", backups)
	}
	ref := strings.Fields(strings.Split(backups, "\n")[1])[0]
	tr.run(0, repo, "project", "gate-backups", "greet", "--task", a.ID, "--restore", ref)

	// Handed on.
	b := tr.start(repo, "shell", "--from", a.ID, "-p", `git log --format=%s | head -3; cat one two; sleep infinity & wait`)
	tr.wait(60*time.Second, "the second task", func() bool {
		out, _ := tr.run(0, repo, "task", "logs", "--raw", b.ID)
		return strings.Contains(out, "two\none\n") && strings.Contains(out, "one\ntwo\n")
	})
	// Nobody reviewed it with the first task, so it is reviewed with the second.
	if shown, _ := tr.run(0, repo, "review", "show", b.ID, "--stat"); !strings.Contains(shown, " one\n") || !strings.Contains(shown, " two\n") {
		t.Errorf("the first task's commits are not under review: %s", shown)
	}

	// Kept.
	kept, _ := tr.run(0, repo, "task", "delete", a.ID, "--keep-commits", "--yes")
	_, bundle, ok := strings.Cut(strings.TrimSpace(kept), "its commits: ")
	if !ok {
		t.Fatalf("no bundle: %s", kept)
	}
	if heads := gitOut(t, repo, "bundle", "list-heads", bundle); !strings.Contains(heads, tip) {
		t.Errorf("the bundle has %s", heads)
	}
	gitOut(t, repo, "bundle", "verify", "-q", bundle)
}
