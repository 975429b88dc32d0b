package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
	"terok/internal/gate/store"
)

func proxy(o store.Options) store.Options {
	o.LFS, o.Backups = true, store.DefaultBackups
	return o
}

// put writes an object into the lfs directory of a repository.
func put(t *testing.T, dir lfs.Dir, content string) lfs.Object {
	t.Helper()
	o := gatetest.LFSObject(content)
	if err := dir.Put(t.Context(), o, "test", strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestLFSLocal: spec/gate.md §13. A sync from a clone of this machine brings the files that its branches,
// and their new history, keep in LFS; what is not there is noted, counted and asked for again; a
// .lfsconfig is content.
func TestLFSLocal(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	theirs := lfs.Of(filepath.Join(w.Upstream, ".git"))
	a, gone := put(t, theirs, "first"), gatetest.LFSObject("gone")
	w.Write("a.bin", gatetest.Pointer(a))
	w.Write("gone.bin", gatetest.Pointer(gone))
	w.Write(".lfsconfig", "[lfs]\n\turl = https://192.0.2.1/x\n")
	w.Write("broken.bin", strings.ReplaceAll(gatetest.Pointer(a), a.OID, "../../x"))
	w.Commit(w.Upstream, "large")
	rep, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{}))
	if err != nil || rep.LFS == nil || rep.LFS.Objects != 1 || rep.LFS.Missing != 1 || !strings.Contains(fmt.Sprint(rep.Notes), "not on the LFS server") {
		t.Fatalf("%+v %v", rep, err)
	}
	have := lfs.Of(w.Roots.GateBase(gatetest.Project))
	if !have.Has(a) || have.Has(gone) {
		t.Error("the wrong objects are there")
	}
	if v, err := w.Store.Status(t.Context(), gatetest.Project); err != nil || v.Large == nil || v.Large.Objects != 2 || v.Large.Missing != 1 {
		t.Errorf("status: %+v %v", v.Large, err)
	}
	// It appears there later, and history has one that no tip has.
	put(t, theirs, "gone")
	between := put(t, theirs, "between")
	w.Write("b.bin", gatetest.Pointer(between))
	w.Commit(w.Upstream, "between")
	w.Write("b.bin", "small after all\n")
	w.Commit(w.Upstream, "after")
	rep, err = w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{}))
	if err != nil || rep.LFS == nil || rep.LFS.Objects != 2 || rep.LFS.Missing != 0 || !have.Has(gone) || !have.Has(between) {
		t.Errorf("%+v %v", rep.LFS, err)
	}
	if rep, err = w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{})); err != nil || rep.LFS != nil {
		t.Errorf("nothing is new: %+v %v", rep.LFS, err)
	}
	// What is cut off, or planted under a wrong name, is refused.
	bad := gatetest.LFSObject("right")
	path := filepath.Join(string(theirs), "objects", bad.OID[:2], bad.OID[2:4], bad.OID)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("wrong"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Write("c.bin", gatetest.Pointer(bad))
	w.Commit(w.Upstream, "bad")
	rep, err = w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{}))
	if err == nil || !strings.Contains(fmt.Sprint(rep.Errors), "digest") || have.Has(bad) {
		t.Errorf("%+v %v", rep, err)
	}
	// A base that is made anew has what the old one had.
	if err := os.RemoveAll(string(theirs)); err != nil {
		t.Fatal(err)
	}
	if rep, err = w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{Reinit: true, Destructive: true})); err != nil && rep.LFS == nil {
		t.Fatalf("%+v %v", rep, err)
	}
	if !have.Has(a) || !have.Has(gone) {
		t.Error("the objects of the old base are lost")
	}
	if rep, err = w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Backups: store.DefaultBackups}); err != nil {
		t.Fatal(err)
	}
	if v, err := w.Store.Status(t.Context(), gatetest.Project); err != nil || v.Large != nil {
		t.Errorf("off: %+v %v", v.Large, err)
	}
}

