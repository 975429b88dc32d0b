package supervisor

import (
	"sync"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

// document writes a policy with rules of several tiers.
func document(t *testing.T, dir string, rules map[policy.Tier][]string) {
	t.Helper()
	doc := policy.Document{Settings: policy.DefaultSettings()}
	for tier, texts := range rules {
		for _, text := range texts {
			r, err := policy.ParseRule(text, tier, "project.yml:7")
			if err != nil {
				t.Fatal(err)
			}
			doc.Rules = append(doc.Rules, r)
		}
	}
	data, err := policy.EncodeDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.WriteFile(sandbox.PolicyPath(dir), data); err != nil {
		t.Fatal(err)
	}
}

// heard collects what goes into the ledger.
type heard struct {
	mu     sync.Mutex
	events []audit.Event
	rang   chan struct{}
}

func (h *heard) record(e audit.Event) {
	h.mu.Lock()
	h.events = append(h.events, e)
	h.mu.Unlock()
	select {
	case h.rang <- struct{}{}:
	default:
	}
}

func (h *heard) count(ev, rule string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Ev == ev && e.Rule == rule {
			n++
		}
	}
	return n
}

// TestExpiredAtLoad is test 49 of spec shield.md §10: what has ended is dropped when the policy is
// loaded, and the ledger says so; overrides of whole ranges are remarked upon.
func TestExpiredAtLoad(t *testing.T) {
	dir := bundle(t)
	document(t, dir, map[policy.Tier][]string{
		policy.Override: {`old.test %reason=x %expires=2020-01-01`, `192.168.77.0/24:631 %reason=printers`, `new.test %reason=y`},
		policy.Project:  {`gone.test %expires=2020-01-01T00:00:00Z`, `a.test`},
	})
	r := newRules(dir, false)
	if n := len(r.policy().Rules()); n != 3 {
		t.Errorf("%d rules are in force", n)
	}
	h := &heard{rang: make(chan struct{}, 1)}
	r.attach(func() {}, h.record)
	for ev, rule := range map[string]string{"entry_expired": "+old.test", "override_range": "+192.168.77.0/24:631"} {
		if h.count(ev, rule) != 1 {
			t.Errorf("%s of %s: %d times in %+v", ev, rule, h.count(ev, rule), h.events)
		}
	}
	if h.count("entry_expired", "+gone.test") != 1 || len(h.events) != 3 || h.events[0].Detail["source"] != "project.yml:7" {
		t.Errorf("%+v", h.events)
	}
	if err := r.reload(); err != nil || h.count("entry_expired", "+old.test") != 2 {
		t.Errorf("after a reload: %v, %+v", err, h.events)
	}
}

// TestExpiryWhileRunning is the other half of test 46: an override whose end passes while the
// container runs is refused from then on, open connections are judged again, the ledger says so.
func TestExpiryWhileRunning(t *testing.T) {
	dir := bundle(t)
	end := time.Now().Add(300 * time.Millisecond).UTC()
	document(t, dir, map[policy.Tier][]string{
		policy.Override: {`api.x.test %reason=x %expires=` + end.Format(time.RFC3339Nano)},
		policy.Denied:   {`-api.x.test`},
		policy.Project:  {`api.x.test`},
	})
	r := newRules(dir, false)
	h, cut := &heard{rang: make(chan struct{}, 1)}, make(chan struct{}, 8)
	if d := decideAt(r, "api.x.test", end.Add(-time.Nanosecond)); d.Verdict != policy.Allow || d.Tier != policy.Override {
		t.Fatalf("before: %+v", d)
	}
	r.attach(func() { cut <- struct{}{} }, h.record)
	select {
	case <-h.rang:
	case <-time.After(time.Minute):
		t.Fatal("the end of an override went unnoticed")
	}
	<-cut // before it was recorded
	if d := decideAt(r, "api.x.test", time.Now()); d.Verdict != policy.Deny || d.Tier != policy.Denied {
		t.Errorf("after: %+v", d)
	}
	if h.count("entry_expired", "+api.x.test") != 1 {
		t.Errorf("%+v", h.events)
	}
}

func decideAt(r *rules, name string, at time.Time) policy.Decision {
	return r.policy().Decide(policy.Request{Name: name, Port: 443, Proto: "tcp", Now: at})
}

// TestLiveVerdictEnds: a live verdict that ends is dropped and said, like one of the file.
func TestLiveVerdictEnds(t *testing.T) {
	r := newRules(bundle(t), false)
	at := time.Now()
	r.now = func() time.Time { return at }
	h := &heard{rang: make(chan struct{}, 1)}
	r.attach(func() {}, h.record)
	if _, err := r.change(control.RuleChange{Rule: "+a.test", Expires: at.Add(time.Hour).Format(time.RFC3339)}); err != nil {
		t.Fatal(err)
	}
	at = at.Add(2 * time.Hour)
	r.expire()
	if len(r.policy().Rules()) != 0 || h.count("entry_expired", "+a.test") != 1 {
		t.Errorf("%+v", h.events)
	}
	r.expire()
	if h.count("entry_expired", "+a.test") != 1 {
		t.Error("it is said twice")
	}
}
