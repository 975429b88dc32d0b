package attack

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

// configure gives a running sandbox a policy of several tiers, as a project's would be, and makes
// it use it.
func configure(t *testing.T, b *box, rules map[policy.Tier][]string) {
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
	if err := state.WriteFile(sandbox.PolicyPath(filepath.Join(rig, "d", "terok", "sandboxes", b.name)), data); err != nil {
		t.Fatal(err)
	}
	must(t, "shield", "reload", b.name)
}

// Spec: shield.md §10, 46: the deny tier beats what the project allows, an override beats the deny
// tier, and when its end passes the open connection is cut and new ones are refused. 49: the end
// is in the ledger.
func TestOverrideEndsWhileRunning(t *testing.T) {
	_, _ = internet(t)
	b := start(t)
	allow, deny := []string{"c.test:7000"}, []string{"-c.test"}
	configure(t, b, map[policy.Tier][]string{policy.Project: allow})
	if err := greet(t, b); err != nil {
		t.Fatalf("control: %v", err)
	}
	configure(t, b, map[policy.Tier][]string{policy.Project: allow, policy.Denied: deny})
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("denied")}})
	if out, err := command("shield", "allow", b.name, "c.test:7000"); err == nil || !strings.Contains(err.Error(), `the deny rule "-c.test" (project.yml:7) comes first`) {
		t.Errorf("an allow that decides nothing: %s, %v", out, err)
	}
	const life = 5 * time.Second
	end := time.Now().Add(life)
	configure(t, b, map[policy.Tier][]string{policy.Project: allow, policy.Denied: deny,
		policy.Override: {"c.test:7000 %reason=test %expires=" + end.UTC().Format(time.RFC3339Nano), "old.test %reason=test %expires=2020-01-01"}})
	c, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo(t, c, "for a while")
	cutAfter(t, c, end)
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("too late")}})
	log := must(t, "shield", "logs", b.name, "-n", "0", "--json")
	for _, rule := range []string{"+c.test:7000", "+old.test"} {
		if !strings.Contains(log, `"ev":"entry_expired"`) || !strings.Contains(log, `"rule":"`+rule+`"`) {
			t.Errorf("the ledger does not say that %s ended:\n%s", rule, log)
		}
	}
}

func greet(t *testing.T, b *box) error {
	t.Helper()
	c, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		return err
	}
	defer c.Close()
	echo(t, c, "hello")
	return nil
}

// cutAfter waits for the end of a connection: not before its rule's, and soon after.
func cutAfter(t *testing.T, c net.Conn, end time.Time) {
	t.Helper()
	c.SetReadDeadline(end.Add(30 * time.Second))
	var buf [1]byte
	n, err := c.Read(buf[:])
	if ne, ok := err.(net.Error); n != 0 || ok && ne.Timeout() {
		t.Fatalf("the connection lives on: %d bytes, %v", n, err)
	}
	if time.Now().Before(end) {
		t.Error("cut before the end")
	}
}

// Spec: shield.md §10, 47: an override of a private address and port opens that and nothing else.
func TestOverrideOfAPrivateAddress(t *testing.T) {
	w, roots := internet(t)
	b := start(t)
	configure(t, b, map[policy.Tier][]string{policy.Override: {"192.168.77.7:8080 %reason=printer"}})
	works(t, b, "http://192.168.77.7:8080/", roots)
	h := hello(t, "a.test")
	refusedAll(t, b, []attempt{{"tcp", "192.168.77.7:443", h}, {"tcp", "192.168.77.7:80", getOf("192.168.77.7")}, {"tcp", "100.64.0.7:8080", h},
		{"udp", "192.168.77.7:8080", h}, {"tcp", "lan.test:8080", getOf("lan.test:8080")}, {"tcp", "169.254.169.254:80", getOf("169.254.169.254")}})
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if s.Kind != "dns" && s.Local != "192.168.77.7:8080" {
			t.Errorf("the internet saw %+v", s)
		}
	}
}

// Spec: shield.md §10, 36: a range and an address in it are both listed, and the more specific one
// is named.
func TestMoreSpecificRule(t *testing.T) {
	_, roots := internet(t)
	b := start(t)
	must(t, "shield", "allow", b.name, "203.0.113.10:8080")
	must(t, "shield", "allow", b.name, "203.0.113.0/24", "--port", "8080")
	rules := must(t, "shield", "rules", b.name)
	for _, want := range []string{"+203.0.113.10:8080", "+203.0.113.0/24:8080"} {
		if !strings.Contains(rules, want) {
			t.Errorf("%s is not listed:\n%s", want, rules)
		}
	}
	if why := must(t, "shield", "explain", b.name, "203.0.113.10:8080"); !strings.Contains(why, "rule    +203.0.113.10:8080\n") {
		t.Error(why)
	}
	if why := must(t, "shield", "explain", b.name, "203.0.113.20:8080"); !strings.Contains(why, "rule    +203.0.113.0/24:8080\n") {
		t.Error(why)
	}
	works(t, b, "http://203.0.113.20:8080/", roots)
}

// Spec: shield.md §10, 71: what preview, resolve and harvest say is what happens.
func TestLooksAreTrue(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "lan.test:443", "--deny", "denied.test")
	works(t, b, "https://a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("x")}, {"tcp", "denied.test:443", hello(t, "denied.test")}, {"tcp", "169.254.169.254:80", getOf("169.254.169.254")}})
	look := must(t, "shield", "preview", b.name, "--host", "a.test", "--host", "denied.test", "--host", "192.168.77.7:443")
	for _, want := range []string{"a.test:443: allow: ", "denied.test:443: deny: ", "192.168.77.7:443: deny: "} {
		if !strings.Contains(look, want) {
			t.Errorf("preview does not say %q:\n%s", want, look)
		}
	}
	said := strings.Join(strings.Fields(must(t, "shield", "resolve", b.name)), " ")
	for _, want := range []string{"a.test 203.0.113.10 allow public", "lan.test 192.168.77.7 deny private"} {
		if !strings.Contains(said, want) {
			t.Errorf("resolve does not say %q:\n%s", want, said)
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		harvest := strings.Join(strings.Fields(must(t, "shield", "harvest", b.name)), " ")
		if strings.Contains(harvest, "c.test 7000") && strings.Contains(harvest, " c.test:7000") && strings.Contains(harvest, `none: the deny rule "-denied.test"`) &&
			strings.Contains(harvest, "none: 169.254.169.254/32 is never reachable") && !strings.Contains(harvest, " a.test") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("harvest: %s", harvest)
		}
		time.Sleep(20 * time.Millisecond) // the ledger is written behind the refusal
	}
}
