package policy

import (
	"net/netip"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	for text, want := range map[string]string{
		"200MB/h": "200MB/h", "1.5GB/d": "1500MB/d", "1KiB/m": "1024B/m", "4096/h": "4096B/h",
		"*.Example.org 10MB/d quarantine": "*.example.org 10MB/d quarantine", ".example.org 1GiB/h ask": ".example.org 1073741824B/h",
		"203.0.113.10 1kB/m": "203.0.113.10 1kB/m", "2001:db8::1 1kB/m": "2001:db8::1 1kB/m",
	} {
		b, err := ParseBudget(text)
		if err != nil || b.String() != want {
			t.Errorf("%q: %q, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "200MB", "200MB/y", "0/h", "-1MB/h", "1e9/h", "InfMB/h", "nan/h", "200 MB/h x", "a.test:443 1MB/h", "10.0.0.0/8 1MB/h",
		"host:80 1MB/h", "a.test/udp 1MB/h", "+a.test 1MB/h", "-a.test 1MB/h", "a.test 1MB/h deny", "a.test b.test 1MB/h", "9999999GB/h", "quarantine"} {
		if b, err := ParseBudget(text); err == nil {
			t.Errorf("%q is taken for %q", text, b)
		}
	}
	for _, c := range []struct {
		budget, name, addr string
		want               bool
	}{
		{"1MB/h", "any.test", "", true}, {"1MB/h", "", "203.0.113.1", true},
		{"a.test 1MB/h", "a.test", "", true}, {"a.test 1MB/h", "x.a.test", "", false}, {"a.test 1MB/h", "", "203.0.113.1", false},
		{"*.a.test 1MB/h", "x.y.a.test", "", true}, {"*.a.test 1MB/h", "a.test", "", false}, {"*.a.test 1MB/h", "xa.test", "", false},
		{".a.test 1MB/h", "a.test", "", true}, {".a.test 1MB/h", "x.a.test", "", true},
		{"203.0.113.1 1MB/h", "", "203.0.113.1", true}, {"203.0.113.1 1MB/h", "a.test", "203.0.113.1", false}, {"203.0.113.1 1MB/h", "", "203.0.113.2", false},
	} {
		b, err := ParseBudget(c.budget)
		var a netip.Addr
		if c.addr != "" {
			a = netip.MustParseAddr(c.addr)
		}
		if err != nil || b.Covers(c.name, a) != c.want {
			t.Errorf("%s covers %q %q: %v, %v", c.budget, c.name, c.addr, !c.want, err)
		}
	}
}

func TestBudgetsOfConfig(t *testing.T) {
	var l Budgets
	if err := l.UnmarshalConfig("200MB/h"); err != nil || len(l) != 1 || l[0].Window != time.Hour || l[0].Bytes != 200e6 {
		t.Errorf("%v %v", l, err)
	}
	if err := l.UnmarshalConfig([]any{"200MB/h", "a.test 1MB/d quarantine"}); err != nil || len(l) != 2 || l[1].Breach != BreachQuarantine {
		t.Errorf("%v %v", l, err)
	}
	for _, bad := range []any{200, true, []any{"1MB/h", 3}, map[string]any{"total": "1MB/h"}} {
		if err := l.UnmarshalConfig(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestDocumentKeepsBudgetsAndIPv6(t *testing.T) {
	s := DefaultSettings()
	s.IPv6 = true
	for _, text := range []string{"200MB/h", "*.a.test 1MB/d quarantine"} {
		b, err := ParseBudget(text)
		if err != nil {
			t.Fatal(err)
		}
		s.Budgets = append(s.Budgets, b)
	}
	data, err := EncodeDocument(Document{Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	d, err := DecodeDocument(data)
	if err != nil || !d.Settings.IPv6 || len(d.Settings.Budgets) != 2 || d.Settings.Budgets[1].String() != "*.a.test 1MB/d quarantine" {
		t.Errorf("%+v %v", d.Settings, err)
	}
}

func TestUDPPorts(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var list []Rule
	for text, tier := range map[string]Tier{"+a.test:443,500-502/udp": Project, "+*.w.test:3478/udp": Project, "-b.w.test": Denied, "-a.test:501/udp": Denied,
		"+late.test:1/udp %expires=2026-11-25T11:00:00Z": Session, "+tcp.test:443": Project} {
		r, err := ParseRule(text, tier, "test")
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	p := New(list, Options{Posture: Up})
	for name, want := range map[string][]uint16{"a.test": {443, 500, 502}, "x.w.test": {3478}, "b.w.test": nil, "w.test": nil, "late.test": nil, "tcp.test": nil} {
		got := p.UDPPorts(name, now, 8)
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	if got := p.UDPPorts("a.test", now, 2); len(got) != 2 {
		t.Errorf("limit: %v", got)
	}
	if got := p.WithOptions(Options{Posture: Quarantine}).UDPPorts("a.test", now, 8); got != nil {
		t.Errorf("quarantine: %v", got)
	}
	if !p.Datagrams() || New(nil, Options{Posture: Up}).Datagrams() {
		t.Error("Datagrams")
	}
}

func FuzzBudget(f *testing.F) {
	for _, s := range []string{"200MB/h", "*.a.test 10MB/d quarantine", ".a.test 1.5GiB/m ask", "203.0.113.1 1/h", "x", "1.2.3/h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBudget(s)
		if err != nil {
			return
		}
		again, err := ParseBudget(b.String())
		if err != nil || again.String() != b.String() || again.Bytes != b.Bytes || b.Bytes == 0 || b.Window == 0 {
			t.Fatalf("%q: %q, %q, %v", s, b, again, err)
		}
	})
}
