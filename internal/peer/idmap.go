package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// place judges the user namespace of the process behind /proc/<pid>, whose uid is ours.
//
// SO_PEERCRED translates uids into the reader's namespace: inside Podman's the operator is 0 and
// so are we, and "the same as ours" is right in both places. The maps differ by place:
//
//	we are on the host      host "0 0 4294967295"            podman "0 1000 1, 1 100000 65536"
//	we are in podman's      host "0 4294967295 4294967295"   podman as above
//
// and a container's keep-id map is another one in either place.
func place(proc string, uid int) (Kind, error) {
	theirs, err := readIDMap(proc + "/uid_map")
	if err != nil {
		return 0, err
	}
	ours, err := readIDMap("/proc/self/uid_map")
	if err != nil {
		return 0, err
	}
	switch {
	case outsideNamespace(theirs, ours):
		return Host, nil
	case slices.Equal(theirs, ours) && ours[0].count == 1 && len(ours) > 1:
		return Podman, nil
	case slices.Equal(theirs, ours):
		return Host, nil
	case !podmanMap(theirs, uint64(uid)):
		return 0, fmt.Errorf("its user namespace is a container's (uid_map %v)", theirs)
	}
	ok, err := childNamespace(proc+"/ns/user", uint32(uid))
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, errors.New("its user namespace is not a child of ours")
	}
	return Podman, nil
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
func podmanMap(m []idRange, uid uint64) bool {
	return len(m) >= 2 && m[0] == idRange{0, uid, 1} && m[1].inside == 1
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
