// Package killswitch cuts every task off, whatever else works: it writes the lock that hooks and
// launches respect, then kills the supervisors, which are the containers' only network, and the
// keyholder, which is the only process with the vault key.
//
// It needs neither podman nor a control socket nor a configuration that can be read: processes
// are found in /proc and killed through pidfds, so that a reused pid is never hit. The lock is
// written first; a supervisor that starts between the scan and the kill is refused by its hook.
package killswitch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/state"
)

// Report says what was cut.
type Report struct {
	Supervisors int      `json:"supervisors"` // parents killed
	Vault       string   `json:"vault"`       // "locked" or "was not unlocked"
	Stopped     int      `json:"stopped"`     // containers killed, with --stop
	Errors      []string `json:"errors"`
}

// Pull cuts everything below the roots. It goes on after each error; the report names them.
func Pull(roots state.Roots) Report {
	r := Report{Vault: "was not unlocked", Errors: []string{}}
	fail := func(err error) {
		if err != nil {
			r.Errors = append(r.Errors, err.Error())
		}
	}
	// Empty: a full disk takes no bytes, and the lock must stand on that, too.
	if err := state.WriteFile(roots.PanicLock(), nil); err != nil {
		fail(fmt.Errorf("the lock could not be written, new tasks can start: %w", err))
	}
	// A second pass finds what was starting while the first one ran.
	for range 2 {
		procs, err := scan(roots)
		fail(err)
		killed := map[int]process{} // by pidfd
		for _, p := range procs {
			fd, err := p.kill()
			fail(err)
			if fd >= 0 {
				killed[fd] = p
			}
		}
		fail(awaitEnd(killed, endWithin))
		for fd, p := range killed {
			unix.Close(fd)
			switch p.role {
			case "supervise":
				r.Supervisors++
			case "keyholder":
				r.Vault = "locked"
			}
		}
	}
	// Sockets of dead processes; a connection to them would only fail later.
	fail(ignoreMissing(os.Remove(roots.KeyholderSocket())))
	return r
}

// Locked reports since when the lock stands; false when it does not.
func Locked(roots state.Roots) (time.Time, bool) {
	info, err := os.Lstat(roots.PanicLock())
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, false
	}
	if err != nil {
		return time.Time{}, true // cannot tell: locked
	}
	return info.ModTime(), true
}

// Clear lifts the lock; it is no error when there is none.
func Clear(roots state.Roots) error { return ignoreMissing(os.Remove(roots.PanicLock())) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// process is one of ours: `terok ROLE ARG…`.
type process struct {
	pid  int
	role string
	args []byte // its command line, to recognise it again
}

// scan finds the supervisors and the keyholder that belong to the roots, and the workers, which
// name no directory: they are found by their parent.
func scan(roots state.Roots) ([]process, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for supervisors: %w", err)
	}
	var found, workers []process
	parents := map[int]bool{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		if err != nil {
			continue // ended meanwhile, or another user's
		}
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if len(args) < 2 || filepath.Base(args[0]) != "terok" {
			continue
		}
		p := process{pid, args[1], line}
		switch {
		case p.role == "supervise" && len(args) > 2 && strings.HasPrefix(args[2], roots.Data+"/"):
			found = append(found, p)
			parents[pid] = true
		case p.role == "supervise-worker":
			workers = append(workers, p)
		case p.role == "keyholder" && len(args) > 2 && args[2] == roots.Data:
			found = append(found, p)
		}
	}
	for _, w := range workers {
		if parents[parentOf(w.pid)] {
			found = append(found, w)
		}
	}
	return found, nil
}

// parentOf reads the parent's pid from /proc/<pid>/stat, field 4 (proc(5)); 0 when it is gone.
func parentOf(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(string(f[1]))
	return n
}

// kill kills the process if it still is the one that was found, and returns its pidfd, which the
// caller closes; -1 when there was nothing to kill.
func (p process) kill() (int, error) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("%s %d: %w", p.role, p.pid, err)
	}
	again, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil || !bytes.Equal(again, p.args) {
		unix.Close(fd)
		return -1, nil // another process by now
	}
	err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	return -1, fmt.Errorf("kill %s %d: %w", p.role, p.pid, err)
}

// endWithin bounds how long a killed process may take to be gone; one that waits in the kernel for
// a disk can take longer and is reported.
const endWithin = 2 * time.Second

// awaitEnd waits until all the killed processes have ended: only then are their sockets closed,
// and only then does another scan not find them again.
func awaitEnd(killed map[int]process, within time.Duration) error {
	deadline := time.Now().Add(within)
	var errs []error
	for fd, p := range killed {
		errs = append(errs, p.awaitEnd(fd, deadline))
	}
	return errors.Join(errs...)
}

func (p process) awaitEnd(pidfd int, deadline time.Time) error {
	for {
		left := max(time.Until(deadline), 0)
		// A pidfd is readable once its process has ended (pidfd_open(2)).
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for %s %d: %w", p.role, p.pid, err)
		case n == 0:
			return fmt.Errorf("%s %d was killed and has not ended", p.role, p.pid)
		default:
			return nil
		}
	}
}
