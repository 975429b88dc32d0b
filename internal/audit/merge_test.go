package audit

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	var paths, want []string
	for i := range 3 {
		paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
	}
	for n := range 30 {
		i := n % 3
		if n > 20 { // one goes on alone
			i = 0
		}
		ev := "flow_denied"
		if n%5 == 0 {
			ev = "note"
		}
		if err := AppendOne(paths[i], Event{Ev: ev, TS: at.Add(time.Duration(n) * time.Second), Reason: fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(n))
	}
	merged := func(f Filter) (got []string) {
		t.Helper()
		// A ledger that is not there is no error: tasks come and go.
		if err := Merge(t.Context(), append(paths, filepath.Join(dir, "none")), f, func(_ string, e Event) error { got = append(got, e.Reason); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := merged(Filter{}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Error(got)
	}
	if got := merged(Filter{Tail: 7}); fmt.Sprint(got) != fmt.Sprint(want[23:]) {
		t.Error(got)
	}
	if got := merged(Filter{Ev: []string{"note"}}); fmt.Sprint(got) != "[0 5 10 15 20 25]" {
		t.Error(got)
	}
	if got := merged(Filter{Since: at.Add(27 * time.Second)}); fmt.Sprint(got) != "[27 28 29]" {
		t.Error(got)
	}
	n := 0
	if err := Merge(t.Context(), paths, Filter{}, func(string, Event) error { n++; return errDone }); err != errDone || n != 1 {
		t.Error(n, err)
	}
}
