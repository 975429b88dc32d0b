package inspect

import (
	"bytes"
	"strings"
	"testing"
)

// streamOf runs output of git through the parser, cut into pieces of n bytes.
func streamOf(out []byte, n int, list ...*diff) error {
	s := &stream{left: list}
	for len(out) > 0 {
		k := min(n, len(out))
		if _, err := s.Write(out[:k]); err != nil {
			return err
		}
		out = out[k:]
	}
	return s.end()
}

const (
	idA = "1111111111111111111111111111111111111111"
	idB = "2222222222222222222222222222222222222222"
	nul = "\x00"
)

// sample is what git prints for a commit that changes the type of a file and adds one whose content
// imitates every part of a diff, and for a comparison of two trees.
var sample = idA + nul +
	":100644 120000 " + idA + " " + idB + " T" + nul + "a" + nul +
	":000000 100755 0000000000000000000000000000000000000000 " + idB + " A" + nul + "dir/c\nd" + nul +
	"1\t1\ta" + nul + "4\t0\tdir/c\nd" + nul + nul +
	"diff --git a/a b/a\ndeleted file mode 100644\nindex 1..2\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n" +
	"diff --git a/a b/a\nnew file mode 120000\nindex 1..2\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+/etc/x\n\\ No newline at end of file\n" +
	"diff --git \"a/dir/c\\nd\" \"b/dir/c\\nd\"\nnew file mode 100755\nindex 1..2\n--- /dev/null\n+++ \"b/dir/c\\nd\"\n@@ -0,0 +1,4 @@\n" +
	"+++ b/other\n+diff --git a/x b/x\n+" + idB + nul + ":100644\n++@@ -1 +1 @@\n" +
	idA + " " + idB + "\n" +
	":100644 000000 " + idA + " 0000000000000000000000000000000000000000 D" + nul + "gone" + nul + "-\t-\tgone" + nul + nul +
	"diff --git a/gone b/gone\ndeleted file mode 100644\nindex 1..2\nBinary files a/gone and /dev/null differ\n"

// TestStream: however the output is cut, every line belongs to the right file, and content that
// looks like a header is content.
func TestStream(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 41, 64, 4096} {
		var added []string
		keep := 1 << 20
		c, skipped, tr := commitDiff(idA, ""), commitDiff(idB, ""), treeDiff(idA, idB)
		c.keep = &keep
		c.onAdded = func(e *entry, line []byte) { added = append(added, e.path+": "+string(line)) }
		if err := streamOf([]byte(sample), n, skipped, c, tr); err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		want := "a: /etc/x|dir/c\nd: ++ b/other|dir/c\nd: diff --git a/x b/x|dir/c\nd: " + idB + nul + ":100644|dir/c\nd: +@@ -1 +1 @@"
		if got := strings.Join(added, "|"); got != want {
			t.Errorf("cut at %d: added %q", n, got)
		}
		if len(c.entries) != 2 || c.entries[0].status != 'T' || c.entries[1].ins != 4 || len(tr.entries) != 1 || !tr.entries[0].binary || tr.entries[0].status != 'D' {
			t.Errorf("cut at %d: %+v %+v", n, c.entries, tr.entries)
		}
		if !bytes.HasPrefix(c.entries[1].patch, []byte("@@ -0,0 +1,4 @@\n+++ b/other\n")) {
			t.Errorf("kept %q", c.entries[1].patch)
		}
	}
}

// FuzzStream: whatever git prints, and however it is cut, the parser ends, stays bounded, and never
// gives a line to a file that the raw entries do not name.
func FuzzStream(f *testing.F) {
	f.Add([]byte(sample), 5)
	f.Add([]byte(idA+nul+":100644 100644 "+idA+" "+idB+" M"+nul+"x"+nul+"1\t0\tx"+nul+nul+"diff --git a/x b/x\n@@ -1 +1 @@\n+y\n"), 1)
	f.Add([]byte(idA+" "+idB+"\n"), 3)
	f.Fuzz(func(t *testing.T, out []byte, n int) {
		n = max(1, n&0xfff)
		keep := 1000
		c := commitDiff(idA, "")
		c.keep, c.sums = &keep, true
		flags := &flagSet{}
		c.onAdded = func(e *entry, line []byte) {
			if len(line) > maxContent {
				t.Fatal("a line that is too long")
			}
			flags.added(e, line)
		}
		_ = streamOf(out, n, c, treeDiff(idA, idB))
		kept := 0
		for i := range c.entries {
			kept += len(c.entries[i].patch)
			flags.entry(&c.entries[i], nil)
		}
		if kept > 1000 || keep < 0 {
			t.Fatalf("%d bytes kept", kept)
		}
		bounded(t, flags.list())
	})
}

func bounded(t *testing.T, flags []Flag) {
	t.Helper()
	if err := cleanFlags(&flags); err != nil {
		t.Fatal(err)
	}
	for _, flag := range flags {
		for _, w := range flag.Where {
			if strings.ContainsFunc(w, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Fatalf("%q", w)
			}
		}
	}
}

