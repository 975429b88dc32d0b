package guest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
)

// TestAgentChild is the wrapper as a process, started by the tests below with arguments after
// "--": home directory, then the wrapper's own arguments. Without them it does nothing.
func TestAgentChild(t *testing.T) {
	args := flag.Args()
	if len(args) < 2 || args[0] != "agent-child" {
		return
	}
	w := &wrapper{home: args[1], dir: filepath.Join(args[1], ".terok"), environ: os.Environ(), grace: 500 * time.Millisecond}
	code, err := w.main(args[2:])
	fmt.Fprintln(os.Stderr, err)
	os.Exit(code)
}

// runAgent runs the wrapper with an agent that is a shell script; it returns the exit code.
func runAgent(t *testing.T, w *wrapper, program string, args ...string) int {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "demo"), []byte("#!/bin/sh\n"+program), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestAgentChild$", "--", "agent-child", w.home}, args...)...)
	cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "OUT=" + w.home}
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// The prompt reaches the agent byte for byte as its stdin, is in no argument, and the agent's
// exit code is the wrapper's.
func TestHeadlessRun(t *testing.T) {
	w := testWrapper(t, demoAgent)
	prompt := bytes.Repeat([]byte("quote ' \" $(id) `id` \\ é\n\x00"), 40_000)
	if err := os.WriteFile(w.path(filepath.Base(sandbox.PromptFile)), prompt, 0o600); err != nil {
		t.Fatal(err)
	}
	code := runAgent(t, w, `cat > "$OUT/stdin"; tr '\0' ' ' < /proc/$$/cmdline > "$OUT/argv"; exit 7`, "--headless", "demo")
	if code != 7 {
		t.Errorf("exit code %d, want the agent's 7", code)
	}
	if got, _ := os.ReadFile(filepath.Join(w.home, "stdin")); !bytes.Equal(got, prompt) {
		t.Errorf("the agent read %d bytes of a prompt of %d", len(got), len(prompt))
	}
	argv, _ := os.ReadFile(filepath.Join(w.home, "argv"))
	if strings.Contains(string(argv), "quote") || !strings.Contains(string(argv), "--yes -p --id ") {
		t.Errorf("arguments %q", argv)
	}
}

func TestHeadlessWithoutPrompt(t *testing.T) {
	w := testWrapper(t, demoAgent)
	if code := runAgent(t, w, "exit 0", "--headless", "demo"); code != agentFailed {
		t.Errorf("exit code %d", code)
	}
	if err := os.Symlink("/etc/passwd", w.path(filepath.Base(sandbox.PromptFile))); err != nil {
		t.Fatal(err)
	}
	if code := runAgent(t, w, "exit 0", "--headless", "demo"); code != agentFailed {
		t.Errorf("a prompt file that is a link: exit code %d", code)
	}
}

// When the agent has ended, a shell is left in its place.
func TestThenShell(t *testing.T) {
	w := testWrapper(t, demoAgent)
	if code := runAgent(t, w, `echo "$@" > "$OUT/argv"; exit 5`, "--then-shell", "demo"); code != 0 {
		t.Errorf("exit code %d: the shell read the end of its input", code)
	}
	if argv, _ := os.ReadFile(filepath.Join(w.home, "argv")); strings.Contains(string(argv), "-p") {
		t.Errorf("arguments %q", argv)
	}
}
