package refname

import (
	"os/exec"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, ok := range []string{"main", "terok/k3v9p-brave-otter", "feat/x", "größe", "v1.2", "a-b", "日本語"} {
		if err := Check(ok); err != nil {
			t.Errorf("%q refused: %v", ok, err)
		}
	}
	bad := []string{"", "-x", "a/-x", "HEAD", "head", "@", strings.Repeat("a", 201), strings.Repeat("a1", 20),
		strings.Repeat("b2", 32), "a..b", "a@{b", "a b", "a\x1b[31m", "a\u202eb", "a\u200bb", "a\u2066", "a\x7f",
		"a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a\\b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b",
		"\xff", "a\u009bb", "refs/heads/x", "a\U000E0041", "a\ufe0f", "a\u3164"}
	for _, name := range bad {
		if Check(name) == nil {
			t.Errorf("%q accepted", name)
		}
	}
}

func TestProtected(t *testing.T) {
	patterns := []string{"main", "release/*"}
	for name, want := range map[string]bool{"main": true, "Main": true, "release/1": true, "feat": false, "mainx": false} {
		if Protected(name, patterns) != want {
			t.Errorf("Protected(%q) = %v", name, !want)
		}
	}
	if !Protected("anything", []string{"[bad"}) {
		t.Error("a malformed pattern opened a branch")
	}
}

// FuzzCheck: whatever passes, git accepts as well and it holds nothing that needs escaping.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{"main", "-x", "a..b", "a\u202e", "a.lock", "x@{1}", "ä/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if Check(name) != nil {
			return
		}
		if strings.ContainsAny(name, "\x00\x1b\r\n \u202e\u200b") || name[0] == '-' {
			t.Fatalf("%q accepted", name)
		}
	})
}

// TestAgreesWithGit: Check never accepts what git-check-ref-format refuses.
func TestAgreesWithGit(t *testing.T) {
	for _, name := range []string{"main", "a.b", "a@b", "ö", "a{b", "x@", "a/b.c", "@a", "a,b", "'a'", "$(x)", "a;b", "a|b", "a&b"} {
		if Check(name) != nil {
			continue
		}
		if err := exec.Command("git", "check-ref-format", Heads+name).Run(); err != nil {
			t.Errorf("git refuses %q: %v", name, err)
		}
	}
}
