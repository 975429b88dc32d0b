package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Policy is an immutable, indexed set of rules with options. It is safe for concurrent use. The
// zero Policy denies everything.
type Policy struct {
	index *index
	opt   Options
	host  map[netip.Addr]bool
}

// New makes a policy. Rules of the tiers floor and default are ignored; there are none to write.
func New(rules []Rule, o Options) *Policy {
	return (&Policy{index: newIndex(rules)}).WithOptions(o)
}

// WithOptions returns a policy with the same rules and other options, sharing the index. It is
// cheap: postures and host addresses change more often than rules.
func (p *Policy) WithOptions(o Options) *Policy {
	o.HostAddrs = slices.Clone(o.HostAddrs)
	q := &Policy{index: p.index, opt: o, host: make(map[netip.Addr]bool, len(o.HostAddrs))}
	for _, a := range o.HostAddrs {
		q.host[a.Unmap().WithZone("")] = true
	}
	return q
}

// Options returns the options of the policy.
func (p *Policy) Options() Options {
	o := p.opt
	o.HostAddrs = slices.Clone(o.HostAddrs)
	return o
}

// Posture returns the posture that holds: Quarantine for everything that is not a known one.
func (p *Policy) Posture() Posture {
	if p.index == nil || !p.lowered() && p.opt.Posture != Up {
		return Quarantine
	}
	return p.opt.Posture
}

// Rules returns the rules in order of tiers, those of one tier in the order given to New.
func (p *Policy) Rules() []Rule {
	if p.index == nil {
		return nil
	}
	out := make([]Rule, len(p.index.entries))
	for i := range p.index.entries {
		out[i] = p.index.entries[i].rule
	}
	return out
}

// NextExpiry returns the earliest expiry of a rule after now: the moment at which the owner has
// to judge open connections again.
func (p *Policy) NextExpiry(now time.Time) (next time.Time, ok bool) {
	if p.index == nil {
		return next, false
	}
	for i := range p.index.entries {
		e := p.index.entries[i].rule.Expires
		if !e.IsZero() && e.After(now) && (!ok || e.Before(next)) {
			next, ok = e, true
		}
	}
	return next, ok
}

// Reasons of decisions that no rule made.
const (
	reasonQuarantine = "the network is in quarantine"
	reasonRequest    = "not a valid request"
	reasonName       = "not a valid host name"
	reasonLocal      = "a local or metadata name that no rule names"
	reasonResolver   = "other resolvers are closed; names are answered by terok's own"
	reasonUDP        = "UDP needs a rule of its own"
	reasonDefault    = "no rule allows it"
	reasonAsk        = "no rule allows it; somebody can be asked"
	reasonPosture    = "the shield is down: public addresses are open"
	reasonPostureAll = "the shield is down for private ranges as well"
	reasonRelay      = "through the vault: requests need this container's token, everything else is refused"
	reasonHostPort   = "no host:PORT rule opens this port of the host"
)

// Decide judges a request. It takes well under 2 µs and does not allocate, except for an address
// on the floor.
func (p *Policy) Decide(r Request) Decision {
	d := Decision{Tier: Default, now: r.Now, proto: r.Proto}
	proto := protoBit(r.Proto)
	switch {
	case p.Posture() == Quarantine:
		d.Reason = reasonQuarantine
		return d
	case proto == 0 || r.Port == 0 || r.Name == "" && !r.Addr.IsValid():
		d.Reason = reasonRequest
		return d
	case r.Name != "" && !validName(r.Name):
		d.Reason = reasonName
		return d
	case r.Name == "":
		if i := inFloor(r.Addr); i >= 0 {
			d.Tier, d.Rule, d.Reason = Floor, floorRule(i), "the address is never reachable"
			return d
		}
	}
	if e := p.index.find(r, proto, false); e != nil {
		d.Tier, d.Rule, d.Reason = e.rule.Tier, &e.rule, e.reason
		if e.rule.parsed.allow {
			d.Verdict, d.Raw = Allow, e.rule.parsed.raw
		}
	} else {
		d.Verdict, d.Reason = p.byDefault(r, proto)
	}
	if r.Name == "" && d.Verdict != Deny {
		// A literal address is judged here as it will be at the dial, so that nobody is asked
		// about, or told of, an address that would be refused a moment later.
		if err := p.checkRange(&d, "", r.Addr, r.Port); err != nil {
			return Decision{Tier: Default, Reason: err.Message, now: r.Now, proto: r.Proto}
		}
	}
	return d
}

