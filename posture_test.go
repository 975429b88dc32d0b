package terok_test

import (
	"testing"
	"time"

	"terok"
)

func TestWindow(t *testing.T) {
	for in, want := range map[string]time.Duration{"30m": 30 * time.Minute, "5s": 5 * time.Second, "2h": 2 * time.Hour, "007d": 7 * 24 * time.Hour, "366d": 366 * 24 * time.Hour} {
		if got, err := terok.Window(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "m", "0m", "30", "30 m", "+3m", "-3m", "1.5h", "3w", "1h30m", "367d", "99999999999s", "4294967295d", "٣m", "3M"} {
		if got, err := terok.Window(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}
