package cli

import (
	"bytes"
	"strings"
	"testing"

	"terok"
	"terok/internal/control"
)

// TestSupervisorsAreDescribed: what differs from an ordinary supervisor is on the screen.
func TestSupervisorsAreDescribed(t *testing.T) {
	st := control.Status{Key: "web", Posture: control.Up, Desired: control.Up, Ready: true, Worker: control.Process{PID: 7}}
	show := func(st control.Status) string {
		var b bytes.Buffer
		if err := printStatus(&b, st); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, word := range []string{"adopted", "scope", "degraded"} {
		if strings.Contains(show(st), word) {
			t.Errorf("an ordinary supervisor is %s", word)
		}
	}
	st.Adopted, st.Waiting, st.Scope, st.Degraded = true, true, "terok-web-7.scope", []string{"no Landlock"}
	for _, words := range []string{"took over", "vault and gate are closed", "terok-web-7.scope", "no Landlock"} {
		if !strings.Contains(show(st), words) {
			t.Errorf("%q is missing in\n%s", words, show(st))
		}
	}
	orphan := control.Status{Key: "p-t", Project: "p", Task: "t", Posture: control.Failing}
	for _, words := range []string{"error", "terok shield adopt p/t", "terok task restart p/t"} {
		if !strings.Contains(show(orphan), words) {
			t.Errorf("%q is missing in\n%s", words, show(orphan))
		}
	}
	for want, a := range map[string]*terok.Adoption{
		"everything is as it was":                    {Name: "web", Complete: true},
		"vault and gate stay closed until a restart": {Name: "web", Status: control.Status{Waiting: true}},
		"the guest has not come back":                {Name: "web"},
	} {
		var b bytes.Buffer
		if err := printAdoption(&b, a); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%q: %v %s", want, err, &b)
		}
	}
}
