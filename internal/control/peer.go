package control

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a unix socket, as the kernel knows it.
type Peer struct {
	PID   int
	Pidfd *os.File // keeps PID from meaning another process; Close it
}

// Close gives the pidfd back.
func (p *Peer) Close() error { return p.Pidfd.Close() }

// ErrForeignPeer says that the peer is not a process of the operator on the host.
var ErrForeignPeer = errors.New("the peer is not a process of this user on this host")

// CheckPeer refuses a connection whose other end is not a process of the operator on the host or
// in Podman's rootless user namespace.
//
// It defends against a process inside a container: with keep-id the container's user has the
// operator's own uid in the kernel, so SO_PEERCRED alone proves nothing. What differs is the user
// namespace the process lives in, and /proc/<pid>/uid_map shows it (user_namespaces(7)). The pid
// is pinned by a pidfd, so that a peer cannot die and leave its pid to somebody better.
func CheckPeer(conn net.Conn) error {
	p, err := Identify(conn)
	if err != nil {
		return err
	}
	return p.Close()
}

// Identify is CheckPeer for callers that also want to know who it is.
func Identify(conn net.Conn) (*Peer, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%w: not a socket", ErrForeignPeer)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	pidfd := -1
	var credErr, fdErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		pidfd, fdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeignPeer, credErr)
	}
	if fdErr != nil {
		// Linux before 6.5 has no SO_PEERPIDFD. A pidfd opened now pins the pid from here on; what
		// is left is a peer that died before, with its pid given to a process of the operator.
		// That needs a container process that holds this socket, which is never mounted into one.
		if !errors.Is(fdErr, unix.ENOPROTOOPT) {
			return nil, fmt.Errorf("%w: it has ended: %w", ErrForeignPeer, fdErr)
		}
		if pidfd, fdErr = unix.PidfdOpen(int(cred.Pid), 0); fdErr != nil {
			return nil, fmt.Errorf("%w: %w", ErrForeignPeer, fdErr)
		}
	}
	unix.CloseOnExec(pidfd)
	p := &Peer{PID: int(cred.Pid), Pidfd: os.NewFile(uintptr(pidfd), "pidfd")}
	if err := p.check(cred.Uid); err != nil {
		p.Close()
		return nil, fmt.Errorf("%w: pid %d: %w", ErrForeignPeer, p.PID, err)
	}
	return p, nil
}

// check judges the peer's uid and user namespace.
//
// SO_PEERCRED translates the uid into the reader's namespace: inside Podman's namespace the
// operator is 0 there, and so are we. So "the same as ours" is right in both places.
func (p *Peer) check(uid uint32) error {
	if int(uid) != os.Getuid() {
		return fmt.Errorf("its uid is %d", uid)
	}
	if p.PID <= 0 {
		return errors.New("it lives outside our pid namespace")
	}
	dir := "/proc/" + strconv.Itoa(p.PID)
	theirs, err := readIDMap(dir + "/uid_map")
	if err != nil {
		return err
	}
	ours, err := readIDMap("/proc/self/uid_map")
	if err != nil {
		return err
	}
	ok := sameNamespace(theirs, ours) || outsideNamespace(theirs, ours)
	if !ok && podmanMap(theirs, uid) {
		ok, err = childNamespace(dir+"/ns/user", uid)
	}
	if err == nil && !ok {
		err = fmt.Errorf("its user namespace is a container's (uid_map %v)", theirs)
	}
	if err != nil {
		return err
	}
	// Everything above was read by pid: it counts only if the pinned process still holds that pid.
	fds := []unix.PollFd{{Fd: int32(p.Pidfd.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err != nil {
		return err
	} else if n > 0 {
		return errors.New("it has ended")
	}
	return nil
}

// unmapped is what an id that does not exist in the reader's namespace looks like.
const unmapped = 1<<32 - 1

// idRange is one line of /proc/<pid>/uid_map.
type idRange struct{ inside, outside, count uint64 }

// readIDMap parses a uid_map. Its second column is relative to the *reader's* user namespace, or
// to the parent when reader and process share one (user_namespaces(7)).
func readIDMap(path string) ([]idRange, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseIDMap(data)
}

func parseIDMap(data []byte) ([]idRange, error) {
	var m []idRange
	for line := range bytes.Lines(data) {
		var r idRange
		f := strings.Fields(string(line))
		if len(f) != 3 {
			return nil, fmt.Errorf("uid_map has the line %q", line)
		}
		for i, dst := range []*uint64{&r.inside, &r.outside, &r.count} {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("uid_map has the line %q", line)
			}
			*dst = v
		}
		m = append(m, r)
	}
	if len(m) == 0 {
		return nil, errors.New("uid_map is empty") // a namespace that is still being made
	}
	return m, nil
}

// sameNamespace reports whether the peer lives in our own user namespace. A namespace below ours
// cannot show our own map: its ids would have to be ours, shifted by the same distance again.
func sameNamespace(theirs, ours []idRange) bool {
	if len(theirs) != len(ours) {
		return false
	}
	for i := range ours {
		if theirs[i] != ours[i] {
			return false
		}
	}
	return true
}

// outsideNamespace reports whether the peer lives on the host while we live in Podman's
// namespace. A namespace below ours maps only ids that we have, so an id unknown to us, or more
// ids than we have, proves that the peer is not in a container of ours; a map that starts at
// root tells the host from a sandbox beside us, which maps a few ids of the operator.
func outsideNamespace(theirs, ours []idRange) bool {
	if isInitial(ours) || theirs[0].inside != 0 {
		return false
	}
	if isInitial(theirs) {
		return true
	}
	for _, r := range theirs { // a host that is itself in a container
		if r.outside != unmapped {
			return false
		}
	}
	return true
}

// isInitial reports whether a map is the one of the machine's first user namespace.
func isInitial(m []idRange) bool { return len(m) == 1 && m[0].inside == 0 && m[0].count == unmapped }

// podmanMap reports whether a map has the form of Podman's rootless namespace seen from the host:
// root is the operator, and the subordinate ids follow from 1 on. A keep-id container maps the
// operator to another id than 0.
func podmanMap(m []idRange, uid uint32) bool {
	return len(m) >= 2 && m[0] == idRange{0, uint64(uid), 1} && m[1].inside == 1
}

// childNamespace reports whether the user namespace behind path is a direct child of ours and
// owned by uid, as Podman's is; a container's is one level deeper.
func childNamespace(path string, uid uint32) (bool, error) {
	ns, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	owner, err := nsOwner(ns)
	if err != nil || owner != uid {
		return false, err
	}
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return false, err
	}
	parent := os.NewFile(uintptr(fd), "user namespace")
	defer parent.Close()
	theirs, err := parent.Stat()
	if err != nil {
		return false, err
	}
	ours, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	return os.SameFile(theirs, ours), nil
}

func nsOwner(ns *os.File) (uint32, error) {
	// NS_GET_OWNER_UID writes a uid_t; IoctlGetUint32 passes the pointer (ioctl_ns(2)).
	return unix.IoctlGetUint32(int(ns.Fd()), unix.NS_GET_OWNER_UID)
}
