package recovery

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNewAndParse(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		c := New()
		if len(c) != len(Prefix)+35 || seen[string(c)] || !Looks(c) {
			t.Fatalf("%s", c)
		}
		seen[string(c)] = true
		for _, typed := range []string{string(c), strings.ToLower(string(c)), " " + string(c[len(Prefix):]) + "\n", strings.ReplaceAll(string(c), "-", " "),
			strings.NewReplacer("0", "o", "1", "l", "V", "u").Replace(string(c[len(Prefix):])), strings.ReplaceAll(string(c[len(Prefix):]), "1", "I")} {
			if strings.HasPrefix(typed, "terok rk ") {
				continue // the prefix needs its hyphens
			}
			got, err := Parse([]byte(typed))
			if err != nil || !bytes.Equal(got, c) {
				t.Fatalf("%q: %s %v, want %s", typed, got, err, c)
			}
		}
		if !c.Retyped(3, []byte(strings.ToLower(c.Group(3))+" ")) || c.Retyped(3, []byte(c.Group(3)[:4])) || c.Retyped(1, nil) {
			t.Error("retyping")
		}
	}
}

// spec/vault.md §10: 66. One or two wrong symbols are always noticed, and a single one is found.
func TestMistypedIsNoticed(t *testing.T) {
	c := New()
	s := []byte(strings.ReplaceAll(string(c[len(Prefix):]), "-", ""))
	for i := range s {
		for _, wrong := range []byte(alphabet) {
			if wrong == s[i] {
				continue
			}
			bad := bytes.Clone(s)
			bad[i] = wrong
			_, err := Parse(bad)
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("symbol %d of group %d", i%5+1, i/5+1)) || strings.Contains(err.Error(), c.Group(1)) {
				t.Fatalf("symbol %d: %v", i, err)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, symbols-1).Draw(t, "i")
		j := rapid.IntRange(0, symbols-1).Filter(func(j int) bool { return j != i }).Draw(t, "j")
		bad := bytes.Clone(s)
		for _, at := range []int{i, j} {
			bad[at] = rapid.SampledFrom([]byte(alphabet)).Filter(func(b byte) bool { return b != s[at] }).Draw(t, "symbol")
		}
		if got, err := Parse(bad); err == nil {
			t.Fatalf("two wrong symbols give %s", got)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	c := string(New())
	for _, typed := range []string{"", Prefix, c[:len(c)-1], c + "0", c[:len(c)-1] + "*", c[:len(c)-1] + "\x00", "SAVED"} {
		if got, err := Parse([]byte(typed)); err == nil {
			t.Errorf("%q: %s", typed, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(New()))
	f.Add([]byte("terok-rk-"))
	f.Add([]byte("ILOU0"))
	f.Fuzz(func(t *testing.T, typed []byte) {
		c, err := Parse(typed)
		if err != nil {
			return
		}
		again, err := Parse(c)
		if err != nil || !bytes.Equal(again, c) || !Looks(c) {
			t.Fatalf("%q is read as %q and that as %q (%v)", typed, c, again, err)
		}
	})
}
