package relay

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"terok/internal/clearance/board"
	"terok/internal/problem"
)

// person is the far side of a terminal: it types and reads the screen's bytes.
type person struct {
	t      *testing.T
	master *os.File
	tty    *os.File

	mu   sync.Mutex
	seen bytes.Buffer
	news chan struct{}
}

func newPerson(t *testing.T) *person {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, master: master, tty: tty, news: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			select {
			case p.news <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { tty.Close(); <-done; master.Close() })
	return p
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// sees waits until the terminal got s.
func (p *person) sees(s string) {
	p.t.Helper()
	deadline := time.After(10 * time.Second)
	for !strings.Contains(p.screen(), s) {
		select {
		case <-p.news:
		case <-deadline:
			p.t.Fatalf("%q never came; seen: %q", s, p.screen())
		}
	}
}

func (p *person) types(s string) {
	p.t.Helper()
	if _, err := p.master.WriteString(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) termios() unix.Termios {
	p.t.Helper()
	s, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *s
}

type ending struct {
	out Outcome
	err error
}

// attach runs the relay; the returned function waits for its end and checks the terminal.
func (p *person) attach(ctx context.Context, o Options) (wait func() ending) {
	p.t.Helper()
	before := p.termios()
	o.In, o.Out = p.tty, p.tty
	ended, gone := make(chan ending, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(gone)
		out, err := Run(ctx, o)
		ended <- ending{out, err}
	}()
	p.t.Cleanup(func() { cancel(); <-gone })
	return func() ending {
		p.t.Helper()
		select {
		case e := <-ended:
			if after := p.termios(); after != before {
				p.t.Error("the terminal was not restored")
			}
			p.sees("\x1b[?7h\x1b[?25h\x1b[>4m") // the end of Reset
			return e
		case <-time.After(10 * time.Second):
			p.t.Fatalf("the relay did not end; seen: %q", p.screen())
			panic("unreachable")
		}
	}
}

func sh(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

func TestBothWaysAndExitCode(t *testing.T) {
	p := newPerson(t)
	wait := p.attach(context.Background(), Options{Cmd: sh(`stty -echo; printf 'ready\033]52;c;ZXZpbA==\a\033]0;title\a\n'; read x; printf "got $x\n"; exit 7`)})
	p.sees("ready")
	p.types("hello\r")
	p.sees("got hello")
	if e := wait(); e.err != nil || e.out != (Outcome{Code: 7}) {
		t.Errorf("%+v", e)
	}
	if s := p.screen(); strings.Contains(s, "\x1b]") || strings.Contains(s, "ZXZp") {
		t.Errorf("a dangerous sequence came through: %q", s)
	}
}

// The reserved key opens the menu, the container sees neither it nor the keys that follow, and
// cannot draw over the menu.
func TestMenu(t *testing.T) {
	p := newPerson(t)
	wait := p.attach(context.Background(), Options{
		Cmd:  sh(`stty raw -echo; echo ready; dd bs=1 count=3 2>/dev/null | od -An -c; echo end`),
		Menu: StatusMenu{Status: func() string { return "p/t up \x1b[2J" }},
	})
	p.sees("ready")
	p.types("a\x11")
	p.sees("p/t up  [2J")
	p.types("xyq") // two keys that do nothing, and back
	p.types("b\x11\x11")
	p.sees("a   b 021")
	if e := wait(); e.err != nil || e.out.Detached {
		t.Errorf("%+v", e)
	}
}

func TestDetachTypesTheLeaveKeys(t *testing.T) {
	p := newPerson(t)
	wait := p.attach(context.Background(), Options{Cmd: sh(`stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | od -An -c; exit 3`), LeaveKeys: "\x01d"})
	p.sees("ready")
	p.types("\x11d")
	p.sees("001   d")
	if e := wait(); e.err != nil || e.out != (Outcome{Detached: true}) {
		t.Errorf("%+v", e)
	}
}

// A program that does not let go is killed after the grace.
func TestDetachFromADeafProgram(t *testing.T) {
	p := newPerson(t)
	wait := p.attach(context.Background(), Options{Cmd: sh(`trap '' HUP INT TERM; stty raw -echo; echo ready; exec sleep 60`), LeaveKeys: "x"})
	p.sees("ready")
	p.types("\x11d")
	if e := wait(); e.err != nil || !e.out.Detached {
		t.Errorf("%+v", e)
	}
}

func TestCancelledContext(t *testing.T) {
	p := newPerson(t)
	ctx, cancel := context.WithCancel(context.Background())
	wait := p.attach(ctx, Options{Cmd: sh(`printf '\033[?1049h\033[?1000h'; echo ready; exec sleep 60`)})
	p.sees("ready")
	cancel()
	if e := wait(); e.err != nil || !e.out.Detached {
		t.Errorf("%+v", e)
	}
	p.sees("\x1b[?1049l") // what the program left switched on is off
}

func TestWindowSize(t *testing.T) {
	p := newPerson(t)
	wait := p.attach(context.Background(), Options{Cmd: sh(`trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.02; done`)})
	p.sees("24 80")
	if err := pty.Setsize(p.tty, &pty.Winsize{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil { // the test has no controlling terminal
		t.Fatal(err)
	}
	p.sees("31 97")
	if e := wait(); e.err != nil || e.out.Code != 0 {
		t.Errorf("%+v", e)
	}
}

type panicMenu struct{ StatusMenu }

func (panicMenu) Keys([]byte) (int, Action) { panic("boom") }

// A panic restores the terminal before it goes on.
func TestPanic(t *testing.T) {
	p := newPerson(t)
	before := p.termios()
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		_, _ = Run(context.Background(), Options{Cmd: sh(`echo ready; exec sleep 60`), In: p.tty, Out: p.tty, Menu: panicMenu{}})
	}()
	p.sees("ready")
	p.types("\x11x")
	select {
	case v := <-done:
		if v != "boom" {
			t.Errorf("recovered %v", v)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("stuck after a panic")
	}
	if p.termios() != before {
		t.Error("the terminal was not restored")
	}
}

func TestNeedsATerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := Run(context.Background(), Options{Cmd: sh("true"), In: r, Out: w}); !problem.Is(err, "terminal_needed") {
		t.Error(err)
	}
}

func TestDrawMenuStaysOnTheScreen(t *testing.T) {
	long := board.Line{Text: strings.Repeat("x", 500)}
	for _, size := range [][2]int{{24, 80}, {10, 40}, {2, 10}, {1, 1}, {0, 0}} {
		out := string(drawMenu([]board.Line{long, long, long}, 9, size[0], size[1]))
		if strings.Count(out, "x") > 3*max(size[1], 4) {
			t.Errorf("%v: %q", size, out)
		}
		for _, m := range regexp.MustCompile(`\x1b\[(-?\d+);1H`).FindAllStringSubmatch(out, -1) {
			if n, _ := strconv.Atoi(m[1]); n < 2 || n > size[0] {
				t.Errorf("%v: a line at row %s", size, m[1])
			}
		}
	}
}

// What a container says reaches neither the screen nor the title as anything but text.
func TestNothingIsInterpreted(t *testing.T) {
	evil := "a\x1b]52;c;eA==\a\x1b[2J\u202e\u009b6n\n\x00z"
	menu := string(drawMenu([]board.Line{{Text: evil}}, 0, 24, 80))
	if strings.Contains(menu, "\x1b]") || strings.Contains(menu, "\x1b[2J") || strings.Contains(menu, "\n") {
		t.Errorf("%q", menu)
	}
	title := string(drawTitle(evil + strings.Repeat("y", 4000)))
	if inner := strings.TrimSuffix(strings.TrimPrefix(title, "\x1b]2;"), "\a"); len(inner) > maxTitle || strings.ContainsFunc(inner, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		t.Errorf("%q", title)
	}
}
