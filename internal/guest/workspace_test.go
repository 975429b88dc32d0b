package guest

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/server"
	"terok/internal/git"
	"terok/internal/sandbox"
)

// TestWorkspaces: with borrowed objects and without, a workspace is at the task's branch with nothing to
// commit, shares no inode with the base, and whatever is written over its objects leaves the base whole.
//
// spec/gate.md §20: 54 (borrow, clone; copy is not built).
func TestWorkspaces(t *testing.T) {
	w := gatetest.New(t)
	task := w.Gate("k3v9p")
	const token = "terok-g-0123456789"
	srv := httptest.NewServer(server.New(server.Config{Git: &git.Runner{}, Repo: task.Repo, Base: task.Base, Token: token}))
	defer srv.Close()
	objects := filepath.Join(task.Base, "objects")
	base := inodes(t, objects)
	for name, borrow := range map[string]string{"borrow": objects, "clone": ""} {
		dir := filepath.Join(w.Dir, "work-"+name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c := &sandbox.Clone{URL: strings.Replace(srv.URL, "http://", "http://x:"+token+"@", 1) + server.Path, Branch: task.Branch, Borrow: borrow, UserName: "A", UserEmail: "a@b.test"}
		trace := filepath.Join(w.Dir, "trace-"+name)
		env := []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_TRACE2=" + trace}
		open := func() {
			t.Helper()
			ws, err := OpenWorkspace(t.Context(), dir, c, env)
			if err == nil {
				err = ws.CheckOut(t.Context())
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if head := w.Git(dir, "rev-parse", "HEAD"); head != task.Start {
				t.Errorf("%s: HEAD is %s", name, head)
			}
			if main := w.Git(dir, "rev-parse", "refs/remotes/upstream/main"); main != task.Start {
				t.Errorf("%s: the base's main is %s", name, main)
			}
			if out := w.Git(dir, "status", "--porcelain"); out != "" {
				t.Errorf("%s: %s", name, out)
			}
		}
		open()
		if ran, err := os.ReadFile(trace); err != nil || !strings.Contains(string(ran), "-c checkout.workers=") {
			t.Errorf("%s: the files were written by one process: %v", name, err)
		}
		// Killed in the middle of writing files: the next start goes on.
		for _, f := range []string{".git/index", "README.md"} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, unfinished), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		open()
		// A later start changes nothing of what the task did.
		gatetest.WriteFile(t, dir, "README.md", "the task's\n")
		ws, err := OpenWorkspace(t.Context(), dir, c, env)
		if err == nil {
			err = ws.CheckOut(t.Context())
		}
		if data, rerr := os.ReadFile(filepath.Join(dir, "README.md")); err != nil || rerr != nil || string(data) != "the task's\n" {
			t.Errorf("%s: %q %v %v", name, data, err, rerr)
		}
		for inode, path := range inodes(t, filepath.Join(dir, ".git", "objects")) {
			if theirs, shared := base[inode]; shared {
				t.Errorf("%s: %s is %s", name, path, theirs)
			}
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("broken"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Git(task.Base, "fsck", "--strict", "--full")
}

// inodes are the files below a directory.
func inodes(t *testing.T, dir string) map[uint64]string {
	t.Helper()
	all := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Nlink != 1 {
			t.Errorf("%s has %d names", path, st.Nlink)
		}
		all[st.Ino] = path
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