// FuzzCommit: a commit object may hold any bytes.
func FuzzCommit(f *testing.F) {
	f.Add([]byte("tree " + idA + "\nparent " + idB + "\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 2 +0000\ngpgsig x\n y\n\nsubject\n\nSigned-off-by: B <b@b>\n"))
	f.Add([]byte("author >< 99999999999999999999 x\nencoding latin1\n\n\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := ParseCommit(idA, body)
		flags := &flagSet{}
		flags.commit(&c, []Identity{{"A", "a@b"}}, c.Time, c.CommitTime)
		bounded(t, flags.list())
		out := (&looked{Object: c}).show(View{})
		if err := out.clean(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzPath: any path gives printable flags, and names that a checkout confuses with .git are denied.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"a", ".git/config", ".GIT", "git~1", "a/.g\u200cit/x", "\xff", ".git ", "..", "Makefile", "/", ".git::$INDEX_ALLOCATION/x"} {
		f.Add(p, "src/**")
	}
	f.Fuzz(func(t *testing.T, p, glob string) {
		flags := &flagSet{}
		flags.entry(&entry{path: p, oldMode: "000000", newMode: "100644", status: 'A'}, []string{glob})
		list := flags.list()
		bounded(t, list)
		denied := len(list) > 0 && list[0].Severity == Deny
		for c := range strings.SplitSeq(strings.ToLower(p), "/") {
			if c == ".git" && !denied {
				t.Fatalf("%q passed", p)
			}
		}
	})
}

// FuzzTree: a tree object may hold any bytes.
func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa40000 b\x00bbbbbbbbbbbbbbbbbbbb"))
	f.Fuzz(func(t *testing.T, tree []byte) {
		for _, n := range treeNames(tree, 20) {
			if strings.ContainsRune(n, 0) {
				t.Fatalf("%q", n)
			}
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"*.md", "docs/a.md", true}, {"src/**", "src/a/b.go", true}, {"src", "src/a/b.go", true}, {"src/", "src/x", true}, {"src/*.go", "src/a/b.go", false},
		{"**/test/*.go", "a/b/test/x.go", true}, {"**/test/*.go", "test/x.go", true}, {"a/b", "a/bc", false}, {"[", "x", false}, {"docs/*", "docs/a/b", true},
	} {
		if got := Glob(c.glob, c.path); got != c.want {
			t.Errorf("%s on %s: %v", c.glob, c.path, got)
		}
	}
}

func TestMixedScripts(t *testing.T) {
	for s, want := range map[string]bool{
		"раssword": true, "scоpe = 1": true, "plain": false, "слово": false, "слово and word": false, "naïve café": false, "日本 abc": false, "μs": false, "Αdmin": true,
	} {
		if mixedScripts(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

// TestReplyIsNotTrusted: a child that was taken over cannot say what a terminal or a caller would
// stumble over.
func TestReplyIsNotTrusted(t *testing.T) {
	good := func() Reply {
		return Reply{Branches: []Range{{Tip: idA, IDs: []string{idA}, Files: []File{{Path: "a\x1b[2J", Status: "A", OldMode: "000000", NewMode: "100644", Patch: "+\x1b]0;x\x07\n"}},
			FileCount: 1, Flags: []Flag{{Code: "ci", Severity: Warn, Where: []string{"\u202e"}, Count: 1}}}},
			List: []Commit{{ID: idA, Signature: "none", Subject: "\x1b[1m", Author: "\r", Body: "x\x9by"}}, Text: "\x1b\n"}
	}
	r := good()
	if err := r.clean(1); err != nil {
		t.Fatal(err)
	}
	all := r.Text + r.Branches[0].Files[0].Path + r.Branches[0].Files[0].Patch + r.Branches[0].Flags[0].Where[0] + r.List[0].Subject + r.List[0].Author + r.List[0].Body
	if strings.ContainsFunc(all, func(c rune) bool { return c < 0x20 && c != '\n' || c > 0x7e }) {
		t.Errorf("%q", all)
	}
	for name, spoil := range map[string]func(*Reply){
		"tip": func(r *Reply) { r.Branches[0].Tip = "--upload-pack=x" }, "base": func(r *Reply) { r.Branches[0].Base = "x" },
		"ids": func(r *Reply) { r.Branches[0].IDs[0] = "HEAD" }, "count": func(r *Reply) { r.Branches[0].Commits = -1 },
		"status": func(r *Reply) { r.Branches[0].Files[0].Status = "\x1b" }, "mode": func(r *Reply) { r.Branches[0].Files[0].NewMode = "x" },
		"severity": func(r *Reply) { r.Branches[0].Flags[0].Severity = "fine" }, "code": func(r *Reply) { r.Branches[0].Flags[0].Code = "\x1b" },
		"commit": func(r *Reply) { r.List[0].ID = "" }, "signature": func(r *Reply) { r.List[0].Signature = "good" }, "more": func(r *Reply) { r.Branches = append(r.Branches, Range{}) },
	} {
		r := good()
		spoil(&r)
		if r.clean(1) == nil {
			t.Errorf("%s was believed", name)
		}
	}
}

// TestGraphIsWhole: of a history that was cut off nothing is believed.
func TestGraphIsWhole(t *testing.T) {
	out := idA + " " + idB + "\n" + idB + "\n"
	if g, err := parseGraph(out, 3); err != nil || len(g) != 2 || g[idA].parents[0] != idB {
		t.Errorf("%v %v", g, err)
	}
	if _, err := parseGraph(out, 2); overLimit(err) != exitLimit {
		t.Errorf("cut off: %v", err)
	}
}
