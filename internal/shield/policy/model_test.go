package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var day = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// The model: the sentences of the specification, written down without an index.

func modelMatches(r *Rule, q Request) (specificity int, ok bool) {
	p := &r.parsed
	if !r.Expires.IsZero() && !q.Now.Before(r.Expires) {
		return 0, false
	}
	proto, port := false, false
	switch q.Proto {
	case "tcp":
		proto = p.protos&tcp != 0
	case "udp":
		proto = p.protos&udp != 0
	}
	for _, pr := range p.ports {
		port = port || pr.lo <= q.Port && q.Port <= pr.hi
	}
	if !proto || !port {
		return 0, false
	}
	labels := strings.Count(p.name, ".") + 1
	switch p.kind {
	case kindName:
		return 1000, q.Name == p.name
	case kindBelow:
		return labels, strings.HasSuffix(q.Name, "."+p.name)
	case kindSuffix:
		return labels, q.Name == p.name || strings.HasSuffix(q.Name, "."+p.name)
	case kindPrefix:
		return p.prefix.Bits(), q.Name == "" && p.prefix.Contains(q.Addr)
	}
	return 0, false
}

// modelRule returns the verdict and tier of the rules alone; ok is false where the default decides.
func modelRule(rules []Rule, q Request) (allow bool, tier Tier, ok bool) {
	for tier = Override; tier < Default; tier++ {
		best := -1
		for i := range rules {
			if rules[i].Tier != tier {
				continue
			}
			s, match := modelMatches(&rules[i], q)
			switch {
			case !match || s < best:
			case s > best:
				best, allow, ok = s, rules[i].parsed.allow, true
			default:
				allow = allow && rules[i].parsed.allow
			}
		}
		if ok {
			return allow, tier, true
		}
	}
	return false, Default, false
}

var (
	modelNames = []string{"a.test", "b.test", "x.a.test", "y.x.a.test", "test.org", "a.test.org", "y.y.x.a.test"}
	modelAddrs = []string{"203.0.113.10", "203.0.113.20", "198.51.100.7", "2001:db8::1"}
)

func drawRule(t *rapid.T) Rule {
	tier := rapid.SampledFrom([]Tier{Override, Denied, Session, Agent, Project}).Draw(t, "tier")
	sign := "-"
	if tier != Denied && rapid.Bool().Draw(t, "allow") {
		sign = "+"
	}
	target := rapid.SampledFrom(append([]string{
		"*.a.test", ".a.test", "*.x.a.test", ".x.a.test", ".test.org",
		"203.0.113.0/24", "203.0.113.0/28", "2001:db8::/32", "198.51.0.0/16",
	}, append(modelNames, modelAddrs...)...)).Draw(t, "target")
	if strings.Contains(target, ":") {
		target = "[" + target + "]"
	}
	ports := rapid.SampledFrom([]string{"", ":443", ":80-443", ":22,8080", ":53/udp", ":443/udp"}).Draw(t, "ports")
	r, err := ParseRule(sign+target+ports+" %reason=x", tier, "model")
	if err != nil {
		t.Fatalf("%s%s%s: %v", sign, target, ports, err)
	}
	switch rapid.IntRange(0, 3).Draw(t, "life") {
	case 0:
		r.Expires = day.Add(time.Hour)
	case 1:
		r.Expires = day // not after day: expired at day itself
	}
	return r
}

func drawRequest(t *rapid.T) Request {
	q := Request{
		Port:  rapid.SampledFrom([]uint16{22, 53, 80, 100, 443, 853, 8080}).Draw(t, "port"),
		Proto: rapid.SampledFrom([]string{"tcp", "tcp", "udp"}).Draw(t, "proto"),
		Now:   day,
	}
	if rapid.Bool().Draw(t, "named") {
		q.Name = rapid.SampledFrom(modelNames).Draw(t, "name")
	} else {
		q.Addr = netip.MustParseAddr(rapid.SampledFrom(modelAddrs).Draw(t, "addr"))
	}
	return q
}

