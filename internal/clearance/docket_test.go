package clearance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/shield/policy"
)

// rig is a Docket over a real policy, with a clock that the test moves.
type rig struct {
	*Docket
	t testing.TB

	mu       sync.Mutex
	now      time.Time
	rules    []policy.Rule // all tiers
	posture  policy.Posture
	canAsk   bool
	settled  int
	grantErr error
	during   func() // called in Grant
	seq      uint64
	last     map[string]control.Request
	events   []audit.Event
	prompts  int // requests that were published for the first time, floods aside
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func newRig(t testing.TB, hold time.Duration, rules ...string) *rig {
	r := &rig{t: t, now: noon, posture: policy.Up, last: map[string]control.Request{}}
	for _, text := range rules {
		tier, rest, _ := strings.Cut(text, "!")
		parsed, _ := policy.ParseTier(tier)
		rule, err := policy.ParseRule(rest, parsed, "test")
		if err != nil {
			t.Fatal(err)
		}
		r.rules = append(r.rules, rule)
	}
	r.Docket = New(Config{Key: "webshop-k3v9p", Project: "webshop", Task: "k3v9p", Hold: hold,
		Now: r.clock, Judge: r.judge, Grant: r.grant, Revoke: r.revoke,
		Settle: func() { r.mu.Lock(); r.settled++; r.mu.Unlock() },
		CanAsk: func(can bool) { r.mu.Lock(); r.canAsk = can; r.mu.Unlock() },
		Publish: func(q control.Request) uint64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seq++
			q.Seq = r.seq
			if _, known := r.last[q.ID]; !known && q.Kind != control.Flood {
				r.prompts++
			}
			r.last[q.ID] = q
			return r.seq
		},
		Record: func(e audit.Event) { r.mu.Lock(); r.events = append(r.events, e); r.mu.Unlock() },
	})
	return r
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	r.now = r.now.Add(d)
	r.mu.Unlock()
	r.Sweep()
}

func (r *rig) judge(t Target) policy.Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.decide(t)
}

func (r *rig) decide(t Target) policy.Verdict {
	p := policy.New(r.rules, policy.Options{Posture: r.posture, CanAsk: true})
	return p.Decide(PolicyRequest(t, r.now)).Verdict
}

func (r *rig) grant(rule string, expires time.Time, source string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.during != nil {
		r.during()
	}
	if r.grantErr != nil {
		return "", r.grantErr
	}
	parsed, err := policy.ParseRule(policy.Rule{Text: rule, Expires: expires}.String(), policy.Session, source)
	if err != nil {
		return "", err
	}
	r.rules = policy.Upsert(r.rules, parsed)
	return parsed.Text, nil
}

func (r *rig) revoke(rule, source string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, have := range r.rules {
		if have.Text == rule && have.Source == source {
			r.rules = append(r.rules[:i:i], r.rules[i+1:]...)
			return nil
		}
	}
	return errors.New("no such rule")
}

func (r *rig) session() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, rule := range r.rules {
		if rule.Tier == policy.Session {
			out = append(out, rule.String())
		}
	}
	return strings.Join(out, "\n")
}

func (r *rig) recorded(ev string) []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Event
	for _, e := range r.events {
		if e.Ev == ev {
			out = append(out, e)
		}
	}
	return out
}

func at(host string) Attempt {
	return Attempt{Target: Target{host, 443, "tcp"}, Kind: control.NameBlocked, NameSource: "dns"}
}

// one is the only open request.
func (r *rig) one() control.Request {
	r.t.Helper()
	var open []control.Request
	for _, q := range r.Requests() {
		if q.State == control.RequestOpen {
			open = append(open, q)
		}
	}
	if len(open) != 1 {
		r.t.Fatalf("%d open requests, want one: %+v", len(open), open)
	}
	return open[0]
}

func answer(q control.Request, c control.Choice) control.VerdictChange {
	return control.VerdictChange{ID: q.ID, Hash: q.Hash, Host: q.Host, Port: q.Port, Proto: q.Proto, Choice: c, Actor: "alice", Via: "cli"}
}

func code(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond) // poll, bounded by the condition
	}
}

// ended waits for the end of a hold.
func ended(t testing.TB, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection still waits")
	}
}

