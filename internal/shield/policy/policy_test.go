package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func build(t testing.TB, o Options, rules map[Tier][]string) *Policy {
	t.Helper()
	var list []Rule
	for tier, texts := range rules {
		for _, s := range texts {
			list = append(list, mustRule(t, s, tier))
		}
	}
	return New(list, o)
}

func tcpTo(target string, port uint16) Request {
	r := Request{Port: port, Proto: "tcp", Now: day}
	if a, err := netip.ParseAddr(target); err == nil {
		r.Addr = a
	} else {
		r.Name = target
	}
	return r
}

func TestPostures(t *testing.T) {
	rules := map[Tier][]string{
		Override: {"192.168.77.7:8080 %reason=x"},
		Denied:   {"-denied.test", "-203.0.113.30"},
		Project:  {"a.test", "*.w.test", "203.0.113.10:8080", "host:9999"},
	}
	const (
		up = 1 << iota
		ask
		down
		all
	)
	for _, c := range []struct {
		target string
		port   uint16
		allow  int
	}{
		{"a.test", 443, up | ask | down | all},
		{"a.test", 22, down | all},
		{"x.a.test", 443, down | all},
		{"w.test", 443, down | all},
		{"x.w.test", 443, up | ask | down | all},
		{"203.0.113.10", 8080, up | ask | down | all},
		{"203.0.113.10", 443, down | all},
		{"denied.test", 443, 0},
		{"203.0.113.30", 443, 0},
		{"203.0.113.20", 443, down | all},
		{"203.0.113.53", 53, 0},
		{"203.0.113.53", 853, 0},
		{"192.168.77.7", 8080, up | ask | down | all},
		{"192.168.77.7", 80, all},
		{"100.64.0.7", 80, all},
		{"fd12::1", 80, all},
		{"127.0.0.1", 80, 0},
		{"::1", 80, 0},
		{"169.254.169.254", 80, 0},
		{"100.100.100.200", 80, 0},
		{"168.63.129.16", 80, 0},
		{"224.0.0.1", 80, 0},
		{"::ffff:203.0.113.10", 8080, 0},
		{"64:ff9b::cb00:710a", 80, 0},
		{"2002:cb00:710a::1", 80, 0},
		{"fe80::1%eth0", 80, 0},
		{HostName, 9999, up | ask | down | all},
		{HostName, 9998, 0},
		{"metadata.google.internal", 80, 0},
		{"nas", 80, 0},
		{"nas.local", 80, 0},
		{"1.2.3.4.", 80, 0},
		{"A.test", 443, 0},
		{"a.test.", 443, 0},
		{"1.0x7f", 80, 0},
	} {
		for bit, o := range map[int]Options{up: {Posture: Up}, ask: {Posture: Up, CanAsk: true}, down: {Posture: Down}, all: {Posture: DownAll}} {
			d := build(t, o, rules).Decide(tcpTo(c.target, c.port))
			if (d.Verdict == Allow) != (c.allow&bit != 0) {
				t.Errorf("%s:%d in %+v: %v, %s", c.target, c.port, o, d.Verdict, d.Reason)
			}
		}
		for _, posture := range []Posture{Quarantine, "", "error", "UP"} {
			p := build(t, Options{Posture: posture, CanAsk: true}, rules)
			d := p.Decide(tcpTo(c.target, c.port))
			if d.Verdict != Deny || p.Name("a.test", day) != Refused || p.Posture() != Quarantine {
				t.Errorf("%s:%d in posture %q: %v", c.target, c.port, posture, d)
			}
		}
	}
	if d := new(Policy).Decide(tcpTo("a.test", 443)); d.Verdict != Deny {
		t.Error("the zero policy allows")
	}
}

