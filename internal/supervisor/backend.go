package supervisor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/shield/policy"
	"terok/internal/version"
)

// Status is what the supervisor says of itself; it implements control.Backend, as the following.
func (s *service) Status(context.Context) (control.Status, error) {
	f := &s.hand.File
	self, err := describe(os.Getpid())
	if err != nil {
		return control.Status{}, err
	}
	st := control.Status{
		Key: f.Key, Project: f.Project, Task: f.Task, ContainerID: s.hand.ContainerID, Launch: f.Launch,
		Ready:  s.guest.isReady(),
		Parent: s.hand.Parent, Worker: self, Restarts: s.hand.Restarts, Version: version.Version,
		StartedAt: s.hand.StartedAt, Vault: "none", Services: []string{"resolver", "guest"},
	}
	st.Warnings = []string{}
	s.rules.state().tell(&st)
	s.tellMighty(&st)
	s.placement(&st)
	if s.session != nil {
		st.Vault = s.session.State()
	}
	if s.front != nil {
		st.Services = append(st.Services, "vault")
	}
	if f.SSH != nil {
		st.Services = append(st.Services, "ssh")
	}
	if s.gate != nil {
		st.Services = append(st.Services, "gate")
	}
	c := s.proxy.Counters()
	st.Counters = control.Counters{
		Open: c.Open, Allowed: c.Allowed, Denied: c.Denied + c.Mismatched + c.Malformed + c.Private + c.Unknown,
		BytesUp: c.BytesUp, BytesDown: c.BytesDown, LimitsHit: c.LimitsHit,
		DNSQueries: s.resolver.Counters.Queries.Load(), DNSRefused: s.resolver.Counters.Refused.Load(),
		DNSSent:    s.resolver.Counters.Forwarded.Load(),
		EventsLost: s.ledger.Lost(), WorkerStart: uint64(s.hand.Restarts) + 1,
	}
	s.tellLedger(&st)
	return st, nil
}

// Rules lists every rule in the order of decision.
func (s *service) Rules(context.Context) ([]control.RuleView, error) {
	var out []control.RuleView
	for _, r := range s.rules.policy().Rules() {
		out = append(out, view(&r))
	}
	return out, nil
}

func view(r *policy.Rule) control.RuleView {
	v := control.RuleView{Rule: r.Text, Tier: r.Tier.String(), Source: r.Source, Reason: r.Reason}
	if !r.Expires.IsZero() {
		v.Expires = r.Expires.UTC().Format(time.RFC3339)
	}
	return v
}

// ChangeRule adds or removes a live verdict and applies it to live connections before it returns.
func (s *service) ChangeRule(_ context.Context, c control.RuleChange) (control.RuleView, error) {
	if err := s.refuseOutranked(c); err != nil {
		return control.RuleView{}, err
	}
	rule, err := s.rules.change(c)
	if err != nil {
		return control.RuleView{}, err
	}
	s.recheck()
	verdict := "deny"
	if rule.Allows() {
		verdict = "allow"
	}
	e := audit.Event{Ev: "verdict", Actor: "operator", Rule: rule.Text, Tier: rule.Tier.String(), Verdict: verdict,
		Reason: c.Reason, Expires: c.Expires, Name: rule.Target()}
	if c.Remove {
		e.Scope = "removed"
	}
	s.ledger.Record(e)
	return view(&rule), nil
}

// refuseOutranked refuses an allow that would decide nothing, before anything is written: somebody
// who reads "allowed" must be able to rely on it.
func (s *service) refuseOutranked(c control.RuleChange) error {
	rule, err := policy.ParseRule(c.Rule, policy.Session, "")
	if err != nil || c.Remove {
		return nil // said where the rule is read
	}
	// Through the vault such a host is open already, and an allow takes a live deny of it away.
	throughVault := s.front != nil && s.routed(rule.Target())
	by := policy.Outranked(s.rules.policy().Rules(), rule, time.Now(), !throughVault)
	if by == nil {
		return nil
	}
	p := problem.New("rule_outranked", problem.Conflict, "%s would have no effect: the %s rule %q (%s) comes first", rule.Text, by.Tier, by.Text, by.Source)
	if by.Source == policy.RelaySource {
		return p.WithHint("only the vault may reach it; shield.override in project.yml opens it for a while")
	}
	return p.WithHint("take that rule out, or open the host for a while with shield.override in project.yml")
}

// Explain says what would happen to a target and why.
func (s *service) Explain(_ context.Context, t control.Target) (control.Explanation, error) {
	if t.Host == "" {
		return control.Explanation{}, &control.Error{Code: "bad_request", Message: "a host is needed"}
	}
	return s.explain(t), nil
}

func (s *service) explain(t control.Target) control.Explanation {
	if t.Proto == "" {
		t.Proto = "tcp"
	}
	if t.Port == 0 {
		t.Port = 443
	}
	t.Host = strings.ToLower(strings.TrimSuffix(t.Host, "."))
	e := control.Explanation{Target: t}
	d := s.decide(t)
	e.Verdict, e.Tier, e.Reason = d.Verdict.String(), d.Tier.String(), d.Reason
	if d.Rule != nil {
		v := view(d.Rule)
		e.Rule = &v
	}
	e.Askable = s.docket != nil && s.judge(clearance.Target{Host: t.Host, Port: t.Port, Proto: t.Proto}) == policy.Ask
	if d.Verdict != policy.Allow && d.Tier > policy.Denied {
		e.Hint = fmt.Sprintf("terok shield allow %s %s:%d", s.subject(), t.Host, t.Port)
	}
	return e
}

// decide judges a target as the proxy would: a host that the vault relays by the way through it.
func (s *service) decide(t control.Target) policy.Decision {
	if s.front != nil && s.front.Routed(t.Host, t.Port) {
		return s.rules.policy().DecideRelay(request(t))
	}
	return s.rules.policy().Decide(request(t))
}

func request(t control.Target) policy.Request {
	r := policy.Request{Port: t.Port, Proto: t.Proto, Now: time.Now()}
	if r.Proto == "" {
		r.Proto = "tcp"
	}
	if a, ok := literal(t.Host); ok {
		r.Addr = a
	} else {
		r.Name = t.Host
	}
	return r
}

// Reload reads policy, live verdicts and posture from disk again.
func (s *service) Reload(ctx context.Context) (control.Status, error) {
	if err := s.rules.reload(); err != nil {
		s.ledger.Record(audit.Event{Ev: "error", Actor: "operator", Reason: "quarantine: " + err.Error()})
		return control.Status{}, problem.New("policy_unusable", problem.Usage, "the container is in quarantine: %w", err)
	}
	s.ledger.Record(audit.Event{Ev: "policy_loaded", Actor: "operator"})
	return s.Status(ctx)
}
