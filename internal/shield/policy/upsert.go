package policy

// Upsert returns rules with r added so that r decides about its target from now on: the last
// word about one target of one tier holds (allow, deny, allow). Rules of the same tier and target
// that r contradicts lose the ports that r is about; those that it repeats are dropped. Rules of
// other tiers and about other targets stay. The input is not changed.
func Upsert(rules []Rule, r Rule) []Rule {
	out := make([]Rule, 0, len(rules)+1)
	for _, old := range rules {
		if old.Tier != r.Tier || old.Target() != r.Target() {
			out = append(out, old)
			continue
		}
		out = append(out, old.without(&r)...)
	}
	return append(out, r)
}

// without returns what is left of a rule when the ports and protocols of r are taken away: no
// rule, one, or one for each protocol.
func (old Rule) without(r *Rule) []Rule {
	var left [2]ports
	for i, proto := range [...]uint8{tcp, udp} {
		if old.parsed.protos&proto == 0 {
			continue
		}
		left[i] = old.parsed.ports
		if r.parsed.protos&proto != 0 {
			left[i] = left[i].minus(r.parsed.ports)
		}
	}
	if len(left[0]) > 0 && left[0].equal(left[1]) {
		return []Rule{old.with(left[0], tcp|udp)}
	}
	var out []Rule
	for i, proto := range [...]uint8{tcp, udp} {
		if len(left[i]) > 0 {
			out = append(out, old.with(left[i], proto))
		}
	}
	return out
}

func (old Rule) with(p ports, protos uint8) Rule {
	old.parsed.ports, old.parsed.protos = p, protos
	old.Text = old.canonical()
	return old
}
