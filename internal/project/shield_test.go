package project

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// written makes a project p with a shield section.
func written(t *testing.T, s Store, shield string) (*Project, error) {
	t.Helper()
	if err := state.WriteFile(s.Roots.ProjectFile("p"), []byte("project:\n  name: p\n"+shield)); err != nil {
		t.Fatal(err)
	}
	return s.Get("p")
}

func clocked(t *testing.T) Store {
	s := newStore(t)
	s.Now = func() time.Time { return noon }
	return s
}

func decide(t *testing.T, p *Project, more ...policy.Rule) *policy.Policy {
	t.Helper()
	rules, err := p.Rules()
	if err != nil {
		t.Fatal(err)
	}
	return policy.New(append(rules, more...), policy.Options{Posture: policy.Up})
}

func verdict(pol *policy.Policy, name string, port uint16, now time.Time) policy.Decision {
	return pol.Decide(policy.Request{Name: name, Port: port, Proto: "tcp", Now: now})
}

func TestRulesOfEveryKeyHaveAPlace(t *testing.T) {
	s := clocked(t)
	if err := state.WriteFile(filepath.Join(s.Roots.ProfilesDir(), "build.txt"), []byte("# ours\nartifacts.example.org:8443\n")); err != nil {
		t.Fatal(err)
	}
	p, err := written(t, s, `image:
  base_image: debian:12
shield:
  profiles: [go, build, os-packages]
  # what the build needs
  allow:
    - registry.npmjs.org:443
    - "bücher.example" # a shop
  deny: [ads.example.org, "-*.evil.example"]
  override:
    - host: 192.168.77.7:8080
      reason: the printer of the office
      expires: 2026-12-01
    - {host: nas.example.org, reason: "a backup"}
  budget: 200MB/h
  verify: log
  ipv6: true
`)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := p.Rules()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]policy.Rule{}
	for _, r := range rules {
		got[r.Text] = r
	}
	for text, want := range map[string]string{
		"+registry.npmjs.org:443": "project " + p.File + ":9", "+xn--bcher-kva.example": "project " + p.File + ":10",
		"-ads.example.org": "deny " + p.File + ":11", "-*.evil.example": "deny " + p.File + ":11",
		"+192.168.77.7:8080": "override " + p.File + ":13", "+nas.example.org": "override " + p.File + ":16",
		"+proxy.golang.org:443": "project profile go", "+deb.debian.org": "project profile os-packages",
		"+artifacts.example.org:8443": "project " + filepath.Join(s.Roots.ProfilesDir(), "build.txt") + ":2",
	} {
		r, ok := got[text]
		if place := r.Tier.String() + " " + r.Source; !ok || place != want {
			t.Errorf("%s: %q, want %q", text, place, want)
		}
	}
	if _, ok := got["+dl.fedoraproject.org"]; ok {
		t.Error("os-packages of another family")
	}
	if e := got["+192.168.77.7:8080"].Expires; !e.Equal(time.Date(2026, 12, 2, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("a date expires at %s", e)
	}
	if set := p.ShieldSettings(policy.DefaultSettings()); set.Verify != policy.VerifyLog || !set.IPv6 || len(set.Budgets) != 1 {
		t.Errorf("%+v", set)
	}
}

// TestDenyAndOverride is test 46 of spec shield.md §10: a deny tier beats shield.allow, an
// override beats the deny tier, and its end is enforced while the policy is in use.
func TestDenyAndOverride(t *testing.T) {
	s := clocked(t)
	relay, err := policy.ParseRule("-api.x.test", policy.Denied, policy.RelaySource)
	if err != nil {
		t.Fatal(err)
	}
	p, err := written(t, s, "shield:\n  allow: [api.x.test]\n")
	if err != nil {
		t.Fatal(err)
	}
	if d := verdict(decide(t, p, relay), "api.x.test", 443, noon); d.Verdict != policy.Deny || d.Tier != policy.Denied {
		t.Errorf("shield.allow against the deny tier: %+v", d)
	}
	p, err = written(t, s, "shield:\n  allow: [api.x.test]\n  override:\n    - host: api.x.test\n      reason: migration\n      expires: 2026-11-25T13:00:00Z\n")
	if err != nil {
		t.Fatal(err)
	}
	pol := decide(t, p, relay)
	if d := verdict(pol, "api.x.test", 443, noon); d.Verdict != policy.Allow || d.Tier != policy.Override || !strings.Contains(d.Reason, "migration") {
		t.Errorf("the override: %+v", d)
	}
	if d := verdict(pol, "api.x.test", 443, noon.Add(time.Hour)); d.Verdict != policy.Deny {
		t.Errorf("the override after its end: %+v", d)
	}
}

