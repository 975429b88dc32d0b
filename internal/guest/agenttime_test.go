package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
)

// timed is demoAgent with a limit of one second and a prompt.
func timed(t *testing.T) *wrapper {
	t.Helper()
	a := demoAgent
	a.Timeout = 1
	w := testWrapper(t, a)
	if err := os.WriteFile(w.path(filepath.Base(sandbox.PromptFile)), []byte("work"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// An agent that is in time has its own exit code; one that is not has 124, whether it ends when it
// is asked to or has to be killed, and nothing of it goes on.
func TestTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		program string
		want    int
	}{
		"in time":            {"cat > /dev/null; exit 3", 3},
		"killed by itself":   {"kill -9 $$", 137},
		"ends when asked":    {`trap 'echo bye > "$OUT/bye"; exit 0' TERM; sleep 600 & wait`, 124},
		"does not listen":    {`trap '' TERM; while :; do sleep 600; done`, 124},
		"leaves others":      {`(trap '' TERM; echo $$ > "$OUT/pid"; exec sleep 600) & exec sleep 600`, 124},
		"ends with an error": {`trap 'exit 9' TERM; sleep 600 & wait`, 124},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := timed(t)
			if code := runAgent(t, w, c.program, "--headless", "demo"); code != c.want {
				t.Errorf("exit code %d, want %d", code, c.want)
			}
			if _, err := os.Stat(filepath.Join(w.home, "bye")); name == "ends when asked" && err != nil {
				t.Error("the agent was not asked:", err)
			}
			for start := time.Now(); ; time.Sleep(20 * time.Millisecond) { // a killed process takes a moment to go
				left := living("OUT=" + w.home + "\x00")
				if len(left) == 0 {
					break
				}
				if time.Since(start) > time.Minute {
					t.Fatalf("still there: %q", left)
				}
			}
		})
	}
}

// living are the processes with a variable in their environment, by their lines of /proc.
func living(variable string) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		if env, _ := os.ReadFile(p); strings.Contains(string(env), variable) {
			if state, _ := os.ReadFile(filepath.Dir(p) + "/stat"); !strings.Contains(string(state), ") Z ") {
				found = append(found, string(state))
			}
		}
	}
	return found
}

// The opening prompt is the last argument of the first start, byte for byte, and of no other: also
// not after a restart, which writes the file anew, nor when a person types arguments.
func TestOpeningPrompt(t *testing.T) {
	w := testWrapper(t, demoAgent)
	a := &sandbox.Agent{Name: "demo", Opening: []string{"--", "{prompt}"}}
	file := w.path(filepath.Base(sandbox.OpeningFile))
	const prompt = "--help me\n$(id) 'é'"
	write := func() {
		t.Helper()
		if err := os.WriteFile(file, []byte(prompt), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	w.args = []string{"config"}
	if got := w.arguments(a); len(got) != 1 {
		t.Errorf("a person's own arguments: %q", got)
	}
	w.args, w.headless = nil, true
	if got := w.arguments(a); len(got) != 0 {
		t.Errorf("headless: %q", got)
	}
	w.headless = false
	if got := w.arguments(a); len(got) != 2 || got[0] != "--" || got[1] != prompt {
		t.Errorf("the first start: %q", got)
	}
	if _, err := os.Stat(w.path(filepath.Base(sandbox.OpeningDone))); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got := w.arguments(a); len(got) != 0 {
			t.Errorf("a later start: %q", got)
		}
		write()
	}
}