// DecideRelay judges a connection to a host that the vault relays, which the vault's front would
// end. Such a host needs no allow rule, and the launcher's own deny of it (RelaySource) means
// "except through the vault"; every other deny rule that would decide, an operator's above all,
// closes the way through the vault as well, and so does quarantine.
func (p *Policy) DecideRelay(r Request) Decision {
	d := Decision{Tier: Default, now: r.Now, proto: r.Proto}
	proto := protoBit(r.Proto)
	switch {
	case p.Posture() == Quarantine:
		d.Reason = reasonQuarantine
		return d
	case proto == 0 || r.Port == 0 || !validName(r.Name):
		d.Reason = reasonRequest
		return d
	}
	if e := p.index.find(r, proto, true); e != nil && !e.rule.parsed.allow {
		d.Tier, d.Rule, d.Reason = e.rule.Tier, &e.rule, e.reason
		return d
	}
	d.Verdict, d.Tier, d.Reason = Allow, Denied, reasonRelay
	return d
}

func (p *Policy) lowered() bool { return p.opt.Posture == Down || p.opt.Posture == DownAll }

// byDefault decides where no rule matches.
func (p *Policy) byDefault(r Request, proto uint8) (Verdict, string) {
	switch {
	case r.Name == HostName:
		return Deny, reasonHostPort
	case r.Name != "" && unroutable(r.Name):
		return Deny, reasonLocal
	case proto == udp:
		return Deny, reasonUDP
	case r.Port == 53 || r.Port == 853:
		return Deny, reasonResolver
	case p.opt.Posture == DownAll:
		return Allow, reasonPostureAll
	case p.opt.Posture == Down:
		return Allow, reasonPosture
	case p.opt.CanAsk:
		return Ask, reasonAsk
	}
	return Deny, reasonDefault
}

// Name classifies a name for the resolver. The name is in lower case, A-labels, without trailing
// dot; anything else is Refused. [HostName] is Local: the resolver answers it itself.
//
// Listed means that a connection to some port of the name would be allowed now, so that asking
// upstream tells nobody more than the connection would.
func (p *Policy) Name(name string, now time.Time) NameClass {
	if p.Posture() == Quarantine || !validName(name) {
		return Refused
	}
	if name == HostName {
		return Local
	}
	var room [8]*entry
	var closed [2]ports // TCP and UDP ports that an earlier rule denies
	for _, e := range p.index.matching(name, now, room[:0]) {
		q := &e.rule.parsed
		for i, proto := range [...]uint8{tcp, udp} {
			switch {
			case q.protos&proto == 0:
			case !q.allow:
				closed[i] = append(slices.Clone(closed[i]), q.ports...).normal()
			case len(closed[i]) == 0 || len(q.ports.minus(closed[i])) > 0:
				return Listed
			}
		}
	}
	switch {
	case closed[0].equal(allPorts) && closed[1].equal(allPorts):
		return Refused
	case unroutable(name):
		return Local
	case p.lowered() && len(posturePorts.minus(closed[0])) > 0:
		return Listed
	}
	return Unlisted
}

// unroutable tells whether a name means nothing on the internet, or might be read as an address.
func unroutable(name string) bool {
	return localName(name) || !validTLD(name[lastDot(name)+1:])
}

// posturePorts are the TCP ports that a lowered posture opens.
var posturePorts = allPorts.minus(ports{{53, 53}, {853, 853}})

// Exact tells whether a live allow rule of any tier names this very name, not a wildcard. Such a
// name carries no message of the container's choosing.
func (p *Policy) Exact(name string, now time.Time) bool {
	if p.index == nil {
		return false
	}
	for _, e := range p.index.exact[name] {
		if e.rule.parsed.allow && e.rule.Live(now) {
			return true
		}
	}
	return false
}
