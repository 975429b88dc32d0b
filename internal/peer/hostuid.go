package peer

import (
	"fmt"
	"os"
)

// HostUID is our uid as the parent user namespace sees it: inside podman's, where we are 0, the
// operator's own. Programs of the session, a message bus for one, know us by it.
func HostUID() (int, error) {
	m, err := readIDMap("/proc/self/uid_map")
	if err != nil {
		return 0, err
	}
	return hostUID(m, uint64(os.Geteuid()))
}

func hostUID(m []idRange, uid uint64) (int, error) {
	for _, r := range m {
		if uid >= r.inside && uid-r.inside < r.count {
			return int(r.outside + uid - r.inside), nil
		}
	}
	return 0, fmt.Errorf("uid %d has no place outside this user namespace", uid)
}
