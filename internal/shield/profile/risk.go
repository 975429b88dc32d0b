package profile

import (
	_ "embed"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"terok/internal/shield/policy"
)

//go:embed risks.txt
var riskFile []byte

// riskTable finds risks by name; suffix keys also cover every name below them.
type riskTable struct{ exact, suffix map[string][]string }

// risks is made at the first question: most processes never ask.
var risks = sync.OnceValue(func() riskTable {
	t := riskTable{map[string][]string{}, map[string][]string{}}
	learn := func(entries []Entry) {
		for _, e := range entries {
			into, name := t.exact, e.Rule.Target()
			if !e.Rule.Plain() {
				into, name = t.suffix, strings.TrimPrefix(strings.TrimPrefix(name, "*"), ".")
			}
			for _, r := range e.Risk {
				if !slices.Contains(into[name], r) {
					into[name] = append(into[name], r)
				}
			}
		}
	}
	for _, n := range bundledNames() {
		if p, err := (Library{}).bundled(n); err == nil { // held by a test
			learn(p.Entries)
		}
	}
	if p, err := parse("risks", "", riskFile); err == nil {
		learn(p.Entries)
	}
	return t
})

// Risk says what allowing a host can mean, as far as that is known: WriteCapable, AnyoneHosts,
// Private, in this order; nil for nothing known. host is a name in A-labels, or an address.
func Risk(host string) []string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		if policy.PrivateAddr(a) {
			return []string{Private}
		}
		return nil
	}
	t := risks()
	found := slices.Clone(t.exact[host])
	for base := host; base != ""; {
		found = append(found, t.suffix[base]...)
		_, base, _ = strings.Cut(base, ".")
	}
	if policy.Hosted(host) {
		found = append(found, AnyoneHosts)
	}
	var out []string
	for _, r := range []string{WriteCapable, AnyoneHosts} {
		if slices.Contains(found, r) {
			out = append(out, r)
		}
	}
	return out
}