// TestOverrideOpensOnlyItself is test 47: only that address and port of a private range opens, and
// the metadata address cannot be written.
func TestOverrideOpensOnlyItself(t *testing.T) {
	s := clocked(t)
	p, err := written(t, s, "shield:\n  override:\n    - host: 192.168.77.7:8080\n      reason: printer\n")
	if err != nil {
		t.Fatal(err)
	}
	pol := decide(t, p)
	for target, want := range map[string]policy.Verdict{
		"192.168.77.7:8080": policy.Allow, "192.168.77.7:80": policy.Deny, "192.168.77.8:8080": policy.Deny, "10.0.0.1:8080": policy.Deny} {
		if d := pol.Decide(requestTo(t, target)); d.Verdict != want {
			t.Errorf("%s: %s (%s)", target, d.Verdict, d.Reason)
		}
	}
	for _, host := range []string{"169.254.169.254", "169.254.0.0/16", "127.0.0.1:80", "::ffff:10.0.0.1", "x.test raw", `x.test %reason=y`, "+x.test", "-x.test", "", "*.com y"} {
		if _, err := written(t, s, "shield:\n  override:\n    - host: "+quote(host)+"\n      reason: x\n"); problem.Of(err) == nil || !strings.Contains(err.Error(), "project.yml:") {
			t.Errorf("override of %q: %v", host, err)
		}
	}
	for _, rest := range []string{"", "      reason: ' '\n", "      reason: 'a\"b'\n", "      reason: x\n      expires: tomorrow\n", "      reason: x\n      expires: 2026-12-31\n",
		"      reason: x\n      expires: '2026-11-26 %reason=y'\n", "      reason: x\n      why: y\n"} {
		if _, err := written(t, s, "shield:\n  override:\n    - host: x.test\n"+rest); err == nil {
			t.Errorf("accepted: %s", rest)
		}
	}
}