// TestDedup: spec tests 51 and 63; five hundred at once are one request with an exact count.
func TestDedup(t *testing.T) {
	r := newRig(t, time.Minute)
	stop := r.Answer()
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() { r.Hold(t.Context(), at("a.test")) })
	}
	eventually(t, "all wait", func() bool { q := r.Requests(); return len(q) == 1 && q[0].Held == 500 })
	q := r.one()
	if q.Count != 500 || q.Host != "a.test" || q.Port != 443 || q.Proto != "tcp" || q.Key != "webshop-k3v9p" || q.Tier != "default" ||
		q.Kind != control.NameBlocked || q.ExpiresAt != noon.Add(life) {
		t.Errorf("%+v", q)
	}
	stop() // nobody can answer any more: denied at once
	wg.Wait()
	if q := r.one(); q.Held != 0 || q.Count != 500 {
		t.Errorf("%+v", q)
	}
	for range 5 {
		r.Refused(at("a.test"))
	}
	if q := r.one(); q.Count != 505 {
		t.Errorf("count %d", q.Count)
	}
	if e := r.recorded("request"); len(e) != 1 || e[0].Name != "a.test" || e[0].Port != 443 || e[0].Proto != "tcp" || e[0].RequestID != q.ID {
		t.Errorf("events %+v", e)
	}
	// Numbers are published, but not each.
	r.advance(time.Second)
	if r.last[q.ID].Count != 505 || r.seq > 20 {
		t.Errorf("published %d times, last count %d", r.seq, r.last[q.ID].Count)
	}
}

// TestOnlyAskable: what a rule or the floor decides is never shown to anybody.
func TestOnlyAskable(t *testing.T) {
	r := newRig(t, time.Minute, "deny!-api.test", "project!+open.test")
	for _, a := range []Attempt{at("api.test"), at("open.test"), at("printer.local"), at("single"), at("169.254.169.254"), at("127.0.0.1"), at("10.0.0.1"), at(""),
		{Target: Target{"a.test", 53, "tcp"}}, {Target: Target{"a.test", 443, "udp"}}, {Target: Target{"a.test", 0, "tcp"}}, {Target: Target{"bad name", 443, "tcp"}}} {
		r.Refused(a)
		if s := r.Ask(t.Context(), a); s == control.AskPending || s == control.AskLimited {
			t.Errorf("%v: %s", a.Target, s)
		}
	}
	r.posture = policy.Quarantine
	r.Refused(at("a.test"))
	if q := r.Requests(); len(q) != 0 {
		t.Errorf("%+v", q)
	}
}

// TestScopes: each choice makes exactly its rule; spec tests 58 and 45.
func TestScopes(t *testing.T) {
	for choice, want := range map[control.Choice]string{
		control.ChoiceOnce:       "+a.test:443 %expires=2026-11-25T12:15:00Z",
		control.ChoiceTask:       "+a.test:443",
		control.ChoiceProject:    "+a.test:443",
		control.ChoiceDomain:     "+.a.test:443",
		control.ChoiceDeny:       "-a.test:443/tcp %expires=2026-11-25T13:00:00Z",
		control.ChoiceDenyAlways: "-a.test:443/tcp",
	} {
		r := newRig(t, time.Minute)
		r.Refused(at("a.test"))
		q, err := r.Verdict(answer(r.one(), choice))
		if err != nil || q.State != control.RequestApplied || q.Decision.Choice != choice || q.Decision.Actor != "alice" || q.Decision.Via != "cli" {
			t.Errorf("%s: %+v, %v", choice, q, err)
		}
		if got := r.session(); got != want || q.Decision.Rule != strings.Fields(want)[0] {
			t.Errorf("%s: rules %q, decision %q; want %q", choice, got, q.Decision.Rule, want)
		}
		v := policy.Allow
		if strings.HasPrefix(want, "-") {
			v = policy.Deny
		}
		for target, want := range map[Target]policy.Verdict{{"a.test", 443, "tcp"}: v, {"a.test", 80, "tcp"}: policy.Ask, {"b.test", 443, "tcp"}: policy.Ask} {
			if got := r.judge(target); got != want {
				t.Errorf("%s: %v is %v", choice, target, got)
			}
		}
		// Attempts on what is decided make no request: a deny mutes.
		r.Refused(at("a.test"))
		if n := len(r.Requests()); n != 1 {
			t.Errorf("%s: %d requests", choice, n)
		}
		r.advance(onceFor)
		if got := r.judge(Target{"a.test", 443, "tcp"}); choice == control.ChoiceOnce && got != policy.Ask {
			t.Errorf("after 15 minutes once is %v", got)
		}
		r.advance(muteFor)
		r.Refused(at("a.test"))
		if n := len(r.Requests()); (choice == control.ChoiceDeny || choice == control.ChoiceOnce) != (n == 2) {
			t.Errorf("%s: %d requests after its end", choice, n)
		}
		if e := r.recorded("verdict"); len(e) != 1 || e[0].Scope != string(choice) || e[0].Rule != q.Decision.Rule || e[0].RequestID != q.ID || e[0].Detail["by"] != "alice" {
			t.Errorf("%s: events %+v", choice, e)
		}
		if r.settled != 1 {
			t.Errorf("%s: live connections were judged %d times", choice, r.settled)
		}
	}
	r := newRig(t, 0)
	a := at("2001:db8:1::10")
	a.Kind, a.NameSource = control.FlowBlocked, "none"
	r.Refused(a)
	q := r.one()
	for _, c := range q.Choices {
		if c == control.ChoiceDomain {
			t.Error("an address has no domain")
		}
	}
	if q, err := r.Verdict(answer(q, control.ChoiceTask)); err != nil || q.Decision.Rule != "+[2001:db8:1::10]:443" {
		t.Errorf("%+v %v", q, err)
	}
	r.Refused(at("someone.github.io"))
	r.Refused(at("github.io"))
	for _, q := range r.Requests()[:2] {
		domain := false
		for _, c := range q.Choices {
			domain = domain || c == control.ChoiceDomain
		}
		if domain != (q.Host == "someone.github.io") {
			t.Errorf("%s has the choices %v", q.Host, q.Choices)
		}
	}
}

