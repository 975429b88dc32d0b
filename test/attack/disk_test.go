package attack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// TestFullDisk: a container whose state lies on a disk that is full. Enforcement goes on, the loss is
// loud, and where the ledger is required the container is in quarantine until there is room again.
// Spec: shield.md §6 (audit.required), issue 3 "Full disk".
//
// The disk is a small tmpfs that is mounted over the sandbox's directory where its supervisor lives, in
// podman's mount namespace; a new worker opens its ledger there.
func TestFullDisk(t *testing.T) {
	w, roots := internet(t)
	config := filepath.Join(rig, "c", "terok", "config.yml")
	for _, required := range []bool{false, true} {
		if required {
			if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(config, []byte("audit:\n  required: true\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(config) })
		}
		b := start(t, "--allow", "a.test:443")
		dir := filepath.Join(rig, "d", "terok", "sandboxes", b.name)
		inside := func(line string) {
			t.Helper()
			if out, err := exec.Command("podman", "unshare", "sh", "-euc", line, "sh", dir).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
		inside(`cp -a "$1" "$1.copy"; mount -t tmpfs -o size=2m,mode=700 tmpfs "$1"; cp -a "$1.copy/." "$1"; rm -rf "$1.copy"`)
		t.Cleanup(func() { _ = exec.Command("podman", "unshare", "umount", "-l", dir).Run() })
		status := func() control.Status {
			t.Helper()
			st, err := b.client().Status(t.Context())
			if err != nil {
				return control.Status{}
			}
			return st
		}
		until := func(what string, ok func(control.Status) bool) {
			t.Helper()
			var st control.Status
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if st = status(); ok(st) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("required %v, never: %s: %+v", required, what, st)
				}
			}
		}
		old := status().Worker.PID
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until("another worker", func(st control.Status) bool {
			return st.Worker.PID != 0 && st.Worker.PID != old && st.Posture == control.Up
		})
		works(t, b, "https://a.test/", roots)
		inside(`dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null || true`)
		var many []attempt
		for i := range 40 { // more lines than the last page of the file has room for
			many = append(many, attempt{"tcp", fmt.Sprintf("c%d.test:7000", i), []byte("x")})
		}
		refusedAll(t, b, many)
		until("the loss is told", func(st control.Status) bool { return st.Ledger != "ok" && len(st.Warnings) > 0 })
		if required {
			until("quarantine", func(st control.Status) bool { return st.Posture == control.Quarantine })
			if _, code, err := b.get("https://a.test/", roots); err == nil && code == 200 {
				t.Error("the ledger is required and cannot be written: something is reached")
			}
		} else {
			works(t, b, "https://a.test/", roots)
		}
		refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("x")}, {"tcp", "203.0.113.10:7000", []byte("x")}})
		inside(`rm "$1/fill"`)
		refusedAll(t, b, []attempt{{"tcp", "d.test:7000", []byte("x")}})
		until("all is well again", func(st control.Status) bool { return st.Posture == control.Up && st.Ledger == "ok" })
		works(t, b, "https://a.test/", roots)
		inside(`test -s "` + sandbox.LedgerPath(dir) + `"`)
		sawOnly(t, w, "a.test", "203.0.113.10:443")
	}
}
