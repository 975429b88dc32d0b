package proxy

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// Budgets bound what leaves the container. Bytes are counted when they have left; a connection
// whose budget is used up stops before it takes more from the client, so that what is over is at
// most one pipe or buffer per connection. Then Config.OverBudget is asked, once per budget however
// many connections wait: a yes grants the budget's bytes once more, a no cuts what waits and
// refuses what comes, until so much of the window has passed that there is room again.

// spans is how many parts a window has: what is older than a window counts no more, with this
// precision.
const spans = 60

// errBudget ends what was not granted.
var errBudget = errors.New("an egress budget is used up")

// Breach is a budget that is used up.
type Breach struct {
	Budget policy.Budget
	Used   uint64         // bytes in the window
	Next   policy.Request // what wanted to send more
}

// Spent is what a budget has counted, for a proxy that starts anew.
type Spent struct {
	Budget string        `json:"budget"`
	Slots  [spans]uint64 `json:"slots"` // a ring, by At modulo their number
	At     int64         `json:"at"`    // the newest slot: seconds since 1970 divided by a slot's length
	More   [spans]uint64 `json:"more"`  // granted beyond the budget, in the slot of the grant
}

// spending counts for one budget.
type spending struct {
	budget policy.Budget
	now    func() time.Time

	mu      sync.Mutex
	slots   [spans]uint64
	more    [spans]uint64
	at      int64
	refused bool          // no more until there is room
	asking  chan struct{} // closed when the question is answered; nil: nobody asks
}

// roll forgets what has left the window. Called with the lock held. A clock that goes back keeps
// what was counted.
func (s *spending) roll() {
	at := s.now().Unix() / int64(s.budget.Window/time.Second/spans)
	for n := min(at-s.at, spans); n > 0; n-- {
		i := (at - n + 1) % spans
		s.slots[i], s.more[i] = 0, 0
	}
	s.at = max(at, s.at)
}

func (s *spending) sums() (used, granted uint64) {
	for i := range spans {
		used += s.slots[i]
		granted += s.more[i]
	}
	return used, s.budget.Bytes + granted
}

func (s *spending) add(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	s.slots[s.at%spans] += n
}

// spend returns nil when there is room, a channel to wait for when somebody is being asked, or
// errBudget. The first who finds no room gets ask true and has to settle.
func (s *spending) spend() (wait chan struct{}, ask bool, used uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	used, limit := s.sums()
	switch {
	case used < limit:
		s.refused = false
		return nil, false, used, nil
	case s.refused:
		return nil, false, used, errBudget
	case s.asking != nil:
		return s.asking, false, used, nil
	}
	s.asking = make(chan struct{})
	return s.asking, true, used, nil
}

func (s *spending) roomy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	used, limit := s.sums()
	return used < limit
}

func (s *spending) settle(granted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	if granted {
		// What is over already is granted as well, or a small budget would be used up again at once.
		used, limit := s.sums()
		s.more[s.at%spans] += s.budget.Bytes + used - min(used, limit)
	}
	s.refused = !granted
	close(s.asking)
	s.asking = nil
}

// newSpendings makes the counters, with what an earlier proxy counted for the same budgets.
func newSpendings(budgets []policy.Budget, spent []Spent, now func() time.Time) []*spending {
	var out []*spending
	for _, b := range budgets {
		if b.Window < spans*time.Second || b.Bytes == 0 {
			continue // not made by policy.ParseBudget
		}
		s := &spending{budget: b, now: now}
		for _, old := range spent {
			if old.Budget == b.String() && old.At > 0 {
				s.slots, s.more, s.at = old.Slots, old.More, old.At
			}
		}
		out = append(out, s)
	}
	return out
}

// Spent returns what the budgets have counted.
func (p *Proxy) Spent() []Spent {
	var out []Spent
	for _, s := range p.spendings {
		s.mu.Lock()
		s.roll()
		out = append(out, Spent{s.budget.String(), s.slots, s.at, s.more})
		s.mu.Unlock()
	}
	return out
}

// budgetsOf returns the counters that traffic of f is in.
func (p *Proxy) budgetsOf(f *flow) []*spending {
	var out []*spending
	a := netip.Addr{}
	if f.name == "" {
		a = f.dst.Addr()
	}
	for _, s := range p.spendings {
		if s.budget.Covers(f.name, a) {
			out = append(out, s)
		}
	}
	return out
}

// afford waits until every budget of f has room. The error is errBudget, or errGone when f was cut
// meanwhile.
func (p *Proxy) afford(f *flow) error {
	for _, s := range f.budgets {
		for {
			wait, ask, used, err := s.spend()
			if err != nil {
				return err
			}
			if wait == nil {
				break
			}
			if ask {
				p.wg.Go(func() { s.settle(p.overBudget(s.budget, used, f.request())) })
			}
			select {
			case <-wait:
			case <-f.gone:
				return errGone
			}
		}
	}
	return nil
}

// errGone says that a flow was cut while it waited.
var errGone = errors.New("cut")

// affordNow is afford for what cannot wait: without room it is false, and somebody is asked.
func (p *Proxy) affordNow(f *flow) bool {
	for _, s := range f.budgets {
		wait, ask, used, err := s.spend()
		if ask {
			p.wg.Go(func() { s.settle(p.overBudget(s.budget, used, f.request())) })
		}
		if err != nil || wait != nil {
			return false
		}
	}
	return true
}

func (p *Proxy) overBudget(b policy.Budget, used uint64, next policy.Request) bool {
	p.ledger.record(audit.Event{Ev: evBudget, Actor: "workload", Name: next.Name, Port: next.Port, Proto: next.Proto, BytesUp: used,
		Scope: string(b.Breach), Reason: "the egress budget " + b.String() + " is used up"}, b.String())
	if p.cfg.OverBudget == nil {
		return false
	}
	return p.cfg.OverBudget(p.ctx, Breach{b, used, next})
}

// pay waits until f may send more; without that f is cut and an error returned.
func (p *Proxy) pay(f *flow) error {
	err := p.afford(f)
	if errors.Is(err, errBudget) {
		f.cut(errBudget.Error())
	}
	return err
}

// payFirst is pay for a connection that has not begun: it is refused in the client's protocol.
func (p *Proxy) payFirst(f *flow, d policy.Decision) bool {
	err := p.afford(f)
	if errors.Is(err, errBudget) {
		f.broke = true
		p.deny(f, policy.Decision{Tier: d.Tier, Reason: errBudget.Error()})
	}
	return err == nil
}

func (m *pump) pay() error {
	if m.payer == nil {
		return nil
	}
	return m.p.pay(m.payer)
}

// roomy tells whether pay would return at once.
func (m *pump) roomy() bool {
	if m.payer == nil {
		return true
	}
	for _, s := range m.payer.budgets {
		if !s.roomy() {
			return false
		}
	}
	return true
}
