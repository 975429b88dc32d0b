package store_test

import (
	"path/filepath"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/problem"
)

// TestWorkTreeElsewhere: a repository's configuration cannot make other files of the person part of
// a task: a downloaded directory may name any place as its working tree.
func TestWorkTreeElsewhere(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	home := filepath.Join(w.Dir, "home")
	gatetest.WriteFile(t, home, ".ssh/id_ed25519", "secret")
	w.Git(w.Upstream, "config", "core.worktree", home)
	clone := store.Clone{Dir: w.Upstream, Uncommitted: true, Name: "Ada", Email: "ada@example.test"}
	if work, err := w.Store.Uncommitted(t.Context(), gatetest.Project, clone); !problem.Is(err, "other_worktree") {
		t.Errorf("uncommitted are %v: %v", work.New, err)
	}
	_, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "aaaaa", Branch: "terok/aaaaa-x", Clone: &clone})
	if !problem.Is(err, "other_worktree") {
		t.Errorf("a task was made: %v", err)
	}
}
