package policy

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func mustRule(t testing.TB, text string, tier Tier) Rule {
	t.Helper()
	r, err := ParseRule(text, tier, "test:1")
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r
}

func TestParseRuleCanonical(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"example.org", "+example.org"},
		{" +Example.ORG. ", "+example.org"},
		{"example.org:443,80", "+example.org"},
		{"example.org:443/tcp", "+example.org:443"},
		{"example.org:22,1-5,4-9,10", "+example.org:1-10,22"},
		{"example.org:443/udp", "+example.org:443/udp"},
		{"*.example.org:22 raw", "+*.example.org:22 raw"},
		{".example.org", "+.example.org"},
		{"_dmarc.xn--bcher-kva.example", "+_dmarc.xn--bcher-kva.example"},
		{"bücher.xn--p1ai", ""},
		{"-example.org", "-example.org"},
		{"-example.org:443", "-example.org:443"},
		{"-example.org:1-65535", "-example.org"},
		{"-example.org/udp", "-example.org/udp"},
		{"-*.com", "-*.com"},
		{"203.0.113.10:8080", "+203.0.113.10:8080"},
		{"203.0.113.10/32", "+203.0.113.10"},
		{"203.0.113.0/24:443", "+203.0.113.0/24:443"},
		{"2001:DB8:0:0::1", "+2001:db8::1"},
		{"[2001:db8::1]:80,443", "+2001:db8::1"},
		{"[2001:db8::/32]:8443", "+[2001:db8::/32]:8443"},
		{"-169.254.0.0/16", "-169.254.0.0/16"},
		{"-192.168.1.0/24", "-192.168.1.0/24"},
		{"host:8080", "+host:8080"},
		{"-host", "-host"},
	} {
		r, err := ParseRule(c.in, Session, "f")
		if (err == nil) != (c.out != "") || r.Text != c.out {
			t.Errorf("%q: %q, %v; want %q", c.in, r.Text, err, c.out)
		}
	}
}

// TestParseRuleRefuses holds spec shield.md §4.1 and test 50: what a load must stop at.
func TestParseRuleRefuses(t *testing.T) {
	long := strings.Repeat("a234567890.", 30) + "org"
	for _, c := range []struct {
		in   string
		tier Tier
		col  int
		want string
	}{
		{"", Project, 1, "empty"},
		{"+", Project, 2, "missing"},
		{"example.org:0", Project, 13, "not a port"},
		{"example.org:65536", Project, 13, "not a port"},
		{"example.org:80,x", Project, 16, "not a port"},
		{"example.org:+80", Project, 13, "not a port"},
		{"example.org:9-1", Project, 13, "upwards"},
		{"example.org:", Project, 12, "missing"},
		{"*.com", Project, 1, "public suffix"},
		{"*.co.uk", Project, 1, "public suffix"},
		{".github.io", Project, 1, "public suffix"},
		{"-f/x", Project, 2, "not an address range"},
		{"+-f", Project, 2, "cannot start"},
		{"@1.1.1.1", Project, 1, "cannot start"},
		{"+@1.1.1.1", Project, 2, "cannot start"},
		{"++example.org", Project, 2, "cannot start"},
		{"203.0.113.1/24", Project, 1, "host bits"},
		{"example.org\n+evil.org", Project, 12, "control"},
		{"example.org\u202egro", Project, 12, "control"},
		{"example.org\x00", Project, 12, "control"},
		{long, Project, 1, "longer than 253"},
		{strings.Repeat("a", 64) + ".org", Project, 1, "longer than 63"},
		{"bücher.example", Project, 2, "A-label"},
		{"-example-.org", Project, 2, "hyphen"},
		{"-x.org", Default, 1, "takes no rules"},
		{"example", Project, 1, "dot"},
		{"example..org", Project, 9, "empty label"},
		{"exa.org mple.org", Project, 9, "unknown option"},
		{"exa$mple.org", Project, 4, "cannot be in a name"},
		{"1.2.3.4.5", Project, 9, "letters"},
		{"0x7f.1", Project, 6, "letters"},
		{"010.1.1.1", Project, 9, "letters"},
		{"127.0.0.1:80", Override, 1, "reason"},
		{"127.0.0.1:80 %reason=x", Override, 1, "host:PORT"},
		{"localhost:80", Project, 1, "host:PORT"},
		{"host.terok.internal:80", Project, 1, "host:PORT"},
		{"host.terok.internal.:80", Project, 1, "host:PORT"},
		{"host", Project, 1, "needs a port"},
		{"example.org/udp", Project, 1, "needs ports"},
		{"192.168.77.7:8080", Project, 1, "private"},
		{"100.64.0.7", Session, 1, "private"},
		{"fd00::1", Session, 1, "private"},
		{"169.254.169.254 %reason=x", Override, 1, "never reachable"},
		{"::ffff:203.0.113.1", Project, 1, "never reachable"},
		{"64:ff9b::1", Project, 1, "never reachable"},
		{"fd00:ec2::254 %reason=x", Override, 1, "never reachable"},
		{"203.0.0.0/15", Project, 1, "wider than /16"},
		{"2001:db8::/28", Project, 1, "host bits"},
		{"2a00::/24", Project, 1, "wider than /32"},
		{"fe80::1%eth0", Project, 1, "zone"},
		{"[example.org]:80", Project, 1, "IPv6"},
		{"[2001:db8::1", Project, 1, "not closed"},
		{"[2001:db8::1]x", Project, 14, "expected"},
		{"example.org", Override, 1, "reason"},
		{"example.org", Denied, 1, "no allow"},
		{"-example.org raw", Project, 14, "makes no sense"},
		{"example.org raw raw", Project, 17, "twice"},
		{"example.org udp", Project, 13, "/udp"},
		{"example.org %from=x", Project, 13, "unknown marker"},
		{"example.org %reason=", Project, 21, "empty"},
		{`example.org %reason="a`, Project, 13, "not closed"},
		{"example.org %expires=tomorrow", Project, 22, "RFC 3339"},
		{"example.org %reason=" + strings.Repeat("x", 201), Project, 21, "longer than 200"},
		{"example.org" + strings.Repeat(" ", 1100), Project, 1025, "longer than 1024"},
		{"example.org \xff", Project, 1, "UTF-8"},
	} {
		_, err := ParseRule(c.in, c.tier, "file:7")
		var re *RuleError
		if !errors.As(err, &re) {
			t.Errorf("%q in %s: accepted", c.in, c.tier)
			continue
		}
		if re.Column != c.col || !strings.Contains(re.Message, c.want) || !strings.HasPrefix(err.Error(), "file:7: ") {
			t.Errorf("%q in %s: column %d, %v; want column %d, %q", c.in, c.tier, re.Column, err, c.col, c.want)
		}
	}
}

