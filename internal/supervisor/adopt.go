package supervisor

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/peer"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// adoptWord tells a parent that the container runs already.
const adoptWord = "adopt"

// lockWait is how long a parent waits for the one of an earlier start to end.
const lockWait = 3 * time.Second

// heldReason is why a second supervisor ends.
const heldReason = "a supervisor of this container lives"

// lockPath is the lock that the parent of a container holds.
func lockPath(dir string) string { return filepath.Join(dir, "supervisor") }

// AdoptMain is `terok supervise-adopt SANDBOX-FILE CONTAINER-ID PID GUEST`, run in podman's user
// namespace: it gives a running container, whose supervisor has died, a new one. GUEST is the
// host's copy of the guest. What the hook reads in the OCI specification before a start is judged
// here by what the kernel says about the container's init. The exit code is one of sandbox.Adopt…,
// the reason is on stderr.
func AdoptMain(args []string) int {
	if len(args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: terok supervise-adopt SANDBOX-FILE CONTAINER-ID PID GUEST")
		return 2
	}
	code, err := adopt(args[0], args[1], args[2], args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

func adopt(path, id, pidText, guest string) (code int, err error) {
	pid, err := strconv.Atoi(pidText)
	if err != nil || pid <= 1 || !containerID.MatchString(id) {
		return sandbox.AdoptRefused, fmt.Errorf("container %q with the init %q", id, pidText)
	}
	file, err := sandbox.Load(path)
	if err != nil {
		return sandbox.AdoptRefused, err
	}
	st := &ociState{ID: id, PID: pid}
	if err := launched(file, st); err != nil {
		return sandbox.AdoptRefused, err
	}
	unlock, err := state.TryLock(lockPath(file.Dir))
	if errors.Is(err, state.ErrLocked) {
		return sandbox.AdoptRefused, errors.New(heldReason)
	}
	if err != nil {
		return sandbox.AdoptRefused, err
	}
	unlock() // the new parent takes it
	init, err := judgeRunning(file, st, guest)
	if err != nil {
		return sandbox.AdoptRefused, err
	}
	defer init.Close()
	err = start(file, path, st, adoptWord)
	switch {
	case err == nil:
		return 0, nil
	case err.Error() == heldReason: // somebody was quicker
		return sandbox.AdoptRefused, err
	}
	return sandbox.AdoptFailed, err
}

// judgeRunning refuses a running container that is not as its sandbox file says. It returns the
// init pinned, so that a pid which was given to another process meanwhile is no answer.
func judgeRunning(file *sandbox.File, st *ociState, guest string) (*peer.Pin, error) {
	var live sandbox.Live
	if err := state.ReadJSON(sandbox.LivePath(file.Dir), &live); err != nil {
		return nil, fmt.Errorf("the record of the running container: %w", err)
	}
	if live.ContainerID != st.ID || live.Launch != file.Launch || live.InitPID != st.PID {
		return nil, errors.New("the record of the running container is about another one")
	}
	init, err := peer.NewPin(live.InitPID, live.InitStart)
	if err != nil {
		return nil, fmt.Errorf("the container's init: %w", err)
	}
	for _, check := range []func() error{
		func() error { return checkOwnNamespaces(st.PID) },
		func() error { return checkInitProgram(st.PID, file, guest) },
		func() error {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
			if err != nil {
				return err
			}
			return checkInitStatus(data, file)
		},
		func() error { return onlyLinks(st.PID, "lo", sandbox.Link, sandbox.PeerLink) },
	} {
		if err = check(); err != nil {
			break
		}
	}
	if err == nil && !init.Alive() {
		err = errors.New("the container has ended")
	}
	if err != nil {
		init.Close()
		return nil, err
	}
	return init, nil
}

// checkOwnNamespaces wants every namespace to be the container's own: its user namespace a child
// of ours, which is podman's, and the network owned by that.
func checkOwnNamespaces(pid int) error {
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			return fmt.Errorf("the container's %s namespace: %w", ns, err)
		}
		ours, err := os.Stat("/proc/self/ns/" + ns)
		if err != nil {
			return err
		}
		if os.SameFile(theirs, ours) {
			return fmt.Errorf("the container has no %s namespace of its own", ns)
		}
	}
	user := fmt.Sprintf("/proc/%d/ns/user", pid)
	if err := related(user, unix.NS_GET_PARENT, "/proc/self/ns/user"); err != nil {
		return fmt.Errorf("the container's user namespace is not a child of podman's: %w", err)
	}
	if err := related(fmt.Sprintf("/proc/%d/ns/net", pid), unix.NS_GET_USERNS, user); err != nil {
		return fmt.Errorf("the container's network belongs to another user namespace: %w", err)
	}
	return nil
}

