package supervisor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

// bundle makes a task directory with a policy.
func bundle(t testing.TB, rules ...string) string {
	t.Helper()
	return bundleOf(t, policy.DefaultSettings(), rules...)
}

func bundleOf(t testing.TB, set policy.Settings, rules ...string) string {
	t.Helper()
	dir := t.TempDir()
	doc := policy.Document{Settings: set}
	for _, text := range rules {
		r, err := policy.ParseRule(text, policy.Project, "test")
		if err != nil {
			t.Fatal(err)
		}
		doc.Rules = append(doc.Rules, r)
	}
	data, err := policy.EncodeDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.WriteFile(sandbox.PolicyPath(dir), data); err != nil {
		t.Fatal(err)
	}
	return dir
}

func now(r *rules) control.Posture {
	return r.state().now
}

func allowed(r *rules, name string) bool {
	d := r.policy().Decide(policy.Request{Name: name, Port: 443, Proto: "tcp", Now: time.Now()})
	return d.Verdict == policy.Allow
}

func TestTamperingIsQuarantineForGood(t *testing.T) {
	r := newRules(bundle(t, "+a.test"), false)
	if !allowed(r, "a.test") {
		t.Fatal("a.test is not allowed")
	}
	rechecked := 0
	r.recheck = func() { rechecked++ }
	r.tamper()
	if _, _, err := r.setPosture(control.PostureChange{Posture: control.DownAll, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := r.reload(); err != nil {
		t.Fatal(err)
	}
	if allowed(r, "a.test") || now(r) != control.Quarantine || rechecked == 0 {
		t.Errorf("%s, rechecked %d times", now(r), rechecked)
	}
}

func TestVerdictsSurviveARestart(t *testing.T) {
	dir := bundle(t)
	r := newRules(dir, false)
	for _, text := range []string{"+a.test", "-a.test", "+a.test:443"} {
		if _, err := r.change(control.RuleChange{Rule: text, Reason: "why not"}); err != nil {
			t.Fatal(err)
		}
	}
	again := newRules(dir, false)
	if !allowed(again, "a.test") {
		t.Error("the last word does not hold after a restart")
	}
	if _, err := again.change(control.RuleChange{Rule: "+a.test:443", Remove: true}); err != nil {
		t.Fatal(err)
	}
	if allowed(newRules(dir, false), "a.test") {
		t.Error("a removed rule holds after a restart")
	}
	for _, bad := range []control.RuleChange{{Rule: "+"}, {Rule: "+169.254.169.254"}, {Rule: "+a.test\n+b.test"},
		{Rule: "+a.test", Expires: "yesterday"}, {Rule: "+a.test", Expires: "2001-01-01T00:00:00Z"}, {Rule: "+c.test", Remove: true}} {
		if _, err := again.change(bad); err == nil {
			t.Errorf("%+v: accepted", bad)
		}
	}
}

func guestServer(t *testing.T) (*guestAPI, *httptest.Server, *[]byte) {
	t.Helper()
	said := &[]byte{}
	g := &guestAPI{hand: &handover{secrets: secrets{GateToken: "token", Phantoms: map[string]string{"p": "phantom"}},
		File: sandbox.File{SigningKey: make([]byte, 32), Start: sandbox.Start{Env: map[string]string{"A": "b"}},
			Vault: &sandbox.Vault{Grants: []sandbox.Grant{{Provider: "p", Kind: sandbox.APIKey,
				Auth: map[string]sandbox.Auth{sandbox.APIKey: {Env: map[string]string{"KEY": "x" + sandbox.PhantomMark}}}}}}}},
		record: audit.Discard, say: func(op byte) error { *said = append(*said, op); return nil },
		why: func(control.Target) control.Explanation {
			return control.Explanation{Verdict: "deny", Rule: &control.RuleView{Source: "/home/x/project.yml:3"}}
		}}
	s := httptest.NewServer(g.handler())
	t.Cleanup(s.Close)
	return g, s, said
}

func TestGuestProtocolRefuses(t *testing.T) {
	_, s, said := guestServer(t)
	for _, body := range []string{"", "{}", `{"nonce":"AAAA"}`, `{"nonce":"` + strings.Repeat("A", 44) + `","x":1}`, strings.Repeat("x", 1<<20)} {
		res, err := http.Post(s.URL+"/v1/hello", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode/100 != 4 {
			t.Errorf("%.60q: %s", body, res.Status)
		}
	}
	if len(*said) > 0 {
		t.Errorf("said %q", *said)
	}
	res, err := http.Get(s.URL + "/v1/why?host=a.test")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var e control.Explanation
	if err := json.NewDecoder(res.Body).Decode(&e); err != nil || e.Rule != nil || e.Verdict != "deny" {
		t.Errorf("the workload learns %+v, %v", e, err)
	}
}

// TestGuestLearnsNoSource: what a workload asks about tells it neither who wrote a rule, nor in which
// file, nor why.
func TestGuestLearnsNoSource(t *testing.T) {
	rule, err := policy.ParseRule(`-closed.test %reason="the merger"`, policy.Denied, "/home/ada/.config/terok/projects/merger/project.yml:7")
	if err != nil {
		t.Fatal(err)
	}
	p := policy.New([]policy.Rule{rule}, policy.Options{Posture: policy.Up})
	d := p.Decide(policy.Request{Name: "closed.test", Port: 443, Proto: "tcp", Now: time.Now()})
	v := view(d.Rule)
	g := &guestAPI{why: func(t control.Target) control.Explanation {
		return control.Explanation{Target: t, Verdict: d.Verdict.String(), Tier: d.Tier.String(), Reason: d.Reason, Rule: &v}
	}}
	w := httptest.NewRecorder()
	g.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/why?host=closed.test&port=443", nil))
	for _, text := range []string{w.Body.String(), d.Said()} {
		if !strings.Contains(text, "deny") || strings.Contains(text, "ada") || strings.Contains(text, "merger") {
			t.Errorf("a workload reads %s", text)
		}
	}
}
