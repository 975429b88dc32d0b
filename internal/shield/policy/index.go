package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// entry is a rule with the sentence that explains it, made once.
type entry struct {
	rule   Rule
	reason string
}

// index finds the rules about a target. Every list in it is in order of precedence for one
// target: tier, then deny before allow.
type index struct {
	entries []entry
	exact   map[string][]*entry // kindName
	suffix  map[string][]*entry // kindBelow and kindSuffix by base
	prefix  map[netip.Prefix][]*entry
	host    []*entry
	depth   int      // labels of the deepest base in suffix
	bits    [2][]int // lengths that exist in prefix, longest first: IPv4, IPv6

	datagrams bool // a rule allows UDP
}

func newIndex(rules []Rule) *index {
	x := &index{
		exact:  map[string][]*entry{},
		suffix: map[string][]*entry{},
		prefix: map[netip.Prefix][]*entry{},
	}
	for _, r := range rules {
		if r.parsed.kind != kindNone && r.Tier >= Override && r.Tier < Default {
			x.entries = append(x.entries, entry{rule: r, reason: reasonOf(&r)})
		}
	}
	slices.SortStableFunc(x.entries, func(a, b entry) int { return cmp.Compare(a.rule.Tier, b.rule.Tier) })
	for i := range x.entries {
		x.add(&x.entries[i])
	}
	for _, m := range []map[string][]*entry{x.exact, x.suffix} {
		for _, list := range m {
			slices.SortStableFunc(list, precedence)
		}
	}
	for _, list := range x.prefix {
		slices.SortStableFunc(list, precedence)
	}
	slices.SortStableFunc(x.host, precedence)
	for i := range x.bits {
		slices.SortFunc(x.bits[i], func(a, b int) int { return b - a })
	}
	return x
}

func reasonOf(r *Rule) string {
	verb := "refused by "
	if r.parsed.allow {
		verb = "allowed by "
	}
	s := verb + r.Text + " (" + r.Tier.String()
	if r.Source != "" {
		s += ", " + r.Source
	}
	s += ")"
	if r.Reason != "" {
		s += ": " + r.Reason
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// Said is Reason as the container may read it: the rule and its tier, but not who wrote it, in which
// file and why. Those are the operator's name, paths and words.
func (d Decision) Said() string {
	if d.Rule == nil {
		return d.Reason
	}
	verb := "refused by "
	if d.Rule.parsed.allow {
		verb = "allowed by "
	}
	return verb + d.Rule.Text + " (" + d.Rule.Tier.String() + ")"
}

// precedence orders rules about one target. Between allows the wider one comes first (raw, then
// longer life): both were written for this very target.
func precedence(a, b *entry) int {
	p, q := &a.rule, &b.rule
	return cmp.Or(
		cmp.Compare(p.Tier, q.Tier),
		boolCompare(p.parsed.allow, q.parsed.allow),
		boolCompare(q.parsed.raw, p.parsed.raw),
		boolCompare(!p.Expires.IsZero(), !q.Expires.IsZero()),
		q.Expires.Compare(p.Expires),
	)
}

// boolCompare sorts false before true.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (x *index) add(e *entry) {
	p := &e.rule.parsed
	x.datagrams = x.datagrams || p.allow && p.protos&udp != 0
	switch p.kind {
	case kindName:
		x.exact[p.name] = append(x.exact[p.name], e)
	case kindBelow, kindSuffix:
		x.suffix[p.name] = append(x.suffix[p.name], e)
		x.depth = max(x.depth, strings.Count(p.name, ".")+1)
	case kindPrefix:
		x.prefix[p.prefix] = append(x.prefix[p.prefix], e)
		f := family(p.prefix.Addr())
		if !slices.Contains(x.bits[f], p.prefix.Bits()) {
			x.bits[f] = append(x.bits[f], p.prefix.Bits())
		}
	case kindHost:
		x.host = append(x.host, e)
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// find returns the rule that decides a request, or nil. With relay the launcher's rules of
// RelaySource do not count.
func (x *index) find(r Request, proto uint8, relay bool) *entry {
	s := search{now: r.Now, port: r.Port, proto: proto, relay: relay}
	switch {
	case r.Name == HostName:
		s.level(x.host, false)
	case r.Name != "":
		for list, apex := range x.levels(r.Name) {
			s.level(list, apex)
		}
	default:
		x.searchAddr(&s, r.Addr)
	}
	return s.best
}

// search keeps the best rule over levels that come from the most specific to the least.
type search struct {
	now   time.Time
	port  uint16
	proto uint8
	relay bool // pass over rules of RelaySource
	best  *entry
}

// level looks at the rules of one target. With apex only rules that cover their own base count.
func (s *search) level(list []*entry, apex bool) {
	for _, e := range list {
		if s.best != nil && e.rule.Tier >= s.best.rule.Tier {
			return // an earlier tier, or a more specific target of the same tier, has decided
		}
		if apex && e.rule.parsed.kind != kindSuffix {
			continue
		}
		if s.relay && e.rule.Tier == Denied && e.rule.Source == RelaySource {
			continue
		}
		if e.rule.covers(s.port, s.proto) && e.rule.Live(s.now) {
			s.best = e
			return
		}
	}
}

func (x *index) searchAddr(s *search, a netip.Addr) {
	a = a.WithZone("")
	for _, n := range x.bits[family(a)] {
		if px, err := a.Prefix(n); err == nil {
			s.level(x.prefix[px], false)
		}
	}
}

// levels yields the lists of rules about a name, most specific first: exact, ".name" itself, then
// one parent after the other. The second value is true where the base is the name itself.
func (x *index) levels(name string) func(yield func([]*entry, bool) bool) {
	return func(yield func([]*entry, bool) bool) {
		if list := x.exact[name]; list != nil && !yield(list, false) {
			return
		}
		if len(x.suffix) == 0 {
			return
		}
		base, apex := name, true
		// Names deeper than every base need no look-up for their first labels.
		for n := strings.Count(name, ".") + 1; n > 0; n-- {
			if n <= x.depth {
				if list := x.suffix[base]; list != nil && !yield(list, apex) {
					return
				}
			}
			apex = false
			dot := strings.IndexByte(base, '.')
			base = base[dot+1:]
		}
	}
}

// matching appends the live rules about a name on any port, in order of precedence.
func (x *index) matching(name string, now time.Time, out []*entry) []*entry {
	for list, apex := range x.levels(name) {
		for _, e := range list {
			if (!apex || e.rule.parsed.kind == kindSuffix) && e.rule.Live(now) {
				out = append(out, e)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *entry) int { return cmp.Compare(a.rule.Tier, b.rule.Tier) })
	return out
}

func lastDot(s string) int { return strings.LastIndexByte(s, '.') }
