package peer

import (
	"os"
	"testing"
)

// TestNestedPID: a container that shares Podman's user namespace still has pids of its own.
func TestNestedPID(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nNSpid:\t42\n":             false,
		"Name:\tx\nNSpid:\t42\t1\n":          true,
		"Name:\tx\nNSpid:\t42\t7\t1\n":       true,
		"Name:\tx\nNSpid:\n":                 true,
		"Name:\tx\n":                         true, // a kernel that does not say
		"Name:\tNSpid: 1\nNSpid:\t42\t1\n":   true,
		"Name:\t\\nNSpid:\t7\nNSpid:\t42\t1": true, // the kernel escapes line breaks in names
	} {
		if got := nestedPID([]byte(status)); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

// TestStartTime: a program chooses its name; it must not choose its start time by it.
func TestStartTime(t *testing.T) {
	tail := " S 1 1 1 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 1 0 777 1000 100"
	for _, stat := range []string{"7 (sh)" + tail, "7 (a b) S 1 1)" + tail, "7 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 666)" + tail} {
		if got, err := parseStart([]byte(stat)); err != nil || got != 777 {
			t.Errorf("%q: %d, %v", stat, got, err)
		}
	}
	for _, stat := range []string{"", "7 (sh", "7 (sh) S 1", "7 sh" + tail} {
		if got, err := parseStart([]byte(stat)); err == nil {
			t.Errorf("%q: %d", stat, got)
		}
	}
}

// TestPin: a pid that was given to another process since is not held.
func TestPin(t *testing.T) {
	start, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPin(os.Getpid(), start)
	if err != nil || !p.Alive() {
		t.Fatal(err)
	}
	defer p.Close()
	if other, err := NewPin(os.Getpid(), start+1); err == nil {
		other.Close()
		t.Error("a process with another start time is held")
	}
}
