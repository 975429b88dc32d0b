// Package tasks holds the end-to-end tests of whole tasks: a person's command lines, real
// rootless podman, a real agent (Claude Code), and a scripted model behind the vault. Each test
// has a tree of its own (XDG directories) and looks at its end that nothing of it is left.
//
//	scripts/rootless base && scripts/rootless run -- go test ./test/tasks
package tasks

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/demo"
	"terok/internal/demo/provider"
	"terok/internal/git"
)

const pass = "correct horse battery staple"

var (
	terok  string // the program under test
	cache  string // XDG_CACHE_HOME of every command: holds the agent, which is downloaded once
	bundle string // what terok demo keeps there: the directory of installed agents
)

func TestMain(m *testing.M) {
	if os.Getenv(asSweeper) != "" {
		os.Exit(sweeper())
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tasks-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = setUp(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// setUp builds the program and makes what all tests share: the layer L0 and Claude Code. Nothing
// of it may be missing: a machine without them fails.
func setUp(dir string) error {
	terok = filepath.Join(dir, "terok")
	build := exec.Command("go", "build", "-o", terok, "terok/cmd/terok")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo the supervisor cannot drop its capabilities
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(home, ".cache", "terok-test")
	bundle = filepath.Join(cache, "terok", "demo", "agents")
	shared := tree{dir: filepath.Join(dir, "shared")}
	if err := shared.make(); err != nil {
		return err
	}
	for _, args := range [][]string{{"image", "build", "-q"}, {"agents", "install", "claude", "-q"}} {
		start := time.Now()
		cmd := shared.command(context.Background(), "", args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("terok %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		fmt.Printf("terok %s: %s\n", strings.Join(args, " "), time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// tree is one terok installation: configuration, data and sockets.
type tree struct {
	t     *testing.T
	dir   string
	key   string // the real API key, once there is a vault
	model *provider.Server
	env   []string // further environment of every command, "K=V"
}

// newTree makes an empty installation, which is looked through and removed at the end of the test.
func newTree(t *testing.T) *tree {
	t.Helper()
	dir, err := os.MkdirTemp("", "tasks-") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	tr := &tree{t: t, dir: dir}
	if err := tr.make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	return tr
}

func (tr *tree) make() error {
	if err := errors.Join(os.MkdirAll(bundle, 0o700), os.MkdirAll(tr.data(), 0o700), os.MkdirAll(filepath.Join(tr.dir, "tmp"), 0o700)); err != nil {
		return err
	}
	return os.Symlink(bundle, filepath.Join(tr.data(), "agents"))
}

func (tr *tree) data() string { return filepath.Join(tr.dir, "data", "terok") }

// close takes everything away as a person would and looks for what stayed nevertheless.
func (tr *tree) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if tr.t.Failed() {
		for _, pattern := range []string{"projects/*/tasks/*/logs/supervisor.log", "archive/*/*/logs/supervisor.log"} {
			logs, _ := filepath.Glob(filepath.Join(tr.data(), pattern))
			for _, log := range logs {
				text, _ := os.ReadFile(log)
				tr.t.Logf("%s:\n%s", log, tail(string(text)))
			}
		}
	}
	_ = tr.command(ctx, "", "panic", "--clear").Run()
	projects, _ := filepath.Glob(filepath.Join(tr.dir, "config/terok/projects/*/project.yml"))
	for _, file := range projects {
		p := filepath.Dir(file)
		if out, err := tr.command(ctx, "", "project", "delete", filepath.Base(p), "--yes").CombinedOutput(); err != nil {
			tr.t.Errorf("terok project delete %s: %v\n%s", filepath.Base(p), err, tail(string(out)))
		}
	}
	if _, err := os.Lstat(filepath.Join(tr.data(), "vault", "vault.age")); err == nil {
		if out, err := tr.command(ctx, "", "vault", "lock").CombinedOutput(); err != nil {
			tr.t.Errorf("terok vault lock: %v\n%s", err, tail(string(out)))
		}
	}
	if tr.model != nil {
		_ = tr.model.Close()
	}
	tr.nothingLeft(ctx)
	_ = exec.CommandContext(ctx, "podman", "unshare", "rm", "-rf", "--", tr.dir).Run()
}

// nothingLeft fails the test for every container, process, mount and runtime file of the tree.
func (tr *tree) nothingLeft(ctx context.Context) {
	tr.t.Helper()
	var left []string
	within(ctx, 10*time.Second, func() bool { left = tr.left(ctx); return len(left) == 0 })
	for _, l := range left {
		tr.t.Errorf("left behind: %s", l)
	}
}

func (tr *tree) left(ctx context.Context) []string {
	var left []string
	out, err := exec.CommandContext(ctx, "podman", "ps", "-a", "--external", "--format", "{{.ID}} {{.Names}} {{.Status}} {{.Labels}}").CombinedOutput()
	if err != nil {
		left = append(left, fmt.Sprintf("podman cannot say: %v %s", err, out))
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, tr.dir+"/") {
			left = append(left, "container "+tail(line))
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		line, _ := os.ReadFile(p + "/cmdline")
		environ, _ := os.ReadFile(p + "/environ")
		if p != fmt.Sprintf("/proc/%d", os.Getpid()) && (bytes.Contains(line, []byte(tr.dir+"/")) || bytes.Contains(environ, []byte("="+tr.dir+"/"))) {
			left = append(left, "process "+filepath.Base(p)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+tr.dir+"/") {
			left = append(left, "mount "+line)
		}
	}
	for _, pattern := range []string{"run/terok/*/*", "run/terok/*.sock", "data/terok/launching/*", "data/terok/index/*", "data/terok/projects/*/tasks/*", "data/terok/projects/*/tasks/.[nt]*", "data/terok/gate/*/tasks/*", "tmp/*"} {
		files, _ := filepath.Glob(filepath.Join(tr.dir, pattern))
		for _, f := range files {
			if !strings.HasSuffix(f, ".lock") {
				left = append(left, "file "+f)
			}
		}
	}
	return left
}

// environ is the environment of a person with this installation.
func (tr *tree) environ() []string {
	return append(append(os.Environ(), tr.env...), "XDG_CONFIG_HOME="+tr.dir+"/config", "XDG_DATA_HOME="+tr.dir+"/data",
		"XDG_RUNTIME_DIR="+tr.dir+"/run", "XDG_CACHE_HOME="+cache, "TMPDIR="+tr.dir+"/tmp")
}

func (tr *tree) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, terok, args...)
	cmd.Env, cmd.Dir = tr.environ(), dir
	cmd.WaitDelay = 10 * time.Second // nobody that a command leaves running may hold its streams
	return cmd
}

// run expects an exit code and returns stdout and stderr.
func (tr *tree) run(want int, dir string, args ...string) (stdout, stderr string) {
	tr.t.Helper()
	stdout, stderr, err := tr.try(want, "", dir, args...)
	if err != nil {
		tr.t.Fatal(err)
	}
	return stdout, stderr
}

// try is run for goroutines.
func (tr *tree) try(want int, input, dir string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(tr.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := tr.command(ctx, dir, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	start := time.Now()
	err = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want || errors.Is(err, exec.ErrWaitDelay) {
		return out.String(), errs.String(), fmt.Errorf("terok %s: %v, want exit %d\n%s%s", strings.Join(args, " "), err, want, tail(out.String()), tail(errs.String()))
	}
	if d := time.Since(start); d > 500*time.Millisecond {
		tr.t.Logf("terok %.90s: %s", strings.Join(args, " "), d.Round(time.Millisecond))
	}
	return out.String(), errs.String(), nil
}

// decode runs a command with --json and decodes its data.
func (tr *tree) decode(data any, dir string, args ...string) {
	tr.t.Helper()
	out, _ := tr.run(0, dir, append(args, "--json")...)
	envelope := struct{ Data any }{data}
	if err := json.Unmarshal([]byte(out), &envelope); err != nil {
		tr.t.Fatalf("terok %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// file writes a file below the tree and returns its path.
func (tr *tree) file(name, content string) string {
	tr.t.Helper()
	path := filepath.Join(tr.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		tr.t.Fatal(err)
	}
	return path
}

// withVault starts a scripted model, points the vault's route at it with a provider file, and
// stores its key.
func (tr *tree) withVault(delay time.Duration, script ...provider.Step) {
	tr.t.Helper()
	tr.withProvider("anthropic", provider.Config{Delay: delay, Script: script})
}

// withProvider is withVault for any provider.
func (tr *tree) withProvider(name string, cfg provider.Config) {
	tr.t.Helper()
	tr.key = "sk-ant-api03-REAL-" + random()
	cfg.Key, cfg.Dir, cfg.Script = tr.key, tr.dir, append(cfg.Script, provider.Step{Text: "The work is done."})
	model, err := provider.Start(cfg)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.model = model
	tr.file("config/terok/providers/"+name+".yml", fmt.Sprintf("upstream: %s\nca_file: %s\nallow_private: true\n", model.URL(), model.CAFile()))
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	if _, _, err := tr.try(0, tr.key+"\n", "", "auth", name, "--api-key-stdin", "--no-verify"); err != nil {
		tr.t.Fatal(err)
	}
}

// repo makes the sample repository, which has a bug.
func (tr *tree) repo(name string) string {
	tr.t.Helper()
	dir := filepath.Join(tr.dir, name)
	if err := demo.Sample(tr.t.Context(), &git.Runner{}, dir); err != nil {
		tr.t.Fatal(err)
	}
	return dir
}

// taskView is what the tests read of a task.
type taskView struct {
	Project, ID, Status, Egress, Workspace string
	Container                              *struct {
		ID      string
		Running bool
	}
	Supervisor *struct {
		Vault          string
		Counters       struct{ Allowed, Denied, Open int }
		Parent, Worker struct{ PID int }
	}
}

// tasks lists the tasks of the tree.
func (tr *tree) tasks() []taskView {
	tr.t.Helper()
	var list []taskView
	tr.decode(&list, "", "task", "list")
	return list
}

// start starts a task detached in the repository and returns it.
func (tr *tree) start(repo, agent string, args ...string) taskView {
	tr.t.Helper()
	var v taskView
	tr.decode(&v, repo, append([]string{"run", agent, "-d"}, args...)...)
	return v
}

type change struct {
	Task, Branch, Tip, State string
	Commits                  int
	Patch                    string
}

// bash is a step of a script in which the agent runs a command.
func bash(command string) provider.Step {
	return provider.Step{Text: "I run a command.", Tool: "Bash", Input: map[string]any{"command": command, "description": "work"}}
}

// repair is what the agent does with the sample repository.
func repair() []provider.Step {
	return []provider.Step{
		bash("sh test.sh; true"),
		bash(`sed -i 's/\$2/$1/' greet.sh && sh test.sh`),
		bash(`git add -A && git commit -qm "Greet the first argument" && git push -q origin HEAD && git log --oneline -1`),
	}
}

func random() string {
	var b [20]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// within polls until done or the time is over.
func within(ctx context.Context, limit time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// wait is within that fails the test.
func (tr *tree) wait(limit time.Duration, what string, done func() bool) {
	tr.t.Helper()
	start := time.Now()
	if !within(tr.t.Context(), limit, done) {
		tr.t.Fatalf("not within %s: %s", limit, what)
	}
	tr.t.Logf("%s: %s", what, time.Since(start).Round(time.Millisecond))
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "podman", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, tail(string(out)))
	}
	return strings.TrimSpace(string(out))
}

func tail(s string) string {
	if len(s) > 3000 {
		s = "…" + s[len(s)-3000:]
	}
	return s
}

func gitOut(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_OPTIONAL_LOCKS=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
