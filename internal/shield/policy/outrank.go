package policy

import (
	"cmp"
	"slices"
	"time"
)

// Outranked returns the deny rule of an earlier tier because of which the allow rule r would
// decide nothing: every port and protocol of r, for everything that its target covers, is refused
// before r is looked at. It returns nil when r would open something, and for a deny. Rules of
// RelaySource count only with relay: whoever can go through the vault is not kept out by them.
func Outranked(rules []Rule, r Rule, now time.Time, relay bool) *Rule {
	if !r.parsed.allow {
		return nil
	}
	var earlier []Rule
	for _, e := range rules {
		if e.Tier < r.Tier && e.Tier >= Override && e.Live(now) && e.parsed.coversTarget(&r.parsed) &&
			(relay || e.Tier != Denied || e.Source != RelaySource) {
			earlier = append(earlier, e)
		}
	}
	// The order of decision: tier, then the more specific target, then deny.
	slices.SortStableFunc(earlier, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), b.parsed.specificity()-a.parsed.specificity(),
			boolCompare(a.parsed.allow, b.parsed.allow))
	})
	left := [2]ports{}
	for i, proto := range [...]uint8{tcp, udp} {
		if r.parsed.protos&proto != 0 {
			left[i] = r.parsed.ports
		}
	}
	var by *Rule
	for n := range earlier {
		e := &earlier[n]
		for i, proto := range [...]uint8{tcp, udp} {
			if e.parsed.protos&proto == 0 || len(left[i]) == 0 {
				continue
			}
			rest := left[i].minus(e.parsed.ports)
			if rest.equal(left[i]) {
				continue
			}
			if e.parsed.allow {
				return nil // open already
			}
			if left[i] = rest; by == nil {
				by = e
			}
		}
	}
	if len(left[0])+len(left[1]) > 0 {
		return nil
	}
	return by
}

// specificity orders the targets that cover one target.
func (q *parsed) specificity() int {
	switch q.kind {
	case kindName, kindHost:
		return 1000
	case kindPrefix:
		return q.prefix.Bits()
	}
	return len(q.name)
}

// coversTarget tells whether everything that r's target means is in the target of q.
func (q *parsed) coversTarget(r *parsed) bool {
	switch q.kind {
	case kindHost:
		return r.kind == kindHost
	case kindPrefix:
		return r.kind == kindPrefix && q.prefix.Bits() <= r.prefix.Bits() && q.prefix.Contains(r.prefix.Addr())
	case kindName:
		return r.kind == kindName && r.name == q.name
	case kindBelow, kindSuffix:
		if r.kind != kindName && r.kind != kindBelow && r.kind != kindSuffix {
			return false
		}
		if r.name == q.name {
			// The name itself is in ".name" only; what is below it is in both.
			return q.kind == kindSuffix || r.kind == kindBelow
		}
		n := len(r.name) - len(q.name)
		return n > 0 && r.name[n-1] == '.' && r.name[n:] == q.name
	}
	return false
}