// related asks a namespace for another one (ioctl_ns(2)) and compares it with want.
func related(ns string, request uint, want string) error {
	f, err := os.Open(ns)
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), request)
	if err != nil {
		return err
	}
	other := os.NewFile(uintptr(fd), "namespace")
	defer other.Close()
	got, err := other.Stat()
	if err != nil {
		return err
	}
	wanted, err := os.Stat(want)
	if err == nil && !os.SameFile(got, wanted) {
		err = errors.New("it is another one")
	}
	return err
}

// checkInitProgram wants the container's init to be our copy of the guest, started for this
// sandbox file: nobody in the container can write the program, and nobody outside has its key.
func checkInitProgram(pid int, file *sandbox.File, guest string) error {
	if err := checkGuestFile(guest, file.GuestSHA256); err != nil {
		return err
	}
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return fmt.Errorf("the program of the container's init: %w", err)
	}
	ours, err := os.Stat(guest)
	if err != nil {
		return err
	}
	if !os.SameFile(running, ours) {
		return errors.New("the container's init is not terok's guest")
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return err
	}
	argv := bytes.Split(line, []byte{0})
	key := ed25519.NewKeyFromSeed(file.SigningKey).Public().(ed25519.PublicKey)
	want := []string{sandbox.GuestProgram, "guest", "init", "--key=" + base64.RawURLEncoding.EncodeToString(key)}
	for i, w := range want {
		if i >= len(argv) || string(argv[i]) != w {
			return errors.New("the container's init was not started for this sandbox file")
		}
	}
	return nil
}

// checkInitStatus judges /proc/<pid>/status of the init: the first process of a pid namespace,
// with a seccomp filter and no capability that the sandbox file does not give. What the filter
// says was compared with the sandbox file at the start, and a filter cannot be taken off.
func checkInitStatus(status []byte, file *sandbox.File) error {
	field := map[string]string{}
	for line := range strings.Lines(string(status)) {
		if k, v, ok := strings.Cut(line, ":"); ok && field[k] == "" {
			field[k] = strings.TrimSpace(v)
		}
	}
	if pids := strings.Fields(field["NSpid"]); len(pids) != 2 || pids[1] != "1" {
		return errors.New("the container's init is not the first process of its namespace")
	}
	if field["Seccomp"] != "2" {
		return errors.New("the container runs without its seccomp profile")
	}
	if file.NoNewPrivs && field["NoNewPrivs"] != "1" {
		return errors.New("the container may gain new privileges")
	}
	var allowed uint64
	for _, name := range file.Bounding {
		bit := slices.Index(capabilities, name)
		if bit < 0 {
			return fmt.Errorf("the sandbox file gives the unknown capability %.30q", name)
		}
		allowed |= 1 << bit
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		have, err := strconv.ParseUint(field[set], 16, 64)
		if err != nil {
			return fmt.Errorf("the container's init has the %s %.20q", set, field[set])
		}
		if have&^allowed != 0 {
			return fmt.Errorf("the container has capabilities beyond its sandbox file (%s %s)", set, field[set])
		}
	}
	return nil
}

// capabilities by their numbers (<linux/capability.h>).
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
	"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"}
