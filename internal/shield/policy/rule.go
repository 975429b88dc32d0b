package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The grammar of a rule, one for every source:
//
//	rule    = [ "+" | "-" ] target [ ":" ports ] [ "/" proto ] { " " option } { " " marker }
//	target  = name | "*." name | "." name | ip | cidr | "host"    (IPv6 with ports: in brackets)
//	ports   = range { "," range } ;  range = port [ "-" port ]    (1–65535)
//	proto   = "tcp" | "udp"
//	option  = "raw"
//	marker  = "%reason=" value | "%expires=" (date | RFC 3339)
//	value   = word | '"' text without '"' '"'
//
// A text without + or - allows. "*.name" is any depth below name, ".name" is name and below. A
// date expires at the end of that day, UTC.

// Bounds of a rule, in bytes and in elements.
const (
	maxRule   = 1024
	maxReason = 200
	maxPorts  = 64
	maxName   = 253
	maxLabel  = 63
)

type kind uint8

const (
	kindNone   kind = iota // the zero Rule: matches nothing
	kindName               // exact name
	kindBelow              // *.name
	kindSuffix             // .name
	kindPrefix             // address or CIDR
	kindHost               // port of the host's loopback
)

const (
	tcp uint8 = 1 << iota
	udp
)

func protoBit(s string) uint8 {
	switch s {
	case "tcp":
		return tcp
	case "udp":
		return udp
	}
	return 0
}

// parsed is the form of a rule that decisions use.
type parsed struct {
	allow  bool
	raw    bool
	kind   kind
	name   string       // kindName, kindBelow, kindSuffix: without the leading dot
	prefix netip.Prefix // kindPrefix
	ports  ports
	protos uint8
}

// RuleError says what is wrong with a rule and where.
type RuleError struct {
	Source  string // file:line, as given to ParseRule
	Text    string // the rule
	Column  int    // byte position in Text, from 1
	Message string
}

// Error returns "source: column N: message", without the rule's text, which may be hostile.
func (e *RuleError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("rule, column %d: %s", e.Column, e.Message)
	}
	return fmt.Sprintf("%s: column %d: %s", e.Source, e.Column, e.Message)
}

// ParseRule parses and validates one rule for a tier (Override to Project). Source is kept for
// explanations. The error is a *RuleError.
//
// Names must already be A-labels; a name with other characters is refused with a message that
// says so. The lifetime limits of overrides need a clock and are the caller's.
func ParseRule(text string, tier Tier, source string) (Rule, error) {
	p := parser{text: text, tier: tier}
	r, err := p.parse()
	if err != nil {
		err.Source, err.Text = source, text
		return Rule{}, err
	}
	r.Tier, r.Source = tier, source
	r.Text = r.canonical()
	return r, nil
}

// String returns the rule with its markers; ParseRule of it gives the same rule.
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(r.Text)
	if r.Reason != "" {
		b.WriteString(` %reason="` + r.Reason + `"`)
	}
	if !r.Expires.IsZero() {
		b.WriteString(" %expires=" + r.Expires.UTC().Format(time.RFC3339Nano))
	}
	return b.String()
}

// Allows tells whether the rule allows (+) rather than denies (-).
func (r Rule) Allows() bool { return r.parsed.allow }

// Plain tells whether the target is one exact name.
func (r Rule) Plain() bool { return r.parsed.kind == kindName }

// Range tells whether the target is more than one address.
func (r Rule) Range() bool { return r.parsed.kind == kindPrefix && !r.parsed.prefix.IsSingleIP() }

// Target returns the canonical target without ports, e.g. "*.example.org" or "203.0.113.0/24".
func (r Rule) Target() string {
	p := &r.parsed
	switch p.kind {
	case kindName:
		return p.name
	case kindBelow:
		return "*." + p.name
	case kindSuffix:
		return "." + p.name
	case kindHost:
		return "host"
	case kindPrefix:
		if p.prefix.IsSingleIP() {
			return p.prefix.Addr().String()
		}
		return p.prefix.String()
	}
	return ""
}

// Live tells whether the rule has not expired at now. With a zero now, which no caller means, a
// rule that expires only denies.
func (r *Rule) Live(now time.Time) bool {
	if r.Expires.IsZero() {
		return true
	}
	if now.IsZero() {
		return !r.parsed.allow
	}
	return now.Before(r.Expires)
}

// covers tells whether the rule is about this port and protocol.
func (r *Rule) covers(port uint16, proto uint8) bool {
	return r.parsed.protos&proto != 0 && r.parsed.ports.has(port)
}

func (r Rule) canonical() string {
	p := &r.parsed
	var b strings.Builder
	if p.allow {
		b.WriteByte('+')
	} else {
		b.WriteByte('-')
	}
	t := r.Target()
	var tail string
	if !p.defaultPorts() {
		tail = ":" + p.ports.String()
	}
	if tail != "" && p.kind == kindPrefix && p.prefix.Addr().Is6() {
		t = "[" + t + "]"
	}
	b.WriteString(t)
	b.WriteString(tail)
	switch {
	case p.protos == udp:
		b.WriteString("/udp")
	case p.protos == tcp && !p.allow:
		b.WriteString("/tcp")
	}
	if p.raw {
		b.WriteString(" raw")
	}
	return b.String()
}

func (p *parsed) defaultPorts() bool {
	if !p.allow {
		return p.ports.equal(allPorts)
	}
	return p.kind != kindHost && p.protos == tcp && p.ports.equal(webPorts)
}

type parser struct {
	text string
	tier Tier
}

