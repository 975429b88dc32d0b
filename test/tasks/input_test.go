package tasks

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBadInput: what can go wrong has the exit code of spec/cli.md §3, a cure in words, and leaves
// nothing behind.
func TestBadInput(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	none := filepath.Join(tr.dir, "none")
	if err := os.Mkdir(none, 0o700); err != nil {
		t.Fatal(err)
	}
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	tr.run(0, repo, "project", "create", "far", "--upstream", "https://127.0.0.1:1/none.git", "--agent", "shell")
	tr.run(0, repo, "project", "create", "bare", "--agent", "shell")
	tr.file("config/terok/projects/nested/project.yml", "project: {name: nested}\nrun: {default_agent: shell}\n")
	tr.file("config/terok/projects/bogus/project.yml", "project: {name: bogus}\nimage: {base_image: localhost/no-such-image:1}\ndefault_agent: shell\n")
	check := func(want int, hint, dir string, args ...string) {
		t.Helper()
		_, errs, err := tr.try(want, "", dir, args...)
		if err != nil {
			t.Error(err)
			return
		}
		if !strings.Contains(errs, "\n  → "+hint) {
			t.Errorf("terok %s: no hint %q in\n%s", strings.Join(args, " "), hint, errs)
		}
		if strings.Contains(errs, "goroutine ") {
			t.Errorf("terok %s: a crash\n%s", strings.Join(args, " "), errs)
		}
	}
	check(2, "terok --help", "", "frobnicate-everything")
	check(2, "did you mean: terok task list", "", "task", "lst")
	check(2, "terok run --help", repo, "run", "shell", "--no-such-flag")
	check(2, "did you mean claude", repo, "run", "cluade", "-p", "x")
	check(2, "", repo, "run", "shell") // an interactive task without a terminal
	check(6, "", "", "task", "run", "no-such-project", "x")
	check(6, "terok task list", "", "task", "status", "greet/k3v9p")
	check(6, "", "", "project", "show", "gret")
	check(2, "git init ", none, "run", "shell", "-p", "true")
	check(2, "e.g. --allow", repo, "run", "shell", "-p", "true", "--allow", "not a rule")
	check(6, "", repo, "run", "shell", "-p", "true", "--from", "no-such-branch")
	check(8, "terok vault init", repo, "run", "script", "-p", "x")
	check(8, "terok vault init", "", "vault", "unlock", "--passphrase-file", tr.file("passphrase", pass))
	check(9, "terok project delete bare --yes", "", "project", "delete", "bare")
	check(1, "", "", "project", "gate-sync", "far")
	check(1, "", "", "task", "run", "far", "true")
	check(6, "", "", "task", "run", "bogus", "true")
	if _, errs, _ := tr.try(2, "", "", "task", "run", "nested", "true"); !strings.Contains(errs, "project.yml:2:7: ") || !strings.Contains(errs, "it belongs to the top level") {
		t.Errorf("a key at the wrong place: %s", errs)
	}

	tr.withVault(0, repair()...)
	tr.run(0, "", "vault", "lock")
	check(8, "terok vault unlock", repo, "run", "script", "-p", "x")
	check(7, "", "", "vault", "init", "--passphrase-file", tr.dir+"/passphrase")
	check(1, "", "", "vault", "unlock", "--passphrase-file", tr.file("wrong", "not it\n"))
	tr.run(0, "", "vault", "unlock", "--passphrase-file", tr.dir+"/passphrase")
	tr.run(0, "", "auth", "claude", "--revoke")
	check(8, "terok auth anthropic", repo, "run", "script", "-p", "x")
	if tasks := tr.tasks(); len(tasks) > 0 {
		t.Errorf("left behind: %+v", tasks)
	}
}

// TestInterrupt: Ctrl-C while a run is starting takes it back; while it is followed, it goes on.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	for _, after := range []time.Duration{100, 250, 400} {
		cmd := tr.command(t.Context(), repo, "run", "shell", "-p", "echo started; sleep infinity & wait")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(after*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGINT) })
		_ = cmd.Wait()
		timer.Stop()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("interrupted after %d ms: exit code %d", after, code)
		}
		for _, task := range tr.tasks() {
			// Started tasks go on, whether or not their workspace is ready yet.
			if task.Status != "running" && task.Status != "init" {
				t.Errorf("interrupted after %d ms: %s is left %s", after, task.ID, task.Status)
			}
			tr.run(0, "", "task", "delete", "greet/"+task.ID, "--yes")
		}
	}
	tr.nothingLeft(t.Context())
}
