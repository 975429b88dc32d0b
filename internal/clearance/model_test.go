package clearance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terok/internal/control"
	"terok/internal/shield/policy"
)

// TestProperties: whatever happens in whatever order, there are never two decisions on one request,
// and a verdict changes what policy says about its exact target and nothing else.
func TestProperties(t *testing.T) {
	hosts := []string{"a.test", "b.test", "x.a.test", "203.0.113.10", "2001:db8:1::10", "denied.test", "open.test"}
	ports := []uint16{80, 443, 8080}
	choices := []control.Choice{control.ChoiceTask, control.ChoiceDeny, control.ChoiceOnce, control.ChoiceProject, control.ChoiceDomain, control.ChoiceDenyAlways, "no"}
	var all []Target
	for _, h := range hosts {
		for _, p := range ports {
			all = append(all, Target{h, p, "tcp"})
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, time.Minute, "deny!-denied.test", "project!+open.test")
		decided := map[string]int{} // verdicts that won, less those undone
		view := func() map[Target]policy.Verdict {
			m := map[Target]policy.Verdict{}
			for _, x := range all {
				m[x] = r.judge(x)
			}
			return m
		}
		pick := func() (control.Request, bool) {
			q := r.Requests()
			if len(q) == 0 {
				return control.Request{}, false
			}
			return rapid.SampledFrom(q).Draw(rt, "request"), true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"attempt": func(rt *rapid.T) {
				a := Attempt{Target: rapid.SampledFrom(all).Draw(rt, "target"), Kind: control.FlowBlocked}
				before := view()
				if rapid.Bool().Draw(rt, "asks") {
					ctx, cancel := context.WithCancel(context.Background())
					cancel()
					r.Ask(ctx, a)
				} else {
					r.Refused(a)
				}
				if !maps.Equal(before, view()) {
					rt.Fatal("an attempt changed policy")
				}
			},
			"verdict": func(rt *rapid.T) {
				q, ok := pick()
				if !ok {
					return
				}
				v := answer(q, rapid.SampledFrom(choices).Draw(rt, "choice"))
				honest := true
				switch rapid.IntRange(0, 9).Draw(rt, "lie") {
				case 0:
					v.Host, honest = "b.test.", false
				case 1:
					v.Port, honest = v.Port+1, false
				case 2:
					v.Hash, honest = "0011223344556677", false
				case 3:
					v.ID, honest = "r0", false
				case 4:
					r.grantErr = errors.New("no")
				}
				fails := r.grantErr != nil
				before := view()
				got, err := r.Verdict(v)
				r.grantErr = nil
				after := view()
				if err != nil {
					if !maps.Equal(before, after) {
						rt.Fatalf("a refused verdict changed policy: %v", err)
					}
					return
				}
				if !honest || fails || q.State != control.RequestOpen || got.State != control.RequestApplied {
					rt.Fatalf("verdict %+v on %+v was accepted", v, q)
				}
				decided[q.ID]++
				for _, x := range all {
					touched := x == (Target{q.Host, q.Port, q.Proto})
					if v.Choice == control.ChoiceDomain && q.Host == "a.test" && x.Host == "x.a.test" && x.Port == q.Port {
						touched = true
					}
					if !touched && before[x] != after[x] {
						rt.Fatalf("%s on %s:%d changed %v from %v to %v", v.Choice, q.Host, q.Port, x, before[x], after[x])
					}
				}
			},
			"undo": func(rt *rapid.T) {
				q, ok := pick()
				if !ok {
					return
				}
				before := view()
				if _, err := r.Undo(control.UndoChange{ID: q.ID}); err != nil {
					if !maps.Equal(before, view()) {
						rt.Fatal("a refused undo changed policy")
					}
					return
				}
				decided[q.ID]--
			},
			"time": func(rt *rapid.T) {
				r.advance(time.Duration(rapid.IntRange(1, 1200).Draw(rt, "seconds")) * time.Second)
				r.Recheck()
			},
			"recheck": func(rt *rapid.T) { r.Recheck() },
			"": func(rt *rapid.T) {
				seen := map[Target]bool{}
				for _, q := range r.Requests() {
					if q.State != control.RequestOpen || q.Kind == control.Flood {
						continue
					}
					x := Target{q.Host, q.Port, q.Proto}
					if seen[x] {
						rt.Fatalf("two open requests for %v", x)
					}
					seen[x] = true
					if q.Decision != nil && q.Decision.Error == "" {
						rt.Fatalf("open with a decision: %+v", q)
					}
				}
				for id, n := range decided {
					if n < 0 || n > 1 {
						rt.Fatalf("%d decisions on %s", n, id)
					}
				}
			},
		})
	})
}

