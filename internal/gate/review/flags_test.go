package review

import (
	"strings"
	"testing"
)

// FuzzPatchScan: whatever a diff holds and however it is cut into writes, flags come out
// printable and bounded.
func FuzzPatchScan(f *testing.F) {
	f.Add("+++ b/a\n+x\x1b\n", 3)
	f.Add("+++ \"b/a\\n\"\n+\u202e\n-----BEGIN PRIVATE KEY", 1)
	f.Add(strings.Repeat("+", 70000), 4096)
	f.Fuzz(func(t *testing.T, patch string, n int) {
		flags := &flagSet{}
		s := &patchScan{flags: flags, keep: 100}
		for n = max(1, n&0xffff); patch != ""; {
			k := min(n, len(patch))
			if _, err := s.Write([]byte(patch[:k])); err != nil {
				t.Fatal(err)
			}
			patch = patch[k:]
		}
		s.take()
		if len(s.shown) > 100 || len(s.line) > 128<<10 {
			t.Fatal("unbounded")
		}
		for _, flag := range flags.list() {
			if len(flag.Where) > 20 {
				t.Fatal("too many places")
			}
			for _, w := range flag.Where {
				if strings.ContainsFunc(w, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
					t.Fatalf("%q", w)
				}
			}
		}
	})
}

// FuzzPath: any path, printable flags, and names that a checkout confuses with .git are denied.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"a", ".git/config", ".GIT", "git~1", "a/.g\u200cit/x", "\xff", ".git ", "..", "Makefile"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		flags := &flagSet{}
		flags.path(p, "000000", "100644")
		denied := false
		for _, flag := range flags.list() {
			denied = denied || flag.Severity == Deny
		}
		for c := range strings.SplitSeq(strings.ToLower(p), "/") {
			if c == ".git" && !denied {
				t.Fatalf("%q passed", p)
			}
		}
	})
}
