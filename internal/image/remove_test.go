package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
)

// TestRemoveAndSweep: what a task has mounted stays, what is pinned stays in a sweep, the rest goes
// with everything of it.
func TestRemoveAndSweep(t *testing.T) {
	b := builder(t)
	make1 := func(version string) Bundle {
		t.Helper()
		tmp := filepath.Join(b.Roots.BundlesDir(), "demo", ".new-1")
		if err := errors.Join(os.MkdirAll(filepath.Join(tmp, "bin"), 0o755), os.WriteFile(filepath.Join(tmp, "bin", "demo"), []byte(version), 0o555)); err != nil {
			t.Fatal(err)
		}
		x := Bundle{Agent: "demo", Package: "p", Version: version, Bin: "bin/demo", Installed: time.Unix(1, 0).UTC()}
		var err error
		if x.Digest, x.Bytes, err = seal(tmp); err != nil {
			t.Fatal(err)
		}
		if err := b.adopt(&x, tmp); err != nil {
			t.Fatal(err)
		}
		return x
	}
	first, second, third := make1("1.0.0"), make1("2.0.0"), make1("3.0.0")
	used := map[string][]string{first.Dir: {"shop/k3v9p"}}
	freed, err := b.Sweep(t.Context(), "demo", used)
	if err != nil || freed != second.Bytes {
		t.Errorf("swept %d: %v", freed, err)
	}
	for dir, want := range map[string]bool{first.Dir: true, second.Dir: false, third.Dir: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	_, err = b.Remove(t.Context(), "demo", used)
	if p := problem.Of(err); p == nil || p.Code != "bundle_in_use" || !strings.Contains(p.Message, "shop/k3v9p") {
		t.Errorf("removed under a task: %v", err)
	}
	if x, err := b.Bundle("demo"); err != nil || x.Version != "3.0.0" {
		t.Errorf("a refused removal changed something: %v", err)
	}
	if freed, err = b.Remove(t.Context(), "demo", nil); err != nil || freed != first.Bytes+third.Bytes {
		t.Errorf("freed %d: %v", freed, err)
	}
	if left, _ := os.ReadDir(filepath.Join(b.Roots.BundlesDir(), "demo")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := b.Bundle("demo"); !problem.Is(err, "agent_not_installed") {
		t.Error(err)
	}
	if _, err := b.Remove(t.Context(), "../x", nil); err == nil {
		t.Error("a name that is a path")
	}
}
