package child

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	t.Setenv("LEAK", "1")
	out, err := Run(t.Context(), Spec{Path: "/usr/bin/env", Env: []string{"A=b"}})
	if err != nil || string(out) != "A=b\n" {
		t.Errorf("environment: %q, %v", out, err)
	}
	if out, err = Run(t.Context(), Spec{Path: "/usr/bin/env"}); err != nil || len(out) != 0 {
		t.Errorf("no environment at all: %q, %v", out, err)
	}
	_, err = Run(t.Context(), Spec{Path: "/bin/sh", Args: []string{"-c", `printf 'a\033[31mb\n' >&2; exit 7`}})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || strings.Contains(err.Error(), "\x1b") || !strings.Contains(exit.Stderr, "a") {
		t.Errorf("failure: %#v", err)
	}
	if _, err = Run(t.Context(), Spec{Path: "/bin/sh", Args: []string{"-c", "head -c 2000 /dev/zero"}, MaxOutput: 1000}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the cap: %v", err)
	}
}

// TestGroupDies: at the deadline the whole group goes, not only its leader.
func TestGroupDies(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Spec{Path: "/bin/sh", Args: []string{"-c", `sleep 300 & echo $! >` + fifo + `; wait`}, Env: []string{"PATH=/usr/bin:/bin"}})
		done <- err
	}()
	var pid string
	deadline := time.Now().Add(10 * time.Second)
	for pid == "" && time.Now().Before(deadline) {
		data, _ := os.ReadFile(fifo)
		pid = strings.TrimSpace(string(data))
		if pid == "" {
			time.Sleep(5 * time.Millisecond) // polling a file that another process writes
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("want canceled, got %v", err)
	}
	for time.Now().Before(deadline) {
		data, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(data), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("grandchild %s lives", pid)
}

func TestShowMasksSecrets(t *testing.T) {
	got := Show("/usr/bin/podman", []string{"run", "-e", "KEY=s3cret", "--env=TOKEN=s3cret", "--build-arg", "P=s3cret",
		"-c", "http.extraHeader=Authorization: s3cret", "https://user:s3cret@host/x", "a b", "x\x1b[31m", "--env", "NAME"})
	if strings.Contains(got, "s3cret") || strings.Contains(got, "\x1b") {
		t.Errorf("shown: %s", got)
	}
	for _, want := range []string{"KEY=***", "--env=TOKEN=***", "'a b'", "NAME", "://***@host"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
}
