package supervisor

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"terok/internal/control"
)

// lastCapability bounds the loop over capabilities: more than any kernel has.
const lastCapability = 63

// dropPrivileges takes every capability from every thread of this process, also from the bounding
// set, so that no program it starts gets one, and forbids new ones. It cannot be undone.
func dropPrivileges() error {
	for c := uintptr(0); c <= lastCapability; c++ {
		// Reading is cheap and concerns this thread, which started with what all others have.
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || has == 0 {
			continue // unknown to this kernel, or not there
		}
		if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0); e != 0 && e != unix.EINVAL {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, e)
		}
	}
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("clear the ambient set: %w", e)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&none)
	if e != 0 {
		return fmt.Errorf("drop capabilities: %w", e)
	}
	return noNewPrivileges()
}

// noNewPrivileges forbids this process and its children to gain any, keeps their memory from
// other processes of the same user, and makes no core dumps: it holds tokens and keys.
func noNewPrivileges() error {
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("forbid new privileges: %w", e)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}

// describe reads what the kernel says about a process.
func describe(pid int) (control.Process, error) {
	p := control.Process{PID: pid}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			p.CapEff = value
		case "CapBnd":
			p.CapBnd = value
		case "Seccomp":
			p.Seccomp, _ = strconv.Atoi(value)
		}
	}
	if err := lines.Err(); err != nil {
		return p, err
	}
	fi, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return p, err
	}
	p.StartedAt = fi.ModTime().UTC().Truncate(time.Millisecond)
	return p, nil
}

// noCapabilities is an empty set as /proc/<pid>/status shows it.
const noCapabilities = "0000000000000000"
