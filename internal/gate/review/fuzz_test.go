package review

import (
	"strings"
	"testing"

	"terok/internal/gate/refname"
)

// FuzzPacked: a packed-refs file may hold any bytes; what comes out are ids under names of ours.
func FuzzPacked(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add("# pack-refs with: peeled fully-peeled sorted \n" + id + " refs/heads/main\n" + id + " refs/tags/v1\n^" + id + "\n" + id + " refs/terok/start\n")
	f.Fuzz(func(t *testing.T, file string) {
		r := refs{ids: map[string]string{}}
		_ = r.packed(strings.NewReader(file))
		for name, id := range r.ids {
			if !refname.IsID(id) || !wantedRef(name) || strings.Contains(name, "\n") {
				t.Errorf("%q %q", name, id)
			}
		}
	})
}
