package dns

import (
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"
)

// pointer answers reverse questions from the table; they never leave, as they would tell upstream
// which addresses the container talks about.
func (r *Resolver) pointer(q *query, rep *reply) {
	if a, ok := reverse(q.name); ok {
		if name, ok := r.Table.Name(a); ok {
			rep.add(mdns.TypePTR, answerTTL, wireName(name))
			return
		}
	}
	rep.rcode = mdns.RcodeNameError
}

// reverse reads d.c.b.a.in-addr.arpa and the nibbles of ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		return reverse6(s)
	}
	s, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, false
	}
	b := a.As4()
	return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}), true
}

func reverse6(nibbles string) (netip.Addr, bool) {
	if len(nibbles) != 63 { // 32 and the dots between
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		c := nibbles[62-2*i]
		d := strings.IndexByte("0123456789abcdef", c)
		if d < 0 || i > 0 && nibbles[63-2*i] != '.' {
			return netip.Addr{}, false
		}
		b[i/2] |= byte(d) << (4 - 4*(i%2))
	}
	return netip.AddrFrom16(b), true
}
