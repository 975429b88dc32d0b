package policy

import (
	"fmt"
	"net/netip"
)

// RangeClass says which check of CheckDial refused an address.
type RangeClass string

// Classes of refused addresses.
const (
	RangeFloor    RangeClass = "floor"    // never reachable
	RangeLoopback RangeClass = "loopback" // of the host
	RangeHost     RangeClass = "host"     // one of the host's own addresses
	RangePrivate  RangeClass = "private"
	RangeDenied   RangeClass = "denied" // a deny rule on the address, or no allow at all
)

// DialError is a refusal of an address that was about to be dialled.
type DialError struct {
	Addr    netip.Addr
	Class   RangeClass
	Message string // one sentence
}

func (e *DialError) Error() string {
	return fmt.Sprintf("%s is refused: %s", e.Addr, e.Message)
}

// CheckDial judges the address that is about to be dialled for an allowed decision: name is the
// connection's name ("" for a literal), a the address that the host's resolver gave for it. This
// is the defence against DNS rebinding: whoever controls a name controls what it resolves to.
// The error is a *DialError.
func (p *Policy) CheckDial(d Decision, name string, a netip.Addr, port uint16) error {
	refuse := func(m string) error { return &DialError{a, RangeDenied, m} }
	switch {
	case p.Posture() == Quarantine:
		return refuse(reasonQuarantine)
	case d.Verdict != Allow:
		return refuse("the connection was not allowed")
	case !a.IsValid() || port == 0:
		return refuse("not an address and a port")
	}
	if err := p.checkRange(&d, name, a, port); err != nil {
		return err
	}
	s := search{now: d.now, port: port, proto: protoBit(d.proto)}
	p.index.searchAddr(&s, a)
	if s.best != nil && !s.best.rule.parsed.allow && s.best.rule.Tier <= d.Tier {
		return refuse(s.best.reason)
	}
	return nil
}

// checkRange refuses addresses that the deciding rule or the posture does not open.
func (p *Policy) checkRange(d *Decision, name string, a netip.Addr, port uint16) *DialError {
	fail := func(c RangeClass, m string) *DialError { return &DialError{a, c, m} }
	a = a.WithZone("")
	if inFloor(a) >= 0 {
		return fail(RangeFloor, "the address is never reachable (metadata, link-local, multicast or embedded IPv4)")
	}
	forHost := d.Rule != nil && d.Rule.parsed.kind == kindHost
	if in(a, loopbackRanges) {
		if forHost && name == HostName && d.Rule.parsed.ports.has(port) {
			return nil
		}
		return fail(RangeLoopback, "the host's loopback opens only to a host:PORT rule")
	}
	switch {
	case forHost:
		return fail(RangeDenied, "a host:PORT rule leads to the host's loopback only")
	case p.opt.Posture == DownAll:
		return nil
	case p.host[a]:
		if !opens(d.Rule, name, a, true) {
			return fail(RangeHost, "an address of the host itself needs an override that names it")
		}
	case in(a, privateRanges):
		if !opens(d.Rule, name, a, false) {
			return fail(RangePrivate, "a private address needs an override that names the host or the address")
		}
	}
	return nil
}

// opens tells whether a rule opens a private address (or, stricter, one of the host's own). A
// wildcard does not: everybody who can make a name below it could point it into the private
// network. Nor does a CIDR that is wider than the private range: it does not name it.
func opens(r *Rule, name string, a netip.Addr, single bool) bool {
	if r == nil || r.Tier != Override || !r.parsed.allow {
		return false
	}
	q := &r.parsed
	switch q.kind {
	case kindName:
		return q.name == name
	case kindPrefix:
		if single {
			return q.prefix.IsSingleIP() && q.prefix.Addr() == a
		}
		return q.prefix.Contains(a) && within(q.prefix, privateRanges)
	}
	return false
}

// inFloor returns the position of a in floorRanges, or -1.
func inFloor(a netip.Addr) int {
	a = a.WithZone("")
	for i, r := range floorRanges {
		if r.Contains(a) {
			return i
		}
	}
	return -1
}

func floorRule(i int) *Rule {
	return &Rule{
		Text: "-" + floorRanges[i].String(), Tier: Floor, Source: "built in",
		parsed: parsed{kind: kindPrefix, prefix: floorRanges[i], ports: allPorts, protos: tcp | udp},
	}
}