// TestLFSServer: spec/gate.md §13. Over https the address follows from the upstream's or is the
// operator's, over ssh the server says it, by the ssh of a fetch; never does .lfsconfig.
func TestLFSServer(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	f := gatetest.NewLFS(t)
	a := f.Add("first")
	w.Write("a.bin", gatetest.Pointer(a))
	w.Commit(w.Upstream, "large")
	w.Store.Access = f.Access
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{LFSURL: f.URL})); err != nil {
		t.Fatal(err)
	}
	if !lfs.Of(w.Roots.GateBase(gatetest.Project)).Has(a) {
		t.Error("it did not come from gate.lfs_url")
	}
	// A server that cannot be used leaves the sync what it is, and says so.
	f.Password = "secret"
	b := f.Add("second")
	w.Write("b.bin", gatetest.Pointer(b))
	tip := w.Commit(w.Upstream, "more")
	rep, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{LFSURL: f.URL}))
	if err == nil || !strings.Contains(err.Error(), "does not let us in") || len(rep.Applied) != 1 || rep.Applied[0].New != tip {
		t.Errorf("%+v %v", rep, err)
	}
	f.Password = ""
	for _, address := range []string{strings.TrimSuffix(f.URL, "/info/lfs"), strings.TrimSuffix(f.URL, ".git/info/lfs")} {
		got, err := w.Store.FetchLFS(t.Context(), store.Upstream{URL: address, Protocol: "https"}, []lfs.Object{b})
		if err != nil || len(got.Missing)+len(got.Failed) != 0 {
			t.Errorf("%s: %+v %v", address, got, err)
		}
	}
	script := filepath.Join(w.Dir, "ssh")
	answer := `{"href":"` + f.URL + `","header":{"X-Key":"k"},"expires_in":60}`
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >"+w.Dir+"/args\necho '"+answer+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	access := func(ctx context.Context, project string, up store.Upstream) (store.Access, error) {
		acc, err := f.Access(ctx, project, up)
		acc.Env = []string{"GIT_SSH_COMMAND=" + script}
		return acc, err
	}
	w.Store.Access = access
	got, err := w.Store.FetchLFS(t.Context(), store.Upstream{URL: "ssh://git@127.0.0.1:2222/ada/it's.git", Protocol: "ssh"}, []lfs.Object{b})
	if err != nil || len(got.Missing)+len(got.Failed) != 0 {
		t.Errorf("ssh: %+v %v", got, err)
	}
	args, _ := os.ReadFile(filepath.Join(w.Dir, "args"))
	if want := `-p 2222 -- git@127.0.0.1 git-lfs-authenticate '/ada/it'\''s.git' download` + "\n"; string(args) != want {
		t.Errorf("ssh got %q", args)
	}
	for bad, why := range map[string]string{"{}": "not understood", `{"href":"http://127.0.0.1/x"}`: "not understood", "?": "not understood", `{"href":"https://192.0.2.1:1/x"} {}`: "not understood"} {
		if err := os.WriteFile(script, []byte("#!/bin/sh\necho '"+bad+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.FetchLFS(t.Context(), store.Upstream{URL: "git@127.0.0.1:x", Protocol: "ssh"}, []lfs.Object{b}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestLFSUpkeep: gc drops what no branch of the base or of a task points to, and nothing else; a task
// that begins from a clone, or from another task, has what its start points to.
func TestLFSUpkeep(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	theirs := lfs.Of(filepath.Join(w.Upstream, ".git"))
	a := put(t, theirs, "first")
	w.Write("a.bin", gatetest.Pointer(a))
	w.Commit(w.Upstream, "large")
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, proxy(store.Options{})); err != nil {
		t.Fatal(err)
	}
	local := put(t, theirs, "local")
	w.Git(w.Upstream, "checkout", "-q", "--detach")
	w.Write("local.bin", gatetest.Pointer(local))
	w.Commit(w.Upstream, "local")
	clone := &store.Clone{Dir: w.Upstream, Name: "Ada", Email: "ada@example.test"}
	task, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "k3v9p", Branch: "terok/k3v9p", Clone: clone, LFS: true})
	if err != nil {
		t.Fatal(err)
	}
	own := lfs.Of(task.Repo)
	if !own.Has(local) || own.Has(a) {
		t.Error("the start's own objects, and only they, are the task's")
	}
	next, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "q8w2x", Branch: "terok/q8w2x", LFS: true,
		From: &store.Handover{Task: "k3v9p", Own: "terok/k3v9p"}})
	if err != nil || !lfs.Of(next.Repo).Has(local) {
		t.Errorf("handed over: %v", err)
	}
	base := lfs.Of(w.Roots.GateBase(gatetest.Project))
	unused, promoted := put(t, base, "unused"), put(t, base, "local")
	old := put(t, own, "old upload")
	gc := func(keep time.Duration) {
		t.Helper()
		if _, err := w.Store.GC(t.Context(), gatetest.Project, store.GCOptions{Keep: keep, Backups: store.DefaultBackups}); err != nil {
			t.Fatal(err)
		}
	}
	if gc(time.Hour); !base.Has(unused) || !own.Has(old) {
		t.Error("young objects are dropped")
	}
	w.Store.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if gc(time.Hour); base.Has(unused) || own.Has(old) {
		t.Error("unused objects stay")
	}
	if !base.Has(a) || !base.Has(promoted) || !own.Has(local) {
		t.Error("objects in use are dropped")
	}
	bundle := filepath.Join(w.Dir, "kept.bundle")
	if kept, err := w.Store.Bundle(t.Context(), gatetest.Project, "q8w2x", bundle); err != nil {
		t.Errorf("bundle: %v %v", kept, err)
	} else if kept && !lfs.Dir(bundle+".lfs").Has(local) {
		t.Error("the bundle is kept without its files in LFS")
	}
	// Links in a task's directory make it one that terok did not write.
	if err := os.Symlink("/etc", filepath.Join(string(own), "objects", "zz")); err != nil {
		t.Fatal(err)
	}
	if err := store.Verify(task.Repo, w.Store.ObjectsDir(gatetest.Project)); err == nil {
		t.Error("a link is not noticed")
	}
	if err := w.Store.DeleteTask(t.Context(), gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(string(own)); err == nil {
		t.Error("a deleted task's objects stay")
	}
}