func modelDefault(o Options, q Request) Verdict {
	switch {
	case q.Proto == "udp" || q.Port == 53 || q.Port == 853:
		return Deny
	case o.Posture == Down || o.Posture == DownAll:
		return Allow
	case o.CanAsk:
		return Ask
	}
	return Deny
}

func TestDecideAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 12).Draw(t, "rules")
		o := Options{
			Posture: rapid.SampledFrom([]Posture{Up, Down, DownAll}).Draw(t, "posture"),
			CanAsk:  rapid.Bool().Draw(t, "ask"),
		}
		p := New(rules, o)
		for range 8 {
			q := drawRequest(t)
			allow, tier, byRule := modelRule(rules, q)
			want := modelDefault(o, q)
			if byRule {
				if want = Deny; allow {
					want = Allow
				}
			}
			got := p.Decide(q)
			if got.Verdict != want || got.Tier != tier || (got.Rule != nil) != byRule || got.Reason == "" {
				t.Fatalf("%+v: %v %v %q; want %v %v", q, got.Verdict, got.Tier, got.Reason, want, tier)
			}
			if got.Rule != nil && !got.Rule.Live(day) {
				t.Fatalf("an expired rule decided: %v", got.Rule)
			}
		}
	})
}

// TestNameAgainstDecide: a name is Listed exactly when some port of it is allowed, and Refused only
// when none would even be asked for.
func TestNameAgainstDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 8).Draw(t, "rules")
		posture := rapid.SampledFrom([]Posture{Up, Down}).Draw(t, "posture")
		p := New(rules, Options{Posture: posture, CanAsk: true})
		name := rapid.SampledFrom(modelNames).Draw(t, "name")
		allowed, denied := false, true
		for _, proto := range []string{"tcp", "udp"} {
			// Every port where some range of drawRule begins or ends, and one between.
			for _, port := range []uint16{1, 22, 53, 80, 81, 443, 444, 8080, 65535} {
				d := p.Decide(Request{Name: name, Port: port, Proto: proto, Now: day})
				allowed = allowed || d.Verdict == Allow
				denied = denied && d.Verdict == Deny && d.Rule != nil
			}
		}
		got := p.Name(name, day)
		if (got == Listed) != allowed || (got == Refused) != denied {
			t.Fatalf("%s in %s: class %d, allowed %v, denied %v", name, posture, got, allowed, denied)
		}
	})
}

// TestUpsertLastWins: after any history of verdicts about one target, each port has the last one.
func TestUpsertLastWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []Rule
		var history []Rule
		for i := range rapid.IntRange(1, 6).Draw(t, "n") {
			sign := rapid.SampledFrom([]string{"+", "-"}).Draw(t, "sign")
			ports := rapid.SampledFrom([]string{"", ":443", ":80-443", ":22,8080", ":443/udp"}).Draw(t, "ports")
			r, err := ParseRule(sign+"a.test"+ports, Session, fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			rules, history = Upsert(rules, r), append(history, r)
		}
		p := New(rules, Options{Posture: Up})
		for _, proto := range []string{"tcp", "udp"} {
			for _, port := range []uint16{1, 22, 23, 80, 100, 443, 444, 8080, 65535} {
				want := Deny
				for i := range history {
					if history[i].covers(port, protoBit(proto)) {
						want = Deny
						if history[i].Allows() {
							want = Allow
						}
					}
				}
				if got := p.Decide(Request{Name: "a.test", Port: port, Proto: proto, Now: day}); got.Verdict != want {
					t.Fatalf("%v: %s %d is %v, want %v", history, proto, port, got.Verdict, want)
				}
			}
		}
		for _, r := range rules {
			if again, err := ParseRule(r.String(), r.Tier, r.Source); err != nil || again.Text != r.Text {
				t.Fatalf("%s is not a rule: %v", r, err)
			}
		}
	})
}
