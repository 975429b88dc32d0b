package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// portRange is a range of ports, both ends included.
type portRange struct{ lo, hi uint16 }

// ports is a sorted list of ranges that neither overlap nor touch.
type ports []portRange

var (
	webPorts = ports{{80, 80}, {443, 443}}
	allPorts = ports{{1, 65535}}
)

func (p ports) has(n uint16) bool {
	for _, r := range p {
		if n <= r.hi {
			return n >= r.lo
		}
	}
	return false
}

func (p ports) equal(q ports) bool { return slices.Equal(p, q) }

// normal sorts and merges.
func (p ports) normal() ports {
	slices.SortFunc(p, func(a, b portRange) int { return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi)) })
	var out ports
	for _, r := range p {
		if n := len(out); n > 0 && uint32(r.lo) <= uint32(out[n-1].hi)+1 {
			out[n-1].hi = max(out[n-1].hi, r.hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

// minus returns the ports of p that are not in q.
func (p ports) minus(q ports) ports {
	var out ports
	for _, r := range p {
		lo := uint32(r.lo)
		for _, d := range q {
			if uint32(d.hi) < lo || d.lo > r.hi {
				continue
			}
			if uint32(d.lo) > lo {
				out = append(out, portRange{uint16(lo), d.lo - 1})
			}
			lo = uint32(d.hi) + 1
		}
		if lo <= uint32(r.hi) {
			out = append(out, portRange{uint16(lo), r.hi})
		}
	}
	return out
}

func (p ports) String() string {
	var b strings.Builder
	for i, r := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(r.lo)))
		if r.hi != r.lo {
			b.WriteString("-" + strconv.Itoa(int(r.hi)))
		}
	}
	return b.String()
}
