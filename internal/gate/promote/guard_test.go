package promote_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"terok/internal/git"
	"terok/internal/problem"
)

// TestBranchMadeMeanwhile: a person makes the branch in their clone between our look and our
// update: it stays theirs.
func TestBranchMadeMeanwhile(t *testing.T) {
	r := newRig(t, false)
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	wrapper := filepath.Join(r.Dir, "git")
	script := "#!/bin/sh\nif [ \"$1\" = fetch ]; then " + real + " update-ref refs/heads/contested refs/heads/main || exit 99; fi\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	r.p.Git = &git.Runner{Path: wrapper}
	_, err = r.p.Promote(t.Context(), r.src, r.clone("contested"))
	r.want(err, "branch_exists", problem.Conflict)
	if got, want := r.tip(r.Upstream, "refs/heads/contested"), r.tip(r.Upstream, "refs/heads/main"); got != want || got == "" {
		t.Errorf("the person's branch is at %s, not at %s", got, want)
	}
}
