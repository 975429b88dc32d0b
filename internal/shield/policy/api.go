// Package policy decides: rules and a request in, a verdict and the rule that decided out.
// It is pure: standard library only, no I/O, no clock of its own.
package policy

import (
	"net/netip"
	"time"
)

// Verdict is the outcome of a decision.
type Verdict uint8

// Verdicts. The zero value denies.
const (
	Deny Verdict = iota
	Allow
	Ask // hold the connection if somebody can answer, else deny
)

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

// Request is what somebody inside wants to reach. Name is a lower-case A-label name without
// trailing dot, or "" for a literal address; then Addr is set.
type Request struct {
	Name  string
	Addr  netip.Addr
	Port  uint16
	Proto string // "tcp" or "udp"
	Now   time.Time
}

// Decision is a verdict with its grounds. Rule is nil when the default decided.
type Decision struct {
	Verdict Verdict
	Tier    Tier
	Rule    *Rule
	Raw     bool // the rule skips the verification of SNI and Host
}

// Rule is one line of policy: verdict target[:ports][/proto] options, with its source.
type Rule struct {
	Text    string // canonical form, e.g. "+example.org:443"
	Tier    Tier
	Source  string // file:line, or who and when
	Reason  string
	Expires time.Time // zero: never
	// the parsed form is private to the package
	parsed parsed
}

type parsed struct{}
