package board

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/clearance/watch"
	"terok/internal/control"
	"terok/internal/problem"
)

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// clock is a wall clock that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time         { return c.now }
func (c *clock) passes(d time.Duration) { c.now = c.now.Add(d) }
func at(c *clock, own string) *Board    { return New(own, "test", c.Now) }
func lines(b *Board, r, c int) string   { return join(b.Frame(r, c, true)) }
func press(b *Board, keys string) (a *Act) {
	for _, k := range keys {
		if act, _ := b.Press(Key(k)); act != nil {
			a = act
		}
	}
	return a
}

func join(lines []Line) string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Text)
	}
	return strings.Join(out, "\n")
}

func request(task, host string, change ...func(*control.Request)) control.Request {
	r := control.Request{ID: "r-" + host, Hash: "h-" + host, Key: "p-" + task, Project: "p", Task: task, Kind: control.NameBlocked,
		State: control.RequestOpen, Host: host, Port: 443, Proto: "tcp", NameSource: "dns", Count: 1, FirstSeen: epoch, LastSeen: epoch,
		Choices: []control.Choice{control.ChoiceTask, control.ChoiceOnce, control.ChoiceProject, control.ChoiceDomain, control.ChoiceDeny, control.ChoiceDenyAlways}}
	for _, f := range change {
		f(&r)
	}
	return r
}

func state(open ...control.Request) watch.State {
	return watch.State{Open: open, Tasks: []watch.Task{{Key: "p-a", Project: "p", Task: "a", Posture: control.Up}}}
}

// TestLookFirst: a verdict key acts on what has been on the screen for a moment, unchanged.
func TestLookFirst(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "")
	b.Update(state(request("a", "one.test")))
	if press(b, "a") != nil {
		t.Fatal("answered before it was drawn")
	}
	lines(b, 24, 80)
	c.passes(lookFirst - time.Millisecond)
	if press(b, "a") != nil {
		t.Fatal("answered before anybody could have looked")
	}
	c.passes(time.Millisecond)
	b.Update(state(request("a", "one.test", func(r *control.Request) { r.Hash = "another" })))
	if press(b, "a") != nil {
		t.Fatal("answered what has changed since it was drawn")
	}
	lines(b, 24, 80)
	c.passes(lookFirst)
	act := press(b, "a")
	if act == nil || act.Choice != control.ChoiceTask || act.Request.Hash != "another" {
		t.Fatalf("%+v", act)
	}
	if press(b, "x") != nil {
		t.Error("a second verdict while the first is under way")
	}
}

// TestGoneSelection: the next key after a request went hits no other one.
func TestGoneSelection(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "")
	one, two := request("a", "one.test"), request("a", "two.test")
	b.Update(state(one, two))
	lines(b, 24, 80)
	c.passes(time.Minute)
	one.State = control.RequestApplied
	one.Decision = &control.Decision{Choice: control.ChoiceDeny, Actor: "bob", Via: "tui"}
	s := state(two)
	s.Decided = []control.Request{one}
	b.Update(s)
	if got := lines(b, 24, 80); !strings.Contains(got, "one.test:443: denied for an hour by bob (tui)") {
		t.Errorf("the outcome is not shown:\n%s", got)
	}
	c.passes(time.Minute)
	if act := press(b, "a"); act != nil {
		t.Fatalf("hit another one: %+v", act)
	}
	// Nor what comes into an empty list.
	b.Update(state())
	b.Update(state(request("a", "three.test")))
	lines(b, 24, 80)
	c.passes(time.Minute)
	if act := press(b, "a"); act != nil {
		t.Fatalf("hit a new one: %+v", act)
	}
	b.Press(Down)
	lines(b, 24, 80)
	c.passes(lookFirst)
	if act := press(b, "d"); act == nil || act.Request.Host != "three.test" || act.Choice != control.ChoiceDeny {
		t.Errorf("%+v", act)
	}
}

// TestFurther: what reaches beyond this task's target asks once more.
func TestFurther(t *testing.T) {
	for key, choice := range map[string]control.Choice{"p": control.ChoiceProject, "w": control.ChoiceDomain} {
		c := &clock{epoch}
		b := at(c, "p-a")
		b.Update(state(request("a", "one.test")))
		lines(b, 24, 80)
		c.passes(lookFirst)
		if act := press(b, key); act != nil {
			t.Fatalf("%s acts at once", key)
		}
		if got := lines(b, 24, 80); !strings.Contains(got, "y does it") || !strings.Contains(got, "one.test:443") {
			t.Errorf("%s", got)
		}
		if act := press(b, "n"); act != nil {
			t.Fatalf("%s n: %+v", key, act)
		}
		if act := press(b, key+"y"); act == nil || act.Choice != choice {
			t.Errorf("%s y: %+v", key, act)
		}
	}
}

