package project

import (
	"testing"
	"time"

	"terok/internal/config"
	"terok/internal/shield/policy"
)

// TestClearance: "clearance: off" asks nobody, in config.yml or in project.yml, which wins.
func TestClearance(t *testing.T) {
	s := clocked(t)
	for text, want := range map[string]struct {
		ask  bool
		hold int
	}{
		"": {true, 30}, "clearance: off\n": {false, 30}, "clearance: false\n": {false, 30}, "clearance: on\n": {true, 30},
		"clearance: {hold: 5s}\n": {true, 5}, "clearance:\n  hold: 0s\n": {true, 0},
	} {
		p, err := written(t, s, text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if set := p.ShieldSettings(policy.DefaultSettings()); set.Ask != want.ask || set.HoldSeconds != want.hold {
			t.Errorf("%q: ask %t, hold %d s", text, set.Ask, set.HoldSeconds)
		}
	}
	for _, text := range []string{"clearance: maybe\n", "clearance: {hold: 6m}\n", "clearance: {hold: 1500ms}\n", "clearance: [off]\n", "clearance: {off: true}\n"} {
		if _, err := written(t, s, text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	g := config.Defaults()
	if err := config.Decode("config.yml", []byte("clearance: off\n"), &g); err != nil || !g.Clearance.Off || g.Clearance.Hold != 30*time.Second {
		t.Errorf("%+v, %v", g.Clearance, err)
	}
}
