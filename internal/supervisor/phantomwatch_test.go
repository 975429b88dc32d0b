package supervisor

import (
	"fmt"
	"strings"
	"testing"

	"terok/internal/audit"
	"terok/internal/vault/front"
)

// A phantom in a name is an alert, once, and does not get into the ledger whole.
func TestPhantomInAName(t *testing.T) {
	var seen events
	w := &phantomWatch{Recorder: &seen}
	token, second := front.NewPhantom(), front.NewPhantom()
	for _, name := range []string{"registry.npmjs.org", token + ".evil.example", strings.ToUpper(token) + "." + second + ".evil.example"} {
		w.Record(audit.Event{Ev: "name_blocked", Name: name})
	}
	if seen.count("vault_leak", front.LeakInName) != 1 || seen.count("name_blocked", "") != 3 || seen.list[0].Name != "registry.npmjs.org" {
		t.Errorf("%+v", seen.list)
	}
	if all := strings.ToLower(fmt.Sprint(seen.list)); strings.Contains(all, token[20:]) || strings.Contains(all, second[20:]) || !strings.Contains(all, front.Handle(token)) {
		t.Errorf("%s", all)
	}
}