// TestRefusedVerdicts is spec test 60: each its own error and no policy change.
func TestRefusedVerdicts(t *testing.T) {
	r := newRig(t, time.Minute)
	r.Refused(at("a.test"))
	q := r.one()
	good := answer(q, control.ChoiceTask)
	for want, change := range map[string]func(*control.VerdictChange){
		control.CodeUnknownRequest + " 1": func(v *control.VerdictChange) { v.ID = "r99" },
		control.CodeUnknownRequest + " 2": func(v *control.VerdictChange) { v.ID = "" },
		control.CodeMismatch + " 1":       func(v *control.VerdictChange) { v.Host = "b.test" },
		control.CodeMismatch + " 2":       func(v *control.VerdictChange) { v.Port = 80 },
		control.CodeMismatch + " 3":       func(v *control.VerdictChange) { v.Proto = "udp" },
		control.CodeMismatch + " 4":       func(v *control.VerdictChange) { v.Host = "A.test" },
		control.CodeStale + " 1":          func(v *control.VerdictChange) { v.Hash = "" },
		control.CodeStale + " 2":          func(v *control.VerdictChange) { v.Hash = strings.Repeat("0", len(v.Hash)) },
		control.CodeInvalidChoice + " 1":  func(v *control.VerdictChange) { v.Choice = "" },
		control.CodeInvalidChoice + " 2":  func(v *control.VerdictChange) { v.Choice = "allow\x1b[31m" },
	} {
		v := good
		change(&v)
		if _, err := r.Verdict(v); code(err)+want[len(want)-2:] != want {
			t.Errorf("%s: %v", want, err)
		} else if strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: %q", want, err)
		}
	}
	if got := r.session(); got != "" || r.one().State != control.RequestOpen || r.settled != 0 {
		t.Errorf("policy changed: %q", got)
	}
	// Another container's verdict, and one on what an earlier worker showed.
	other := newRig(t, time.Minute)
	other.Refused(at("a.test"))
	if _, err := r.Verdict(answer(other.one(), control.ChoiceTask)); code(err) != control.CodeStale {
		t.Errorf("another docket's verdict: %v", err)
	}
	// What is asked changed since it was shown.
	a := at("a.test")
	a.Reason = "for the tests"
	r.Refused(a)
	if _, err := r.Verdict(good); code(err) != control.CodeStale {
		t.Errorf("after the reason changed: %v", err)
	}
	if _, err := r.Verdict(answer(r.one(), control.ChoiceTask)); err != nil {
		t.Error(err)
	}
}

