package review_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestSlowIsNotKept: that there was no time to look at a branch denies it now and not for ever; that it
// is larger than what is looked at is kept.
func TestSlowIsNotKept(t *testing.T) {
	r := newRig(t)
	r.write("a", "1\n")
	r.push("change")
	self := r.reader.Inspect.Self
	queue := func() []string {
		t.Helper()
		changes, err := r.reader.Queue(t.Context(), r.task)
		if err != nil || len(changes) != 1 {
			t.Fatal(changes, err)
		}
		return codes(changes[0].Flags)
	}
	ends := func(code int) {
		t.Helper()
		r.reader.Inspect.Self = filepath.Join(r.Dir, fmt.Sprintf("ends-%d", code))
		if err := os.WriteFile(r.reader.Inspect.Self, fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", code), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ends(74)
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("no time: %v", got)
	}
	r.reader.Inspect.Self = self
	if got := queue(); len(got) != 0 {
		t.Errorf("with time: %v", got)
	}
	r.write("b", "1\n")
	r.push("more")
	ends(75)
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("too large: %v", got)
	}
	r.reader.Inspect.Self = self
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("it is looked at again and again: %v", got)
	}
}