// TestAskIsNeverForNothing: nobody is asked about what an answer could not open.
func TestAskIsNeverForNothing(t *testing.T) {
	p := build(t, Options{Posture: Up, CanAsk: true, HostAddrs: addrs("203.0.113.99")}, nil)
	for _, target := range []string{"169.254.169.254", "10.1.2.3", "127.0.0.1", "203.0.113.99", "nas.local", "metadata.goog", HostName} {
		if d := p.Decide(tcpTo(target, 443)); d.Verdict != Deny {
			t.Errorf("%s: %v", target, d.Verdict)
		}
	}
	if d := p.Decide(tcpTo("new.test", 443)); d.Verdict != Ask {
		t.Errorf("new.test: %v", d.Verdict)
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestCheckDial is the attack by rebinding: an allowed name resolves to what it must not reach.
func TestCheckDial(t *testing.T) {
	host := addrs("192.168.5.5", "203.0.113.99", "2001:db8::99")
	rules := map[Tier][]string{
		Override: {
			"nas.lan.test %reason=x", "*.wild.test %reason=x", ".suffix.test %reason=x", "me.test %reason=x",
			"10.1.0.0/16:443 %reason=x", "192.168.5.5:443 %reason=x", "0.0.0.0/0:8443 %reason=x",
		},
		Session: {"+s.test", "-203.0.113.66"},
		Denied:  {"-203.0.113.67"},
		Project: {"a.test", "host:9999", "p.test"},
	}
	up := build(t, Options{Posture: Up, HostAddrs: host}, rules)
	for _, c := range []struct {
		name, dial string
		port       uint16
		want       RangeClass // "" allows
	}{
		{"a.test", "203.0.113.10", 443, ""},
		{"a.test", "2001:db8:1::10", 443, ""},
		{"a.test", "192.168.77.7", 443, RangePrivate},
		{"a.test", "127.0.0.1", 443, RangeLoopback},
		{"a.test", "127.9.9.9", 443, RangeLoopback},
		{"a.test", "::1", 443, RangeLoopback},
		{"a.test", "::ffff:10.0.0.1", 443, RangeFloor},
		{"a.test", "::ffff:127.0.0.1", 443, RangeFloor},
		{"a.test", "100.64.0.7", 443, RangePrivate},
		{"a.test", "192.0.0.8", 443, RangePrivate},
		{"a.test", "fd00::7", 443, RangePrivate},
		{"a.test", "203.0.113.99", 443, RangeHost},
		{"a.test", "2001:db8::99", 443, RangeHost},
		{"a.test", "169.254.169.254", 443, RangeFloor},
		{"a.test", "0.0.0.0", 443, RangeFloor},
		{"a.test", "::", 443, RangeFloor},
		{"a.test", "fe80::1", 443, RangeFloor},
		{"a.test", "64:ff9b::a00:1", 443, RangeFloor},
		{"a.test", "64:ff9b:1::a00:1", 443, RangeFloor},
		{"a.test", "2002:a00:1::", 443, RangeFloor},
		{"a.test", "2001:0:a00:1::", 443, RangeFloor},
		{"a.test", "fd00:ec2::254", 443, RangeFloor},
		{"a.test", "203.0.113.66", 443, RangeDenied},
		{"a.test", "203.0.113.67", 443, RangeDenied},
		{"s.test", "203.0.113.66", 443, RangeDenied}, // same tier: deny wins
		{"nas.lan.test", "203.0.113.67", 443, ""},    // an earlier tier named it
		{"nas.lan.test", "192.168.77.7", 443, ""},
		{"nas.lan.test", "192.168.5.5", 443, ""},
		{"nas.lan.test", "127.0.0.1", 443, RangeLoopback},
		{"nas.lan.test", "169.254.169.254", 443, RangeFloor},
		{"x.wild.test", "192.168.77.7", 443, RangePrivate},
		{"suffix.test", "192.168.77.7", 443, RangePrivate},
		{"", "10.1.2.3", 443, ""},
		{"", "192.168.5.5", 443, ""},
		{HostName, "127.0.0.1", 9999, ""},
		{HostName, "::1", 9999, ""},
		{HostName, "203.0.113.10", 9999, RangeDenied},
		{HostName, "192.168.5.5", 9999, RangeDenied},
	} {
		a := netip.MustParseAddr(c.dial)
		q := tcpTo(c.name, c.port)
		if c.name == "" {
			q.Addr = a
		}
		d := up.Decide(q)
		if d.Verdict != Allow {
			t.Errorf("%s %s: not allowed: %s", c.name, c.dial, d.Reason)
			continue
		}
		err := up.CheckDial(d, c.name, a, c.port)
		var de *DialError
		errors.As(err, &de)
		if (err == nil) != (c.want == "") || de != nil && de.Class != c.want {
			t.Errorf("%s → %s: %v, want %q", c.name, c.dial, err, c.want)
		}
	}
	// A range that is wider than the private one does not name it; nor does a range name the host.
	for _, s := range []string{"10.9.9.9", "192.168.5.6", "127.0.0.1", "203.0.113.99"} {
		if d := up.Decide(tcpTo(s, 8443)); d.Verdict != Deny || d.Rule != nil {
			t.Errorf("0.0.0.0/0 opened %s: %+v", s, d)
		}
	}
	// The decision is bound to its name, and a loopback grant to the host's name and port.
	d := up.Decide(tcpTo("nas.lan.test", 443))
	if up.CheckDial(d, "other.test", netip.MustParseAddr("192.168.77.7"), 443) == nil {
		t.Error("a decision about one name opened another's private address")
	}
	h := up.Decide(tcpTo(HostName, 9999))
	for name, port := range map[string]uint16{"a.test": 9999, HostName: 9998} {
		if up.CheckDial(h, name, netip.MustParseAddr("127.0.0.1"), port) == nil {
			t.Errorf("loopback opened for %s:%d", name, port)
		}
	}
	if up.CheckDial(Decision{Verdict: Ask}, "a.test", netip.MustParseAddr("203.0.113.10"), 443) == nil {
		t.Error("an unanswered ask was dialled")
	}
	// The posture at the dial counts, not that of the decision.
	quarantine := up.WithOptions(Options{Posture: Quarantine})
	if quarantine.CheckDial(up.Decide(tcpTo("a.test", 443)), "a.test", netip.MustParseAddr("203.0.113.10"), 443) == nil {
		t.Error("dialled in quarantine")
	}
	all := up.WithOptions(Options{Posture: DownAll, HostAddrs: host})
	d = all.Decide(tcpTo("any.test", 443))
	for s, ok := range map[string]bool{"192.168.77.7": true, "192.168.5.5": true, "127.0.0.1": false, "169.254.169.254": false, "203.0.113.67": false} {
		if err := all.CheckDial(d, "any.test", netip.MustParseAddr(s), 443); (err == nil) != ok {
			t.Errorf("down-all to %s: %v", s, err)
		}
	}
}

func TestExpiry(t *testing.T) {
	r := mustRule(t, "a.test %expires=2026-11-25T12:00:00Z", Session)
	deny := mustRule(t, "-b.test %expires=2026-11-25T13:00:00Z", Session)
	p := New([]Rule{r, deny}, Options{Posture: Up})
	at := func(name string, now time.Time) Verdict {
		return p.Decide(Request{Name: name, Port: 443, Proto: "tcp", Now: now}).Verdict
	}
	if at("a.test", day.Add(-time.Nanosecond)) != Allow || at("a.test", day) != Deny || at("a.test", time.Time{}) != Deny {
		t.Error("the end of an allow is not its expiry")
	}
	if p.Name("a.test", day.Add(-1)) != Listed || p.Name("a.test", day) != Unlisted || p.Name("b.test", time.Time{}) != Refused {
		t.Error("names live longer than rules")
	}
	if !p.Exact("a.test", day.Add(-1)) || p.Exact("a.test", day) || p.Exact("b.test", day) {
		t.Error("Exact does not follow live allows")
	}
	if next, ok := p.NextExpiry(day); !ok || !next.Equal(deny.Expires) {
		t.Errorf("next expiry %v", next)
	}
	if _, ok := p.NextExpiry(deny.Expires); ok {
		t.Error("nothing expires any more")
	}
}

func TestNames(t *testing.T) {
	p := build(t, Options{Posture: Up}, map[Tier][]string{
		Override: {"db.corp.internal %reason=x", "o.test %reason=x"},
		Denied:   {"-api.test", "-*.deep.test", "-port.test:22", "-o.test"},
		Project:  {"a.test", "*.w.test", ".b.test:22", "api.test", "half.test:443", "port.test:22"},
		Session:  {"-half.test:443"},
	})
	for name, want := range map[string]NameClass{
		"a.test": Listed, "x.a.test": Unlisted, "x.w.test": Listed, "w.test": Unlisted, "b.test": Listed,
		"c.b.test": Listed, "api.test": Refused, "x.deep.test": Refused, "deep.test": Unlisted,
		"half.test": Unlisted, "port.test": Unlisted, "o.test": Listed, "nas": Local, "localhost": Local,
		"printer.local": Local, "db.corp.internal": Listed, "x.corp.internal": Local, "internal": Local,
		"1.0.168.192.home.arpa": Local, "x.onion": Local, "x.invalid": Local, "metadata.google.internal": Local,
		"metadata.goog": Local, "goog": Local, "notlocal": Local, "notlocal.org": Unlisted, "1.2.3.4": Local, HostName: Local,
		"": Refused, "A.test": Refused, "a.test.": Refused, "a..test": Refused, "a test.org": Refused,
	} {
		if got := p.Name(name, day); got != want {
			t.Errorf("%q: class %d, want %d", name, got, want)
		}
	}
	down := p.WithOptions(Options{Posture: Down})
	for name, want := range map[string]NameClass{
		"any.org": Listed, "api.test": Refused, "nas.local": Local, "half.test": Listed,
	} {
		if got := down.Name(name, day); got != want {
			t.Errorf("down %q: class %d, want %d", name, got, want)
		}
	}
}

// TestSpecific is spec shield.md test 36: both rules stay, the more specific one explains.
func TestSpecific(t *testing.T) {
	p := build(t, Options{Posture: Up}, map[Tier][]string{Project: {"203.0.113.10:443", "203.0.113.0/24:443", ".test:443 %reason=x", "a.test:443 raw"}})
	if d := p.Decide(tcpTo("203.0.113.10", 443)); d.Rule.Text != "+203.0.113.10:443" || !strings.Contains(d.Reason, "test:1") {
		t.Errorf("%+v", d)
	}
	if d := p.Decide(tcpTo("203.0.113.11", 443)); d.Rule.Text != "+203.0.113.0/24:443" {
		t.Errorf("%+v", d)
	}
	if d := p.Decide(tcpTo("a.test", 443)); !d.Raw || d.Tier != Project {
		t.Errorf("%+v", d)
	}
	if len(p.Rules()) != 4 {
		t.Error("a rule is not listed")
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := bigPolicy(t)
	q := tcpTo("h7.zone123.example.test", 443)
	if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func bigPolicy(t testing.TB) *Policy {
	var rules []Rule
	for i := range 5000 {
		text := fmt.Sprintf("h%d.example.test", i)
		switch i % 4 {
		case 1:
			text = fmt.Sprintf("*.zone%d.example.test", i)
		case 2:
			text = fmt.Sprintf("203.%d.%d.0/24", i/250, i%250)
		case 3:
			text = fmt.Sprintf("-deny%d.example.test", i)
		}
		rules = append(rules, mustRule(t, text, Project))
	}
	return New(rules, Options{Posture: Up, CanAsk: true})
}

func BenchmarkDecide(b *testing.B) {
	p := bigPolicy(b)
	for name, q := range map[string]Request{
		"exact":    tcpTo("h4000.example.test", 443),
		"wildcard": tcpTo("a.b.zone4001.example.test", 443),
		"unlisted": tcpTo("www.unlisted.org", 443),
		"deep":     tcpTo(strings.Repeat("a.", 120)+"zone4001.example", 443),
		"address":  tcpTo("203.1.2.3", 443),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(q)
			}
		})
	}
}

func BenchmarkName(b *testing.B) {
	p := bigPolicy(b)
	b.ReportAllocs()
	for b.Loop() {
		p.Name("a.b.zone4001.example.test", day)
	}
}
