package killswitch

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"terok/internal/state"
)

func TestMain(m *testing.M) {
	// As a child of these tests the binary plays a supervisor: it waits to be killed.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise", "keyholder", "supervise-worker":
			if os.Args[1] == "supervise" && os.Getenv(workerEnv) != "" && startWorker() != nil {
				os.Exit(1)
			}
			_, _ = os.Stdin.Read(make([]byte, 1))
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func play(t *testing.T, args ...string) (*exec.Cmd, <-chan error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Args = append([]string{"terok"}, args...)
	in, err := c.StdinPipe() // open until the test ends, so only a signal ends the child
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	t.Cleanup(func() { in.Close() })
	return c, done
}

func TestPullKillsOursAndNoOthers(t *testing.T) {
	d := t.TempDir()
	roots := state.Roots{Config: d + "/c", Data: d + "/d", Runtime: d + "/r"}
	_, sup := play(t, "supervise", roots.Data+"/projects/p/tasks/x/sandbox.json", "id", "1")
	_, key := play(t, "keyholder", roots.Data, roots.Runtime)
	_, other := play(t, "supervise", d+"/other/sandbox.json", "id", "1")
	r := Pull(roots)
	if len(r.Errors) > 0 || r.Supervisors != 1 || r.Vault != "locked" {
		t.Errorf("%+v", r)
	}
	for name, done := range map[string]<-chan error{"supervisor": sup, "keyholder": key} {
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Errorf("the %s lives", name)
		}
	}
	select {
	case err := <-other:
		t.Errorf("another tree's supervisor was killed: %v", err)
	default:
	}
	if _, locked := Locked(roots); !locked {
		t.Error("no lock")
	}
	if r := Pull(roots); r.Supervisors != 0 || len(r.Errors) > 0 {
		t.Errorf("second pull: %+v", r)
	}
	if err := Clear(roots); err != nil {
		t.Fatal(err)
	}
	if _, locked := Locked(roots); locked {
		t.Error("the lock stands after Clear")
	}
}

func TestFullDiskStillKills(t *testing.T) {
	d := t.TempDir()
	roots := state.Roots{Config: d + "/c", Data: d + "/d", Runtime: d + "/r"}
	if err := os.WriteFile(roots.Data, nil, 0o600); err != nil { // the lock cannot be written below a file
		t.Fatal(err)
	}
	_, sup := play(t, "supervise", roots.Data+"/x/sandbox.json", "id", "1")
	r := Pull(roots)
	if r.Supervisors != 1 || len(r.Errors) == 0 {
		t.Errorf("%+v", r)
	}
	select {
	case <-sup:
	case <-time.After(5 * time.Second):
		t.Error("the supervisor lives")
	}
}
