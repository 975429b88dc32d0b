// Package policy decides: rules and a request in, a verdict and the rule that decided out.
//
// It is pure: standard library only, no I/O, no goroutine, no clock of its own (the time is part
// of the request). A Policy never changes; its owner makes a new one for every change and swaps
// it atomically.
//
// What it guarantees:
//
//   - Tiers decide in order, the first tier with a matching live rule wins; inside a tier the most
//     specific target wins, and a deny wins a tie. Ports are not part of specificity, so a plain
//     "-example.org" beats "+example.org:443" of the same tier.
//   - The floor (metadata, link-local, multicast, translated and embedded IPv4) is never reachable,
//     whatever rules and posture say.
//   - An address is judged again when it is dialled ([Policy.CheckDial]); what a name resolves to
//     cannot widen what its rule allows.
//   - Everything unknown denies: the zero Policy, an unknown posture, an expired rule, a zero Now
//     for a rule that expires.
//
// Decisions where the specification left room:
//
//   - An allow without ports covers TCP 80 and 443; a deny without ports covers every port, and a
//     deny without protocol covers TCP and UDP.
//   - Private ranges open only to an allow of tier Override that names the host exactly (no
//     wildcard), or the address, or a CIDR that lies wholly inside a private range; to the
//     host's own addresses only for an exact name or that very address; and to posture down-all.
//   - The host's loopback opens only to a "host:PORT" rule, in every posture, and only under the
//     name [HostName].
//   - A deny rule on an address also holds for names that resolve to it, unless a rule of an
//     earlier tier allowed the name.
//   - TCP 53 and 853 (another resolver) and UDP are never opened by a posture and never asked for;
//     only a rule that names the port opens them.
package policy

import (
	"net/netip"
	"time"
)

// HostName is the name under which a container reaches ports of the host's loopback that a
// "host:PORT" rule opened.
const HostName = "host.terok.internal"

// RelaySource is the source of the launcher's own deny rule of a host that the vault relays. Only
// a rule of the tier Denied with exactly this source leaves the way through the vault open
// (DecideRelay); no other origin of rules can have it: theirs name a file, a flag or a time.
const RelaySource = "vault: only through the vault"

// Verdict is the outcome of a decision.
type Verdict uint8

// Verdicts. The zero value denies.
const (
	Deny Verdict = iota
	Allow
	Ask // hold the connection if somebody can answer, else deny
)

// String returns "deny", "allow" or "ask".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Ask:
		return "ask"
	}
	return "deny"
}

// Tier orders rules by who made them; the first tier with a matching rule decides.
type Tier uint8

// Tiers, first match wins.
const (
	Floor    Tier = iota // built in: metadata, link-local, multicast; never reachable
	Override             // project break-glass, with reason and expiry
	Denied               // operator denies, and hosts the vault relays
	Session              // live verdicts
	Agent                // hosts the selected agent needs
	Project              // profiles, shield.allow, git host
	Default              // nothing matched
)

var tierNames = [...]string{"floor", "override", "deny", "session", "agent", "project", "default"}

// String returns the tier's wire name: floor, override, deny, session, agent, project, default.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return "unknown"
}

// ParseTier is the inverse of Tier.String for the tiers that a rule can have (override to
// project).
func ParseTier(s string) (Tier, bool) {
	for t := Override; t < Default; t++ {
		if tierNames[t] == s {
			return t, true
		}
	}
	return Default, false
}

// Posture is the state of a container's egress, with the same strings as control.Posture.
type Posture string

// Postures. Every other value, also "", is treated as Quarantine.
const (
	Up         Posture = "up"
	Down       Posture = "down"     // default allow for public addresses; denies stay
	DownAll    Posture = "down-all" // also private ranges and the host's own addresses
	Quarantine Posture = "quarantine"
)

// Options are what a policy depends on beside its rules.
type Options struct {
	Posture   Posture
	CanAsk    bool         // somebody can answer: the default is Ask instead of Deny
	HostAddrs []netip.Addr // every address on the host's interfaces
}

// Request is what somebody inside wants to reach. Name is a lower-case A-label name without
// trailing dot, or "" for a literal address; then Addr is set. Addr is ignored when Name is set.
type Request struct {
	Name  string
	Addr  netip.Addr
	Port  uint16
	Proto string // "tcp" or "udp"
	Now   time.Time
}

// Decision is a verdict with its grounds. Rule is nil when no rule decided (default, posture, or
// a private address that no rule names).
type Decision struct {
	Verdict Verdict
	Tier    Tier
	Rule    *Rule
	Raw     bool   // the rule skips the verification of SNI and Host
	Reason  string // one sentence for people, without line breaks

	now   time.Time // of the request, for CheckDial
	proto string
}

// Rule is one line of policy: verdict target[:ports][/proto] options, with its source. Only
// ParseRule and DecodeDocument make valid ones; the zero Rule matches nothing.
type Rule struct {
	Text    string // canonical form without markers, e.g. "+example.org:443"
	Tier    Tier
	Source  string // file:line, or who and when
	Reason  string
	Expires time.Time // zero: never
	parsed  parsed
}

// NameClass is what the resolver may do with a name.
type NameClass uint8

// Classes of names. The zero value is never sent upstream.
const (
	Unlisted NameClass = iota // no rule: a synthetic address, nothing is sent upstream
	Listed                    // some port of it is reachable: it may be sent upstream
	Refused                   // denied on every port
	Local                     // dotless, local domains, metadata: NXDOMAIN unless a rule names it
)
