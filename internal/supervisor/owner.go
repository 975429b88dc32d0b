package supervisor

import (
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

	"terok/internal/text"
)

// Which process in the container made a connection is for the parent to find: Landlock keeps /proc
// from the worker. The question is a connection's two ends and nothing else, the answer is a name
// that the process chose for itself and the process's number on the host. The parent reads kernel
// links and the 16 bytes of a comm and takes neither apart; a worker that was taken over learns by
// it what its own container's processes are called.

// Sizes of the question and of its answer behind opOwner.
const (
	ownerQuestion = 2 * (16 + 2) // both ends: address as 16 bytes, port in network order
	ownerAnswer   = commSize + 4 // the comm, zero-padded, and the pid in network order; zeros: unknown
	commSize      = 16           // TASK_COMM_LEN, with the final zero
)

// Bounds of one search: a container with very many processes or open files has no answer.
const (
	ownerLinks = 20000
	ownerTime  = 100 * time.Millisecond
	// ownerEvery and ownerBurst bound searches; the docket makes ten requests a minute.
	ownerEvery = time.Second
	ownerBurst = 20
)

func encodeEnds(local, remote netip.AddrPort) []byte {
	var b []byte
	for _, e := range []netip.AddrPort{local, remote} {
		a := e.Addr().Unmap().As16()
		b = binary.BigEndian.AppendUint16(append(b, a[:]...), e.Port())
	}
	return b
}

func decodeEnds(b []byte) (local, remote netip.AddrPort) {
	end := func(b []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
	}
	return end(b), end(b[18:])
}

// ownerWords is an answer as people read it, "" for unknown.
func ownerWords(b []byte) string {
	pid := binary.BigEndian.Uint32(b[commSize:])
	if pid == 0 {
		return ""
	}
	comm, _, _ := strings.Cut(string(b[:commSize]), "\x00")
	return fmt.Sprintf("%s, pid %d", text.Line(comm, commSize), pid)
}

// processes asks the parent which process made a connection; the worker's.
type processes struct {
	link    *link
	answers chan []byte   // from obey
	done    chan struct{} // closed when the parent says no more

	mu sync.Mutex // one question at a time
}

func newProcesses(l *link) *processes {
	return &processes{link: l, answers: make(chan []byte, 1), done: make(chan struct{})}
}

// owner waits for the parent's answer, which comes unless the container ends. "" is unknown.
func (p *processes) owner(local, remote netip.AddrPort) string {
	if !local.IsValid() || !remote.IsValid() {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link.sayRecord(opOwner, encodeEnds(local, remote)) != nil {
		return ""
	}
	select {
	case answer := <-p.answers:
		return ownerWords(answer)
	case <-p.done:
		return ""
	}
}

// heard takes an answer; one that nobody asked for is dropped.
func (p *processes) heard(answer []byte) {
	select {
	case p.answers <- answer:
	default:
	}
}

// owners finds processes of one container; the parent's.
type owners struct {
	inode   func(local, remote netip.AddrPort) (uint32, error) // in the container's namespace
	space   string                                             // "net:[4026532001]" of the container
	proc    string                                             // /proc
	links   int                                                // that one search looks at
	allowed int
	since   time.Time
}

// newOwners is about the container whose network namespace has the descriptor space.
func newOwners(inode func(local, remote netip.AddrPort) (uint32, error), space int) (*owners, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", space))
	return &owners{inode: inode, space: name, proc: "/proc", links: ownerLinks, allowed: ownerBurst, since: time.Now()}, err
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
	pid := o.holder(fmt.Sprintf("socket:[%d]", inode))
	if pid == 0 {
		return answer
	}
	comm, err := os.ReadFile(filepath.Join(o.proc, strconv.Itoa(pid), "comm"))
	if err != nil || len(comm) > commSize {
		return answer
	}
	copy(answer, strings.TrimSuffix(string(comm), "\n"))
	binary.BigEndian.PutUint32(answer[commSize:], uint32(pid))
	return answer
}

// holder returns the oldest process of the container's network namespace that has a descriptor of
// this name open, 0 for none. A process that is not the container's cannot be read or is elsewhere.
func (o *owners) holder(name string) int {
	dir, err := os.Open(o.proc)
	if err != nil {
		return 0
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return 0
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	links, until := o.links, time.Now().Add(ownerTime)
	for _, pid := range pids {
		at := filepath.Join(o.proc, strconv.Itoa(pid))
		if space, err := os.Readlink(at + "/ns/net"); err != nil || space != o.space {
			continue
		}
		fds, err := os.Open(at + "/fd")
		if err != nil {
			continue
		}
		for {
			names, err := fds.Readdirnames(256)
			for _, n := range names {
				if link, err := os.Readlink(at + "/fd/" + n); err == nil && link == name {
					fds.Close()
					return pid
				}
			}
			if links -= len(names); links < 0 || time.Now().After(until) {
				fds.Close()
				return 0
			}
			if err != nil || len(names) == 0 {
				break
			}
		}
		fds.Close()
	}
	return 0
}
