package refs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/refname"
)

// FuzzPacked: a packed-refs file may hold any bytes; what comes out are ids under names of ours.
func FuzzPacked(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add("# pack-refs with: peeled fully-peeled sorted \n" + id + " refs/heads/main\n" + id + " refs/tags/v1\n^" + id + "\n" + id + " refs/terok/start\n")
	f.Fuzz(func(t *testing.T, file string) {
		r := &Refs{IDs: map[string]string{}, below: []string{refname.Heads, "refs/terok/"}}
		_ = r.packed(strings.NewReader(file))
		for name, id := range r.IDs {
			if !refname.IsID(id) || !r.wanted(name) || strings.Contains(name, "\n") {
				t.Errorf("%q %q", name, id)
			}
		}
	})
}

// TestRefsAreFiles: a link that appears after the repository was verified leads nowhere, and a loose
// ref wins over a packed one.
func TestRefsAreFiles(t *testing.T) {
	dir, a, b := t.TempDir(), strings.Repeat("a", 40), strings.Repeat("b", 40)
	heads := filepath.Join(dir, "repo", "refs", "heads")
	for path, content := range map[string]string{"outside/x": a + "\n", "repo/refs/heads/both": a + "\n", "repo/packed-refs": b + " refs/heads/both\n" + b + " refs/heads/packed\n"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": filepath.Join(dir, "outside/x"), "linkdir": filepath.Join(dir, "outside")} {
		if err := os.Symlink(target, filepath.Join(heads, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Read(filepath.Join(dir, "repo"))
	if err != nil || len(r.IDs) != 2 || r.IDs["refs/heads/both"] != a || r.IDs["refs/heads/packed"] != b {
		t.Errorf("%v %v", r.IDs, err)
	}
}