// TestChoices: a request accepts only what it lists.
func TestChoices(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "p-a")
	b.Update(state(request("a", "one.test", func(r *control.Request) { r.Choices = []control.Choice{control.ChoiceDeny} })))
	got := lines(b, 24, 80)
	c.passes(lookFirst)
	if act := press(b, "aopwX"); act != nil || strings.Contains(got, "a allow") {
		t.Errorf("%+v\n%s", act, got)
	}
	if act := press(b, "x"); act == nil || act.Choice != control.ChoiceDeny {
		t.Errorf("%+v", act)
	}
}

// TestMenuKeys: in a menu d leaves, on the screen it denies.
func TestMenuKeys(t *testing.T) {
	c := &clock{epoch}
	menu, screen := at(c, "p-a"), at(c, "")
	for _, b := range []*Board{menu, screen} {
		b.Update(state(request("a", "one.test"), request("b", "two.test")))
		lines(b, 24, 80)
	}
	c.passes(lookFirst)
	if act, then := menu.Press('d'); act != nil || then != Detach {
		t.Errorf("%+v %v", act, then)
	}
	if act, then := screen.Press('d'); act == nil || act.Choice != control.ChoiceDeny || then != Stay {
		t.Errorf("%+v %v", act, then)
	}
	if got := lines(menu, 24, 80); strings.Contains(got, "two.test") || !strings.Contains(got, "1 in other tasks") {
		t.Errorf("%s", got)
	}
	if _, then := menu.Press(Reserved); then != Forward {
		t.Error(then)
	}
	for _, k := range []Key{'q', Escape, Interrupt} {
		if _, then := menu.Press(k); then != Leave {
			t.Errorf("%v: %v", k, then)
		}
	}
}

func TestUndo(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "")
	r := request("a", "one.test")
	b.Update(state(r))
	lines(b, 24, 80)
	c.passes(lookFirst)
	if press(b, "u") != nil {
		t.Fatal("undo of nothing")
	}
	act := press(b, "a")
	done := r
	done.State, done.Decision = control.RequestApplied, &control.Decision{Choice: control.ChoiceTask, Actor: "ada", Via: "clearance"}
	b.Answered(*act, done, nil)
	c.passes(UndoWithin)
	undo := press(b, "u")
	if undo == nil || !undo.Undo || undo.Request.ID != r.ID {
		t.Fatalf("%+v", undo)
	}
	b.Answered(*undo, control.Request{}, problem.New(control.CodeNotDecided, problem.Conflict, "nothing to undo").WithHint("terok shield rules"))
	if got := lines(b, 24, 80); !strings.Contains(got, "nothing to undo -> terok shield rules") {
		t.Errorf("%s", got)
	}
	c.passes(time.Second)
	if press(b, "u") != nil {
		t.Error("undo after its time")
	}
}

func TestFilter(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "")
	b.Update(state(request("a", "one.test"), request("b", "two.test")))
	press(b, "/TWO")
	b.Press(Enter)
	if got := lines(b, 24, 80); strings.Contains(got, "one.test") || !strings.Contains(got, "two.test") || !strings.Contains(got, "/two (1)") {
		t.Errorf("%s", got)
	}
	if _, then := b.Press(Escape); then != Stay || !strings.Contains(lines(b, 24, 80), "one.test") {
		t.Error("Esc does not clear the filter")
	}
}

// hostile strings of acceptance test 64.
var hostile = []string{"\x1b[31mred\x1b]52;c;eA==\a", "\u202egpj.exe\u2066", "<b>bold</b>&amp;", strings.Repeat("x", 10<<10),
	"a\nb\r\tc\x00", "\u009b6n\u200b", "\xff\xfe", "аррӏе.com", strings.Repeat("\U0001f600", 3000)}

// TestHostileStrings is acceptance test 64 for terminals: whatever a request says, every line is
// printable ASCII and no longer than the terminal is wide.
func TestHostileStrings(t *testing.T) {
	for _, s := range hostile {
		r := request("a", s, func(r *control.Request) {
			r.Names, r.Reason, r.Process, r.Tier, r.Risk, r.Proto, r.Kind = []string{s}, s, s, s, []string{s}, s, control.RequestKind(s)
			r.Project, r.NameSource = s, s
			r.Decision = &control.Decision{Choice: control.Choice(s), Actor: s, Via: s, Error: s}
		})
		decided := r
		decided.ID, decided.State = "other", control.RequestState(s)
		for _, size := range [][2]int{{24, 80}, {10, 40}, {3, 8}, {1, 1}} {
			c := &clock{epoch}
			b := at(c, "")
			st := state(r)
			st.Decided = []control.Request{decided}
			b.Update(st)
			for _, keys := range []string{"", "p", "n\r", "?"} {
				for _, k := range keys {
					if k == '\r' {
						b.Press(Enter)
						continue
					}
					b.Press(Key(k))
				}
				checkFrame(t, b.Frame(size[0], size[1], true), size[0], size[1])
				c.passes(time.Second)
			}
		}
	}
}

func checkFrame(t *testing.T, lines []Line, rows, cols int) {
	t.Helper()
	if len(lines) > rows {
		t.Errorf("%d lines on %d rows", len(lines), rows)
	}
	for _, l := range lines {
		if len(l.Text) > max(cols, 8) || !printable(l.Text) {
			t.Errorf("%dx%d: %q", cols, rows, l.Text)
		}
	}
}

