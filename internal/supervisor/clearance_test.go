package supervisor

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/shield/proxy"
)

// cleared is a service with a docket over real rules on disk, without network.
func cleared(t testing.TB, set policy.Settings, rules ...string) *service {
	t.Helper()
	s := &service{hand: &handover{File: sandbox.File{Key: "webshop-k3v9p", Project: "webshop", Task: "k3v9p"}}, asks: newAsks(),
		feed: control.NewFeed(time.Now())}
	var err error
	dir := t.TempDir()
	if s.ledger, err = audit.Open(sandbox.LedgerPath(dir), audit.Identity{}, audit.Options{}); err != nil {
		t.Fatal(err)
	}
	s.rules = newRules(bundleOf(t, set, rules...), false)
	s.names = s.ledger
	cfg := proxy.Config{Policy: s.rules.policy, Record: s.ledger}
	s.clear(&cfg, set)
	s.proxy = proxy.New(cfg)
	s.rules.attach(s.recheck, s.ledger.Record)
	t.Cleanup(func() {
		s.proxy.Close()
		s.feed.Close()
		s.ledger.Close()
	})
	return s
}

func question(host string) proxy.Question {
	q := proxy.Question{Request: policy.Request{Name: host, Port: 443, Proto: "tcp"}, Source: "dns"}
	if a, err := netip.ParseAddr(host); err == nil {
		q.Request.Name, q.Request.Addr, q.Source = "", a, "none"
	}
	return q
}

// TestOnlyWhileSomebodyAnswers: policy asks between the first who can answer and the last.
func TestOnlyWhileSomebodyAnswers(t *testing.T) {
	s := cleared(t, policy.DefaultSettings())
	verdict := func() policy.Verdict {
		return s.rules.policy().Decide(policy.Request{Name: "a.test", Port: 443, Proto: "tcp", Now: time.Now()}).Verdict
	}
	if v := verdict(); v != policy.Deny {
		t.Errorf("nobody there: %v", v)
	}
	one, two := s.docket.Answer(), s.docket.Answer()
	if v := verdict(); v != policy.Ask {
		t.Errorf("two there: %v", v)
	}
	one()
	if v := verdict(); v != policy.Ask {
		t.Errorf("one there: %v", v)
	}
	two()
	if v := verdict(); v != policy.Deny {
		t.Errorf("all gone: %v", v)
	}
}

// TestVerdictIsOnDisk: a verdict is a live rule that a new worker finds, undo takes exactly it, and
// a disk that does not take it leaves policy as it was.
func TestVerdictIsOnDisk(t *testing.T) {
	s := cleared(t, policy.DefaultSettings(), "-denied.test")
	for _, host := range []string{"a.test", "denied.test", "10.0.0.1", "169.254.169.254", "x.local"} {
		s.docket.Refused(s.attempt(question(host)))
	}
	all, err := s.Requests(t.Context())
	if err != nil || len(all) != 1 || all[0].Host != "a.test" || all[0].Kind != control.NameBlocked {
		t.Fatalf("%+v, %v", all, err)
	}
	v := control.VerdictChange{ID: all[0].ID, Hash: all[0].Hash, Host: "a.test", Port: 443, Proto: "tcp", Choice: control.ChoiceTask, Actor: "alice"}
	session := sandbox.SessionPath(s.rules.dir)
	if err := os.Mkdir(session, 0o700); err != nil { // cannot be replaced by a file
		t.Fatal(err)
	}
	if _, err := s.Verdict(t.Context(), v); err == nil || allowed(s.rules, "a.test") {
		t.Fatalf("%v, allowed %t", err, allowed(s.rules, "a.test"))
	}
	if err := os.Remove(session); err != nil {
		t.Fatal(err)
	}
	got, err := s.Verdict(t.Context(), v)
	if err != nil || got.Decision.Rule != "+a.test:443" {
		t.Fatalf("retry: %+v, %v", got, err)
	}
	if next := newRules(s.rules.dir, false); !allowed(next, "a.test") || allowed(next, "b.test") {
		t.Error("a new worker does not find the verdict")
	}
	if _, err := s.Undo(t.Context(), control.UndoChange{ID: got.ID}); err != nil || allowed(s.rules, "a.test") || allowed(newRules(s.rules.dir, false), "a.test") {
		t.Errorf("undo: %v", err)
	}
	// A rule made elsewhere answers what is open.
	if _, err := s.ChangeRule(t.Context(), control.RuleChange{Rule: "-a.test"}); err != nil {
		t.Fatal(err)
	}
	if all, _ := s.Requests(t.Context()); all[0].State != control.RequestSuperseded {
		t.Errorf("%+v", all[0])
	}
}

