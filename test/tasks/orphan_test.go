package tasks

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// podmanRuns finds the processes of a podman run of this tree.
func (tr *tree) podmanRuns() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		line, _ := os.ReadFile(p + "/cmdline")
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) == "podman" && len(args) > 1 && bytes.Contains(line, []byte("\x00run\x00")) && bytes.Contains(line, []byte(tr.dir+"/")) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestPodmanOutlivesTheCommand: podman goes on when terok is killed. A container that it makes
// after the task was deleted and after the next run has swept never runs, and goes with the run
// after that.
func TestPodmanOutlivesTheCommand(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	cmd := tr.command(t.Context(), repo, "task", "run", "greet", "-d", "sleep infinity & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := map[int]bool{}
	signal := func(s syscall.Signal) {
		for pid := range stopped {
			_ = syscall.Kill(pid, s)
		}
	}
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	for start := time.Now(); len(tr.podmanRuns()) == 0 && time.Since(start) < 30*time.Second; {
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	// Only now: the kernel ends stopped processes whose group loses its last parent (setpgid(2)).
	for range 3 { // podman may be forking
		for _, pid := range tr.podmanRuns() {
			stopped[pid] = true
		}
		signal(syscall.SIGSTOP)
	}
	if len(stopped) == 0 {
		t.Fatal("podman ended with the command")
	}
	t.Logf("stopped: %v", stopped)
	tr.run(0, "", "task", "delete", "greet/"+tr.tasks()[0].ID, "--yes")
	tr.run(0, repo, "task", "run", "greet", "true")
	signal(syscall.SIGCONT)
	tr.wait(30*time.Second, "podman has done its work", func() bool {
		for pid := range stopped {
			if exists(fmt.Sprintf("/proc/%d", pid)) {
				return false
			}
		}
		return len(tr.podmanRuns()) == 0
	})
	all := podman(t, "ps", "-a", "--format", "{{.Names}} {{.Status}} {{.Labels}}")
	for line := range strings.Lines(all) {
		if strings.Contains(line, tr.dir+"/") {
			t.Logf("after podman's end: %.80s", line)
			if strings.Contains(line, " Up ") {
				t.Errorf("it runs: %s", line)
			}
		}
	}
	tr.run(0, repo, "task", "run", "greet", "true")
	for _, task := range tr.tasks() {
		tr.run(0, "", "task", "delete", "greet/"+task.ID, "--yes")
	}
	tr.nothingLeft(t.Context())
}
