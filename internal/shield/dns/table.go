package dns

import (
	"container/list"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"sync"
)

// Bounds of a table in names. The resolver's rate (50/s) times the answers' TTL (60 s) is less
// than either, so that a name whose answer may still be cached is not dropped.
const (
	maxLoose  = 4096  // names that policy never allowed
	maxPinned = 16384 // names that policy allowed; reached only through wildcards
)

// V6Range is where the synthetic IPv6 addresses of names lie: a unique local prefix of terok's own
// (RFC 4193) in front of the name's IPv4 address. The container's link has no address in it.
var V6Range = netip.MustParsePrefix("fd74:6572:6f6b:1::/96")

// V6 is the IPv6 address of a name whose IPv4 address is a.
func V6(a netip.Addr) netip.Addr {
	out, low := V6Range.Addr().As16(), a.As4()
	copy(out[12:], low[:])
	return netip.AddrFrom16(out)
}

// Table maps names to synthetic addresses and back. An address depends on the name's hash alone,
// as long as it is free, so that answers are the same after a restart; names that policy never
// allowed can push out only each other. It is safe for concurrent use.
type Table struct {
	base uint32 // first address
	mask uint32 // number of addresses minus 1

	mu     sync.Mutex
	byName map[string]*list.Element
	byAddr map[uint32]*list.Element
	loose  ring
	pinned ring
	gen    uint64
}

// ring is a list of *slot, most recently used first.
type ring struct {
	list list.List
	max  int
}

type slot struct {
	name   string
	offset uint32
	pinned bool
}

// Pin is an allowed name with its address, for names.json.
type Pin struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}

// NewTable makes an empty table over an IPv4 prefix of at most 24 bits, usually 198.18.0.0/15. It
// panics on any other prefix: settings are validated where they are read.
func NewTable(prefix netip.Prefix) *Table {
	if !prefix.IsValid() || !prefix.Addr().Is4() || prefix.Bits() > 24 || prefix.Bits() < 8 {
		panic(fmt.Sprintf("dns: %v cannot hold synthetic addresses", prefix))
	}
	a := prefix.Masked().Addr().As4()
	n := uint32(1) << (32 - prefix.Bits())
	return &Table{
		base:   binary.BigEndian.Uint32(a[:]),
		mask:   n - 1,
		byName: map[string]*list.Element{},
		byAddr: map[uint32]*list.Element{},
		loose:  ring{max: int(min(maxLoose, n/4))},
		pinned: ring{max: int(min(maxPinned, n/2))},
	}
}

// Addr returns the address of a name (lower case, no trailing dot), making one if needed. With
// pinned, policy allows the name: its address stays. Without, the name may be forgotten when many
// others come. A pinned name stays pinned. The second value is false for an empty name.
func (t *Table) Addr(name string, pinned bool) (netip.Addr, bool) {
	if name == "" {
		return netip.Addr{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byName[name]; e != nil {
		s := e.Value.(*slot)
		if pinned && !s.pinned {
			t.loose.list.Remove(e)
			s.pinned = true
			t.insert(s)
			t.gen++
		} else {
			t.ring(s).list.MoveToFront(e)
		}
		return t.addr(s.offset), true
	}
	s := &slot{name: name, pinned: pinned}
	t.makeRoom(s)
	s.offset = t.free(name)
	t.insert(s)
	if pinned {
		t.gen++
	}
	return t.addr(s.offset), true
}

// Has tells whether a name has an address now.
func (t *Table) Has(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byName[name] != nil
}

// Name returns the name of a synthetic address of either family; false for one that was never handed out or is
// forgotten.
func (t *Table) Name(a netip.Addr) (string, bool) {
	offset, ok := t.offset(a)
	if !ok {
		return "", false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byAddr[offset]
	if e == nil {
		return "", false
	}
	s := e.Value.(*slot)
	t.ring(s).list.MoveToFront(e)
	return s.name, true
}

// Contains tells whether an address lies in a synthetic range, handed out or not.
func (t *Table) Contains(a netip.Addr) bool {
	_, ok := t.offset(a)
	return ok
}

// Generation changes whenever Snapshot would: the owner saves when it differs.
func (t *Table) Generation() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gen
}

// Snapshot returns the pinned names, least recently used first. All of them are needed, not only
// those that probing moved: an address whose name is not known is refused.
func (t *Table) Snapshot() []Pin {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Pin, 0, t.pinned.list.Len())
	for e := t.pinned.list.Back(); e != nil; e = e.Prev() {
		s := e.Value.(*slot)
		out = append(out, Pin{s.name, t.addr(s.offset)})
	}
	return out
}

// All yields every name with its address, pinned or not, as they are when it begins.
func (t *Table) All() iter.Seq2[string, netip.Addr] {
	return func(yield func(string, netip.Addr) bool) {
		t.mu.Lock()
		all := make([]Pin, 0, len(t.byName))
		for name, e := range t.byName {
			all = append(all, Pin{name, t.addr(e.Value.(*slot).offset)})
		}
		t.mu.Unlock()
		for _, p := range all {
			if !yield(p.Name, p.Addr) {
				return
			}
		}
	}
}

// Restore adds the pins of a snapshot to a new table. Pins outside of the range (the setting was
// changed) and pins that contradict an earlier one are left out.
func (t *Table) Restore(pins []Pin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range pins {
		offset, ok := t.offset(p.Addr)
		if !ok || p.Name == "" || t.reserved(offset) || t.byAddr[offset] != nil || t.byName[p.Name] != nil {
			continue
		}
		s := &slot{name: p.Name, offset: offset, pinned: true}
		t.makeRoom(s)
		t.insert(s)
	}
}

func (t *Table) addr(offset uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], t.base+offset)
	return netip.AddrFrom4(b)
}

func (t *Table) offset(a netip.Addr) (uint32, bool) {
	if V6Range.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	n := binary.BigEndian.Uint32(b[:]) - t.base
	return n, n <= t.mask
}

func (t *Table) ring(s *slot) *ring {
	if s.pinned {
		return &t.pinned
	}
	return &t.loose
}

func (t *Table) insert(s *slot) {
	e := t.ring(s).list.PushFront(s)
	t.byName[s.name] = e
	t.byAddr[s.offset] = e
}

// makeRoom drops the least recently used name of the ring that s goes into.
func (t *Table) makeRoom(s *slot) {
	r := t.ring(s)
	for r.list.Len() >= r.max {
		old := r.list.Remove(r.list.Back()).(*slot)
		delete(t.byName, old.name)
		delete(t.byAddr, old.offset)
		if old.pinned {
			t.gen++
		}
	}
}

// reserved tells whether an offset looks like a network or broadcast address.
func (t *Table) reserved(offset uint32) bool { return offset == 0 || offset == t.mask }

// free returns the first free offset on the name's way. The step is a second hash: names chosen
// to start at the same place do not follow the same way, which would make probing slow. At most
// three quarters of the table are taken, so it ends.
func (t *Table) free(name string) uint32 {
	h := fnv.New64a()
	h.Write([]byte(name))
	sum := h.Sum64()
	sum ^= sum >> 29 // FNV's low bits alone are weak
	sum *= 0xbf58476d1ce4e5b9
	sum ^= sum >> 32
	at, step := uint32(sum), uint32(sum>>32)|1
	for {
		if o := at & t.mask; !t.reserved(o) && t.byAddr[o] == nil {
			return o
		}
		at += step
	}
}
