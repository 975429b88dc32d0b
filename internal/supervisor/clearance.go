package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"terok/internal/audit"
	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/shield/policy"
	"terok/internal/shield/profile"
	"terok/internal/shield/proxy"
)

// clear connects the docket of requests with policy, proxy, ledger and event stream. Without
// settings.Ask (clearance off) there is none: what no rule allows is refused, and nobody is asked.
func (s *service) clear(cfg *proxy.Config, set policy.Settings) {
	if !set.Ask {
		return
	}
	f := &s.hand.File
	s.docket = clearance.New(clearance.Config{
		Key: f.Key, Project: f.Project, Task: f.Task, Generation: s.hand.Restarts,
		Hold: time.Duration(set.HoldSeconds) * time.Second, Now: time.Now,
		Judge: s.judge, Grant: s.rules.grant, Revoke: s.rules.revoke, CanAsk: s.rules.setCanAsk,
		Settle:  func() { s.proxy.Recheck() },
		Publish: func(r control.Request) uint64 { return s.feed.Publish(control.StreamItem{Request: &r}) },
		Record:  s.names.Record,
	})
	cfg.Ask = func(ctx context.Context, q proxy.Question) { s.docket.Hold(ctx, s.attempt(q)) }
	cfg.Refused = func(q proxy.Question) { s.docket.Refused(s.attempt(q)) }
	if s.account != nil {
		s.account.ask = s.docket.Decide
	}
	s.askBudget = func(ctx context.Context, b proxy.Breach) bool {
		host := b.Budget.Target
		if host == "" {
			host = "all hosts"
		}
		return s.docket.Decide(ctx, clearance.Matter{Kind: control.OverBudget, Host: host, Names: []string{b.Budget.String()}})
	}
}

// recheck applies a changed policy: to requests and held connections first, so that these are
// refused in their own protocol, then to live connections.
func (s *service) recheck() {
	if s.docket != nil {
		s.docket.Recheck()
	}
	if s.front != nil { // a WebSocket hears why it ends; then the proxy cuts everything
		p := s.rules.policy()
		s.front.Cut(func(host string, port uint16) bool {
			return p.DecideRelay(clearance.PolicyRequest(clearance.Target{Host: host, Port: port, Proto: "tcp"}, time.Now())).Verdict != policy.Allow
		}, "the network was closed")
	}
	s.proxy.Recheck()
}

// judge says what policy decides about a target when somebody can be asked. A host that the vault
// relays is judged by the way through it, about which nobody is asked.
func (s *service) judge(t clearance.Target) policy.Verdict {
	r := clearance.PolicyRequest(t, time.Now())
	p := s.rules.asking.Load()
	if s.front != nil && s.front.Routed(t.Host, t.Port) {
		return p.DecideRelay(r).Verdict
	}
	return p.Decide(r).Verdict
}

// attempt is a connection as the docket takes it.
func (s *service) attempt(q proxy.Question) clearance.Attempt {
	r := q.Request
	a := clearance.Attempt{Target: clearance.Target{Host: r.Name, Port: r.Port, Proto: r.Proto}, Own: q.Own, NameSource: q.Source,
		Process: func() string { return s.processes.owner(q.Client, q.Server) }}
	switch {
	case q.Own != "":
		a.Kind = control.NameMismatch
	case r.Name == "":
		a.Kind = control.FlowBlocked
	case s.rules.policy().Name(r.Name, time.Now()) == policy.Listed:
		a.Kind = control.FlowBlocked
	default:
		a.Kind = control.NameBlocked
	}
	if r.Name == "" {
		a.Host = r.Addr.Unmap().WithZone("").String()
	} else {
		a.Risk = profile.Risk(r.Name)
	}
	return a
}

// Requests lists the requests for a verdict; it implements control.Backend, as the following.
func (s *service) Requests(context.Context) ([]control.Request, error) {
	if s.docket == nil {
		return nil, nil
	}
	return s.docket.Requests(), nil
}

var errClearanceOff = &control.Error{Code: control.CodeUnknownRequest, Message: "clearance is off for this container: nobody is asked",
	Hint: "terok shield allow"}

// Verdict answers a request.
func (s *service) Verdict(_ context.Context, v control.VerdictChange) (control.Request, error) {
	if s.docket == nil {
		return control.Request{}, errClearanceOff
	}
	return s.docket.Verdict(v)
}

// Undo takes a verdict back.
func (s *service) Undo(_ context.Context, v control.UndoChange) (control.Request, error) {
	if s.docket == nil {
		return control.Request{}, errClearanceOff
	}
	return s.docket.Undo(v)
}

// Events subscribes to what happens. Who can answer is counted as long as the stream is open.
func (s *service) Events(ctx context.Context, answers bool, since uint64) (control.Snapshot, <-chan control.StreamItem, func(), error) {
	items, seq, replayed, unsubscribe := s.feed.Subscribe(since)
	st, err := s.Status(ctx)
	if err != nil {
		unsubscribe()
		return control.Snapshot{}, nil, nil, err
	}
	stop := unsubscribe
	if answers && s.docket != nil {
		leave := s.docket.Answer()
		stop = func() { leave(); unsubscribe() }
	}
	snapshot := control.Snapshot{Status: st, Seq: seq, Replayed: replayed}
	snapshot.Requests, _ = s.Requests(ctx)
	return snapshot, items, stop, nil
}

// feedLedger hands the ledger's lines on to the event stream until the ledger is closed.
func (s *service) feedLedger(events <-chan audit.Event) {
	for e := range events {
		if e.Ev == audit.EvGap {
			s.feed.Publish(control.StreamItem{Gap: e.Count})
			continue
		}
		s.feed.Publish(control.StreamItem{Event: &e})
	}
}

// grant makes a live rule for a verdict.
func (r *rules) grant(text string, expires time.Time, source string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return "", fmt.Errorf("the container is in quarantine: %w", r.broken)
	}
	rule, err := policy.ParseRule(policy.Rule{Text: text, Expires: expires}.String(), policy.Session, source)
	if err != nil {
		return "", err
	}
	return rule.Text, r.store(policy.Upsert(slices.Clone(r.session), rule))
}

// revoke takes the rule of a verdict away, if it is still that verdict's.
func (r *rules) revoke(text, source string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(r.session), func(s policy.Rule) bool { return s.Text == text && s.Source == source })
	if len(rest) == len(r.session) {
		return errors.New("no such live rule")
	}
	return r.store(rest)
}

// setCanAsk says whether somebody can answer: then policy asks where it would deny by default.
// Live connections need no second look: what is open is open by a rule.
func (r *rules) setCanAsk(can bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.canAsk = can
	r.swap()
}
