package policy

import (
	"testing"

	"pgregory.net/rapid"
)

func TestOutranked(t *testing.T) {
	relay := mustRule(t, "-api.x.test", Denied)
	relay.Source = RelaySource
	for _, c := range []struct {
		name  string
		rules []Rule
		allow string
		by    string
	}{
		{"the same name", []Rule{mustRule(t, "-api.x.test", Denied)}, "api.x.test", "-api.x.test"},
		{"a parent", []Rule{mustRule(t, "-.x.test", Denied)}, "*.api.x.test", "-.x.test"},
		{"below only", []Rule{mustRule(t, "-*.x.test", Denied)}, "x.test", ""},
		{"below of both", []Rule{mustRule(t, "-*.x.test", Denied)}, ".x.test", ""},
		{"part of a wildcard", []Rule{mustRule(t, "-ads.x.test", Denied)}, "*.x.test", ""},
		{"one of two ports", []Rule{mustRule(t, "-api.x.test:443", Denied)}, "api.x.test", ""},
		{"both ports", []Rule{mustRule(t, "-api.x.test:443", Denied), mustRule(t, "-.x.test:80", Denied)}, "api.x.test", "-api.x.test:443"},
		{"a range", []Rule{mustRule(t, "-203.0.113.0/24", Denied)}, "203.0.113.7:22", "-203.0.113.0/24"},
		{"a smaller range", []Rule{mustRule(t, "-203.0.113.0/28", Denied)}, "203.0.113.0/24", ""},
		{"an override", []Rule{mustRule(t, "api.x.test %reason=x", Override), mustRule(t, "-api.x.test", Denied)}, "api.x.test", ""},
		{"only the other protocol", []Rule{mustRule(t, "-api.x.test/udp", Denied)}, "api.x.test", ""},
		{"a later tier", []Rule{mustRule(t, "-api.x.test", Project)}, "api.x.test", ""},
		{"through the vault", []Rule{relay}, "api.x.test", ""},
		{"expired", []Rule{mustRule(t, "-api.x.test %expires=2020-01-01", Denied)}, "api.x.test", ""},
		{"the host", []Rule{mustRule(t, "-host", Denied)}, "host:8080", "-host"},
	} {
		got := Outranked(c.rules, mustRule(t, c.allow, Session), day, false)
		if (got == nil) != (c.by == "") || got != nil && got.Text != c.by {
			t.Errorf("%s: %v, want %q", c.name, got, c.by)
		}
	}
	if Outranked([]Rule{relay}, mustRule(t, "api.x.test", Session), day, true) == nil {
		t.Error("a relayed host that this container has no way to is open")
	}
	if Outranked([]Rule{relay}, mustRule(t, "-api.x.test", Session), day, true) != nil {
		t.Error("a deny is outranked")
	}
}

// TestOutrankedAgainstDecide: an outranked rule changes no decision about what it covers.
func TestOutrankedAgainstDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []Rule
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			rules = append(rules, drawRule(t))
		}
		r, q := drawRule(t), drawRequest(t)
		if r.Tier < Session {
			return
		}
		q.Now = day
		if Outranked(rules, r, day, true) == nil {
			return
		}
		if _, covered := modelMatches(&r, q); !covered {
			return
		}
		for _, all := range [][]Rule{rules, append(append([]Rule{}, rules...), r)} {
			if d := New(all, Options{Posture: Up}).Decide(q); d.Verdict != Deny {
				t.Fatalf("%s is outranked in %v, and %+v is %s", r.Text, rules, q, d.Verdict)
			}
		}
	})
}
