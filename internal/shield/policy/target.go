package policy

import (
	"net/netip"
	"strconv"
	"strings"
)

// parseTarget reads sign, target, ports and protocol.
func (p *parser) parseTarget(q *parsed, f field) *RuleError {
	s, pos := f.text, f.pos
	q.allow = true
	if s[0] == '+' || s[0] == '-' {
		q.allow = s[0] == '+'
		s, pos = s[1:], pos+1
	}
	if s == "" {
		return p.fail(pos, "a target is missing")
	}
	explicit := false
	for _, proto := range []string{"tcp", "udp"} {
		if t, ok := strings.CutSuffix(s, "/"+proto); ok {
			s, q.protos, explicit = t, protoBit(proto), true
			break
		}
	}
	host, portText, portPos, err := p.splitPorts(s, pos)
	if err != nil {
		return err
	}
	if err := p.parseHost(q, host, pos); err != nil {
		return err
	}
	if portText != "" {
		if q.ports, err = p.parsePorts(portText, portPos); err != nil {
			return err
		}
	}
	return p.defaults(q, portText != "", explicit, pos)
}

// defaults fills in ports and protocols that the rule does not say: an allow as narrow as is
// useful, a deny as wide as it can be meant.
func (p *parser) defaults(q *parsed, hasPorts, hasProto bool, pos int) *RuleError {
	if !q.allow {
		if !hasProto {
			q.protos = tcp | udp
		}
		if !hasPorts {
			q.ports = allPorts
		}
		return nil
	}
	if !hasProto {
		q.protos = tcp
	}
	if hasPorts {
		return nil
	}
	if q.kind == kindHost {
		return p.fail(pos, "host needs a port: host:8080")
	}
	if q.protos == udp {
		return p.fail(pos, "a udp rule needs ports: target:PORT/udp")
	}
	q.ports = webPorts
	return nil
}

// splitPorts separates the port list; IPv6 with ports is in brackets.
func (p *parser) splitPorts(s string, pos int) (host, ports string, portPos int, _ *RuleError) {
	if s[:min(1, len(s))] == "[" {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", 0, p.fail(pos, "bracket is not closed")
		}
		host = s[1:end]
		if !strings.Contains(host, ":") {
			return "", "", 0, p.fail(pos, "brackets are for IPv6 addresses")
		}
		rest := s[end+1:]
		if rest == "" {
			return host, "", 0, nil
		}
		if rest[0] != ':' || len(rest) == 1 {
			return "", "", 0, p.fail(pos+end+1, "expected :PORT behind the bracket")
		}
		return host, rest[1:], pos + end + 2, nil
	}
	first := strings.IndexByte(s, ':')
	if first < 0 || strings.IndexByte(s[first+1:], ':') >= 0 {
		return s, "", 0, nil // a name, or IPv6 without ports
	}
	if first == len(s)-1 {
		return "", "", 0, p.fail(pos+first, "ports are missing")
	}
	return s[:first], s[first+1:], pos + first + 1, nil
}

func (p *parser) parseHost(q *parsed, s string, pos int) *RuleError {
	if s == "" {
		return p.fail(pos, "a target is missing")
	}
	// Defends everything that might ever put a target on a command line: such a target reads as
	// an option or as dig's @server.
	if strings.IndexByte("-@+", s[0]) >= 0 {
		return p.fail(pos, "a target cannot start with %q", s[0])
	}
	switch strings.ToLower(s) {
	case "host":
		q.kind = kindHost
		return nil
	case "localhost":
		return p.fail(pos, "a port of the host's loopback is written host:PORT and reached as %s:PORT", HostName)
	}
	if strings.ContainsAny(s, ":/") || looksLikeIPv4(s) {
		return p.parseAddr(q, s, pos)
	}
	q.kind = kindName
	if t, ok := strings.CutPrefix(s, "*."); ok {
		q.kind, s, pos = kindBelow, t, pos+2
	} else if t, ok := strings.CutPrefix(s, "."); ok {
		q.kind, s, pos = kindSuffix, t, pos+1
	}
	var err *RuleError
	if q.name, err = p.parseName(s, pos, q.kind != kindName); err == nil && q.name == HostName {
		err = p.fail(pos, "a port of the host's loopback is written host:PORT and reached as %s:PORT", HostName)
	}
	return err
}

func looksLikeIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

func (p *parser) parseAddr(q *parsed, s string, pos int) *RuleError {
	q.kind = kindPrefix
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p.fail(pos, "not a name, an address or target:ports")
		}
		if a.Zone() != "" {
			return p.fail(pos, "an address with a zone cannot be a target")
		}
		q.prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	px, err := netip.ParsePrefix(s)
	if err != nil {
		return p.fail(pos, "not an address range like 203.0.113.0/24 (protocols are /tcp and /udp)")
	}
	if px != px.Masked() {
		return p.fail(pos, "the range has host bits set; its start is %s", px.Masked())
	}
	q.prefix = px
	return nil
}

// parseName validates a DNS name in A-label form and returns it in lower case without the
// trailing dot. A suffix may be a single label (then a reason is asked for elsewhere).
func (p *parser) parseName(s string, pos int, suffix bool) (string, *RuleError) {
	for i, c := range s {
		if c > 0x7e {
			return "", p.fail(pos+i, "name has non-ASCII characters: write its A-label form (xn--…)")
		}
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > maxName {
		return "", p.fail(pos, "name is longer than %d bytes", maxName)
	}
	labels := strings.Split(s, ".")
	at := pos
	for _, l := range labels {
		switch {
		case l == "":
			return "", p.fail(at, "empty label in a name")
		case len(l) > maxLabel:
			return "", p.fail(at, "label is longer than %d bytes", maxLabel)
		case l[0] == '-' || l[len(l)-1] == '-':
			return "", p.fail(at, "a label cannot start or end with a hyphen")
		}
		for i := 0; i < len(l); i++ {
			if !nameByte(l[i]) {
				return "", p.fail(at+i, "%s cannot be in a name", strconv.QuoteToASCII(l[i:i+1]))
			}
		}
		at += len(l) + 1
	}
	if len(labels) < 2 && !suffix {
		return "", p.fail(pos, "a name needs at least one dot")
	}
	if tld := labels[len(labels)-1]; !validTLD(tld) {
		return "", p.fail(at-len(tld)-1, "the last label of a name must be letters")
	}
	return s, nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// validTLD keeps everything that some resolver might read as an address (1.2.3.4, 0x7f.1) from
// being taken for a name.
func validTLD(s string) bool {
	if strings.HasPrefix(s, "xn--") {
		return true
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 'a' || s[i] > 'z' {
			return false
		}
	}
	return s != ""
}

// validName tells whether s is a name as rules are written: lower-case A-labels without trailing
// dot. A caller that forgot to normalise must not slip past a deny.
func validName(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	label := 0
	for i := 0; i < len(s); i++ {
		if s[i] == '.' {
			if label == 0 {
				return false
			}
			label = 0
			continue
		}
		if label++; label > maxLabel || !nameByte(s[i]) {
			return false
		}
	}
	return label > 0
}

func (p *parser) parsePorts(s string, pos int) (ports, *RuleError) {
	var out ports
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		a, ok := parsePort(lo)
		b := a
		if ok && isRange {
			b, ok = parsePort(hi)
		}
		if !ok {
			return nil, p.fail(pos, "%s is not a port or a range of ports (1-65535)", strconv.QuoteToASCII(part))
		}
		if b < a {
			return nil, p.fail(pos, "a range of ports goes upwards")
		}
		out = append(out, portRange{a, b})
		if len(out) > maxPorts {
			return nil, p.fail(pos, "more than %d ranges of ports", maxPorts)
		}
		pos += len(part) + 1
	}
	return out.normal(), nil
}

func parsePort(s string) (uint16, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}