// TestStreamTellsOfRequests: the snapshot has what is open, then every change comes.
func TestStreamTellsOfRequests(t *testing.T) {
	s := cleared(t, policy.DefaultSettings())
	s.docket.Refused(s.attempt(question("203.0.113.10")))
	r := s.docket.Requests()[0]
	if r.Kind != control.FlowBlocked || r.NameSource != "none" {
		t.Errorf("%+v", r)
	}
	items, _, _, stop := s.feed.Subscribe(0)
	defer stop()
	if _, err := s.Verdict(t.Context(), control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto, Choice: control.ChoiceOnce}); err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if i.Request != nil && i.Request.State == control.RequestApplied {
			if i.Request.ID != r.ID || i.Request.Seq <= r.Seq {
				t.Errorf("%+v", i.Request)
			}
			return
		}
	}
}

// TestClearanceOff: nothing is asked, and a question of the agent is answered by policy alone.
func TestClearanceOff(t *testing.T) {
	set := policy.DefaultSettings()
	set.Ask = false
	s := cleared(t, set, "+open.test")
	if s.docket != nil {
		t.Fatal("there is a docket")
	}
	if r, err := s.Requests(t.Context()); len(r) != 0 || err != nil {
		t.Error(r, err)
	}
	if _, err := s.Verdict(t.Context(), control.VerdictChange{}); err == nil {
		t.Error("a verdict was taken")
	}
	for host, want := range map[string]control.AskState{"a.test": control.AskDenied, "open.test": control.AskAllowed} {
		if a := s.ask(t.Context(), control.AskQuestion{Host: host, Seconds: 60}); a.State != want {
			t.Errorf("%s: %+v", host, a)
		}
	}
}

// TestBudgetAsks: a used up budget is a request; yes grants, no and nobody do not.
func TestBudgetAsks(t *testing.T) {
	s := cleared(t, policy.DefaultSettings())
	b, err := policy.ParseBudget("1MB/h")
	if err != nil {
		t.Fatal(err)
	}
	if s.askBudget(t.Context(), proxy.Breach{Budget: b}) {
		t.Error("granted by nobody")
	}
	defer s.docket.Answer()()
	for _, choice := range []control.Choice{control.ChoiceOnce, control.ChoiceDeny} {
		items, _, _, stop := s.feed.Subscribe(0)
		got := make(chan bool)
		go func() { got <- s.askBudget(t.Context(), proxy.Breach{Budget: b}) }()
		for i := range items {
			if r := i.Request; r != nil && r.State == control.RequestOpen && r.Kind == control.OverBudget {
				if _, err := s.Verdict(t.Context(), control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto, Choice: choice}); err != nil {
					t.Error(err)
				}
				break
			}
		}
		if granted := <-got; granted != (choice == control.ChoiceOnce) {
			t.Errorf("%s: %t", choice, granted)
		}
		stop()
	}
}

// FuzzAskBody: no body of the guest's question changes policy, and what comes back is an answer
// or a refusal, in printable ASCII.
func FuzzAskBody(f *testing.F) {
	f.Add([]byte(`{"host":"a.test","reason":"x","seconds":0}`))
	f.Add([]byte(`{"host":"A.TEST.","port":1,"reason":"\u202e\u001b[31m","seconds":0}`))
	f.Add([]byte(`{"host":"fe80::1%0","reason":"","seconds":0}`))
	f.Add([]byte(`{"host":"169.254.169.254","rule":"+a.test"}`))
	f.Add([]byte(`[1]`))
	s := cleared(f, policy.DefaultSettings())
	f.Fuzz(func(t *testing.T, body []byte) {
		g := &guestAPI{ask: func(ctx context.Context, q control.AskQuestion) control.AskAnswer {
			q.Seconds = 0
			return s.ask(ctx, q)
		}}
		w := &deadlines{httptest.NewRecorder()}
		g.question(w, httptest.NewRequest(http.MethodPost, "/v1/ask", strings.NewReader(string(body))))
		if _, err := os.Stat(sandbox.SessionPath(s.rules.dir)); err == nil {
			t.Fatal("a live rule was written")
		}
		if w.Code != http.StatusOK {
			return
		}
		var a control.AskAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.State == "" || a.Reason == "" {
			t.Fatalf("%q: %q", body, w.Body)
		}
		if strings.ContainsFunc(a.Target.Host+a.Reason, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Fatalf("%+v", a)
		}
		if a.State == control.AskAllowed {
			t.Fatalf("%q is open", body)
		}
	})
}

// deadlines is a recorder that takes the deadlines of a real connection.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error { return nil }

// TestRevokeIsExact: undo takes away the very rule that its verdict made, not one of the same text
// or of the same hand.
func TestRevokeIsExact(t *testing.T) {
	r := newRules(bundle(t), false)
	for host, source := range map[string]string{"a.test": "one", "b.test": "two"} {
		if _, err := r.grant("+"+host, time.Time{}, source); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.revoke("+a.test", "two"); err == nil || !allowed(r, "a.test") || !allowed(r, "b.test") {
		t.Errorf("%v: a rule of another source, or another rule of the source, is gone", err)
	}
	if err := r.revoke("+a.test", "one"); err != nil || allowed(r, "a.test") || !allowed(r, "b.test") {
		t.Errorf("%v", err)
	}
}