// FuzzVerdict: no body of a verdict or of an undo changes policy unless it names an open request
// exactly, and none is shown back with anything but printable ASCII.
func FuzzVerdict(f *testing.F) {
	f.Add("r1", "", "a.test", uint16(443), "tcp", "task", "alice")
	f.Add("r1-2", "x", "b.test", uint16(0), "udp", "deny-always", "\x1b[2J")
	f.Add("", "0011223344556677", "[::1]", uint16(65535), "tcp\n", "once", "")
	f.Fuzz(func(t *testing.T, id, hash, host string, port uint16, proto, choice, actor string) {
		r := newRig(t, time.Minute)
		r.Refused(at("a.test"))
		q := r.one()
		exact := id == q.ID && hash == q.Hash && host == q.Host && port == q.Port && proto == q.Proto && slices.Contains(q.Choices, control.Choice(choice))
		v := control.VerdictChange{ID: id, Hash: hash, Host: host, Port: port, Proto: proto, Choice: control.Choice(choice), Actor: actor}
		got, err := r.Verdict(v)
		if (err == nil) != exact || (r.session() != "") != exact {
			t.Fatalf("%+v: %v, rules %q", v, err, r.session())
		}
		said := fmt.Sprint(err)
		if got.Decision != nil {
			said += got.Decision.Actor
		}
		_, err = r.Undo(control.UndoChange{ID: id, Actor: actor})
		said += fmt.Sprint(err)
		for _, c := range said {
			if c < ' ' || c > '~' {
				t.Fatalf("%q", said)
			}
		}
	})
}

// FuzzAttempt: whatever a container names, a request is shown only for what policy asks about, in
// printable ASCII, and its choices are valid rules about exactly that target.
func FuzzAttempt(f *testing.F) {
	f.Add("a.test", uint16(443), "tcp", "why", "own.test")
	f.Add("a.test\x00", uint16(53), "udp", "\x1b]0;x\a", "\u202e")
	f.Add("fe80::1%0", uint16(1), "tcp", "", "")
	f.Add("::f%0000000000", uint16(1), "tcp", "", "")
	f.Add("2001:DB8::1", uint16(1), "tcp", "", "")
	f.Add("::ffff:10.0.0.1", uint16(1), "tcp", "", "")
	f.Fuzz(func(t *testing.T, host string, port uint16, proto, reason, own string) {
		r := newRig(t, time.Minute)
		a := Attempt{Target: Target{host, port, proto}, Kind: control.NameMismatch, Own: own, Reason: reason, NameSource: "sni"}
		asks := a.Target.exact() && r.judge(a.Target) == policy.Ask
		r.Refused(a)
		all := r.Requests()
		if asks != (len(all) == 1) {
			t.Fatalf("%v: ask %t, %d requests", a.Target, asks, len(all))
		}
		for _, q := range all {
			for _, c := range fmt.Sprint(q.Host, q.Reason, q.Names, q.Process) {
				if c < ' ' || c > '~' {
					t.Fatalf("%+v", q)
				}
			}
			for _, c := range q.Choices {
				rule, _ := Rule(c, a.Target, noon)
				p, err := policy.ParseRule(rule, policy.Session, "")
				if err != nil || p.Target() != host && (c != control.ChoiceDomain || p.Target() != "."+host) {
					t.Fatalf("choice %s of %v: %v, %v", c, a.Target, p, err)
				}
			}
		}
	})
}
