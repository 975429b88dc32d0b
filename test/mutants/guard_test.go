package main

import (
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An entry that no longer fits proves nothing, and whoever changed the source must learn so at once.
func TestEntriesFit(t *testing.T) {
	const root = "../.."
	guards, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(guards) == 0 {
		t.Fatal("guards.yml is empty")
	}
	names, tests := map[string]bool{}, map[string][]string{}
	for _, g := range guards {
		if names[g.Guard] {
			t.Errorf("two guards are called %q", g.Guard)
		}
		names[g.Guard] = true
		src, err := g.mutate(root)
		if err != nil {
			t.Errorf("%s: %v", g.Guard, err)
			continue
		}
		if g.Old == g.New {
			t.Errorf("%s: the mutant is the original", g.Guard)
		}
		if strings.HasSuffix(g.File, "_test.go") {
			t.Errorf("%s: %s is a test, not a guard", g.Guard, g.File)
		}
		if _, err := format.Source(src); err != nil && strings.HasSuffix(g.File, ".go") {
			t.Errorf("%s: the mutant is not Go: %v", g.Guard, err)
		}
		if tests[g.Package] == nil {
			tests[g.Package] = testsOf(t, filepath.Join(root, g.Package))
		}
		for one := range strings.SplitSeq(g.Test, "|") {
			name, _, _ := strings.Cut(one, "/")
			if !matches(t, name, tests[g.Package]) {
				t.Errorf("%s: no test of %s matches %s", g.Guard, g.Package, one)
			}
		}
	}
}

// testsOf returns the names of the tests in dir.
func testsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)`).FindAllStringSubmatch(string(src), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func matches(t *testing.T, pattern string, names []string) bool {
	t.Helper()
	re, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if re.MatchString(n) {
			return true
		}
	}
	return false
}

func TestMutate(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("one two two"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := guard{File: "a.go", Old: "one", New: "1"}.mutate(root)
	if err != nil || string(got) != "1 two two" {
		t.Errorf("mutate: %q, %v", got, err)
	}
	for _, old := range []string{"two", "three", ""} {
		if got, err := (guard{File: "a.go", Old: old}).mutate(root); err == nil {
			t.Errorf("%q was replaced: %q", old, got)
		}
	}
}

func TestChoose(t *testing.T) {
	all := []guard{{Guard: "a: x", Package: "./p"}, {Guard: "b: y", Package: "./q"}, {Guard: "b: z", Package: "./p"}}
	for _, c := range []struct {
		o    options
		want string
	}{
		{options{}, "a: x b: y b: z"},
		{options{words: []string{"./p"}}, "a: x b: z"},
		{options{from: "b:"}, "b: y b: z"},
		{options{from: "b:", words: []string{"./p", "nothing"}}, "b: z"},
		{options{from: "c:"}, ""},
	} {
		var got []string
		for _, g := range choose(all, c.o) {
			got = append(got, g.Guard)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q", c.o, got)
		}
	}
}
