package review

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
		r := refs{ids: map[string]string{}}
		_ = r.packed(strings.NewReader(file))
		for name, id := range r.ids {
			if !refname.IsID(id) || !wantedRef(name) || strings.Contains(name, "\n") {
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
	r, err := readRefs(filepath.Join(dir, "repo"))
	if err != nil || len(r.ids) != 2 || r.ids["refs/heads/both"] != a || r.ids["refs/heads/packed"] != b {
		t.Errorf("%v %v", r.ids, err)
	}
}
