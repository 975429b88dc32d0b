package sandbox

import (
	"strings"
	"testing"
)

func TestPlainKey(t *testing.T) {
	for _, good := range []string{"a", "webshop-k3v9p", "A_1.b", strings.Repeat("x", 128)} {
		if !plainKey(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "_a", "a/b", "a/../b", "a b", "a\n", "ä", "a\x00b", strings.Repeat("x", 129)} {
		if plainKey(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}
