package clearance

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"terok/internal/control"
)

// face is a running terok clearance on pipes.
type face struct {
	*rig
	in io.WriteCloser

	mu  sync.Mutex
	out []string
}

func (r *rig) face(args ...string) *face {
	r.t.Helper()
	cmd := exec.Command(terok, append([]string{"clearance"}, args...)...)
	cmd.Env = append(os.Environ(), r.env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	f := &face{rig: r, in: in}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			f.mu.Lock()
			f.out = append(f.out, sc.Text())
			f.mu.Unlock()
		}
		_ = cmd.Wait()
	}()
	r.t.Cleanup(func() { in.Close(); _ = cmd.Process.Signal(os.Interrupt); <-done })
	return f
}

func (f *face) printed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.out, "\n")
}

func (f *face) prints(text string) {
	f.t.Helper()
	s := &session{rig: f.rig}
	s.wait("it prints "+text, func() bool { return strings.Contains(f.printed(), text) })
}

func (f *face) says(line string) {
	f.t.Helper()
	if _, err := io.WriteString(f.in, line+"\n"); err != nil {
		f.t.Fatal(err)
	}
}

// TestLines: the conversation without a terminal, and two faces that see one another's verdicts.
func TestLines(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.supervisor("webshop", "k3v9p")
	a := s.Open("a.test", 443)
	one, two := r.face(), r.face("--line", "--task", "")
	for _, f := range []*face{one, two} {
		f.prints("[1] ")
		f.prints("webshop/k3v9p a.test:443 (DNS) no rule lists this name")
	}
	b := s.Open("b.test", 443)
	one.prints("[2] ")
	two.prints("[2] ")
	one.says("p 1")
	one.prints("p 1 yes does it")
	one.says("a 1")
	for _, f := range []*face{one, two} {
		f.prints("a.test:443: allowed for the task by")
	}
	two.says("d 1")
	two.prints("already decided")
	one.says("u")
	one.prints("taken back: a.test:443")
	two.says("d 2")
	one.prints("b.test:443: denied for an hour by")
	one.says("x 9")
	one.prints("there is no such request")
	one.says("nonsense")
	one.prints("allow for the project")
	if got := s.Get(a.ID); got.State != control.RequestOpen {
		t.Errorf("%+v", got)
	}
	if got := s.Get(b.ID); got.Decision == nil || got.Decision.Via != "cli" || got.Decision.Choice != control.ChoiceDeny {
		t.Errorf("%+v", got)
	}
	one.says("q")
}

// TestJSONStream is acceptance test 55 for programs: two readers get everything, as JSON Lines,
// and keep nothing waiting.
func TestJSONStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.supervisor("webshop", "k3v9p")
	s.Open("early.test", 443)
	faces := []*face{r.face("--json"), r.face("--json")}
	for _, f := range faces {
		f.prints(`"early.test"`)
	}
	if _, n := s.Readers(); n != 0 {
		t.Error("a program that only reads keeps connections waiting")
	}
	q := s.Open("late.test", 443)
	s.End(q.ID, control.RequestExpired)
	s.SetPostureNow(control.Quarantine)
	for _, f := range faces {
		f.prints(`"type":"posture"`)
	}
	s.Stop()
	for _, f := range faces {
		f.prints(`"type":"end"`)
		var types []string
		for line := range strings.Lines(f.printed()) {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			types = append(types, v["type"].(string))
		}
		got := strings.Join(types, " ")
		if got != "hello snapshot request request posture end" || !strings.Contains(f.printed(), `"schema":"terok.clearance.watch/1"`) {
			t.Errorf("%s\n%s", got, f.printed())
		}
	}
}
