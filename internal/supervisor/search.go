package supervisor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// owners finds processes of one container; the parent's.
type owners struct {
	inode   func(local, remote netip.AddrPort) (uint32, error) // in the container's namespace
	space   string                                             // "net:[4026532001]" of the container
	rulers  []string                                           // "user:[…]": capabilities there are worth something in space
	proc    string                                             // /proc
	links   int                                                // that one search looks at
	within  time.Duration                                      // that one search takes
	allowed int
	since   time.Time

	mu     sync.Mutex
	last   []byte // of mighty
	lastAt time.Time
}

// newOwners is about the container whose network namespace has the descriptor space.
func newOwners(inode func(local, remote netip.AddrPort) (uint32, error), space int) (*owners, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", space))
	if err != nil {
		return nil, err
	}
	// Its owner, and ours, which is podman's and above it.
	owner, err := unix.IoctlRetInt(space, unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("the owner of the container's network namespace: %w", err)
	}
	defer unix.Close(owner)
	theirs, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", owner))
	if err != nil {
		return nil, err
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	return &owners{inode: inode, space: name, rulers: []string{theirs, ours}, proc: "/proc", links: ownerLinks, within: ownerTime, allowed: ownerBurst, since: time.Now()}, err
}

// find answers a question; it always returns an answer of its fixed size.
func (o *owners) find(question []byte) []byte {
	answer := make([]byte, ownerAnswer)
	if fresh := int(time.Since(o.since) / ownerEvery); fresh > 0 {
		o.allowed, o.since = min(ownerBurst, o.allowed+fresh), time.Now()
	}
	if o.allowed <= 0 || o.space == "" {
		return answer
	}
	o.allowed--
	inode, err := o.inode(decodeEnds(question))
	if err != nil {
		return answer
	}
	return o.name(o.holder(fmt.Sprintf("socket:[%d]", inode)))
}

// name makes the answer that names a process; zeros for pid 0 and one that has ended.
func (o *owners) name(pid int) []byte {
	answer := make([]byte, ownerAnswer)
	comm, err := os.ReadFile(filepath.Join(o.proc, strconv.Itoa(pid), "comm"))
	if pid == 0 || err != nil || len(comm) > commSize {
		return answer
	}
	copy(answer, strings.TrimSuffix(string(comm), "\n"))
	binary.BigEndian.PutUint32(answer[commSize:], uint32(pid))
	return answer
}

// each calls f for the processes of the container's network namespace, oldest number first, until
// it returns false. A process that is not the container's cannot be read or is elsewhere.
func (o *owners) each(f func(pid int, at string) bool) {
	dir, err := os.Open(o.proc)
	if err != nil {
		return
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		at := filepath.Join(o.proc, strconv.Itoa(pid))
		if space, err := os.Readlink(at + "/ns/net"); err != nil || space != o.space {
			continue
		}
		if !f(pid, at) {
			return
		}
	}
}

// holder returns the first process that has a descriptor of this name open, 0 for none.
func (o *owners) holder(name string) (found int) {
	links, until := o.links, time.Now().Add(o.within)
	o.each(func(pid int, at string) bool {
		fds, err := os.Open(at + "/fd")
		if err != nil {
			return true
		}
		defer fds.Close()
		for {
			names, err := fds.Readdirnames(256)
			for _, n := range names {
				if link, err := os.Readlink(at + "/fd/" + n); err == nil && link == name {
					found = pid
					return false
				}
			}
			if links -= len(names); links < 0 || time.Now().After(until) {
				return false
			}
			if err != nil || len(names) == 0 {
				return true
			}
		}
	})
	return found
}

// mighty names the first process that has CAP_NET_ADMIN over the container's network, or gets it from
// sudo: it is in the bounding set of nothing that terok starts, only `podman exec --privileged` and
// the like on the host give it. Capabilities in a user namespace that the workload made are worth
// nothing there and are not meant.
//
// What was seen at most maxAge ago is the answer; 0 looks.
func (o *owners) mighty(maxAge time.Duration) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last != nil && time.Since(o.lastAt) < maxAge {
		return o.last
	}
	found := 0
	o.each(func(pid int, at string) bool {
		if user, err := os.Readlink(at + "/ns/user"); err != nil || !slices.Contains(o.rulers, user) {
			return true
		}
		status, err := os.ReadFile(at + "/status")
		if err == nil && within(status)&(1<<unix.CAP_NET_ADMIN) != 0 {
			found = pid
		}
		return found == 0
	})
	o.last, o.lastAt = o.name(found), time.Now()
	return o.last
}

// within is the permitted and the bounding set in /proc/<pid>/status (proc(5)). The name of the
// process, which is its own choice, stands there as well, with newlines escaped by the kernel.
func within(status []byte) (caps uint64) {
	for line := range bytes.Lines(status) {
		for _, set := range []string{"CapPrm:", "CapBnd:"} {
			if hex, ok := bytes.CutPrefix(line, []byte(set)); ok {
				n, _ := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
				caps |= n
			}
		}
	}
	return caps
}
