package tasks

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tip is the commit that waits for review as the tip of a task's own branch.
func (tr *tree) tip(task taskView) string {
	tr.t.Helper()
	var c change
	tr.decode(&c, "", "review", "show", task.Project+"/"+task.ID)
	return c.Tip
}

// release creates a file for which the agent's script waits.
func release(t *testing.T, task taskView, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(task.Workspace, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPush50MiB: acceptance 6, a large push arrives.
func TestPush50MiB(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	start := time.Now()
	out, _ := tr.run(0, repo, "run", "shell", "-p", `set -eu
head -c 52428800 /dev/urandom >big; git add big; git commit -qm big; git push -q origin HEAD
git cat-file -s HEAD:big; sha256sum <big`)
	t.Logf("run with a push of 50 MiB: %s", time.Since(start).Round(time.Millisecond))
	task := tr.tasks()[0]
	tr.run(0, repo, "promote", task.ID, "--sha", tr.tip(task), "--approve", "--yes", "--as", "big")
	if got := gitOut(t, repo, "cat-file", "-s", "big:big"); got != "52428800" {
		t.Errorf("the file in the clone has %s bytes; the agent said\n%s", got, out)
	}
}

// TestPushRefused: acceptance 6, what is not a branch of the task's own repository is refused
// with a reason.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	other := tr.start(repo, "shell")
	out, _ := tr.run(0, repo, "run", "shell", "-p", fmt.Sprintf(`cd /workspace
url=$(git remote get-url origin); base=${url%%/task.git}
say() { echo "== $1"; shift; "$@" 2>&1; echo "exit $?"; }
say replace git push origin HEAD:refs/replace/$(git rev-parse HEAD)
say tag git push origin HEAD:refs/tags/v1
say notes git push origin HEAD:refs/notes/commits
say other git push $base/%s.git HEAD:refs/heads/x
say path git push $base/../%s/task.git HEAD:refs/heads/x
say token curl -sS -u x:wrong $url/info/refs?service=git-receive-pack
say good git push -q origin HEAD:refs/heads/fine
`, other.ID, other.ID))
	section := func(name string) string {
		_, rest, ok := strings.Cut(out, "== "+name+"\n")
		if !ok {
			t.Fatalf("no section %s in\n%s", name, out)
		}
		s, _, _ := strings.Cut(rest, "\n== ")
		return s
	}
	for name, reason := range map[string]string{
		"replace": "terok: only refs/heads/* is accepted",
		"tag":     "terok: tags are not accepted; push a branch",
		"notes":   "terok: only refs/heads/* is accepted",
		"other":   "this gate has one repository: /task.git",
		"path":    "",
		"token":   "this gate token is not valid for this task",
	} {
		if s := section(name); !strings.Contains(s, reason) || name != "token" && strings.Contains(s, "exit 0") {
			t.Errorf("%s: want %q in\n%s", name, reason, s)
		}
	}
	if s := section("good"); !strings.Contains(s, "exit 0") {
		t.Errorf("a branch of the task: %s", s)
	}
	var queue []change
	tr.decode(&queue, repo, "review", "--all")
	for _, c := range queue {
		if c.Task == other.ID && c.Commits > 0 {
			t.Errorf("the other task has %+v", c)
		}
	}
}

// TestPromote: acceptance 6, nothing reaches the clone before the promotion of the very commit
// that was reviewed, and it can be taken back.
func TestPromote(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	before := content(t, repo)
	task := tr.start(repo, "shell", "-p", `set -eu
echo one >one; git add one; git commit -qm one; git push -q origin HEAD; touch /tmp/pushed-one
until [ -e go ]; do sleep 0.1; done
echo two >two; git add two; git commit -qm two; git push -q origin HEAD
sleep infinity & wait`)
	var queue []change
	tr.wait(30*time.Second, "the first push", func() bool {
		tr.decode(&queue, repo, "review")
		return len(queue) == 1 && queue[0].Commits == 1
	})
	reviewed := tr.tip(task)
	release(t, task, "go")
	tr.wait(30*time.Second, "the second push", func() bool { return tr.tip(task) != reviewed })
	if diff := differences(before, content(t, repo)); diff != "" {
		t.Errorf("the clone changed before the promotion: %s", diff)
	}
	_, errs := tr.run(7, repo, "promote", task.ID, "--sha", reviewed, "--approve", "--yes")
	if !strings.Contains(errs, "→ terok review show ") {
		t.Errorf("the tip moved: %s", errs)
	}
	if diff := differences(before, content(t, repo)); diff != "" {
		t.Errorf("the refused promotion changed the clone: %s", diff)
	}
	refs := gitOut(t, repo, "for-each-ref")
	tip := tr.tip(task)
	tr.run(0, repo, "promote", task.ID, "--sha", tip, "--approve", "--yes", "--as", "taken")
	if got := gitOut(t, repo, "rev-parse", "taken"); got != tip {
		t.Errorf("promoted %s, not %s", got, tip)
	}
	if got := gitOut(t, repo, "status", "--porcelain", "--branch"); got != "## main" {
		t.Errorf("the work tree: %s", got)
	}
	tr.run(0, repo, "promote", "--undo", task.ID)
	if got := gitOut(t, repo, "for-each-ref"); got != refs {
		t.Errorf("refs after --undo:\n%s\nbefore:\n%s", got, refs)
	}
	tr.run(0, "", "task", "stop", task.ID, "--timeout", "2s")
}

// content digests every file of a directory, by path.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		all[p] = fmt.Sprintf("%s %x", info.Mode(), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func differences(a, b map[string]string) string {
	var out []string
	for p, v := range a {
		if b[p] != v {
			out = append(out, "changed or gone: "+p)
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			out = append(out, "new: "+p)
		}
	}
	return strings.Join(out, ", ")
}
