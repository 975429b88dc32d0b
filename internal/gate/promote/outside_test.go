package promote_test

import (
	"os"
	"path/filepath"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/promote"
	"terok/internal/gate/review"
	"terok/internal/problem"
)

// TestHostileClone: a repository that a container can write is no target, whichever way a path leads
// there; git does not open it, so its configuration is not read. Spec/gate.md §4, §12.1.
func TestHostileClone(t *testing.T) {
	r := newRig(t, false)
	workspace := filepath.Join(r.Roots.TaskDir(gatetest.Project, "k3v9p"), "workspace")
	r.Git(r.Dir, "init", "-q", workspace)
	shared := filepath.Join(r.Dir, "shared")
	r.Git(r.Dir, "init", "-q", shared)
	r.p.Writable = []string{shared}
	// A configuration that git cannot read says whether git read it.
	for _, dir := range []string{workspace, shared} {
		gatetest.WriteFile(t, dir, ".git/config", "[broken\n")
		gatetest.WriteFile(t, dir, "sub/file", "x\n")
	}
	link := filepath.Join(r.Dir, "link")
	tree := filepath.Join(r.Dir, "tree")
	borrows := filepath.Join(r.Dir, "borrows")
	common := filepath.Join(r.Dir, "common")
	objects := filepath.Join(r.Dir, "objects")
	for _, dir := range []string{tree, common} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{borrows, objects} {
		r.Git(r.Dir, "clone", "-q", r.Upstream, dir)
	}
	gatetest.WriteFile(t, tree, ".git", "gitdir: ../data/projects/"+gatetest.Project+"/tasks/k3v9p/workspace/.git\n")
	gatetest.WriteFile(t, common, ".git/HEAD", "ref: refs/heads/main\n")
	gatetest.WriteFile(t, common, ".git/commondir", filepath.Join(workspace, ".git")+"\n")
	gatetest.WriteFile(t, borrows, ".git/objects/info/alternates", filepath.Join(workspace, ".git/objects")+"\n")
	if err := os.Symlink(filepath.Join(workspace, "sub"), link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(objects, ".git/objects"), filepath.Join(workspace, "objects")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(workspace, "objects"), filepath.Join(objects, ".git/objects")); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"workspace": workspace, "below": filepath.Join(workspace, "sub"), "link": link, "file .git": tree, "commondir": common, "alternates": borrows, "objects": objects,
		"base": r.Roots.GateBase(gatetest.Project), "task repository": r.repo.Repo, "mount": shared,
	} {
		for _, kind := range []string{review.ToRepo, review.ToClone} {
			_, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: kind, Dir: dir, Branch: "x"})
			if !problem.Is(err, "hostile_clone") || problem.Of(err).Hint == "" {
				t.Errorf("%s: %s: %v", name, kind, err)
			}
		}
		if _, err := r.p.Name(t.Context(), dir, "x"); !problem.Is(err, "hostile_clone") {
			t.Errorf("%s: Name: %v", name, err)
		}
		if _, err := r.p.IsBare(t.Context(), dir); !problem.Is(err, "hostile_clone") {
			t.Errorf("%s: IsBare: %v", name, err)
		}
	}
	if _, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToRepo, Dir: r.Upstream, Branch: "x"}); err != nil {
		t.Errorf("a clone of the person's: %v", err)
	}
	// What became hostile since is not opened for undoing either.
	r.p.Writable = []string{r.Upstream}
	if _, err := r.p.Undo(t.Context(), r.task); !problem.Is(err, "hostile_clone") {
		t.Errorf("undo: %v", err)
	}
}
