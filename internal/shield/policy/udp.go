package policy

import "time"

// UDPPorts returns ports, at most limit, on which a rule lets datagrams reach a name now. The
// name is as for [Policy.Name]. Only rules open UDP, so the list is what the rules say.
func (p *Policy) UDPPorts(name string, now time.Time, limit int) []uint16 {
	if p.Posture() == Quarantine || !validName(name) || !p.index.datagrams {
		return nil
	}
	var room [8]*entry
	var out []uint16
	for _, e := range p.index.matching(name, now, room[:0]) {
		q := &e.rule.parsed
		if !q.allow || q.protos&udp == 0 {
			continue
		}
		for _, r := range q.ports {
			for port := uint32(r.lo); port <= uint32(r.hi); port++ {
				if len(out) >= limit {
					return out
				}
				if d := p.Decide(Request{Name: name, Port: uint16(port), Proto: "udp", Now: now}); d.Verdict == Allow {
					out = append(out, uint16(port))
				}
			}
		}
	}
	return out
}

// Datagrams tells whether any rule, live or not, allows UDP.
func (p *Policy) Datagrams() bool { return p.index != nil && p.index.datagrams }
