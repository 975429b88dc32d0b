package killswitch

import (
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/state"
)

// workerEnv makes a supervisor of these tests start a worker, which names no directory.
const workerEnv = "KILLSWITCH_TEST_WORKER"

// startWorker is the supervisor's part; it reports on stdout once the worker runs.
func startWorker() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command(self)
	c.Args = []string{"terok", "supervise-worker"}
	c.Stdin, c.Stdout = os.Stdin, os.Stdout
	if err := c.Start(); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString("up\n")
	return err
}

// TestPullKillsWorkers: a worker does not go on with the container's network without its parent.
func TestPullKillsWorkers(t *testing.T) {
	d := t.TempDir()
	roots := state.Roots{Config: d + "/c", Data: d + "/d", Runtime: d + "/r"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Args = []string{"terok", "supervise", roots.Data + "/x/sandbox.json", "id", "1"}
	c.Env = append(os.Environ(), workerEnv+"=1")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout = theirs
	err = c.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	if r := Pull(roots); r.Supervisors != 1 || len(r.Errors) > 0 {
		t.Errorf("%+v", r)
	}
	if _, err := io.ReadAll(out); err != nil { // the end comes when neither holds it
		t.Errorf("the worker lives: %v", err)
	}
	_ = c.Wait() // killed
}

// TestReusedPIDIsNotHit: between the look and the kill a pid can become somebody else's.
func TestReusedPIDIsNotHit(t *testing.T) {
	c, done := play(t, "supervise", "/elsewhere/sandbox.json", "id", "1")
	p := process{pid: c.Process.Pid, role: "supervise", args: []byte("terok\x00supervise\x00/ours/sandbox.json\x00")}
	if fd, err := p.kill(); fd >= 0 || err != nil {
		t.Errorf("killed: pidfd %d, %v", fd, err)
	}
	select {
	case err := <-done:
		t.Errorf("another process was killed: %v", err)
	default:
	}
}

// TestKilledIsNotYetEnded: the cut stands when the sockets are closed, not when a signal was sent;
// a second scan would also find, and count, what is still ending.
func TestKilledIsNotYetEnded(t *testing.T) {
	c, _ := play(t, "supervise", "/elsewhere/sandbox.json", "id", "1")
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := process{pid: c.Process.Pid, role: "supervise"}
	if err := awaitEnd(map[int]process{fd: p}, 0); err == nil {
		t.Error("a living process passed for an ended one")
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(map[int]process{fd: p}, time.Minute); err != nil {
		t.Error(err)
	}
}
