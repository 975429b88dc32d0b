package server

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/git"
)

// TestCloneReusesThePack: a task is cloned by the bitmap of the base that it borrows from: what the base has
// goes out as it lies in its pack, and only the task's own commits are put together.
//
// spec/gate.md §15.
func TestCloneReusesThePack(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	w.Write("big", noise(2<<20))
	w.Commit(w.Upstream, "bulk")
	s := serveTask(t, w, w.Gate("k3v9p"))
	inBase := strings.Count(s.Git(s.task.Base, "rev-list", "--objects", "--all"), "\n") + 1
	s.commit("own.txt", "work")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	dir := filepath.Join(w.Dir, "second")
	var said strings.Builder
	if _, err := (&git.Runner{}).Run(t.Context(), git.Cmd{Dir: w.Dir, Args: []string{"clone", "--progress", s.url, dir}, Protocols: []string{"http"},
		Config: []string{"protocol.allow=always"}, Stderr: &said}); err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`Total (\d+) .*pack-reused (\d+)`).FindStringSubmatch(said.String())
	if m == nil || m[2] != strconv.Itoa(inBase) || m[1] != strconv.Itoa(inBase+3) { // a commit, a tree, a file
		t.Errorf("the base has %d objects, git says %q", inBase, said.String())
	}
	s.Git(dir, "fsck", "--strict")
	if got, want := s.Git(dir, "rev-parse", "HEAD"), s.Git(s.work, "rev-parse", "HEAD"); got != want {
		t.Errorf("HEAD of the clone is %s, want %s", got, want)
	}
	// What came after the bitmap is fetched as ever, and so is a part of the history.
	s.commit("own.txt", "more work")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	s.Git(dir, "fetch", "-q")
	if got, want := s.Git(dir, "rev-parse", "@{upstream}"), s.Git(s.work, "rev-parse", "HEAD"); got != want {
		t.Errorf("fetched %s, want %s", got, want)
	}
	s.Git(w.Dir, "clone", "-q", "--depth=1", s.url, filepath.Join(w.Dir, "shallow"))
	s.Git(w.Dir, "clone", "-q", "--filter=blob:none", s.url, filepath.Join(w.Dir, "partial"))
}
