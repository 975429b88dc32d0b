package store_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/state"
)

// bulk commits a file of n bytes that do not compress to the upstream.
func (w *world) bulk(name string, n int) {
	w.T.Helper()
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte([]byte(name + strings.Repeat(" ", 32))[:32])).Read(b)
	w.Write(name, string(b))
	w.Commit(w.Upstream, "bulk")
}

// index is the content of the base's multi-pack index, "" for none. One that is there has a bitmap and
// says the truth about packs that are there.
func (w *world) index() string {
	w.T.Helper()
	dir := filepath.Join(w.base(), "objects", "pack")
	data, err := os.ReadFile(filepath.Join(dir, "multi-pack-index"))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		w.T.Fatal(err)
	}
	if maps, _ := filepath.Glob(filepath.Join(dir, "multi-pack-index-*.bitmap")); len(maps) != 1 {
		w.T.Errorf("bitmaps: %v", maps)
	}
	w.Git(w.base(), "-c", "core.multiPackIndex=true", "multi-pack-index", "verify")
	count := []string{"-c", "core.multiPackIndex=true", "rev-list", "--count", "--objects", "--all"}
	if by, plain := w.Git(w.base(), append(count, "--use-bitmap-index")...), w.Git(w.base(), count...); by != plain {
		w.T.Errorf("the bitmap reaches %s objects, git %s", by, plain)
	}
	return string(data)
}

// TestBitmap: a base of some size has a bitmap from its first sync on, over all packs but the newest small
// ones, and gc leaves a new one.
//
// spec/gate.md §15.
func TestBitmap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sync(store.Options{})
	if w.index() != "" {
		t.Error("a base of a few kilobytes was indexed")
	}
	w.bulk("big", 3<<20)
	w.sync(store.Options{})
	first := w.index()
	if first == "" {
		t.Fatal("no index")
	}
	w.Write("small", "news")
	w.Commit(w.Upstream, "small")
	w.sync(store.Options{})
	if w.index() != first {
		t.Error("a small sync paid for an index of everything")
	}
	w.bulk("more", 2<<20)
	w.sync(store.Options{})
	second := w.index()
	if second == first {
		t.Error("the index leaves out a large part of the base")
	}
	gc := func() {
		t.Helper()
		if _, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Backups: store.DefaultBackups}); err != nil {
			t.Fatal(err)
		}
		w.Git(w.base(), "-c", "core.multiPackIndex=true", "fsck", "--strict")
	}
	task := w.Task("k3v9p")
	gc()
	third := w.index()
	if third == "" || third == second {
		t.Error("gc beside a borrower left no index of what it packed")
	}
	w.Git(task.Repo, "-c", "core.multiPackIndex=true", "fsck", "--strict")
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	w.Git(w.Upstream, "commit", "-q", "--amend", "-m", "rewritten")
	w.sync(store.Options{Destructive: true, Backups: store.Backups{Off: true, LoseCommits: true}})
	w.Store.Now = func() time.Time { return time.Now().Add(365 * 24 * time.Hour) }
	gc()
	if fourth := w.index(); fourth == "" || fourth == third {
		t.Error("gc without a borrower left no index of what it packed")
	}
}

// TestLooseObjects: what lies in the base outside of packs does not keep it from being indexed.
func TestLooseObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sync(store.Options{})
	id := w.Git(w.base(), "-c", "user.name=A", "-c", "user.email=a@b.test", "commit-tree", "-p", "main", "-m", "loose", "main^{tree}")
	w.Git(w.base(), "update-ref", "refs/heads/side", id)
	w.bulk("big", 2<<20)
	if rep := w.sync(store.Options{}); len(rep.Notes) > 0 || w.index() == "" {
		t.Errorf("not indexed: %q", rep.Notes)
	}
}

// TestKilledBitmap: a sync that is killed while git writes the index leaves a base that is whole and
// served, git's half files do not keep a later sync from writing it, and a git that may still be at it is
// left alone.
func TestKilledBitmap(t *testing.T) {
	if dir := os.Getenv("TEROK_TEST_BITMAP_DIR"); dir != "" {
		// Git is killed with terok after it has made its lock and half a bitmap.
		s := &store.Store{Git: &git.Runner{Path: dir + "/git"}, Roots: state.Roots{Config: dir + "/config", Data: dir + "/data", Runtime: dir + "/run"}}
		_, err := s.SyncWith(t.Context(), gatetest.Project, dir+"/clone", store.Options{Backups: store.DefaultBackups})
		t.Fatal("not killed:", err)
	}
	t.Parallel()
	w := newWorld(t)
	w.bulk("big", 2<<20)
	gatetest.WriteFile(t, w.Dir, "git", `#!/bin/sh
case "$1" in multi-pack-index)
	cd "$GIT_DIR/objects/pack" && echo half >multi-pack-index.lock && echo half >tmp_bitmap_x && echo half >multi-pack-index-0123.bitmap
	kill -9 $PPID $$
esac
exec git "$@"
`)
	if err := os.Chmod(w.Dir+"/git", 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestKilledBitmap$")
	c.Env = append(os.Environ(), "TEROK_TEST_BITMAP_DIR="+w.Dir)
	out, err := c.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v %s", err, out)
	}
	w.Git(w.base(), "-c", "core.multiPackIndex=true", "fsck", "--strict")
	task := w.Task("k3v9p")
	w.Git(w.Dir, "-c", "core.multiPackIndex=true", "clone", "-q", "--no-local", task.Repo, "clone-of-it")
	lock := filepath.Join(w.base(), "objects", "pack", "multi-pack-index.lock")
	if rep := w.sync(store.Options{}); len(rep.Notes) > 0 || w.index() != "" {
		t.Errorf("another git's lock was taken away, or its work called a failure: %q", rep.Notes)
	}
	w.Store.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	if rep := w.sync(store.Options{}); len(rep.Notes) > 0 || w.index() == "" {
		t.Errorf("not indexed after a killed sync: %q", rep.Notes)
	}
	for _, f := range []string{lock, filepath.Join(filepath.Dir(lock), "tmp_bitmap_x")} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s is still there", f)
		}
	}
}

// TestBitmapFails: where no index can be written a sync says so and is done, and gc leaves none that names
// packs which are gone.
func TestBitmapFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bulk("big", 2<<20)
	w.sync(store.Options{})
	for _, name := range []string{"one", "two"} {
		w.Write(name, name)
		w.Commit(w.Upstream, name)
		w.sync(store.Options{})
	}
	if w.index() == "" {
		t.Fatal("no index")
	}
	task := w.Task("k3v9p")
	gatetest.WriteFile(t, w.Dir, "git", "#!/bin/sh\n[ \"$1\" != multi-pack-index ] && exec git \"$@\"\necho no room >&2\nexit 1\n")
	if err := os.Chmod(w.Dir+"/git", 0o755); err != nil {
		t.Fatal(err)
	}
	w.bulk("last", 128<<10)
	w.sync(store.Options{}) // too little for a new index
	w.Store.Git = &git.Runner{Path: w.Dir + "/git"}
	report, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Backups: store.DefaultBackups})
	if err == nil || len(report) != 2 || !strings.Contains(report[1].Error, "no room") {
		t.Errorf("%+v, %v", report, err)
	}
	if w.index() != "" {
		t.Error("the index of before is still there")
	}
	w.Git(task.Repo, "-c", "core.multiPackIndex=true", "fsck", "--strict")
	w.bulk("more", 1<<20)
	if rep := w.sync(store.Options{}); len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "no room") {
		t.Errorf("notes: %q", rep.Notes)
	}
}
