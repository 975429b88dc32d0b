package proxy

import (
	"sync"
	"sync/atomic"
)

// Limits bound what one container can hold; a zero field means its default (spec: shield.md §1.5).
// The first connection over a limit is refused and one event "limit" says so.
type Limits struct {
	Open      int // relayed connections, the vault's included; 512
	Held      int // connections that wait for a verdict; 64
	Services  int // connections to the supervisor's own services; 256
	Refusing  int // refusals that still wait for the client's first bytes, to answer in its protocol; 64
	PeekBytes int // memory for reading heads and ClientHellos, in all; 65536
	Spliced   int // directions that use a kernel pipe at the same time; 16
	Datagrams int // relayed UDP sockets of the container; 128
	Relays    int // names with port whose UDP is relayed; 64
	Names     int // names with counters of their own; 4096
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Open, 512)
	def(&l.Held, 64)
	def(&l.Services, 256)
	def(&l.Refusing, 64)
	def(&l.PeekBytes, 64<<10)
	def(&l.Spliced, 16)
	def(&l.Datagrams, 128)
	def(&l.Relays, 64)
	def(&l.Names, 4096)
	return l
}

// slot counts connections of one kind up to a limit.
type slot struct {
	n   atomic.Int64
	max int64
}

func (s *slot) take() bool {
	if s.n.Add(1) > s.max {
		s.n.Add(-1)
		return false
	}
	return true
}

func (s *slot) give() { s.n.Add(-1) }

type slots struct{ open, held, services, refusing, datagrams *slot }

func newSlots(l Limits) slots {
	mk := func(n int) *slot { return &slot{max: int64(n)} }
	return slots{mk(l.Open), mk(l.Held), mk(l.Services), mk(l.Refusing), mk(l.Datagrams)}
}

// Counters are exact, also where events are folded.
type Counters struct {
	Open     uint64 // relayed connections now
	Held     uint64 // waiting for a verdict now
	Services uint64 // connections to services now
	Spliced  uint64 // directions that hold a kernel pipe now
	UDP      uint64 // relayed UDP sockets of the container now
	Relays   uint64 // names with port whose UDP is relayed now

	Allowed    uint64 // connections that policy allowed, the vault's included
	Denied     uint64 // refused by policy
	Mismatched uint64 // refused because of a second name
	Malformed  uint64 // heads and ClientHellos that were refused
	Private    uint64 // addresses that were not dialled, by policy
	Unknown    uint64 // original destination unknown or nobody's
	Unreached  uint64 // allowed, but resolving or dialling failed
	LimitsHit  uint64 // refused because of a limit
	Cut        uint64 // ended by Recheck
	BytesUp    uint64 // out of the container
	BytesDown  uint64

	Names map[string]Traffic // by name or literal address; "" holds what is over Limits.Names
}

// Traffic is what one name or literal address got.
type Traffic struct {
	Flows     uint64 // allowed connections
	Refused   uint64
	BytesUp   uint64 // out of the container
	BytesDown uint64
}

// tally keeps the counters.
type tally struct {
	allowed, denied, mismatched, malformed, private, unknown, unreached, limited, cut atomic.Uint64
	up, down                                                                          atomic.Uint64

	mu    sync.Mutex
	names map[string]*Traffic
}

// name changes the counters of one name.
func (t *tally) name(name string, limit int, change func(*Traffic)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.names[name]
	if e == nil {
		if len(t.names) >= limit {
			name = ""
		}
		if e = t.names[name]; e == nil {
			e = &Traffic{}
			t.names[name] = e
		}
	}
	change(e)
}

// Counters returns a snapshot. Bytes of live connections are included.
func (p *Proxy) Counters() Counters {
	t := &p.tally
	c := Counters{
		Open: uint64(p.slots.open.n.Load()), Held: uint64(p.slots.held.n.Load()),
		Services: uint64(p.slots.services.n.Load()), Spliced: uint64(p.pipes.inUse()),
		UDP: uint64(p.slots.datagrams.n.Load()), Relays: uint64(p.datagrams.count()),
		Allowed: t.allowed.Load(), Denied: t.denied.Load(), Mismatched: t.mismatched.Load(),
		Malformed: t.malformed.Load(), Private: t.private.Load(), Unknown: t.unknown.Load(),
		Unreached: t.unreached.Load(), LimitsHit: t.limited.Load(), Cut: t.cut.Load(),
		BytesUp: t.up.Load(), BytesDown: t.down.Load(),
	}
	t.mu.Lock()
	c.Names = make(map[string]Traffic, len(t.names))
	for k, v := range t.names {
		c.Names[k] = *v
	}
	t.mu.Unlock()
	for _, f := range p.live() {
		n := c.Names[f.key()]
		n.BytesUp += f.up.Load()
		n.BytesDown += f.down.Load()
		if n != (Traffic{}) {
			c.Names[f.key()] = n
		}
	}
	return c
}
