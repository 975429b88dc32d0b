package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/state"
)

const otherProject = "webshop2"

// sharedWorld is a gate with one task, and a second project that shares its mirror.
func sharedWorld(t *testing.T) *gatetest.World {
	t.Helper()
	w := gatetest.New(t)
	for _, p := range []string{gatetest.Project, otherProject} {
		if err := state.WriteFile(w.Roots.ProjectFile(p), []byte("{}\n")); err != nil {
			t.Fatal(err)
		}
	}
	w.Gate("k3v9p")
	for _, name := range []string{"reviews.json", "reviews.json.lock", "fsck-skip"} { // of a project that has been used
		gatetest.WriteFile(t, w.Roots.GateDir(gatetest.Project), name, "")
	}
	if err := w.Store.Place(otherProject, w.Roots.GateDir(gatetest.Project)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Init(t.Context(), otherProject, w.Upstream); err != nil {
		t.Fatal(err)
	}
	return w
}

// Spec/gate.md §20: 16. Two projects with one mirror have tasks of their own, see each other's syncs,
// and nothing that one does takes objects away from the other's tasks.
func TestSharedMirror(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	if a, b := w.Roots.GateBase(gatetest.Project), w.Roots.GateBase(otherProject); a != b {
		t.Fatalf("%s and %s", a, b)
	}
	task, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: otherProject, ID: "q1w2e", Branch: "terok/q1w2e-x"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(task.Repo, w.Roots.GateDir(otherProject)+"/") {
		t.Errorf("the task's repository is at %s", task.Repo)
	}
	w.Write("more", "more\n")
	tip := w.Commit(w.Upstream, "third")
	if _, err := w.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{task.Repo, w.Roots.GateTask(gatetest.Project, "k3v9p")} {
		if got := w.Git(repo, "rev-parse", "refs/heads/main"); got != tip {
			t.Errorf("%s does not see the sync: %s", repo, got)
		}
	}
	// The second project's task alone keeps the objects.
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	report, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if last := report[len(report)-1]; !strings.Contains(last.Action, "1 tasks borrow") {
		t.Errorf("gc: %+v", last)
	}
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Reinit: true, Destructive: true}); !problem.Is(err, "gate_in_use") {
		t.Errorf("reinit under another project's task: %v", err)
	}
	// Deleting the project that made the mirror leaves it to the other one; then it goes, too.
	kept, err := w.Store.Remove(gatetest.Project)
	if err != nil || kept != otherProject {
		t.Fatalf("%q, %v", kept, err)
	}
	if err := os.RemoveAll(w.Roots.ProjectDir(gatetest.Project)); err != nil {
		t.Fatal(err)
	}
	w.Git(task.Repo, "fsck", "--strict")
	if _, err := w.Store.Sync(t.Context(), otherProject); err != nil {
		t.Error(err)
	}
	if kept, err := w.Store.Remove(otherProject); err != nil || kept != "" {
		t.Fatalf("%q, %v", kept, err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.Roots.Data, "gate", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPlaceRefuses: tasks begin from what a mirror holds, so it lies nowhere where others write, and it
// never moves away from under them.
func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	place := func(project, home, code string) {
		t.Helper()
		if err := w.Store.Place(project, home); !problem.Is(err, code) {
			t.Errorf("%s at %s: %v, want %s", project, home, err, code)
		}
	}
	home := filepath.Join(w.Dir, "home")
	gatetest.WriteFile(t, home, ".bashrc", "x")
	open := filepath.Join(w.Dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	place("new", home, "gate_path_unsafe")
	place("new", open, "gate_path_unsafe")
	place(gatetest.Project, filepath.Join(w.Dir, "elsewhere"), "gate_path_differs") // a task borrows
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Place(otherProject, ""); err != nil { // nothing borrows, and the mirror stays where it is
		t.Error(err)
	}
	place(gatetest.Project, filepath.Join(w.Dir, "elsewhere"), "gate_path_differs") // it would be left behind
	if err := w.Store.Place("new", filepath.Join(w.Dir, "fresh")); err != nil {
		t.Error(err)
	}
}
