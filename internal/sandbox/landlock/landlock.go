// Package landlock says what this kernel's Landlock can do, in the words that launcher, supervisor
// and status share. It defends the host's files against a worker that was taken over, so its
// absence is never silent: a container starts without it only when the operator's configuration
// says so.
package landlock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Required is the oldest ABI that a worker runs with (landlock(7)): 1 cannot express moving files
// between directories, which git needs to take a push. Linux 5.19 has it.
const Required = 2

// abiListen and abiScope are where the kernel learned the rest of what a worker gives up.
const (
	abiListen = 4 // TCP servers, Linux 6.7
	abiScope  = 6 // signals to others and their abstract sockets, Linux 6.12
)

// ABI is the version that this kernel offers; 0 when it has none, or it is off
// (CONFIG_LSM, lsm= of the kernel's command line).
func ABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// Missing is why a kernel with this ABI cannot confine a worker's files, nil when it can.
func Missing(abi int) error {
	if abi >= Required {
		return nil
	}
	return fmt.Errorf("this kernel cannot confine the supervisor's files: it needs Landlock ABI %d or newer (Linux 5.19, "+
		"with \"landlock\" among the kernel's lsm=) and has %d", Required, abi)
}

// Cure is how to go on without.
const Cure = "boot a newer kernel, or accept it for every container: shield.require_landlock: false in config.yml"

// Degraded lists in words what a worker does not give up on a kernel with this ABI.
func Degraded(abi int) []string {
	out := []string{}
	if abi < Required {
		return append(out, fmt.Sprintf("no Landlock (ABI %d): the worker's files are not confined", abi))
	}
	if abi < abiListen {
		out = append(out, fmt.Sprintf("Landlock ABI %d: a worker that was taken over could listen on the host", abi))
	}
	if abi < abiScope {
		out = append(out, fmt.Sprintf("Landlock ABI %d: a worker that was taken over could signal your other processes", abi))
	}
	return out
}
