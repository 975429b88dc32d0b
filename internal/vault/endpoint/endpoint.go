// Package endpoint decides which endpoints of a provider a request may reach: rules + method +
// path → action. It is pure: no I/O, no clock, standard library only.
//
// A rule is one line, "ACTION [METHOD[,METHOD…]] /path/pattern":
//
//	allow POST /v1/messages
//	allow GET /v1/models/**
//	deny /v1/organizations/**
//	local /api/event_logging/**
//	upload POST /v1/listen
//
// In a pattern "*" is any part of one segment and "**" any number of whole segments, none
// included, so "/v1/models/**" is /v1/models and everything below. GET stands for HEAD too. The
// first rule that matches decides; then the policy's default. Deny rules match without regard to
// case, since a server may; all others match exactly.
//
// What a path means is the server's business, and servers differ. Parse refuses every path that
// is not read alike by all of them, and Decide judges a path with encoded slashes in both of its
// readings and takes the stricter answer.
package endpoint

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what happens to a request.
type Action string

// Actions.
const (
	Allow      Action = "allow"      // relayed
	Deny       Action = "deny"       // refused
	Local      Action = "local"      // answered by the front with 204 and never sent: telemetry
	Token      Action = "token"      // answered by the front as the token endpoint, with the phantom
	Substitute Action = "substitute" // relayed; the secret in the answer becomes another phantom
	Upload     Action = "upload"     // relayed, and the body may be a file as it is: audio, an archive
)

var actions = []Action{Allow, Deny, Local, Token, Substitute, Upload}

// methods that a rule can name.
var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// Bounds of a policy. Matching is linear in both.
const (
	maxRule  = 256  // bytes of a rule
	MaxRules = 1000 // in a policy
)

// Rule is one line of a policy.
type Rule struct {
	Action  Action
	Methods []string // none: every method
	Pattern string   // "/a/*/b/**"

	segments []string
}

// ParseRule reads a rule.
func ParseRule(line string) (Rule, error) {
	words := strings.Fields(line)
	if len(line) > maxRule || len(words) < 2 || len(words) > 3 {
		return Rule{}, fmt.Errorf("%q is not a rule: ACTION [METHOD,…] /path, such as \"deny POST /v1/files/**\"", clip(line))
	}
	r := Rule{Action: Action(words[0]), Pattern: words[len(words)-1]}
	if !slices.Contains(actions, r.Action) {
		return Rule{}, fmt.Errorf("%q is not an action: allow, deny, local, token, substitute, upload", clip(words[0]))
	}
	if len(words) == 3 {
		for _, m := range strings.Split(words[1], ",") {
			if !slices.Contains(methods, m) {
				return Rule{}, fmt.Errorf("%q is not one of the methods %s", clip(m), strings.Join(methods, ", "))
			}
			r.Methods = append(r.Methods, m)
		}
	}
	if !strings.HasPrefix(r.Pattern, "/") {
		return Rule{}, fmt.Errorf("%q must begin with /", clip(r.Pattern))
	}
	r.segments = split(r.Pattern)
	for _, s := range r.segments {
		if s == "." || s == ".." || s == "" || s != "**" && strings.Contains(s, "**") || strings.ContainsAny(s, "%?#;\\") {
			return Rule{}, fmt.Errorf("%q has the segment %q, which no path has", clip(r.Pattern), clip(s))
		}
	}
	return r, nil
}

// String writes the rule as ParseRule reads it.
func (r Rule) String() string {
	if len(r.Methods) == 0 {
		return string(r.Action) + " " + r.Pattern
	}
	return string(r.Action) + " " + strings.Join(r.Methods, ",") + " " + r.Pattern
}

func (r *Rule) matches(method string, path []string) bool {
	if method == "HEAD" {
		method = "GET"
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, method) {
		return false
	}
	return matchPath(r.segments, path, r.Action == Deny)
}

// Policy is an ordered list of rules with an answer for the rest.
type Policy struct {
	rules []Rule
	rest  Action
}

// New parses the rules of a policy. The default is "allow" or "deny"; "" is deny.
func New(rules []string, rest string) (*Policy, error) {
	p := &Policy{rest: Action(rest)}
	switch p.rest {
	case "":
		p.rest = Deny
	case Allow, Deny:
	default:
		return nil, fmt.Errorf("%q is not a default: allow or deny", clip(rest))
	}
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("%d rules, at most %d are taken", len(rules), MaxRules)
	}
	for _, line := range rules {
		r, err := ParseRule(line)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// Decide judges a request; by is the rule that decided, nil when it was the default. A path of
// several readings on which the policy has two opinions is denied.
func (p *Policy) Decide(method string, path Path) (a Action, by *Rule) {
	a, by = p.decide(method, path.Segments)
	if a == Deny || path.Flat == nil && !path.format {
		return a, by
	}
	for _, reading := range path.Readings()[1:] {
		if b, other := p.decide(method, reading); b != a {
			return Deny, other
		}
	}
	return a, by
}

func (p *Policy) decide(method string, path []string) (Action, *Rule) {
	for i := range p.rules {
		if p.rules[i].matches(method, path) {
			return p.rules[i].Action, &p.rules[i]
		}
	}
	return p.rest, nil
}

// Rules lists the rules in their order.
func (p *Policy) Rules() []Rule { return p.rules }

// Default is the answer for requests that no rule matches.
func (p *Policy) Default() Action { return p.rest }

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// matchPath matches whole segments; "**" takes any number of them.
func matchPath(pattern, path []string, fold bool) bool {
	p, s := 0, 0
	star, from := -1, 0
	for s < len(path) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, from = p, s
			p++
		case p < len(pattern) && matchSegment(pattern[p], path[s], fold):
			p++
			s++
		case star >= 0: // let the last "**" take one more
			from++
			p, s = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

// matchSegment matches one segment; "*" takes any bytes of it.
func matchSegment(pattern, s string, fold bool) bool {
	if fold {
		pattern, s = strings.ToLower(pattern), strings.ToLower(s)
	}
	p, i := 0, 0
	star, from := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