// TestFirstVerdictWins is spec test 59.
func TestFirstVerdictWins(t *testing.T) {
	r := newRig(t, time.Minute)
	r.Refused(at("a.test"))
	q := r.one()
	allow, deny := answer(q, control.ChoiceTask), answer(q, control.ChoiceDenyAlways)
	deny.Actor, deny.Via = "bob", "tui"
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []control.Request
	var lost []error
	for i := range 20 {
		v := allow
		if i%2 == 1 {
			v = deny
		}
		wg.Go(func() {
			got, err := r.Verdict(v)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				lost = append(lost, err)
			} else {
				won = append(won, got)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || len(lost) != 19 {
		t.Fatalf("%d won, %d lost", len(won), len(lost))
	}
	dec := won[0].Decision
	for _, err := range lost {
		if code(err) != control.CodeAlreadyDecided || !strings.Contains(err.Error(), dec.Actor) || !strings.Contains(err.Error(), string(dec.Choice)) ||
			!strings.Contains(err.Error(), dec.At.Format(time.RFC3339)) {
			t.Errorf("%v does not name the winner %+v", err, dec)
		}
	}
	if n := len(r.recorded("verdict")); n != 1 || strings.Count(r.session(), "\n") != 0 {
		t.Errorf("%d verdicts, rules %q", n, r.session())
	}
}

// TestApplyFails is spec test 66.
func TestApplyFails(t *testing.T) {
	r := newRig(t, time.Minute)
	stop := r.Answer()
	defer stop()
	done := make(chan struct{})
	go func() { r.Hold(t.Context(), at("a.test")); close(done) }()
	eventually(t, "held", func() bool { q := r.Requests(); return len(q) == 1 && q[0].Held == 1 })
	r.grantErr = errors.New("disk full")
	_, err := r.Verdict(answer(r.one(), control.ChoiceTask))
	if code(err) != control.CodeApplyFailed {
		t.Fatal(err)
	}
	q := r.one()
	if q.Decision == nil || !strings.Contains(q.Decision.Error, "disk full") || q.Held != 1 || r.session() != "" {
		t.Errorf("%+v", q)
	}
	select {
	case <-done:
		t.Error("the failed verdict let the connection go")
	default:
	}
	r.grantErr = nil
	if q, err := r.Verdict(answer(q, control.ChoiceTask)); err != nil || q.Decision.Error != "" {
		t.Errorf("retry: %+v %v", q, err)
	}
	<-done
}

// TestNotOutranked: a rule that was made meanwhile is not undone by a late verdict.
func TestNotOutranked(t *testing.T) {
	r := newRig(t, time.Minute)
	r.Refused(at("a.test"))
	q := r.one()
	deny, _ := policy.ParseRule("-a.test", policy.Denied, "operator")
	r.rules = append(r.rules, deny)
	if _, err := r.Verdict(answer(q, control.ChoiceTask)); code(err) != control.CodeOutranked {
		t.Error(err)
	}
	if _, err := r.Verdict(answer(q, control.ChoiceTask)); code(err) != control.CodeAlreadyDecided {
		t.Error(err)
	}
	if r.session() != "" {
		t.Errorf("rules %q", r.session())
	}
}

// TestHoldBounds: a connection waits for the hold's time, only while somebody can answer, and not
// longer than its client.
func TestHoldBounds(t *testing.T) {
	hold := func(r *rig, ctx context.Context) chan struct{} {
		done := make(chan struct{})
		go func() { r.Hold(ctx, at("a.test")); close(done) }()
		return done
	}
	r := newRig(t, 30*time.Second)
	ended(t, hold(r, t.Context())) // nobody can answer
	if r.canAsk {
		t.Error("asks without anybody who could answer")
	}
	stop := r.Answer()
	second := r.Answer()
	if !r.canAsk {
		t.Error("does not ask")
	}
	held := func(n int) func() bool { return func() bool { return r.one().Held == n } }
	done := hold(r, t.Context())
	eventually(t, "held", held(1))
	r.advance(30*time.Second - time.Millisecond)
	if r.one().Held != 1 {
		t.Error("released early")
	}
	r.advance(time.Millisecond)
	ended(t, done)
	done = hold(r, t.Context())
	eventually(t, "held", held(1))
	stop()
	stop() // counts once
	if r.one().Held != 1 || !r.canAsk {
		t.Error("released while another could answer")
	}
	second()
	ended(t, done)
	if r.canAsk || r.one().Held != 0 {
		t.Error("asks after the last has gone")
	}
	third := r.Answer()
	defer third()
	ctx, cancel := context.WithCancel(t.Context())
	done = hold(r, ctx)
	eventually(t, "held", held(1))
	cancel()
	ended(t, done)
	if r.one().Held != 0 || r.one().Count != 4 {
		t.Errorf("%+v", r.one())
	}
	none := newRig(t, 0)
	defer none.Answer()()
	ended(t, hold(none, t.Context()))
	if none.one().Count != 1 {
		t.Error("not counted")
	}
}

// TestPolicyAnswers: a rule or a posture made elsewhere ends requests and waits; the container's
// end does as well.
func TestPolicyAnswers(t *testing.T) {
	r := newRig(t, time.Minute)
	defer r.Answer()()
	done := make(chan struct{})
	go func() { r.Hold(t.Context(), at("a.test")); close(done) }()
	eventually(t, "held", func() bool { q := r.Requests(); return len(q) == 1 && q[0].Held == 1 })
	r.Refused(at("b.test"))
	if _, err := r.grant("+a.test:443", time.Time{}, "operator"); err != nil {
		t.Fatal(err)
	}
	r.Recheck()
	<-done
	q := r.Requests()
	if len(q) != 2 || q[0].Host != "b.test" || q[0].State != control.RequestOpen || q[1].State != control.RequestSuperseded {
		t.Fatalf("%+v", q)
	}
	if _, err := r.Verdict(answer(q[1], control.ChoiceDeny)); code(err) != control.CodeAlreadyDecided {
		t.Errorf("verdict on a superseded request: %v", err)
	}
	r.Close()
	if q := r.Requests(); q[0].State != control.RequestCancelled {
		t.Errorf("%+v", q[0])
	}
	if _, err := r.Verdict(answer(q[0], control.ChoiceTask)); code(err) != control.CodeUnknownRequest {
		t.Errorf("verdict after the end: %v", err)
	}
	r.Refused(at("c.test"))
	if len(r.Requests()) != 2 || r.session() != "+a.test:443" {
		t.Error("something was made after the end")
	}
}

// TestExpiry: ten minutes without an attempt; it allows and denies nothing.
func TestExpiry(t *testing.T) {
	r := newRig(t, time.Minute)
	r.Refused(at("a.test"))
	first := r.one()
	r.advance(life - time.Second)
	r.Refused(at("a.test"))
	r.advance(life - time.Second)
	if r.one().Count != 2 {
		t.Error("a new attempt did not prolong it")
	}
	r.advance(time.Second)
	if q := r.Requests(); len(q) != 1 || q[0].State != control.RequestExpired {
		t.Fatalf("%+v", q)
	}
	if _, err := r.Verdict(answer(first, control.ChoiceTask)); code(err) != control.CodeUnknownRequest || r.session() != "" {
		t.Errorf("verdict on an expired request: %v, rules %q", err, r.session())
	}
	r.Refused(at("a.test"))
	if q := r.one(); q.ID == first.ID || q.Count != 1 {
		t.Errorf("%+v", q)
	}
}

// TestFlood is the core of spec test 52: ten thousand destinations in ten seconds.
func TestFlood(t *testing.T) {
	r := newRig(t, time.Minute)
	const n = 10000
	for i := range n {
		r.Refused(at(fmt.Sprintf("x%d.test", i)))
		if i%1000 == 999 {
			r.advance(time.Second)
		}
	}
	var total uint64
	var floods, open int
	for _, q := range r.Requests() {
		total += q.Count
		if open++; q.Kind == control.Flood {
			floods++
			if len(q.Names) != maxSample || len(q.Choices) != 0 {
				t.Errorf("%+v", q)
			}
			if _, err := r.Verdict(answer(q, control.ChoiceTask)); code(err) != control.CodeInvalidChoice {
				t.Errorf("verdict on a flood: %v", err)
			}
		}
	}
	if total != n || floods != 1 || open != maxPerMinute+1 || r.prompts != maxPerMinute {
		t.Errorf("%d attempts, %d floods, %d requests, %d prompts", total, floods, open, r.prompts)
	}
	if e := r.recorded("request"); len(e) != maxPerMinute+1 {
		t.Errorf("%d lines", len(e))
	}
	// A quiet minute later there is room again, up to forty open ones.
	for i := range 10 {
		r.advance(time.Minute)
		for j := range 20 {
			r.Refused(at(fmt.Sprintf("y%d-%d.test", i, j)))
		}
	}
	if n := len(r.open); n != maxOpen {
		t.Errorf("%d open, want %d", n, maxOpen)
	}
	if r.prompts > 12*maxPerMinute {
		t.Errorf("%d prompts", r.prompts)
	}
	r.advance(life)
	if len(r.open) != 0 || r.flood != nil || len(r.closed) > maxClosed || len(r.byID) > maxClosed {
		t.Errorf("%d open, %d closed, %d known", len(r.open), len(r.closed), len(r.byID))
	}
}

// TestUndo: the rule goes, and only the verdict's own.
func TestUndo(t *testing.T) {
	r := newRig(t, time.Minute)
	r.Refused(at("a.test"))
	q := r.one()
	if _, err := r.Undo(control.UndoChange{ID: q.ID}); code(err) != control.CodeNotDecided {
		t.Errorf("undo of an open request: %v", err)
	}
	if _, err := r.Undo(control.UndoChange{ID: "r9"}); code(err) != control.CodeUnknownRequest {
		t.Errorf("undo of nothing: %v", err)
	}
	if _, err := r.Verdict(answer(q, control.ChoiceTask)); err != nil {
		t.Fatal(err)
	}
	settled := r.settled
	got, err := r.Undo(control.UndoChange{ID: q.ID, Actor: "bob"})
	if err != nil || got.State != control.RequestOpen || got.Decision != nil || r.session() != "" || r.settled == settled {
		t.Fatalf("%+v, %v, rules %q", got, err, r.session())
	}
	if e := r.recorded("verdict"); len(e) != 2 || e[1].Detail["end"] != "undone" || e[1].Detail["by"] != "bob" {
		t.Errorf("%+v", e)
	}
	// Allow, deny, allow: the last holds (spec test 48).
	for _, c := range []control.Choice{control.ChoiceTask, control.ChoiceDenyAlways, control.ChoiceTask} {
		if _, err := r.Verdict(answer(r.one(), c)); err != nil {
			t.Fatal(err)
		}
		if c != control.ChoiceTask || len(r.recorded("verdict")) < 5 {
			if _, err := r.Undo(control.UndoChange{ID: q.ID}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A rule that somebody else made for the target stays.
	if _, err := r.grant("+a.test:443", time.Time{}, "somebody else"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Undo(control.UndoChange{ID: q.ID}); code(err) != control.CodeNotDecided || r.session() != "+a.test:443" {
		t.Errorf("%v, rules %q", err, r.session())
	}
}

// TestAsk is spec test 68: limited, untrusted words, and the verdict ends the wait.
func TestAsk(t *testing.T) {
	r := newRig(t, 0, "project!+open.test", "deny!-closed.test")
	if s := r.Ask(t.Context(), at("open.test")); s != control.AskAllowed {
		t.Error(s)
	}
	if s := r.Ask(t.Context(), at("closed.test")); s != control.AskDenied {
		t.Error(s)
	}
	a := at("a.test")
	a.Reason = "please \x1b[31m\u202e" + strings.Repeat("x", 300)
	a.Process = func() string { return "cu\nrl" }
	done := make(chan control.AskState)
	go func() { done <- r.Ask(t.Context(), a) }()
	eventually(t, "asked", func() bool { q := r.Requests(); return len(q) == 1 && q[0].Process != "" })
	q := r.one()
	if q.Kind != control.AgentAsked || len(q.Reason) > maxReason || strings.ContainsFunc(q.Reason+q.Process, func(c rune) bool { return c < ' ' || c > '~' }) {
		t.Errorf("%+v", q)
	}
	if _, err := r.Verdict(answer(q, control.ChoiceOnce)); err != nil {
		t.Fatal(err)
	}
	if s := <-done; s != control.AskAllowed {
		t.Error(s)
	}
	limited := 0
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		if r.Ask(expired, at(fmt.Sprintf("b%d.test", i))) == control.AskLimited {
			limited++
		}
		r.advance(600 * time.Millisecond)
	}
	if limited < 90 || r.prompts > 7 {
		t.Errorf("%d of 100 limited, %d prompts", limited, r.prompts)
	}
	for i := range 100 { // an hour, more than every ten seconds apart
		r.Ask(expired, at(fmt.Sprintf("c%d.test", i)))
		r.advance(36 * time.Second)
	}
	if len(r.asked) > askPerHour {
		t.Errorf("%d questions in an hour", len(r.asked))
	}
}
