package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
)

// refFiles counts the refs of a repository that lie in files of their own.
func refFiles(dir string) (n int) {
	_ = filepath.WalkDir(filepath.Join(dir, "refs"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// TestManyBranches: the first sync of an upstream with very many branches makes no file of each, has all of
// them and the tags, and takes what upstream has by then where it moved since it was asked.
//
// spec/gate.md §15.
func TestManyBranches(t *testing.T) {
	t.Parallel()
	for _, move := range []bool{false, true} {
		w := newWorld(t)
		w.Git(w.Upstream, "tag", "-a", "-m", "first", "v1")
		main := w.Git(w.Upstream, "rev-parse", "main")
		packed := w.Git(w.Upstream, "for-each-ref", "--format=%(objectname) %(refname)") + "\n"
		for i := range 1200 {
			packed += fmt.Sprintf("%s refs/heads/topic%d/b%d\n", main, i%10, i)
		}
		gatetest.WriteFile(t, w.Upstream, ".git/packed-refs", packed)
		files := map[string]int{}
		w.Store.Fault = func(step string) {
			switch {
			case step == "created":
				files[step] = refFiles(w.base() + ".tmp")
			case step == "applied":
				files[step] = refFiles(w.base())
			case step == "listed" && move: // what was listed is nowhere any more
				w.Git(w.Upstream, "checkout", "-q", "-B", "topic1/b1", "main")
				w.Commit(w.Upstream, "moved")
			}
		}
		if move {
			w.Git(w.Upstream, "checkout", "-q", "-B", "topic1/b1", "main")
			w.Commit(w.Upstream, "soon gone")
		}
		rep := w.sync(store.Options{})
		if !move && (files["created"] > 0 || files["applied"] > 0) {
			t.Errorf("files of refs: %v", files)
		}
		if rep.Branches != 1201 || len(rep.Applied) != 1201 || len(rep.Notes) > 0 {
			t.Errorf("%d branches, %d applied, %q", rep.Branches, len(rep.Applied), rep.Notes)
		}
		for _, ns := range []string{"refs/heads/", "refs/tags/"} {
			list := []string{"for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", ns}
			if got, want := w.Git(w.base(), list...), w.Git(w.Upstream, list...); got != want {
				t.Errorf("%s differs: %d and %d bytes", ns, len(got), len(want))
			}
		}
		w.Git(w.base(), "fsck", "--strict")
		w.Store.Fault = nil
		if rep := w.sync(store.Options{}); len(rep.Applied)+len(rep.Pending) > 0 {
			t.Errorf("the next sync finds %d and %d changes", len(rep.Applied), len(rep.Pending))
		}
		w.Task("k3v9p")
	}
}
