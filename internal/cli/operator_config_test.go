package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/task"
)

// TestHostileOperatorConfig: whatever the person's own git configuration would run, no command of review and
// promotion runs it, on content whose attributes ask for it.
//
// spec/gate.md §20: 14 (review, diff, promote; sync and seed: internal/gate/store).
func TestHostileOperatorConfig(t *testing.T) {
	w := gatetest.New(t)
	home, canary := filepath.Join(w.Dir, "home"), filepath.Join(w.Dir, "canary")
	run := "touch " + canary + " #"
	gatetest.WriteFile(t, home, ".gitconfig", fmt.Sprintf(`[core]
	hooksPath = %[1]s/hooks
	fsmonitor = %[2]q
	sshCommand = %[2]q
	pager = %[2]q
	editor = %[2]q
	askPass = %[2]q
	attributesFile = %[1]s/attributes
[url "ext::sh -c '%[3]s'"]
	insteadOf = /
[filter "x"]
	smudge = %[2]q
	clean = %[2]q
	process = %[2]q
[diff]
	external = %[2]q
[diff "x"]
	textconv = %[2]q
	command = %[2]q
[merge "x"]
	driver = %[2]q
[credential]
	helper = "!%[3]s"
[gpg]
	program = %[2]q
[commit]
	gpgSign = true
[push]
	gpgSign = true
[log]
	showSignature = true
[alias]
	diff-tree = "!%[3]s"
`, home, run, strings.ReplaceAll(run, `"`, `\"`)))
	gatetest.WriteFile(t, home, "attributes", "* filter=x diff=x merge=x\n")
	for _, hook := range []string{"reference-transaction", "pre-push", "post-checkout", "post-merge", "pre-auto-gc", "post-index-change", "update", "pre-receive"} {
		gatetest.WriteFile(t, home, "hooks/"+hook, "#!/bin/sh\n"+run+"\n")
		if err := os.Chmod(filepath.Join(home, "hooks", hook), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	gatetest.WriteFile(t, w.Dir, "xc/git/config", "[include]\n\tpath = "+home+"/.gitconfig\n")
	for key, value := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": w.Dir + "/xc", "XDG_DATA_HOME": w.Dir + "/xd", "XDG_RUNTIME_DIR": w.Dir + "/xr",
		"TERM": "xterm", "PAGER": "cat", "TEROK_PAGER": "", "NO_COLOR": "1", "PATH": "/usr/bin:/bin", "GIT_EXTERNAL_DIFF": run, "GIT_SSH_COMMAND": run, "GIT_CONFIG_GLOBAL": home + "/.gitconfig"} {
		t.Setenv(key, value)
	}
	w.Roots = state.Roots{Config: w.Dir + "/xc/terok", Data: w.Dir + "/xd/terok", Runtime: w.Dir + "/xr/terok"}
	w.Store.Roots = w.Roots
	c := newConsole(t)
	c.run(problem.OK, nil, "project", "create", "webshop", "--upstream", w.Upstream)
	c.run(problem.OK, nil, "project", "gate-sync", "webshop")
	tk, err := (task.Store{Roots: w.Roots, Now: time.Now}).Create("webshop", "brave-otter", func(tk *task.Task) { tk.Agent = "shell" })
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: "webshop", ID: tk.ID, Branch: tk.Branch})
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(w.Dir, "work")
	w.Git(w.Dir, "clone", "-q", repo.Repo, work)
	gatetest.WriteFile(t, work, ".gitattributes", "* filter=x diff=x merge=x\n")
	gatetest.WriteFile(t, work, "a", "x\n")
	w.Commit(work, "first")
	gatetest.WriteFile(t, work, "a", "y\n")
	tip := w.Commit(work, "second")
	w.Git(work, "push", "-q", "origin", "HEAD")
	for _, args := range [][]string{
		{"review"}, {"review", "show", tk.ID}, {"review", "show", tk.ID, "--per-commit", "--word"}, {"diff", tk.ID}, {"diff", tk.ID, "--stat"},
		{"review", "approve", tk.ID, "--sha", tip}, {"gate", "status", "webshop"}, {"gate", "gc", "webshop"},
		{"promote", tk.ID, "--sha", tip, "--yes", "--as", "taken"},
		{"promote", tk.ID, "--sha", tip, "--yes", "--as", "one", "--squash", "-m", "one"},
		{"promote", tk.ID, "--sha", tip, "--yes", "--to", "bundle:" + filepath.Join(w.Dir, "b")},
		{"promote", tk.ID, "--sha", tip, "--yes", "--as", "mine", "--to", "gate"},
		{"promote", "--undo", tk.ID}, {"project", "gate-sync", "webshop"},
	} {
		c.run(problem.OK, nil, args...)
		if _, err := os.Stat(canary); err == nil {
			t.Fatalf("terok %s ran a program of the person's configuration", strings.Join(args, " "))
		}
	}
	// The trap works: git as people run it falls into it.
	out, _ := exec.CommandContext(t.Context(), "git", "-C", work, "status").CombinedOutput()
	if _, err := os.Stat(canary); err != nil {
		t.Errorf("the configuration runs nothing at all: %s", out)
	}
}
