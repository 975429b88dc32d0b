package store

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/git"
)

// TestPackable: refs that a hostile upstream lists and git would not create are left to git to refuse.
func TestPackable(t *testing.T) {
	id := strings.Repeat("1", 40)
	good := map[string]string{"refs/heads/a": id, "refs/heads/b/c": id, SnapshotRefs + "a": id, "refs/tags/v1": id}
	if !packable(good) {
		t.Fatal("ordinary refs are refused")
	}
	for name, bad := range map[string]map[string]string{
		"directory of another": {"refs/heads/b": id},
		"below another":        {"refs/heads/a/x/y": id},
		"leaves refs":          {"refs/heads/../../config": id},
		"line break":           {"refs/heads/x\n" + id + " refs/terok/start": id},
		"blank":                {"refs/heads/x y": id},
		"no ref":               {"HEAD": id},
		"no id":                {"refs/heads/x": "ref: refs/heads/a"},
		"zero":                 {"refs/heads/x": strings.Repeat("0", 40)},
		"option":               {"refs/heads/-x": id},
	} {
		all := maps.Clone(good)
		maps.Copy(all, bad)
		if packable(all) {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestBulkBranchesAreCommits: a branch that an upstream says is something else, or nothing, is left to git to
// refuse, and no file is written.
func TestBulkBranchesAreCommits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base.git")
	if err := makeRepo(dir, "sha1", "main"); err != nil {
		t.Fatal(err)
	}
	made := func(stdin string, args ...string) string {
		out, err := (&git.Runner{}).Run(t.Context(), git.Cmd{GitDir: dir, Args: args, Stdin: strings.NewReader(stdin)})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	tree := made("", "mktree")
	commit := made("tree "+tree+"\nauthor A <a@b.test> 1 +0000\ncommitter A <a@b.test> 1 +0000\n\nx\n", "hash-object", "-t", "commit", "-w", "--stdin")
	tag := made("object "+commit+"\ntype commit\ntag x\ntagger A <a@b.test> 1 +0000\n\nx\n", "hash-object", "-t", "tag", "-w", "--stdin")
	var lines []string
	for i := range bulkRefs {
		lines = append(lines, "create refs/heads/b"+strings.Repeat("x", i%100)+"-"+strings.Repeat("y", i/100)+" "+commit)
	}
	lines = append(lines, "create refs/tags/v1 "+tag)
	for id, want := range map[string]bool{commit: true, tag: false, tree: false, strings.Repeat("1", 40): false} {
		c := classifier{Store: &Store{Git: &git.Runner{}}, ctx: t.Context(), dir: dir, before: refMap{}, rep: &Report{Created: true}}
		done, err := c.applyBulk(append(lines, "create refs/heads/odd "+id))
		_, missing := os.Lstat(filepath.Join(dir, "packed-refs"))
		if done != want || err != nil || (missing == nil) != want {
			t.Errorf("%s: %v, %v, packed-refs: %v", id, done, err, missing)
		}
		_ = os.Remove(filepath.Join(dir, "packed-refs"))
	}
}
