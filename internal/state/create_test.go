package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestCreate: of many who make the same file one succeeds, with its whole content; what is there already, a
// link too, is neither replaced nor followed; what a killed writer left under another name hinders nobody.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "backup.age")
	if err := os.WriteFile(filepath.Join(dir, ".backup.age123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	won := ""
	for i := range 8 {
		all.Go(func() {
			data := strings.Repeat(string(rune('a'+i)), 1<<16)
			switch err := Create(path, []byte(data), 0o640); {
			case err == nil:
				mu.Lock()
				if won != "" {
					t.Error("two made the same file")
				}
				won = data
				mu.Unlock()
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := os.ReadFile(path)
	if err != nil || won == "" || string(got) != won {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", fi, err)
	}
	target := filepath.Join(dir, "target")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := Create(link, []byte("x"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link: %v", err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the link was followed")
	}
	if err := Create(filepath.Join(dir, "missing", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 { // the file, the link, and what the killed one left: it is young
		t.Errorf("%v %v", entries, err)
	}
}