func (p *parser) fail(pos int, format string, a ...any) *RuleError {
	return &RuleError{Column: pos + 1, Message: fmt.Sprintf(format, a...)}
}

func (p *parser) parse() (Rule, *RuleError) {
	var r Rule
	if p.tier < Override || p.tier >= Default {
		return r, p.fail(0, "tier %s takes no rules", p.tier)
	}
	if len(p.text) > maxRule {
		return r, p.fail(maxRule, "longer than %d bytes", maxRule)
	}
	if !utf8.ValidString(p.text) {
		return r, p.fail(0, "not valid UTF-8")
	}
	for i, c := range p.text {
		// A line break could smuggle a second rule into a file; control and format characters
		// could make a terminal show another rule than the one that holds.
		if c != '\t' && !unicode.IsPrint(c) {
			return r, p.fail(i, "control, format or line break character %U", c)
		}
	}
	fields, err := p.fields()
	if err != nil {
		return r, err
	}
	if len(fields) == 0 {
		return r, p.fail(0, "empty rule")
	}
	if err := p.parseTarget(&r.parsed, fields[0]); err != nil {
		return r, err
	}
	for _, f := range fields[1:] {
		if err := p.parseExtra(&r, f); err != nil {
			return r, err
		}
	}
	return r, p.check(&r, fields[0].pos)
}

type field struct {
	pos  int
	text string
}

// fields splits at blanks outside of a quoted marker value.
func (p *parser) fields() ([]field, *RuleError) {
	var out []field
	start, quoted := -1, false
	for i := 0; i <= len(p.text); i++ {
		if i < len(p.text) && p.text[i] == '"' {
			quoted = !quoted
		}
		blank := i == len(p.text) || p.text[i] == ' ' || p.text[i] == '\t'
		switch {
		case blank && quoted && i == len(p.text):
			return nil, p.fail(start, "quote is not closed")
		case blank && !quoted && start >= 0:
			out = append(out, field{start, p.text[start:i]})
			start = -1
		case !blank && start < 0:
			start = i
		}
	}
	return out, nil
}

func (p *parser) parseExtra(r *Rule, f field) *RuleError {
	key, value, marker := strings.Cut(f.text, "=")
	if !marker {
		switch f.text {
		case "raw":
			if !r.parsed.allow {
				return p.fail(f.pos, "raw makes no sense on a deny")
			}
			if r.parsed.raw {
				return p.fail(f.pos, "raw is given twice")
			}
			r.parsed.raw = true
			return nil
		case "udp", "tcp":
			return p.fail(f.pos, "write the protocol behind the ports: target:port/%s", f.text)
		}
		return p.fail(f.pos, "unknown option %s; the only option is raw", strconv.QuoteToASCII(f.text))
	}
	at := f.pos + len(key) + 1
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	if strings.Contains(value, `"`) {
		return p.fail(at, "a quote inside a value")
	}
	if strings.TrimSpace(value) == "" {
		return p.fail(at, "empty value")
	}
	switch key {
	case "%reason":
		if r.Reason != "" {
			return p.fail(f.pos, "%%reason is given twice")
		}
		if len(value) > maxReason {
			return p.fail(at, "reason is longer than %d bytes", maxReason)
		}
		r.Reason = value
	case "%expires":
		if !r.Expires.IsZero() {
			return p.fail(f.pos, "%%expires is given twice")
		}
		t, ok := parseExpiry(value)
		if !ok {
			return p.fail(at, "not a date (2026-12-31) or an RFC 3339 time (2026-12-31T18:00:00Z)")
		}
		r.Expires = t
	default:
		return p.fail(f.pos, "unknown marker %s; known are %%reason and %%expires", strconv.QuoteToASCII(key))
	}
	return nil
}

func parseExpiry(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, s); err != nil {
			return t, false
		}
		t = t.AddDate(0, 0, 1)
	}
	t = t.UTC()
	// Years outside of four digits cannot be written back as RFC 3339.
	return t, t.Year() >= 1970 && t.Year() <= 9999
}

// check holds what needs the whole rule: tier, reason, ranges.
func (p *parser) check(r *Rule, pos int) *RuleError {
	q := &r.parsed
	if !q.allow {
		return nil
	}
	if p.tier == Denied {
		return p.fail(pos, "the deny tier takes no allow")
	}
	if p.tier == Override && r.Reason == "" {
		return p.fail(pos, "an override needs a reason: %%reason=\"why\"")
	}
	switch q.kind {
	case kindPrefix:
		return p.checkPrefix(r, pos)
	case kindBelow, kindSuffix:
		if r.Reason == "" && publicSuffix(q.name) {
			return p.fail(pos, "%s is a public suffix: anybody can own a name below it; say why with %%reason=\"why\"", r.Target())
		}
	}
	return nil
}

func (p *parser) checkPrefix(r *Rule, pos int) *RuleError {
	px := r.parsed.prefix
	if within(px, floorRanges) {
		return p.fail(pos, "%s is never reachable (metadata, link-local, multicast or reserved range)", px)
	}
	if within(px, loopbackRanges) {
		return p.fail(pos, "a port of the host's loopback is written host:PORT and reached as %s:PORT", HostName)
	}
	if within(px, privateRanges) && p.tier != Override {
		return p.fail(pos, "%s is a private range: only an override (shield.override in project.yml) opens it", px)
	}
	least := 16
	if px.Addr().Is6() {
		least = 32
	}
	if px.Bits() < least && r.Reason == "" {
		return p.fail(pos, "a range wider than /%d needs a reason: %%reason=\"why\"", least)
	}
	return nil
}
