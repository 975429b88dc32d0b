package tasks

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSharedGate: spec/gate.md §20: 16. Two projects with one gate.path: with different upstreams the
// error names the other, with the same one the tasks of both clone and push, and deleting the project
// that made the mirror leaves it to the other.
func TestSharedGate(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo, elsewhere := tr.repo("greet"), tr.repo("elsewhere")
	tr.project("one", "git:\n  upstream_url: "+repo+"\n")
	work := `cd /workspace && echo work >work && git add work && git commit -qm work && git push -q origin HEAD`
	tr.run(0, "", "task", "run", "one", work)
	path, _ := tr.run(0, "", "gate", "path", "one")
	shared := "gate:\n  path: " + strings.TrimSpace(path) + "\n"
	tr.project("two", "git:\n  upstream_url: "+elsewhere+"\n"+shared)
	for _, args := range [][]string{{"project", "gate-sync", "two"}, {"task", "run", "two", "true"}, {"project", "gate-sync", "one"}} {
		_, stderr := tr.run(2, "", args...)
		if !strings.Contains(stderr, "one") || !strings.Contains(stderr, "two") || !strings.Contains(stderr, "different upstreams") {
			t.Errorf("terok %s: %s", strings.Join(args, " "), stderr)
		}
	}
	tr.project("two", "git:\n  upstream_url: "+repo+"\n"+shared)
	tr.run(0, "", "task", "run", "two", work)
	second, _ := tr.run(0, "", "gate", "path", "two")
	if second != path {
		t.Errorf("mirrors at %s and %s", path, second)
	}
	var queue []change
	tr.decode(&queue, "", "review")
	if len(queue) != 2 || queue[0].Commits != 1 || queue[1].Commits != 1 {
		t.Errorf("queue: %+v", queue)
	}
	if out, err := exec.Command("git", "-C", strings.TrimSpace(path), "fsck", "--strict").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, task := range tr.tasks() {
		tr.run(0, "", "promote", task.Project+"/"+task.ID, "--to", "gate", "--as", "from-"+task.Project, "--sha", tr.tip(task), "--approve", "--yes")
	}
	if got := gitOut(t, strings.TrimSpace(path), "for-each-ref", "--format=%(refname:short)", "refs/heads/from-*"); got != "from-one\nfrom-two" {
		t.Errorf("the mirror has %q", got)
	}
	_, stderr := tr.run(0, "", "project", "delete", "one", "--yes")
	if !strings.Contains(stderr, "two") {
		t.Errorf("delete: %s", stderr)
	}
	tr.run(0, "", "task", "run", "two", work)
	tr.run(0, "", "project", "delete", "two", "--yes")
	if left, _ := filepath.Glob(filepath.Join(tr.data(), "gate", "[a-z]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
