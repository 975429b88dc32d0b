package guest

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/server"
	"terok/internal/git"
	"terok/internal/sandbox"
)

// TestLargeFiles: with git-lfs in the image a workspace, borrowing or not, keeps and gets files in LFS from
// the gate, whatever .lfsconfig says, and a hook of the task's own stays; without git-lfs, or where the gate
// has none, nothing is set up and pointers are checked out as they are.
func TestLargeFiles(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	w.Write(".gitattributes", "*.bin filter=lfs -text\n")
	w.Write("a.bin", gatetest.Pointer(gatetest.LFSObject("content")))
	w.Commit(w.Upstream, "large")
	task := w.Gate("k3v9p")
	const token = "terok-g-0123456789"
	srv := httptest.NewServer(server.New(server.Config{Git: &git.Runner{}, Repo: task.Repo, Base: task.Base, Token: token, LFS: true}))
	t.Cleanup(srv.Close)
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bare, full := filepath.Join(w.Dir, "bare"), filepath.Join(w.Dir, "full")
	for _, dir := range []string{bare, full} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(dir, "git")); err != nil {
			t.Fatal(err)
		}
	}
	// Stands in for git-lfs as a filter: what it writes shows that it was asked.
	if err := os.WriteFile(filepath.Join(full, "git-lfs"), []byte("#!/bin/sh\n[ \"$1\" = smudge ] || exit 1\n/bin/cat >/dev/null; echo content\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, borrow string
		lfs          bool
		want         string
	}{
		"borrow":  {full, filepath.Join(task.Base, "objects"), true, "content\n"},
		"clone":   {full, "", true, "content\n"},
		"missing": {bare, "", true, gatetest.Pointer(gatetest.LFSObject("content"))},
		"off":     {full, "", false, gatetest.Pointer(gatetest.LFSObject("content"))},
	} {
		dir := filepath.Join(w.Dir, "work-"+name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		address := strings.Replace(srv.URL, "http://", "http://x:"+token+"@", 1) + server.Path
		clone := &sandbox.Clone{URL: address, Branch: task.Branch, Borrow: c.borrow, UserName: "A", UserEmail: "a@b.test", LFS: c.lfs}
		ws, err := OpenWorkspace(t.Context(), dir, clone, []string{"PATH=" + c.path, "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"})
		if err == nil {
			// The stand-in knows no filter process, which git then does without.
			if c.want == "content\n" {
				w.Git(dir, "config", "--unset", "filter.lfs.process")
			}
			err = ws.CheckOut(t.Context())
		}
		if data, rerr := os.ReadFile(filepath.Join(dir, "a.bin")); err != nil || rerr != nil || string(data) != c.want {
			t.Errorf("%s: %q %v %v", name, data, err, rerr)
		}
		set := c.want == "content\n"
		_, hook := os.Lstat(filepath.Join(dir, ".git", "hooks", "pre-push"))
		address += "/info/lfs"
		for _, key := range []string{"lfs.url", "lfs.pushurl"} {
			if got, _ := w.TryGit(dir, "config", key); set != (got == address) || set != (hook == nil) {
				t.Errorf("%s: %s is %q, hook %v", name, key, got, hook)
			}
		}
		if !set {
			continue
		}
		own := filepath.Join(dir, ".git", "hooks", "pre-push")
		if err := os.WriteFile(own, []byte("mine"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenWorkspace(t.Context(), dir, clone, []string{"PATH=" + c.path, "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}); err != nil {
			t.Error(err)
		}
		if data, _ := os.ReadFile(own); string(data) != "mine" {
			t.Errorf("%s: the task's hook was replaced", name)
		}
	}
}