// TestWholeName: the right end of a long name, which its owner cannot choose, is always shown.
func TestWholeName(t *testing.T) {
	c := &clock{epoch}
	b := at(c, "p-a")
	b.Update(state(request("a", strings.Repeat("login.github.com.", 12)+"evil.example")))
	for _, size := range [][2]int{{24, 80}, {10, 40}} {
		if got := lines(b, size[0], size[1]); !strings.Contains(got, "evil.example") {
			t.Errorf("%v:\n%s", size, got)
		}
	}
	if d := Domain(request("a", "login.github.com.evil.co.uk")); d != "evil.co.uk" {
		t.Error(d)
	}
	for _, none := range []string{"203.0.113.5", "2001:db8::1", "localhost", "", "co.uk"} {
		if d := Domain(request("a", none)); d != "" {
			t.Errorf("%q belongs to %q", none, d)
		}
	}
	if got := Host(request("a", "bücher.example")); got != "xn--bcher-kva.example" {
		t.Errorf("no A-label: %s", got)
	}
}

// FuzzKeys: any bytes are keys, one after the other, and nothing else; no key makes the board
// show what it must not.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"a", "\x1b[A\x1b[B\x1bOA", "\x1b", "\x1b[", "\x1b[1;5Hq", "/x\x1b[3~\r", "\xff\x1b\x1b[[A", "pyu\x11\x03", "\x1b[999999999999~"} {
		f.Add([]byte(s), "host.test")
	}
	f.Fuzz(func(t *testing.T, keys []byte, host string) {
		c := &clock{epoch}
		b := at(c, "")
		b.Update(state(request("a", host), request("b", "two.test")))
		for len(keys) > 0 {
			k, n := ParseKey(keys)
			if n < 1 || n > len(keys) {
				t.Fatalf("%q: %d bytes", keys, n)
			}
			keys = keys[n:]
			checkFrame(t, b.Frame(12, 50, true), 12, 50)
			c.passes(time.Second)
			act, then := b.Press(k)
			if act != nil && !act.Undo && !slices.Contains(act.Request.Choices, act.Choice) {
				t.Fatalf("%+v", act)
			}
			if then == Leave {
				return
			}
		}
	})
}

func TestParseKey(t *testing.T) {
	for in, want := range map[string]Key{"a": 'a', "\x1b": Escape, "\x1bx": Escape, "\x1b[A": Up, "\x1bOB": Down, "\x1b[5~": PageUp, "\x1b[1;5A": None,
		"\x1b[H": Home, "\x1b[4~": End, "\r": Enter, "\x7f": Backspace, "\x03": Interrupt, "\x11": Reserved, "é": None, "\x1b[": None} {
		if got, _ := ParseKey([]byte(in)); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

// feed is a Feed of a test.
type feed struct{ c chan struct{} }

func (f feed) State() watch.State       { return state(request("a", "one.test")) }
func (f feed) Changed() <-chan struct{} { return f.c }

// TestDesk: verdicts are given beside the person; their results arrive by Refresh.
func TestDesk(t *testing.T) {
	c := &clock{epoch}
	release := make(chan error)
	d := NewDesk(t.Context(), at(c, ""), feed{make(chan struct{})}, func(ctx context.Context, a Act) (control.Request, error) {
		return a.Request, <-release
	})
	d.Refresh()
	lines(d.Board, 24, 80)
	c.passes(lookFirst)
	if n, then := d.Keys([]byte("axyz")); n != 1 || then != Stay {
		t.Fatal(n, then)
	}
	if got := lines(d.Board, 24, 80); !strings.Contains(got, "one.test:443: ...") {
		t.Errorf("%s", got)
	}
	release <- errors.New("out of order")
	for deadline := time.Now().Add(time.Minute); ; {
		select {
		case <-d.Changed():
		case <-time.After(time.Until(deadline)):
			t.Fatal("no result")
		}
		d.Refresh()
		if strings.Contains(lines(d.Board, 24, 80), "out of order") {
			break
		}
	}
	d.Close()
}

func TestWords(t *testing.T) {
	r := request("a", "one.test", func(r *control.Request) { r.Proto = "udp"; r.Port = 53 })
	for got, want := range map[string]string{
		Target(r):                              "one.test:53/udp",
		Target(request("a", "2001:db8::1")):    "[2001:db8::1]:443",
		Task(control.Request{Key: "web"}):      "web",
		Age(90 * time.Second):                  "1m",
		Age(-time.Second):                      "0s",
		Tail("login.github.com.evil.test", 12): "...evil.test",
		Grant(r, control.ChoiceProject):        "allow one.test:53/udp in every task of p (project.yml)",
		Outcome(request("a", "x.test", func(r *control.Request) { r.State = control.RequestExpired })): "expired: nobody asked again",
		fmt.Sprint(len(Tail(strings.Repeat("x", 99), 10))):                                             "10",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
