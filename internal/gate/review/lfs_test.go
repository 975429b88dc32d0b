package review_test

import (
	"slices"
	"strings"
	"testing"

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
		if err := dir.Put(t.Context(), o, "t", strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	put(lfs.Of(sibling.Repo), a, "first")
	for range 2 { // the second look is from what was kept
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
