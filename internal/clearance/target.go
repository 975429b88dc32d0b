package clearance

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"terok/internal/control"
	"terok/internal/shield/policy"
)

// Target is what a request is about, exactly.
type Target struct {
	Host  string // lower-case A-label name without trailing dot, or an address
	Port  uint16
	Proto string // "tcp" or "udp"
}

// String returns host:port/proto.
func (t Target) String() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) + "/" + t.Proto
}

// exact tells whether there is a rule about this target and no other: what is spelled in another
// way than rules are must not become a request under a name that means something else.
func (t Target) exact() bool {
	text, _ := Rule(control.ChoiceTask, t, time.Time{})
	rule, err := policy.ParseRule(text, policy.Session, "")
	return err == nil && rule.Target() == t.Host
}

// choices are those that make a valid rule, the usual one first.
func (d *Docket) choices(t Target) []control.Choice {
	out := []control.Choice{control.ChoiceTask, control.ChoiceDeny, control.ChoiceOnce}
	if d.cfg.Project != "" {
		out = append(out, control.ChoiceProject)
	}
	// Not for an address, and not where anybody can own a name below.
	if rule, _ := Rule(control.ChoiceDomain, t, time.Time{}); rule != "" {
		if _, err := policy.ParseRule(rule, policy.Session, ""); err == nil {
			out = append(out, control.ChoiceDomain)
		}
	}
	return append(out, control.ChoiceDenyAlways)
}

// Rule is the session rule that a choice about a target means, and its end (zero: none). It is ""
// for a choice that the target does not have.
func Rule(c control.Choice, t Target, now time.Time) (rule string, expires time.Time) {
	host, port := t.Host, ":"+strconv.Itoa(int(t.Port))
	a, err := netip.ParseAddr(host)
	address := err == nil
	if address && a.Is6() {
		host = "[" + host + "]"
	}
	proto := "/" + t.Proto
	switch c {
	case control.ChoiceOnce:
		return "+" + host + port + proto, now.Add(onceFor)
	case control.ChoiceTask, control.ChoiceProject:
		return "+" + host + port + proto, time.Time{}
	case control.ChoiceDomain:
		if !address {
			return "+." + host + port + proto, time.Time{}
		}
	case control.ChoiceDeny:
		return "-" + host + port + proto, now.Add(muteFor)
	case control.ChoiceDenyAlways:
		return "-" + host + port + proto, time.Time{}
	}
	return "", time.Time{}
}

// PolicyRequest is a target as policy takes it.
func PolicyRequest(t Target, now time.Time) policy.Request {
	r := policy.Request{Port: t.Port, Proto: t.Proto, Now: now}
	if a, err := netip.ParseAddr(t.Host); err == nil {
		r.Addr = a.Unmap().WithZone("")
	} else {
		r.Name = t.Host
	}
	return r
}
