package policy

import (
	"errors"
	"net/netip"
	"time"
)

// Policy is an immutable, indexed set of rules with a posture. It is safe for concurrent use.
type Policy struct{}

// New makes a policy.
func New(rules []Rule, o Options) *Policy { return &Policy{} }

// WithOptions returns a policy with the same rules and other options, sharing the index.
func (p *Policy) WithOptions(o Options) *Policy { return p }

// Options returns the options of the policy.
func (p *Policy) Options() Options { return Options{} }

// Rules returns the rules in order of tiers.
func (p *Policy) Rules() []Rule { return nil }

// Decide judges a request.
func (p *Policy) Decide(r Request) Decision { return Decision{} }

// Name classifies a name for the resolver.
func (p *Policy) Name(name string, now time.Time) NameClass { return Refused }

// CheckDial judges the address that is about to be dialled for a decision.
func (p *Policy) CheckDial(d Decision, name string, a netip.Addr, port uint16) error {
	return errors.New("policy: not landed yet")
}

// NextExpiry returns the earliest expiry of a rule after now.
func (p *Policy) NextExpiry(now time.Time) (time.Time, bool) { return time.Time{}, false }
