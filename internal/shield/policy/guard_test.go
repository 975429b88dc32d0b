package policy

import "testing"

// TestDenyWinsATie: between two rules of one tier about one target the deny decides, whichever
// was written first and whatever ports they name. The model test draws such pairs too rarely.
func TestDenyWinsATie(t *testing.T) {
	for _, c := range []struct{ deny, allow, target string }{
		{"-a.test", "+a.test", "a.test"},
		{"-a.test", "+a.test:443", "a.test"},
		{"-*.a.test:443", "+*.a.test", "x.a.test"},
		{"-203.0.113.0/24", "+203.0.113.0/24", "203.0.113.10"},
		{"-host:443", "+host:443", HostName},
	} {
		for _, texts := range [][]string{{c.deny, c.allow}, {c.allow, c.deny}} {
			p := build(t, Options{Posture: DownAll}, map[Tier][]string{Project: texts})
			if d := p.Decide(tcpTo(c.target, 443)); d.Verdict != Deny || d.Rule == nil || d.Rule.Text != c.deny {
				t.Errorf("%v: %s is %v: %s", texts, c.target, d.Verdict, d.Reason)
			}
		}
	}
}