// TestOverrideEnds: an override without an end ends a week after its first use, whatever happens
// in between; taken out and put back it begins again; one that has ended is no error.
func TestOverrideEnds(t *testing.T) {
	s := clocked(t)
	at := noon
	s.Now = func() time.Time { return at }
	const text = "shield:\n  override:\n    - host: x.test\n      reason: a look\n"
	ends := func() time.Time {
		t.Helper()
		p, err := written(t, s, text)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Begin(); err != nil {
			t.Fatal(err)
		}
		rules, err := p.Rules()
		if err != nil || len(rules) != 1 {
			t.Fatalf("%v %v", rules, err)
		}
		return rules[0].Expires
	}
	first := ends()
	if !first.Equal(noon.Add(OverrideDefault)) {
		t.Errorf("it ends %s", first)
	}
	at = noon.Add(6 * 24 * time.Hour)
	if again := ends(); !again.Equal(first) {
		t.Errorf("a restart moved the end to %s", again)
	}
	p, err := written(t, s, "")
	if err != nil || p.Begin() != nil {
		t.Fatal(err)
	}
	if later := ends(); !later.Equal(at.Add(OverrideDefault)) {
		t.Errorf("put back it ends %s", later)
	}
	if p, err = written(t, s, strings.TrimSuffix(text, "\n")+"\n      expires: 2026-01-01\n"); err != nil {
		t.Fatal(err)
	}
	if d := verdict(decide(t, p), "x.test", 443, at); d.Verdict != policy.Deny {
		t.Errorf("an override that has ended: %+v", d)
	}
	if err := os.WriteFile(s.overridesFile("p"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = written(t, s, text); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Rules(); err == nil {
		t.Error("a torn record lets an override begin again")
	}
}

// TestMistakesOfTheShieldSection is test 50 for project.yml: all at once, with file and line.
func TestMistakesOfTheShieldSection(t *testing.T) {
	s := clocked(t)
	if err := state.WriteFile(filepath.Join(s.Roots.ProfilesDir(), "bad.txt"), []byte("example.org:0\n*.com\n")); err != nil {
		t.Fatal(err)
	}
	_, err := written(t, s, `shield:
  profiles:
    - pyhton
    - bad
    - go
    - go
  allow:
    - example.org:99999
    - "*.com"
    - "-f/x"
    - "@1.1.1.1"
    - 203.0.113.1/24
    - "a\nb.test"
    - `+strings.Repeat("a234567890.", 30)+`org
    - 192.168.1.1
    - 203.0.0.0/8
    - 5
  deny:
    - "+x.test"
    - "exa mple.org"
`)
	if problem.Of(err) == nil || problem.Of(err).Exit != problem.Usage {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{":5:", `(did you mean "python"?)`, "known: bad, base, ", ":6:", "bad.txt:1:13: ", ":8:", "twice", ":10:", ":11:", "public suffix",
		":12:", "belong in shield.deny", ":13:", ":14:", "host bits", ":15:", ":16:", ":17:", "private", ":18:", ":19:", ":21:", "belong in shield.allow", ":22:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not said: %s", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	_, err = written(t, s, "shield:\n  sets: [go]\n  drop_on_task_run: false\n")
	if err == nil || !strings.Contains(err.Error(), "write shield.profiles") || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("%v", err)
	}
}

func requestTo(t *testing.T, target string) policy.Request {
	t.Helper()
	a, err := netip.ParseAddrPort(target)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Request{Addr: a.Addr(), Port: a.Port(), Proto: "tcp", Now: noon}
}

// TestAddRule: what a command writes into project.yml leaves comments alone, the last word about
// one target holds, and what would make the file wrong is not written.
func TestAddRule(t *testing.T) {
	s := clocked(t)
	p, err := written(t, s, "# mine\nshield:\n  allow: # ours\n    # npm\n    - registry.npmjs.org:443 # why\n")
	if err != nil {
		t.Fatal(err)
	}
	add := func(rule string, want bool) {
		t.Helper()
		if changed, err := s.AddRule("p", rule); err != nil || changed != want {
			t.Errorf("%s: %v %v", rule, changed, err)
		}
	}
	add("example.org:443", true)
	add("example.org:443", false)
	add(`example.org:443 %reason="two weeks" %expires=2026-12-09T12:00:00Z`, true)
	add("-ads.example.org", true)
	add("+ads.example.org:443", true)
	add("-evil.example", true)
	add("+evil.example", true)
	add("-evil.example", true)
	for _, bad := range []string{"*.com", "169.254.169.254", "x", "a.test\nb.test", "-"} {
		if _, err := s.AddRule("p", bad); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
	if removed, err := s.RemoveRule("p", "-ads.example.org"); err != nil || !removed {
		t.Errorf("%v %v", removed, err)
	}
	if removed, err := s.RemoveRule("p", "-ads.example.org"); err != nil || removed {
		t.Errorf("%v %v", removed, err)
	}
	data, err := os.ReadFile(p.File)
	if err != nil {
		t.Fatal(err)
	}
	want := `project:
  name: p
# mine
shield:
  deny: ["evil.example"]
  allow: # ours
    # npm
    - registry.npmjs.org:443 # why
    - "example.org:443 %reason=\"two weeks\" %expires=2026-12-09T12:00:00Z"
    - ads.example.org:443
`
	if string(data) != want {
		t.Errorf("%s", data)
	}
	if err := s.SetProfiles("p", []string{"go", "nod"}); err == nil {
		t.Error("an unknown profile was written")
	}
	if err := s.SetProfiles("p", []string{"go", "node"}); err != nil {
		t.Error(err)
	}
	if p, err = s.Get("p"); err != nil || strings.Join(p.Shield.Profiles, " ") != "go node" {
		t.Errorf("%v %v", p, err)
	}
}
