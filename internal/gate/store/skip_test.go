package store_test

import (
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/problem"
)

// TestFsckSkip: an object of upstream that git's checks refuse stops the sync with its id; naming
// that id lets it through, and no other.
func TestFsckSkip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.Store.Init(t.Context(), gatetest.Project, w.Upstream); err != nil {
		t.Fatal(err)
	}
	// Two entries of one name: which one is meant depends on the program that reads it.
	broken := func(name string) (tree string) {
		blob := strings.TrimSpace(w.Git(w.Upstream, "rev-parse", "HEAD:README.md"))
		gatetest.WriteFile(t, w.Dir, "entries", "100644 blob "+blob+"\t"+name+"\n100644 blob "+blob+"\t"+name+"\n")
		tree = strings.TrimSpace(w.Git(w.Upstream, "-c", "alias.x=!git mktree <'"+w.Dir+"/entries'", "x"))
		commit := strings.TrimSpace(w.Git(w.Upstream, "commit-tree", "-m", name, "-p", "HEAD", tree))
		w.Git(w.Upstream, "branch", "-f", name, commit)
		return tree
	}
	sync := func(skip ...string) error {
		_, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Backups: store.DefaultBackups, FsckSkip: skip})
		return err
	}
	one := broken("one")
	if err := sync(); !problem.Is(err, "upstream_object_refused") || !strings.Contains(problem.Of(err).Hint, one) {
		t.Fatalf("%v", err)
	}
	if _, err := w.TryGit(w.base(), "rev-parse", "-q", "--verify", "refs/heads/one"); err == nil {
		t.Error("the branch is there nevertheless")
	}
	if err := sync(strings.Repeat("0", 40)); !problem.Is(err, "upstream_object_refused") {
		t.Errorf("another id: %v", err)
	}
	if err := sync(one); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(w.Git(w.base(), "rev-parse", "refs/heads/one^{tree}")); got != one {
		t.Errorf("%s, want %s", got, one)
	}
	if err := sync(); err != nil {
		t.Errorf("what is here already is not judged again: %v", err)
	}
	two := broken("two")
	if err := sync(one); !problem.Is(err, "upstream_object_refused") || !strings.Contains(problem.Of(err).Hint, two) {
		t.Errorf("the next one: %v", err)
	}
}
