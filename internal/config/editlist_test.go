package config

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestEditList(t *testing.T) {
	for _, c := range []struct {
		name, in string
		add      bool
		item     string
		want     string
	}{
		{"nothing", "", true, "a.test:443", "shield:\n  allow: [\"a.test:443\"]\n"},
		{"no list", "shield:\n  deny: [x]\n", true, "a.test", "shield:\n  allow: [\"a.test\"]\n  deny: [x]\n"},
		{"null", "shield:\n  allow:\n", true, "a.test", "shield:\n  allow: [\"a.test\"]\n"},
		{"block", "shield:\n  allow:\n    # npm\n    - r.test:443 # why\n    # below\n  deny: []\n# end\n", true, "a.test:443",
			"shield:\n  allow:\n    # npm\n    - r.test:443 # why\n    - a.test:443\n    # below\n  deny: []\n# end\n"},
		{"block at the end", "shield:\n  allow:\n  - r.test", true, "*.a.test", "shield:\n  allow:\n  - r.test\n  - \"*.a.test\"\n"},
		{"there already", "shield:\n  allow: [a.test]\n", true, "a.test", "shield:\n  allow: [a.test]\n"},
		{"flow", "shield: {allow: [r.test]} # c\n", true, "a.test", "shield: {allow: [\"r.test\",\"a.test\"]} # c\n"},
		{"marker", "shield:\n  allow:\n    - r.test\n", true, `a.test %reason="x y" %expires=2026-12-31T00:00:00Z`,
			"shield:\n  allow:\n    - r.test\n    - \"a.test %reason=\\\"x y\\\" %expires=2026-12-31T00:00:00Z\"\n"},
		{"hostile", "shield:\n  allow:\n    - r.test\n", true, "a\n- b", "shield:\n  allow:\n    - r.test\n    - \"a\\n- b\"\n"},
		{"remove", "shield:\n  allow:\n    # npm\n    - r.test # why\n    - a.test # gone\n    - b.test\n", false, "a.test",
			"shield:\n  allow:\n    # npm\n    - r.test # why\n    - b.test\n"},
		{"remove the last one", "shield:\n  allow:\n    - a.test\n", false, "a.test", "shield:\n  allow: []\n"},
		{"remove what is not there", "shield:\n  allow:\n    - a.test\n", false, "b.test", "shield:\n  allow:\n    - a.test\n"},
		{"remove a folded one", "shield:\n  allow:\n    - a.test\n      raw\n    - b.test\n", false, "a.test raw", "shield:\n  allow: [\"b.test\"]\n"},
	} {
		got, err := editList("f.yml", []byte(c.in), "shield.allow", c.item, c.add)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s\n%v", c.name, got, c.want, err)
		}
	}
	for _, in := range []string{"shield: 5\n", "shield:\n  allow: a.test\n", "shield:\n  allow: {a: b}\n", "a: ["} {
		if got, err := editList("f.yml", []byte(in), "shield.allow", "x.test", true); err == nil {
			t.Errorf("%q became %q", in, got)
		}
	}
}

// TestListEditsWait: two commands that write one project at the same time both hold.
func TestListEditsWait(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yml")
	if err := os.WriteFile(file, []byte("shield:\n  allow:\n    - z.test # z\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		wg.Go(func() {
			if err := AddToList(file, "shield.allow", name+".test", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var got struct {
		Shield struct {
			Allow []string `yaml:"allow"`
		} `yaml:"shield"`
	}
	if err := Load(file, &got); err != nil || len(got.Shield.Allow) != 7 {
		t.Errorf("%v %v", got, err)
	}
}

type placed struct {
	Text string
	Line int
}

func (p *placed) UnmarshalConfig(v any) error { p.Text, _ = v.(string); return nil }
func (p *placed) LocateConfig(line int)       { p.Line = line }

func TestLocated(t *testing.T) {
	var got struct {
		List []placed `yaml:"list"`
	}
	if err := Decode("f.yml", []byte("list:\n  # c\n  - a\n\n  - 'b'\n"), &got); err != nil || len(got.List) != 2 || got.List[0].Line != 3 || got.List[1] != (placed{"b", 5}) {
		t.Errorf("%+v %v", got, err)
	}
}

func FuzzEditList(f *testing.F) {
	f.Add([]byte("shield:\n  allow:\n    # npm\n    - r.test # why\n"), "a.test", true)
	f.Add([]byte("shield: {allow: [r.test]}"), "r.test", false)
	f.Add([]byte("shield:\n  allow:\n  - |\n    x\n  - &a b\n  - *a\n"), "b", false)
	f.Fuzz(func(t *testing.T, data []byte, item string, add bool) {
		edited, err := editList("f.yml", data, "shield.allow", item, add)
		if err != nil {
			return
		}
		before, _, err := plainTree("f.yml", data)
		if err != nil {
			t.Fatal(err)
		}
		after, _, err := plainTree("f.yml", edited)
		if err != nil {
			t.Fatalf("%q became %q: %v", data, edited, err)
		}
		was, _ := listAt(before, []string{"shield", "allow"})
		is, _ := listAt(after, []string{"shield", "allow"})
		if d := len(is) - len(was); d < -1 || d > 1 || add && d < 0 || !add && d > 0 {
			t.Fatalf("%q became %q", data, edited)
		}
	})
}
