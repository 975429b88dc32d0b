package clearance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"terok/internal/control"
)

// screenful is what an agent shows: a text that is drawn anew whenever the size changes. A subshell draws, so
// that a size that changes meanwhile is a second drawing, after the first one, and not in its middle.
const screenful = `draw() (printf '\033[2J\033[HAGENT AT WORK'; n=2; while [ $n -lt $(stty size | cut -d' ' -f1) ]; do printf '\033[%d;1Hagent line %d' $n $n; n=$((n+1)); done)
trap draw WINCH; draw; while :; do sleep 0.05; done`

// TestMenuAnswers: the hint is in the title, the menu answers, the agent's screen is whole again.
func TestMenuAnswers(t *testing.T) {
	t.Parallel()
	for _, size := range []struct {
		name       string
		cols, rows int
	}{{"80x24", 80, 24}, {"40x10", 40, 10}} {
		t.Run(size.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s, other := r.supervisor("webshop", "k3v9p"), r.supervisor("docs", "m4j64")
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			r.terminal(size.cols, size.rows, []string{"NO_COLOR=1", "TEROK_TEST_MENU=" + screenful}, exe)
			r.shows(fmt.Sprintf("agent line %d\n", size.rows-1))
			r.until("the title", func() bool { return r.title() == "webshop/k3v9p brave-otter" })
			before := r.screen()
			q := s.Open("registry.npmjs.org", 443)
			other.Open("other.test", 443)
			r.until("the hint in the title", func() bool { return strings.HasPrefix(r.title(), "(1!) webshop/k3v9p") })
			if _, n := s.Readers(); n != 1 {
				t.Error("nobody can answer while a terminal is attached")
			}
			if _, n := other.Readers(); n != 0 {
				t.Error("an attached terminal keeps the connections of another task waiting")
			}
			if after := r.screen(); after != before {
				t.Errorf("a waiting request changed the agent's screen:\n%s\n%s", before, after)
			}
			r.key("C-q")
			r.shows("registry.npmjs.org")
			r.shows("1 waiting, 1 in other")
			r.shows("a allow for task")
			r.capture("menu over the agent, " + size.name)
			if strings.Contains(r.screen(), "other.test") {
				t.Error("the menu shows another task's request")
			}
			r.presses("a", "allowed", func() bool { return s.Get(q.ID).State == control.RequestApplied })
			r.shows("the task by ada (menu)")
			r.capture("menu after the verdict, " + size.name)
			r.types("q")
			r.until("the agent's screen is whole again", func() bool { return r.screen() == before })
			r.until("the hint is gone", func() bool { return r.title() == "webshop/k3v9p brave-otter" })
			r.key("C-q")
			r.shows("d detach")
			r.types("d")
			r.shows("relay ended: {Detached:true")
			r.until("the title is the terminal's own", func() bool { return !strings.Contains(r.title(), "webshop") })
		})
	}
}
