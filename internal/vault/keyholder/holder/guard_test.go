package holder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"terok/internal/state"
)

// guards counts the guards of a tree that live.
func (r *rig) guards() (n int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte("keyholder-guard\x00"+r.roots.Data+"\x00")) {
			n++
		}
	}
	return n
}

// TestGuard: a keyholder that crashed is followed by what opens the vault without a person, in the
// environment of whoever started it; one that a person locked, that panic killed or that ended by itself
// is not, and no guard outlives it. spec/vault.md §10: 64.
func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(t *testing.T, r *rig, pid int)
		follow bool
	}{
		{"killed", func(t *testing.T, _ *rig, pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }, true},
		{"aborted", func(t *testing.T, _ *rig, pid int) { _ = syscall.Kill(pid, syscall.SIGABRT) }, true},
		{"asked to end", func(t *testing.T, _ *rig, pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }, false},
		{"locked", func(t *testing.T, r *rig, _ int) {
			if err := r.client().Lock(r.ctx); err != nil {
				t.Error(err)
			}
		}, false},
		{"killed after a person locked", func(t *testing.T, r *rig, pid int) {
			if err := state.WriteFile(r.roots.VaultLocked(), nil); err != nil {
				t.Error(err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}, false},
		{"panic", func(t *testing.T, r *rig, pid int) {
			if err := state.WriteFile(r.roots.PanicLock(), nil); err != nil {
				t.Error(err)
			}
			if _, err := Kill(r.roots); err != nil { // it may have seen the lock and ended already
				t.Error(err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			t.Cleanup(func() { _, _ = Kill(r.roots) })
			mark := filepath.Join(r.roots.Data, "woken")
			g := Guard{Wake: []string{"/bin/sh", "-c", `echo "$HOW $0" > "$1"`, "as-told", mark}, Environ: []string{"HOW=as-a-person"}}
			if err := Start(r.ctx, os.Args[0], r.roots, g); err != nil {
				t.Fatal(err)
			}
			st, err := r.unlock().Status(r.ctx)
			if err != nil || r.guards() != 1 {
				t.Fatal(err, r.guards())
			}
			if environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", st.PID)); bytes.Contains(environ, []byte("HOW=")) {
				t.Error("the keyholder has the person's environment")
			}
			c.end(t, r, st.PID)
			r.eventually("the guard ends", func() bool { return r.guards() == 0 })
			data, err := os.ReadFile(mark)
			if (err == nil) != c.follow || c.follow && strings.TrimSpace(string(data)) != "as-a-person as-told" {
				t.Errorf("followed: %q %v", data, err)
			}
		})
	}
	t.Run("one that cannot start says why", func(t *testing.T) {
		r := newRig(t)
		if err := state.WriteFile(r.roots.PanicLock(), nil); err != nil {
			t.Fatal(err)
		}
		err := Start(r.ctx, os.Args[0], r.roots, Guard{Wake: []string{"/bin/false"}})
		if err == nil || !strings.Contains(err.Error(), "panic lock") {
			t.Error(err)
		}
		r.eventually("the guard ends", func() bool { return r.guards() == 0 })
	})
}
