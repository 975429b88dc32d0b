package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestEditKeepsTheRest(t *testing.T) {
	for _, c := range []struct {
		name, in, path string
		value          any
		want           string
	}{
		{"empty", "", "run.memory", "4g", "run:\n  memory: 4g\n"},
		{"top", "# c\na: 1", "b", true, "# c\na: 1\nb: true\n"},
		{"replace", "run:\n  # head\n  memory: 2g   # why\n\n  cpus: 2\n", "run.memory", "4g", "run:\n  # head\n  memory: 4g   # why\n\n  cpus: 2\n"},
		{"quoted", "a: 'x # y' # c\nb: 1\n", "a", "no", "a: \"no\" # c\nb: 1\n"},
		{"unicode", "ä: ü # ö\nb: \"é\"\nc: 1\n", "b", "x y", "ä: ü # ö\nb: \"x y\"\nc: 1\n"},
		{"null", "a:\nb: 1\n", "a", 5, "a: 5\nb: 1\n"},
		{"null with comment", "a: # c\nb: 1\n", "a", 5, "a: 5 # c\nb: 1\n"},
		{"tilde", "a: ~\nb: 1\n", "a", 5, "a: 5\nb: 1\n"},
		{"into section", "run:   # c\n  # about cpus\n  cpus: 2\ngit: {}\n", "run.memory", "4g", "run:   # c\n  memory: 4g\n  # about cpus\n  cpus: 2\ngit: {}\n"},
		{"wide indent", "run:\n    cpus: 2\n", "run.memory", "4g", "run:\n    memory: 4g\n    cpus: 2\n"},
		{"empty section", "run:\ngit:\n  a: b", "run.memory", "4g", "run:\n  memory: 4g\ngit:\n  a: b"},
		{"last empty section", "git: 1\nrun:", "run.memory", "4g", "git: 1\nrun:\n  memory: 4g\n"},
		{"deep", "a: 1\n", "b.c.d", []string{"x", "y"}, "a: 1\nb:\n  c:\n    d: [\"x\",\"y\"]\n"},
		{"block list", "a: # c\n- x # d\n- y\n# about b\nb: 1\n", "a", []string{"z"}, "a: [\"z\"] # c\n# about b\nb: 1\n"},
		{"nested list", "s:\n  a:\n    - x\n    - y: 1\n      z: 2\n\n  b: 1\n", "s.a", "q", "s:\n  a: q\n\n  b: 1\n"},
		{"flow list", "a: [x,\n  y] # c\nb: 1\n", "a", []string{}, "a: [] # c\nb: 1\n"},
		{"literal", "a: |\n  x\n  y\n\nb: 1\n", "a", "z", "a: z\n\nb: 1\n"},
		{"flow map", "run: {cpus: 2, memory: 1g} # c\n", "run.memory", "4g", "run: {cpus: 2, memory: 4g} # c\n"},
		{"flow insert", "run: {cpus: 2}\n", "run.memory", "4g", "run: {memory: 4g, cpus: 2}\n"},
		{"flow empty", "run: {}\n", "run.x.y", "4g", "run: {x: {y: 4g}}\n"},
		{"flow root", "{a: 1}\n", "b", "4g", "{b: 4g, a: 1}\n"},
		{"mapping", "a:\n  b: 1\nc: 2\n", "a", nil, "a: null\nc: 2\n"},
		{"hostile", "a: 1\n", "a", "x\ny: 2 # \u2028", "a: \"x\\ny: 2 # \\u2028\"\n"},
		{"same", "a: 1\n", "a", 1, "a: 1\n"},
	} {
		got, err := Edit("f.yml", []byte(c.in), c.path, c.value)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s\n%v", c.name, got, c.want, err)
		}
	}
	for _, in := range []string{"- a\n", "a: [", "a: 1\n---\nb: 1\n", "run: 5\n", "run: &x {a: 1}\ngit: *x\n", "plain"} {
		if got, err := Edit("f.yml", []byte(in), "run.memory", "4g"); err == nil {
			t.Errorf("%q was edited to %q", in, got)
		}
	}
	for _, path := range []string{"", "a..b", "a b", "a[0]", "a\n"} {
		if _, err := Edit("f.yml", nil, path, 1); err == nil {
			t.Errorf("path %q was accepted", path)
		}
	}
}

func TestSetPath(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "dotfiles.yml"), filepath.Join(dir, "config.yml")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, []byte("# mine\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := SetPath(link, fmt.Sprintf("env.k%d", i), "v", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var v struct {
		Env map[string]string `yaml:"env"`
	}
	if err := Load(link, &v); err != nil || len(v.Env) != 8 {
		t.Fatalf("%v %v", v.Env, err)
	}
	if fi, _ := os.Lstat(link); fi.Mode().Type() != os.ModeSymlink {
		t.Error("the link is gone")
	}
	if fi, _ := os.Stat(target); fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %o", fi.Mode().Perm())
	}
	before, _ := os.ReadFile(target)
	refuse := errors.New("refused")
	if err := SetPath(link, "env.k1", "w", func([]byte) error { return refuse }); err != refuse {
		t.Error(err)
	}
	if after, _ := os.ReadFile(target); string(after) != string(before) {
		t.Error("a refused edit changed the file")
	}
	fresh := filepath.Join(dir, "new", "config.yml")
	if err := SetPath(fresh, "run.memory", "4g", nil); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(fresh); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", fi.Mode().Perm())
	}
}
