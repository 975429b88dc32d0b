package audit

import (
	"cmp"
	"slices"
)

// Traffic sums up what each name or literal address got, from the lines of a ledger.
type Traffic map[string]NameTraffic

// NameTraffic is what one of them got.
type NameTraffic struct {
	Name      string `json:"name"`
	Flows     uint64 `json:"flows"` // connections that ended
	Refused   uint64 `json:"refused"`
	BytesUp   uint64 `json:"bytes_up"` // out of the container
	BytesDown uint64 `json:"bytes_down"`
}

// maxTraffic bounds the names that are told apart; the rest share the name "".
const maxTraffic = 4096

// Add counts one line. Bytes count at the end of a connection: the lines in between are totals so far.
func (t Traffic) Add(e Event) {
	name := cmp.Or(e.Name, e.IP)
	if name == "" {
		return
	}
	var n NameTraffic
	switch {
	case e.Ev == "flow_end":
		n = NameTraffic{Flows: max(e.Count, 1), BytesUp: e.BytesUp, BytesDown: e.BytesDown}
	case e.Verdict == "deny" && e.Ev != "verdict" && e.Ev != "flow_cut" && e.Ev != "name_blocked":
		n.Refused = max(e.Count, 1)
	default:
		return
	}
	t.add(name, n)
}

// Join adds all of o.
func (t Traffic) Join(o Traffic) {
	for name, n := range o {
		t.add(name, n)
	}
}

func (t Traffic) add(name string, n NameTraffic) {
	if _, known := t[name]; !known && len(t) >= maxTraffic {
		name = ""
	}
	sum := t[name]
	sum.Flows += n.Flows
	sum.Refused += n.Refused
	sum.BytesUp += n.BytesUp
	sum.BytesDown += n.BytesDown
	t[name] = sum
}

// Top returns the n names with most bytes, then most refusals.
func (t Traffic) Top(n int) []NameTraffic {
	out := make([]NameTraffic, 0, len(t))
	for name, sum := range t {
		if sum.Name = name; name == "" {
			sum.Name = "(others)"
		}
		out = append(out, sum)
	}
	slices.SortFunc(out, func(a, b NameTraffic) int {
		return cmp.Or(cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown), cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(n, len(out))]
}
