// Package rig is what the end-to-end tests have in common: the program under test, the probe that
// runs inside, a state tree of their own, and sandboxes that are gone when a test ends.
package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Base is the image that sandboxes are made from.
const Base = "localhost/debian:12"

// ProbePath is where the probe lies in every sandbox.
const ProbePath = "/probe"

// Rig is one run of a test package.
type Rig struct {
	Terok string // the program under test
	Probe string
	Dir   string // everything of this run
	names atomic.Int64
}

// Main builds the programs, runs the tests and removes everything.
func Main(m *testing.M, r *Rig) int {
	dir, err := os.MkdirTemp("", "terok-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	r.Dir, r.Terok, r.Probe = dir, filepath.Join(dir, "terok"), filepath.Join(dir, "probe")
	for out, pkg := range map[string]string{r.Terok: "terok/cmd/terok", r.Probe: "terok/test/e2e/probe"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, msg)
			return 1
		}
	}
	if err := os.Chmod(r.Probe, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Env is the environment of the program under test: its own state, the user's podman.
func (r *Rig) Env() []string {
	env := os.Environ()
	for _, d := range [][2]string{{"XDG_CONFIG_HOME", "config"}, {"XDG_DATA_HOME", "data"}, {"XDG_RUNTIME_DIR", "run"}} {
		dir := filepath.Join(r.Dir, d[1])
		_ = os.MkdirAll(dir, 0o700)
		env = append(env, d[0]+"="+dir)
	}
	return env
}

// Data is terok's data directory of this run.
func (r *Rig) Data(elem ...string) string {
	return filepath.Join(append([]string{r.Dir, "data", "terok"}, elem...)...)
}

// SandboxDir is the task directory of a sandbox.
func (r *Rig) SandboxDir(name string) string { return r.Data("sandboxes", name) }

// Container is the container of a sandbox.
func (r *Rig) Container(name string) string { return "terok-sandbox-" + name }

// Name draws a name that no other run uses.
func (r *Rig) Name(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("e2e-%d-%d", os.Getpid(), r.names.Add(1))
}

// Out is what a program printed.
type Out struct {
	Stdout, Stderr string
	Code           int
}

// Do runs the program under test.
func (r *Rig) Do(t testing.TB, args ...string) Out {
	t.Helper()
	return run(t, r.Env(), r.Terok, args...)
}

// OK runs the program under test, which has to succeed, and returns its output.
func (r *Rig) OK(t testing.TB, args ...string) string {
	t.Helper()
	o := r.Do(t, args...)
	if o.Code != 0 {
		t.Fatalf("terok %s: exit %d\n%s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr)
	}
	return o.Stdout
}

// Podman runs the user's own podman, as typed by hand.
func (r *Rig) Podman(t testing.TB, args ...string) Out {
	t.Helper()
	return run(t, os.Environ(), "podman", args...)
}

// Ours runs podman with terok's own configuration.
func (r *Rig) Ours(t testing.TB, args ...string) Out {
	t.Helper()
	return run(t, append(os.Environ(), "CONTAINERS_CONF="+r.Data("containers.conf")), "podman", args...)
}

// deadline bounds every program that a test runs.
const deadline = 90 * time.Second

func run(t testing.TB, env []string, path string, args ...string) Out {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.WaitDelay = env, time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	code := 0
	if ctx.Err() != nil {
		t.Fatalf("%s %s: still running after %s\n%s%s", path, strings.Join(args, " "), deadline, &out, &errs)
	}
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return Out{out.String(), errs.String(), code}
}

// Sandbox starts a sandbox with these flags that waits, and removes it at the end of the test.
func (r *Rig) Sandbox(t *testing.T, flags ...string) string {
	t.Helper()
	return r.SandboxOf(t, flags, ProbePath, "wait")
}

// SandboxOf is Sandbox with a command.
func (r *Rig) SandboxOf(t *testing.T, flags []string, command ...string) string {
	t.Helper()
	name := r.Name(t)
	args := append([]string{"sandbox", "run", "-d", "--name", name, "--mount", r.Probe + ":" + ProbePath + ":ro"}, flags...)
	t.Cleanup(func() { r.Remove(t, name) })
	r.OK(t, append(append(args, Base, "--"), command...)...)
	return name
}

// Remove removes a sandbox, whatever state it is in.
func (r *Rig) Remove(t testing.TB, name string) {
	t.Helper()
	if o := r.Do(t, "sandbox", "rm", name); o.Code != 0 && o.Code != 6 {
		t.Errorf("remove %s: %s", name, o.Stderr)
	}
}

// Result is what the probe printed.
type Result map[string]any

// Error is why what the probe tried failed, "" when it worked.
func (p Result) Error() string { s, _ := p["error"].(string); return s }

// Failed reports whether it failed, and within a second.
func (p Result) Failed() bool { return p.Error() != "" && p.MS() < 1000 }

// MS is how long it took, in milliseconds.
func (p Result) MS() float64 { n, _ := p["ms"].(float64); return n }

// String is one of the printed values.
func (p Result) String(key string) string {
	if v, ok := p[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// Run runs the probe in a sandbox.
func (r *Rig) Run(t testing.TB, name string, args ...string) Result {
	t.Helper()
	o := r.Podman(t, append([]string{"exec", r.Container(name), ProbePath}, args...)...)
	var res Result
	if err := json.Unmarshal([]byte(o.Stdout), &res); err != nil {
		state := r.Podman(t, "inspect", "-f", "{{json .State}}", r.Container(name)) // why it does not run
		t.Fatalf("probe %s: exit %d: %s%s%s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr, state.Stdout, state.Stderr)
	}
	return res
}

// Status is `shield status --json`.
type Status struct {
	Posture  string
	Verified bool
	Warnings []string
	Ready    bool
	Adopted  bool
	Waiting  bool
	Restarts int
	Parent   Process
	Worker   Process
	Counters map[string]float64
}

// Process is one of the supervisor's.
type Process struct {
	PID     int    `json:"pid"`
	CapEff  string `json:"cap_eff"`
	CapBnd  string `json:"cap_bnd"`
	Seccomp int    `json:"seccomp"`
}

// Status asks for the status of a sandbox.
func (r *Rig) Status(t testing.TB, name string) Status {
	t.Helper()
	var v struct{ Data Status }
	if err := json.Unmarshal([]byte(r.OK(t, "shield", "status", name, "--json")), &v); err != nil {
		t.Fatal(err)
	}
	return v.Data
}

// Kill sends SIGKILL.
func Kill(t testing.TB, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("pid %d", pid)
	}
	// A worker ends with its parent, so it may be gone before its own turn.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Fatal(err)
	}
}

// Gone reports whether a process has ended (a zombie has).
func Gone(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return strings.HasPrefix(rest, "Z")
}

// Eventually polls until ok, at most for the given time; the polling is the condition itself, not
// a guess of how long something takes.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}