func TestParseRuleReasonOpens(t *testing.T) {
	for _, s := range []string{`*.com %reason="a test"`, "0.0.0.0/0 %reason=all", "2a00::/24 %reason=wide"} {
		mustRule(t, s, Project)
	}
	for _, s := range []string{"192.168.77.7:8080 %reason=printer", "10.0.0.0/8 %reason=lab", "nas.local %reason=x"} {
		mustRule(t, s, Override)
	}
}

func TestParseRuleMarkers(t *testing.T) {
	r := mustRule(t, `example.org:8443 raw %reason="for the build" %expires=2026-12-31`, Session)
	if r.Reason != "for the build" || !r.Expires.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) || !r.parsed.raw {
		t.Fatalf("%+v", r)
	}
	if want := `+example.org:8443 raw %reason="for the build" %expires=2027-01-01T00:00:00Z`; r.String() != want {
		t.Fatalf("%s", r)
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"example.org", "+*.example.org:22,80-90/tcp raw", "-.example.org/udp", "203.0.113.0/24:443",
		"[2001:db8::1]:443/udp", "host:8080", `*.com %reason="x y" %expires=2026-01-02`, "-f/x", "@1.1.1.1",
		"::ffff:1.2.3.4", "a.b %expires=2026-01-02T03:04:05.678+09:00", "0.0.0.0/0 %reason=x", "-host:1-5",
	} {
		for tier := range Default {
			f.Add(s, uint8(tier))
		}
	}
	f.Fuzz(func(t *testing.T, s string, tier uint8) {
		r, err := ParseRule(s, Tier(tier), "fuzz:1")
		if err != nil {
			var re *RuleError
			if !errors.As(err, &re) || re.Column < 1 || re.Column > len(s)+1 {
				t.Fatalf("%q: bad error %v", s, err)
			}
			return
		}
		again, err := ParseRule(r.String(), Tier(tier), "fuzz:1")
		if err != nil {
			t.Fatalf("%q → %q: %v", s, r.String(), err)
		}
		if again.String() != r.String() || again.Text != r.Text || again.Reason != r.Reason || !again.Expires.Equal(r.Expires) {
			t.Fatalf("%q → %q → %q", s, r.String(), again.String())
		}
		// A target may end up in a message or, one day, on a command line.
		if target := r.Target(); target == "" || strings.ContainsAny(target, " \t\n\"'`$;&|<>\\@+%") || target[0] == '-' {
			t.Fatalf("%q → target %q", s, target)
		}
	})
}
