package child

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLimits: what a child may use is bounded for it and for what it starts.
func TestLimits(t *testing.T) {
	limits := []Limit{{unix.RLIMIT_FSIZE, 1 << 16}, {unix.RLIMIT_CORE, 0}}
	out, err := Run(t.Context(), Spec{Path: "/bin/sh", Args: []string{"-c", "until [ $(ulimit -c) = 0 ]; do :; done; sh -c 'ulimit -f; ulimit -c'"}, Env: []string{"PATH=/usr/bin:/bin"}, Limits: limits})
	if err != nil || string(out) != "128\n0\n" {
		t.Fatalf("limits of the grandchild: %q, %v", out, err)
	}
	_, err = Run(t.Context(), Spec{Path: "/bin/sh", Args: []string{"-c", "until [ $(ulimit -c) = 0 ]; do :; done; exec dd if=/dev/zero of=" + t.TempDir() + "/f bs=64k count=4"}, Env: []string{"PATH=/usr/bin:/bin"}, Limits: limits})
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Code == 0 {
		t.Errorf("a file over the limit: %v", err)
	}
}
