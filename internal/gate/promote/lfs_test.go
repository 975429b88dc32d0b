package promote_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
	"terok/internal/gate/promote"
	"terok/internal/gate/review"
	"terok/internal/problem"
)

// TestLFS: spec/gate.md §13: files in Git LFS go with the commits that point to them, to every target that
// can have them, before its ref moves; one that is nowhere, or only with another task, stops the promotion;
// killed at any step it is finished by running it again.
func TestLFS(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{review.ToClone, review.ToRepo, review.ToGate, review.ToUpstream, review.ToBundle} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, kind == review.ToUpstream)
			own, sibling := lfs.Of(r.repo.Repo), lfs.Of(r.Task("q8w2x").Repo)
			o := gatetest.LFSObject("content")
			r.src.Commit = r.push("new.bin", gatetest.Pointer(o))
			dst := promote.Target{Kind: kind, Branch: "new", LFS: &promote.LFS{}}
			var there lfs.Dir
			switch kind {
			case review.ToGate:
				there = lfs.Of(r.Roots.GateBase(gatetest.Project))
			case review.ToUpstream:
				there = lfs.Of(r.Upstream)
			case review.ToBundle:
				dst.Dir = filepath.Join(r.Dir, "bundle")
			default:
				dst.Dir, there = r.Upstream, lfs.Of(filepath.Join(r.Upstream, ".git"))
			}
			if kind == review.ToBundle { // pointers only
				if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
					t.Fatal(err)
				}
				return
			}
			before := r.Git(r.Upstream, "for-each-ref")
			if err := sibling.Put(t.Context(), o, "t", strings.NewReader("content")); err != nil {
				t.Fatal(err)
			}
			_, err := r.p.Promote(t.Context(), r.src, dst)
			r.want(err, "lfs_missing", problem.Conflict)
			if there.Has(o) || r.Git(r.Upstream, "for-each-ref") != before {
				t.Error("something arrived")
			}
			if err := own.Put(t.Context(), o, "t", strings.NewReader("content")); err != nil {
				t.Fatal(err)
			}
			for _, step := range []string{"gathered", "delivered"} {
				if !r.die(killed{Src: r.src, Dst: dst, Step: step}) {
					t.Errorf("%s is no step", step)
				}
				if r.Git(r.Upstream, "for-each-ref") != before {
					t.Errorf("%s: a ref moved before the files were there", step)
				}
				if step == "delivered" && !there.Has(o) {
					t.Error("the ref would move without the file")
				}
			}
			done, err := r.p.Promote(t.Context(), r.src, dst)
			if err != nil || done.As != r.src.Commit || !there.Has(o) {
				t.Fatalf("%+v %v", done, err)
			}
			if _, err := r.p.Undo(t.Context(), r.task); err != nil {
				t.Errorf("undo: %v", err)
			}
			if kind == review.ToUpstream && r.tip(r.Upstream, "refs/heads/new") != "" {
				t.Error("it is not undone")
			}
		})
	}
}

// TestLFSServer: promotion to upstream sends what the LFS server has not, and tells it where it asks for
// that; a server that refuses keeps the commits here. What the task changed under its name is not sent.
func TestLFSServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, true)
	f := gatetest.NewLFS(t)
	r.Store.Access = f.Access
	own := lfs.Of(r.repo.Repo)
	a, b := f.Add("first"), gatetest.LFSObject("second")
	r.push("a.bin", gatetest.Pointer(a))
	r.src.Commit = r.push("b.bin", gatetest.Pointer(b))
	path := filepath.Join(string(own), "objects", b.OID[:2], b.OID[2:4], b.OID)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("SECOND"), 0o600); err != nil {
		t.Fatal(err)
	}
	dst := r.upstream("new")
	dst.LFS = &promote.LFS{URL: f.URL}
	_, err := r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lfs_not_sent", problem.Failed)
	if err := os.WriteFile(path, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Answer = func(a *lfs.Answer, operation string) {
		if operation == lfs.Upload {
			a.Actions, a.Error = nil, &lfs.Fault{Code: 403, Message: "read only"}
		}
	}
	_, err = r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lfs_not_sent", problem.Failed)
	if r.tip(r.Upstream, "refs/heads/new") != "" || len(f.Objects()) != 1 {
		t.Error("something arrived")
	}
	f.Answer = nil
	if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
		t.Fatal(err)
	}
	if string(f.Objects()[b.OID]) != "second" || !f.Verified(b.OID) || r.tip(r.Upstream, "refs/heads/new") != r.src.Commit {
		t.Error("it did not arrive")
	}
	for _, asked := range f.Asked() {
		if strings.HasPrefix(asked, "PUT") && !strings.HasSuffix(asked, b.OID) {
			t.Errorf("%s: it was there", asked)
		}
	}
}

// TestLFSLate: an approval is of what the person could see. A file in Git LFS that comes after it, though its pointer
// was there, is not promoted until somebody approves again.
func TestLFSLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, false)
	r.task.LFS, r.src.Task.LFS, r.src.Approve = true, true, false
	r.src.Commit = r.push("late.txt", gatetest.Pointer(gatetest.LFSObject("comes later\n")))
	dst := promote.Target{Kind: review.ToClone, Branch: "new", Dir: r.Upstream, LFS: &promote.LFS{}}
	approve := func() {
		t.Helper()
		if _, err := r.p.Review.Approve(t.Context(), r.src.Task, review.Decision{Tip: r.src.Commit, By: "Ada"}); err != nil {
			t.Fatal(err)
		}
	}
	approve()
	_, err := r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lfs_missing", problem.Conflict)
	if err := lfs.Of(r.repo.Repo).Put(t.Context(), gatetest.LFSObject("comes later\n"), "t", strings.NewReader("comes later\n")); err != nil {
		t.Fatal(err)
	}
	_, err = r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "lfs_unseen", problem.Conflict)
	approve()
	if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
		t.Error(err)
	}
}
