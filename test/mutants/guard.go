package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"terok/internal/config"
)

// guard is one entry of guards.yml.
type guard struct {
	Guard   string `yaml:"guard"`   // what is defended, one line; no two are the same
	File    string `yaml:"file"`    // relative to the repository
	Old     string `yaml:"old"`     // occurs exactly once
	New     string `yaml:"new"`     // what an attacker would like to see there
	Package string `yaml:"package"` // of the test
	Test    string `yaml:"test"`    // -run pattern
	Root    bool   `yaml:"root"`    // the test needs root to notice; left out for others

	// Rows are the subtests of Test that have to fail, these and no other; none: any failure will do.
	Rows []string `yaml:"rows"`
}

// load reads guards.yml of the repository at root.
func load(root string) ([]guard, error) {
	var list struct {
		Guards []guard `yaml:"guards"`
	}
	err := config.Load(filepath.Join(root, "test/mutants/guards.yml"), &list)
	return list.Guards, err
}

func (g guard) endToEnd() bool { return strings.HasPrefix(g.Package, "./test/") }

// mutate returns the guard's file without the guard.
func (g guard) mutate(root string) ([]byte, error) {
	src, err := os.ReadFile(filepath.Join(root, g.File))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(src, []byte(g.Old)); n != 1 {
		return nil, fmt.Errorf("the guarded text occurs %d times in %s", n, g.File)
	}
	return bytes.Replace(src, []byte(g.Old), []byte(g.New), 1), nil
}

// fingerprint changes with the entry and with the Go files beside the guard and beside its test.
// For end-to-end tests, which use everything, it is a hint only.
func (g guard) fingerprint(root string) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(g); err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Dir(g.File), g.Package} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %d\n%s", f, len(src), src)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// lab runs tests with a guard in place and without.
type lab struct {
	chosen []guard

	mu        sync.Mutex
	baselines map[string]*baseline // by package
}

// baseline is whether the tests of one package pass while no guard is missing.
type baseline struct {
	once sync.Once
	err  error
}

// try builds and runs one mutant.
func (l *lab) try(ctx context.Context, g guard) result {
	res := result{Guard: g.Guard, Verdict: broken, Test: g.Test}
	start := time.Now()
	verdict, err := func() (string, error) {
		var err error
		if res.Fingerprint, err = g.fingerprint("."); err != nil {
			return broken, err
		}
		if err := l.baseline(ctx, g); err != nil {
			return broken, err
		}
		start = time.Now()
		return kill(ctx, g)
	}()
	res.Verdict, res.Seconds = verdict, time.Since(start).Seconds()
	if err != nil {
		res.Why = err.Error()
	}
	return res
}

// baseline runs all chosen tests of g's package with every guard in place, once.
func (l *lab) baseline(ctx context.Context, g guard) error {
	l.mu.Lock()
	b := l.baselines[g.Package]
	if b == nil {
		b = &baseline{}
		l.baselines[g.Package] = b
	}
	l.mu.Unlock()
	b.once.Do(func() {
		var patterns []string
		for _, other := range l.chosen {
			if other.Package == g.Package {
				patterns = append(patterns, other.Test)
			}
		}
		dir, err := workDir()
		if err != nil {
			b.err = err
			return
		}
		defer os.RemoveAll(dir)
		out, err := build(ctx, os.Environ(), dir, g.Package)
		if err != nil {
			b.err = fmt.Errorf("%s does not compile: %s", g.Package, last(out))
			return
		}
		if out, err = test(ctx, os.Environ(), dir, g.Package, strings.Join(patterns, "|")); err != nil {
			b.err = fmt.Errorf("%s fails with every guard in place: %s", g.Package, last(out))
		}
	})
	return b.err
}

// kill runs the guard's tests against the mutant. They fail as they must if the verdict is killed.
func kill(ctx context.Context, g guard) (verdict string, err error) {
	src, err := g.mutate(".")
	if err != nil {
		return broken, err
	}
	path, err := filepath.Abs(g.File)
	if err != nil {
		return broken, err
	}
	dir, err := workDir()
	if err != nil {
		return broken, err
	}
	defer os.RemoveAll(dir)
	mutant := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(mutant, src, 0o644); err != nil {
		return broken, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		return broken, err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o644); err != nil {
		return broken, err
	}
	// In GOFLAGS, so that tests which build the program build the mutant as well.
	env := append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+file))
	if out, err := build(ctx, env, dir, g.Package); err != nil {
		return broken, fmt.Errorf("the mutant does not compile: %s", last(out))
	}
	out, err := test(ctx, env, dir, g.Package, g.Test)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return broken, ctx.Err()
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return broken, fmt.Errorf("no test matches %s", g.Test)
	case err == nil:
		return survived, fmt.Errorf("%s passes without the guard", g.Test)
	case len(g.Rows) > 0 && !slices.Equal(failedRows(out, g.Test), slices.Sorted(slices.Values(g.Rows))):
		return survived, fmt.Errorf("of the rows %v fail, not %v", failedRows(out, g.Test), g.Rows)
	case errors.As(err, &exit) && bytes.Contains(out, []byte("--- FAIL")),
		bytes.Contains(out, []byte("panic: test timed out")):
		return killed, nil
	}
	return broken, fmt.Errorf("the tests did not run: %s", last(out))
}

// failedRows lists the subtests of test that failed, sorted.
func failedRows(out []byte, test string) []string {
	var rows []string
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "+strings.Trim(test, "^$")+"/"); ok {
			row, _, _ := strings.Cut(rest, " ")
			rows = append(rows, row)
		}
	}
	slices.Sort(rows)
	return slices.Compact(rows)
}

// workDir makes a directory that the user of scripts/rootless can read.
func workDir() (string, error) {
	dir, err := os.MkdirTemp("", "terok-mutant-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// build makes dir/test, the test program of pkg.
func build(ctx context.Context, env []string, dir, pkg string) ([]byte, error) {
	return command(ctx, env, ".", "go", "test", "-c", "-o", filepath.Join(dir, "test"), pkg)
}

// test runs dir/test, where `go test` would.
func test(ctx context.Context, env []string, dir, pkg, pattern string) ([]byte, error) {
	args := []string{filepath.Join(dir, "test"), "-test.timeout=5m", "-test.run=" + pattern}
	scripts, err := filepath.Abs("scripts")
	if err != nil {
		return nil, err
	}
	switch {
	case pkg == "./test/attack": // in the world, which only root can make
		args = append([]string{filepath.Join(scripts, "world"), "run", "--"}, args...)
	case strings.HasPrefix(pkg, "./test/"): // end to end: needs podman, which root does not run
		args = append([]string{filepath.Join(scripts, "rootless"), "run", "--"}, args...)
	}
	return command(ctx, env, pkg, args[0], args[1:]...)
}

// command runs a program to its end; when ctx ends, its whole process group ends.
func command(ctx context.Context, env []string, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir = env, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd.CombinedOutput()
}

// last returns the last lines of a program's output.
func last(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}
