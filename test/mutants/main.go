// Command mutants removes one guard at a time and expects the matching attack test to fail.
//
// guards.yml lists the guards. Each entry replaces one piece of one file (it must occur exactly
// once) by another, builds with `go test -overlay`, so that the tree itself is never touched, and
// runs the named tests as the calling user, those of ./test/… by scripts/rootless, those of
// ./test/attack by scripts/world. A guard whose
// removal no test notices is an error, and so is an entry that no longer fits the source, or a
// mutant that does not compile.
//
//	go run ./test/mutants            all guards
//	go run ./test/mutants dns proxy  guards whose package or name contains one of the words
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/config"
)

// guard is one entry of guards.yml.
type guard struct {
	Guard   string `yaml:"guard"`   // what is defended, one line
	File    string `yaml:"file"`    // relative to the repository
	Old     string `yaml:"old"`     // occurs exactly once
	New     string `yaml:"new"`     // what an attacker would like to see there
	Package string `yaml:"package"` // of the test
	Test    string `yaml:"test"`    // -run pattern
	Root    bool   `yaml:"root"`    // the test needs root to notice; left out for others
}

type list struct {
	Guards []guard `yaml:"guards"`
}

func main() {
	var all list
	if err := config.Load("test/mutants/guards.yml", &all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	killed, failed := 0, 0
	for _, g := range all.Guards {
		if !wanted(g, os.Args[1:]) {
			continue
		}
		if g.Root && os.Getuid() != 0 {
			fmt.Printf("left out  %-60s needs root\n", g.Guard)
			continue
		}
		start := time.Now()
		if err := kill(g); err != nil {
			failed++
			fmt.Printf("SURVIVED  %-60s %v\n", g.Guard, err)
			continue
		}
		killed++
		fmt.Printf("killed    %-60s by %s in %.1fs\n", g.Guard, g.Test, time.Since(start).Seconds())
	}
	fmt.Printf("%d passed, %d failed\n", killed, failed)
	if failed > 0 || killed == 0 {
		os.Exit(1)
	}
}

func wanted(g guard, words []string) bool {
	for _, w := range words {
		if strings.Contains(g.Package, w) || strings.Contains(g.Guard, w) {
			return true
		}
	}
	return len(words) == 0
}

// kill runs the guard's tests against the mutant; nil means that they failed as they must.
func kill(g guard) error {
	path, err := filepath.Abs(g.File)
	if err != nil {
		return err
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := bytes.Count(src, []byte(g.Old)); n != 1 {
		return fmt.Errorf("the guarded text occurs %d times in %s", n, g.File)
	}
	dir, err := os.MkdirTemp("", "terok-mutant-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	mutant := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(mutant, bytes.Replace(src, []byte(g.Old), []byte(g.New), 1), 0o644); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o644); err != nil {
		return err
	}
	// In GOFLAGS, so that tests which build the program build the mutant as well.
	env := append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+file))
	if out, err := run(env, "go", "test", "-c", "-o", os.DevNull, g.Package); err != nil {
		return fmt.Errorf("the mutant does not compile: %s", last(out))
	}
	test := []string{"go", "test", "-count=1", "-timeout=5m", "-run", g.Test, g.Package}
	switch {
	case g.Package == "./test/attack": // in the world, which only root can make
		test = append([]string{"scripts/world", "run", "--"}, test...)
	case strings.HasPrefix(g.Package, "./test/"): // end to end: needs podman, which root does not run
		test = append([]string{"scripts/rootless", "run", "--"}, test...)
	}
	out, err := run(env, test[0], test[1:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return fmt.Errorf("no test matches %s", g.Test)
	case err == nil:
		return fmt.Errorf("%s passes without the guard", g.Test)
	case errors.As(err, &exit) && bytes.Contains(out, []byte("--- FAIL")),
		bytes.Contains(out, []byte("panic: test timed out")):
		return nil
	}
	return fmt.Errorf("the tests did not run: %s", last(out))
}

func run(env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = env
	return cmd.CombinedOutput()
}

// last returns the last lines of a program's output.
func last(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}
