package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
)

// topNames is how many names Status and the last line of a container have.
const topNames = 20

// past is the traffic of the workers that died before this one, as the ledger has it.
type past struct {
	mu    sync.Mutex
	names audit.Traffic
}

// recall reads what earlier workers of this container start did. It takes as long as the ledger is
// big, so nobody waits for it.
func (s *service) recall() {
	sum := audit.Traffic{}
	err := audit.Read(sandbox.LedgerPath(s.hand.File.Dir), audit.Filter{Since: s.hand.StartedAt, Until: s.started},
		func(e audit.Event) error { sum.Add(e); return nil })
	if _, damaged := errors.AsType[*audit.DamagedError](err); err != nil && !damaged {
		log.Printf("sum up the ledger: %v", err)
		return
	}
	s.before.mu.Lock()
	s.before.names = sum
	s.before.mu.Unlock()
}

// traffic is what each name got since the container's start.
func (s *service) traffic() audit.Traffic {
	sum := audit.Traffic{}
	for name, t := range s.proxy.Counters().Names {
		sum[name] = audit.NameTraffic{Flows: t.Flows, Refused: t.Refused, BytesUp: t.BytesUp, BytesDown: t.BytesDown}
	}
	s.before.mu.Lock()
	defer s.before.mu.Unlock()
	sum.Join(s.before.names)
	return sum
}

// lastWord is the line at the end of a container: bytes in all and of the names with most of them.
func (s *service) lastWord() audit.Event {
	e := audit.Event{Ev: "stop", Actor: "auto", Detail: map[string]string{}}
	sum := s.traffic()
	for _, t := range sum {
		e.BytesUp += t.BytesUp
		e.BytesDown += t.BytesDown
		e.Count += t.Flows
	}
	for _, n := range sum.Top(10) {
		e.Detail[n.Name] = fmt.Sprintf("%d out, %d in, %d refused", n.BytesUp, n.BytesDown, n.Refused)
	}
	return e
}

func views(sum audit.Traffic) []control.NameTraffic {
	out := []control.NameTraffic{}
	for _, n := range sum.Top(topNames) {
		out = append(out, control.NameTraffic{Name: n.Name, Flows: n.Flows, Refused: n.Refused, BytesUp: n.BytesUp, BytesDown: n.BytesDown})
	}
	return out
}

// trouble is an error that comes and goes. It tells its reader without waiting for it.
type trouble struct {
	mu   sync.Mutex
	err  error
	news chan struct{} // one token
}

func newTrouble() *trouble { return &trouble{news: make(chan struct{}, 1)} }

func (t *trouble) set(err error) {
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	select {
	case t.news <- struct{}{}:
	default:
	}
}

func (t *trouble) get() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// watchLedger quarantines while the ledger cannot be written, where the operator wants that, and
// sums up what earlier workers did.
func (s *service) watchLedger(ctx context.Context) {
	if s.hand.Restarts > 0 {
		s.recall()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unwritten.news:
		}
		err := s.unwritten.get()
		if err != nil {
			log.Printf("the ledger cannot be written: %v", err)
		}
		if s.hand.File.AuditRequired {
			s.rules.require(err)
		}
	}
}

// tellLedger fills in what Status says of the ledger.
func (s *service) tellLedger(st *control.Status) {
	st.Ledger = "ok"
	if err := s.unwritten.get(); err != nil {
		st.Ledger = err.Error()
		st.Warnings = append(st.Warnings, "the ledger cannot be written, events are lost: "+err.Error())
	} else if n := s.ledger.Lost(); n > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("%d events could not be written into the ledger since %s", n, s.started.Format(time.RFC3339)))
	}
	st.Traffic = views(s.traffic())
}
