package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestLineWriter(t *testing.T) {
	var got []string
	w := &lineWriter{emit: func(line []byte) error { got = append(got, string(line)); return nil }}
	long := strings.Repeat("x", 1<<20+5)
	for _, piece := range []string{"a\nb", "c\n", "\n", long, "\nlast"} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "bc", "", long[:1<<20], "xxxxx", "last"}; !slices.Equal(got, want) {
		t.Errorf("%.40q", got)
	}
}
