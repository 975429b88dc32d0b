// Package peer says who is at the other end of a unix socket, well enough to trust the answer.
//
// A uid proves nothing here: the user of a keep-id container has the operator's uid in the
// kernel's eyes. What tells them apart is the user namespace. So a peer is pinned by a pid file
// descriptor (SO_PEERPIDFD, unix(7); since Linux 6.5) and judged by /proc/<pid>/uid_map, which
// any process may read, also of a non-dumpable one:
//
//   - Host: a process of the operator's own session, seen from there or from podman's namespace.
//   - Podman: rootless podman's own namespace, where hooks and supervisors run: 0 inside is the
//     operator outside, everything else is a subordinate id, and the namespace is a child of the
//     host's (a nested one can look alike).
//   - everything else, above all a container's map, is refused.
//
// A process in a pid namespace below ours is refused as well, because a container that was
// started without a user namespace of its own shares podman's map.
package peer

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is the place that a peer runs in.
type Kind uint8

// Kinds. The zero value is no peer at all.
const (
	Host   Kind = iota + 1 // the host's user namespace
	Podman                 // rootless podman's user namespace
)

// ErrForeign says that the peer is another user, a container's process, or gone.
var ErrForeign = errors.New("peer is not a process of this user's session")

// Peer is a pinned process. Close releases the pin.
type Peer struct {
	PID  int
	Kind Kind

	pidfd *os.File
}

// Of identifies the process that connected to c. It fails with ErrForeign for every process that
// is neither Host nor Podman.
func Of(c *net.UnixConn) (*Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var fd int
	var credErr, fdErr error
	if err := raw.Control(func(s uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED)
		fd, fdErr = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("SO_PEERCRED: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%w: uid %d", ErrForeign, cred.Uid)
	}
	if errors.Is(fdErr, unix.ENOPROTOOPT) { // before 6.5: pinned from here on only
		fd, fdErr = unix.PidfdOpen(int(cred.Pid), 0)
	} else if fdErr == nil {
		unix.CloseOnExec(fd)
	}
	if fdErr != nil {
		return nil, fmt.Errorf("%w: pin pid %d: %v", ErrForeign, cred.Pid, fdErr)
	}
	p := &Peer{PID: int(cred.Pid), pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if err := p.judge(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Peer) judge() error {
	proc := "/proc/" + strconv.Itoa(p.PID)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return fmt.Errorf("%w: %v", ErrForeign, err)
	}
	if nestedPID(status) {
		return fmt.Errorf("%w: pid %d is inside a pid namespace", ErrForeign, p.PID)
	}
	if p.Kind, err = place(proc, os.Geteuid()); err != nil {
		return fmt.Errorf("%w: pid %d: %v", ErrForeign, p.PID, err)
	}
	// The pid was read through its number: only a peer that is alive after that was the one read.
	if !p.Alive() {
		return fmt.Errorf("%w: pid %d ended", ErrForeign, p.PID)
	}
	return nil
}

// Alive reports whether the pinned process runs.
func (p *Peer) Alive() bool { return alive(p.pidfd) }

// Close releases the pin.
func (p *Peer) Close() error { return p.pidfd.Close() }

func alive(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) { ok = unix.PidfdSendSignal(int(fd), 0, nil, 0) != unix.ESRCH && !readable(int(fd)) })
	return err == nil && ok
}

// readable reports whether fd polls readable; a pid file descriptor does once the process ended,
// also while it is a zombie (pidfd_open(2)).
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || n > 0
	}
}

// Pin holds a process by pid and start time, so that a reused pid is told from the real one.
type Pin struct{ pidfd *os.File }

// NewPin pins pid when it is alive and started at start (StartTime). Otherwise it fails.
func NewPin(pid int, start uint64) (*Pin, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &Pin{os.NewFile(uintptr(fd), "pidfd")}
	got, err := StartTime(pid)
	if err == nil && got != start {
		err = fmt.Errorf("process %d is another one by now", pid)
	}
	if err == nil && !p.Alive() {
		err = fmt.Errorf("process %d ended", pid)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Alive reports whether the process runs.
func (p *Pin) Alive() bool { return alive(p.pidfd) }

// Kill ends the process with SIGKILL.
func (p *Pin) Kill() error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var kerr error
	if err := raw.Control(func(fd uintptr) { kerr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return err
	}
	return kerr
}

// Close releases the pin.
func (p *Pin) Close() error { return p.pidfd.Close() }

// StartTime is field 22 of /proc/<pid>/stat: clock ticks between boot and the process's start.
// It survives exec, so pid and start time name a process until the next boot.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	return parseStart(data)
}

// parseStart reads field 22. The second field is the command in parentheses and may itself hold
// spaces and parentheses, so fields are counted from the last one.
func parseStart(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 20 {
		return 0, errors.New("unreadable /proc stat line")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// nestedPID reports whether /proc/<pid>/status shows a process inside a pid namespace below the
// one of this /proc: its NSpid line then has more than one number.
func nestedPID(status []byte) bool {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(rest)) != 1
		}
	}
	return true // a kernel that does not say cannot be judged
}
