package supervisor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
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
	// ownerWait is how long a worker waits for an answer: a parent that stands still must not stop
	// refusals.
	ownerWait = time.Second
	// mightyEvery is how long what was seen of capabilities holds, lookEvery how often a worker looks
	// by itself: a search costs milliseconds, and lists ask many supervisors for their status.
	mightyEvery = 10 * time.Second
	lookEvery   = 30 * time.Second
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

	mu    sync.Mutex // one question at a time
	noted atomic.Pointer[string]

	state sync.Mutex
	late  int // answers that nobody waits for any more, still to come
}

func newProcesses(l *link) *processes {
	return &processes{link: l, answers: make(chan []byte, 1), done: make(chan struct{})}
}

// owner waits for the parent's answer, "" for unknown.
func (p *processes) owner(local, remote netip.AddrPort) string {
	if !local.IsValid() || !remote.IsValid() {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ask(opOwner, encodeEnds(local, remote))
}

// ask puts one question; the caller holds mu.
func (p *processes) ask(op byte, question []byte) string {
	if p.link.sayRecord(op, question) != nil {
		return ""
	}
	select {
	case answer := <-p.answers:
		return ownerWords(answer)
	case <-p.done:
		return ""
	case <-time.After(ownerWait):
	}
	p.state.Lock()
	defer p.state.Unlock()
	select {
	case answer := <-p.answers: // at the last moment
		return ownerWords(answer)
	default:
		p.late++ // it must not answer the next question
		return ""
	}
}

// mighty is a process in the container that can change its network; "" for none.
func (p *processes) mighty() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ask(opMighty, nil)
}

// watchMighty records every process that can change the container's network, as far as it lives
// long enough to be seen.
func (s *service) watchMighty(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.noteMighty(s.processes.mighty())
		}
	}
}

// noteMighty writes a process down when it is seen first.
func (s *service) noteMighty(who string) {
	if old := s.processes.noted.Swap(&who); who == "" || old != nil && *old == who {
		return
	}
	s.ledger.Record(audit.Event{Ev: "net_admin", Actor: "operator", Reason: "a process in the container can change its network: " + who,
		Detail: map[string]string{"process": who}})
}

// tellMighty warns of it in Status.
func (s *service) tellMighty(st *control.Status) {
	who := s.processes.mighty()
	s.noteMighty(who)
	if who != "" {
		st.Warnings = append(st.Warnings, "a process in the container can change its network (CAP_NET_ADMIN): "+who)
	}
}

// heard takes an answer; one that nobody waits for is dropped.
func (p *processes) heard(answer []byte) {
	p.state.Lock()
	defer p.state.Unlock()
	if p.late > 0 {
		p.late--
		return
	}
	select {
	case p.answers <- answer:
	default:
	}
}
