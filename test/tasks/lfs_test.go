package tasks

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLFSOff: spec/gate.md §20: 56. Pointers stay pointers: neither upstream's nor an agent's .lfsconfig
// makes anything ask the server that it names, not at sync, in the container, in review or promotion;
// what a smudge filter would do inside is left out; status says so. What gate.lfs cannot be is refused.
func TestLFSOff(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	var asked atomic.Int64
	lfs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(lfs.Close)
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("4d", 32) + "\nsize 12345\n"
	tr.file("greet/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	tr.file("greet/.lfsconfig", fmt.Sprintf("[lfs]\n\turl = %s/upstream\n", lfs.URL))
	tr.file("greet/big.bin", pointer)
	for _, args := range [][]string{{"add", "-A"}, {"-c", "user.name=A", "-c", "user.email=a@example.test", "commit", "-qm", "large files"}} {
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "filter.lfs.clean=cat"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, _ := tr.run(0, repo, "run", "shell", "-p", fmt.Sprintf(`exec 2>&1; set -eu
cat big.bin; echo "skip=$GIT_LFS_SKIP_SMUDGE"
printf '[lfs]\n\turl = %[1]s/agent\n[remote "origin"]\n\tlfsurl = %[1]s/agent\n' >.lfsconfig
printf '%%s' "%[2]s" >more.bin
git add .lfsconfig more.bin; git commit -qm "More large files"; git push -q origin HEAD`, lfs.URL, pointer))
	if !strings.Contains(out, pointer+"skip=1") {
		t.Errorf("inside: %s", out)
	}
	task := tr.tasks()[0]
	tr.run(0, "", "project", "gate-sync", "greet")
	var shown struct{ Flags []struct{ Code string } }
	tr.decode(&shown, repo, "review", "show", task.ID)
	if !strings.Contains(fmt.Sprint(shown.Flags), "lfs") {
		t.Errorf("no flag: %+v", shown.Flags)
	}
	tr.run(0, repo, "diff", task.ID, "--worktree")
	tr.run(0, repo, "promote", task.ID, "--sha", tr.tip(task), "--approve", "--yes", "--as", "large")
	if got := gitOut(t, repo, "cat-file", "blob", "large:more.bin"); got+"\n" != pointer {
		t.Errorf("promoted %q", got)
	}
	if status, _ := tr.run(0, "", "gate", "status", "greet"); !strings.Contains(status, "lfs") || !strings.Contains(status, "stay pointers") {
		t.Errorf("status: %s", status)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the LFS server was asked %d times", n)
	}
	project := "config/terok/projects/greet/project.yml"
	for _, bad := range []string{"lfs: on", "lfs_url: http://lfs.example.test/x", "lfs_url: https://u:p@lfs.example.test/x", "lfs_url: ssh://lfs.example.test/x"} {
		tr.file(project, "project:\n  name: greet\ngit:\n  upstream_url: "+repo+"\ngate:\n  "+bad+"\n")
		if _, stderr := tr.run(2, "", "project", "show", "greet"); !strings.Contains(stderr, "project.yml:6:") {
			t.Errorf("%s: %s", bad, stderr)
		}
	}
	tr.file(project, "project:\n  name: greet\n  security_class: online\ngit:\n  upstream_url: https://git.example.test/x.git\ngate:\n  lfs: proxy\n")
	if _, stderr := tr.run(2, "", "project", "show", "greet"); !strings.Contains(stderr, "project.yml:7:") || !strings.Contains(stderr, "gatekeeping projects") {
		t.Errorf("online: %s", stderr)
	}
	tr.file(project, "project:\n  name: greet\ngit:\n  upstream_url: "+repo+"\ngate:\n  lfs: off\n")
	tr.run(0, "", "project", "show", "greet")
}
