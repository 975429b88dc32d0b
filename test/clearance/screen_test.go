package clearance

import (
	"strings"
	"testing"

	"terok/internal/control"
)

func open(s control.RequestState) bool { return s == control.RequestOpen }

// TestScreen: a person allows, denies and takes back on the screen of all tasks.
func TestScreen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.supervisor("webshop", "k3v9p"), r.supervisor("docs", "m4j64")
	npm := a.Open("registry.npmjs.org", 443, func(q *control.Request) { q.Risk = []string{"write-capable"} })
	a.Open("registry.npmjs.org", 443)
	evil := b.Open("login.github.com.evil.example.co.uk", 22, func(q *control.Request) { q.NameSource = "sni"; q.Reason = "I \x1b[31mneed\x1b[0m it" })
	r.terminal(80, 24, nil, terok, "clearance")
	r.shows("2 waiting")
	r.shows("registry.npmjs.org")
	r.capture("screen of two tasks, 80x24")
	if _, n := a.Readers(); n != 1 {
		t.Error("nobody can answer while the screen is open")
	}
	r.presses("a", "allowed", func() bool { return a.Get(npm.ID).State == control.RequestApplied })
	r.shows("allowed for the task by")
	r.shows("(clearance)")
	if d := a.Get(npm.ID).Decision; d.Choice != control.ChoiceTask || d.Via != "clearance" || d.Actor == "" {
		t.Errorf("%+v", d)
	}
	r.presses("u", "taken back", func() bool { return open(a.Get(npm.ID).State) })
	r.shows("2 waiting")

	// The selected one is gone and came back: nothing is selected until the person moves.
	r.key("End")
	r.key("Enter")
	r.shows("(the agent's words, not to be trusted)")
	r.shows("example.co.uk")
	r.capture("details, 80x24")
	if strings.Contains(r.tmux("capture-pane", "-e", "-p", "-t", "person"), "\x1b[31m") {
		t.Error("the agent's colour reached the screen")
	}
	r.types("q")
	r.presses("x", "denied", func() bool { return b.Get(evil.ID).State == control.RequestApplied })
	if d := b.Get(evil.ID).Decision; d.Choice != control.ChoiceDeny {
		t.Errorf("%+v", d)
	}
	r.types("/npm\r")
	r.shows("/npm (1)")
	r.key("Escape")
	r.types("q")
	r.shows("HOST>")
	if strings.Contains(r.screen(), "waiting") {
		t.Errorf("the screen was left behind:\n%s", r.screen())
	}
}

// TestAnsweredElsewhere is acceptance test 59 as people see it: of two screens one wins, both
// show how it ended, and the loser's next key hits nothing else.
func TestAnsweredElsewhere(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	s := r.supervisor("webshop", "k3v9p")
	q := s.Open("a.test", 443)
	s.Open("b.test", 443)
	other.env = r.env
	r.terminal(80, 24, nil, terok, "clearance")
	other.terminal(60, 12, nil, terok, "clearance")
	r.shows("2 waiting")
	other.shows("2 waiting")
	r.presses("a", "the first verdict", func() bool { return s.Get(q.ID).State == control.RequestApplied })
	for _, screen := range []*rig{r, other} {
		screen.shows("a.test:443: allowed for the task by")
		screen.shows("1 waiting")
	}
	before := len(s.Verdicts())
	other.types("x")
	other.shows("select a request first")
	if len(s.Verdicts()) != before {
		t.Error("a key for a request that went hit another one")
	}
	other.capture("a request that was answered elsewhere, 60x12")
}

// TestRefusedVerdict: stale, already decided and failed verdicts are shown as what they are.
func TestRefusedVerdict(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.supervisor("webshop", "k3v9p")
	s.Open("a.test", 443)
	r.terminal(80, 24, nil, terok, "clearance")
	r.shows("1 waiting")
	s.RefuseNext(&control.Error{Code: control.CodeAlreadyDecided, Message: "already decided: deny by bob at 12:00:00"})
	r.presses("a", "a verdict", func() bool { return len(s.Verdicts()) > 0 })
	r.shows("already decided: deny by bob")
	s.RefuseNext(&control.Error{Code: control.CodeApplyFailed, Message: "could not be applied: disk full"})
	n := len(s.Verdicts())
	r.presses("a", "another", func() bool { return len(s.Verdicts()) > n })
	r.shows("disk full")
	r.shows("1 waiting")
}

// TestSmallScreen: everything a verdict needs fits on 40 by 10.
func TestSmallScreen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.supervisor("webshop", "k3v9p")
	q := s.Open("registry.npmjs.org", 443)
	r.terminal(40, 10, []string{"NO_COLOR=1"}, terok, "clearance")
	r.shows("registry.npmjs.org:443")
	r.shows("a allow for task")
	r.capture("40x10, NO_COLOR")
	r.presses("o", "allowed once", func() bool { return s.Get(q.ID).State == control.RequestApplied })
	r.types("q")
	r.shows("HOST>")
}
