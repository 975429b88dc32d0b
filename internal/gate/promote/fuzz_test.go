package promote

import (
	"strings"
	"testing"

	"terok/internal/gate/refname"
)

// FuzzAnswers: whatever git says of an upstream, a tip is an id and a refusal is printable.
func FuzzAnswers(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add("ref: refs/heads/main\tHEAD\n"+id+"\tHEAD\n"+id+"\trefs/heads/x\n", "!\trefs/heads/x:refs/heads/x\t[remote rejected] (\x1b[31m)\n")
	f.Add("", "! (stale info)\nTo x\n")
	f.Fuzz(func(t *testing.T, listing, pushed string) {
		if _, tip := parseListing(listing, "refs/heads/x"); tip != "" && !refname.IsID(tip) {
			t.Errorf("tip %q", tip)
		}
		if err := pushFailure(pushed, "p", "refs/heads/x"); err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("%q", err)
		}
		for _, s := range []string{header(listing), fileName(pushed)} {
			if strings.ContainsAny(s, "\n\r\x00/") && s != header(listing) || strings.Contains(s, "\x1b") {
				t.Errorf("%q", s)
			}
		}
	})
}
