// Package relay stands between a person's terminal and a program inside a container: it runs the
// command that attaches (podman exec -it) on a pty of its own and copies both ways.
//
// It guarantees: what the container prints passes Filter, so it can draw but not set titles,
// write the clipboard, ask the terminal anything or reconfigure it; the reserved key (Ctrl-q)
// never reaches the container, so what it opens is the host's for certain; the terminal is
// restored however the program ends, also on a signal, a cancelled context or a panic here.
//
// Leaving does not end what runs in the container: the relay first types the keys that make the
// tmux client there detach, because a client that is only killed on the host stays attached
// inside and keeps the session at its size.
package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"terok/internal/problem"
)

const (
	reservedKey = 0x11 // Ctrl-q
	leaveGrace  = 2 * time.Second
	keyGrace    = 500 * time.Millisecond
	redrawPause = 150 * time.Millisecond // until a changed size has reached a program behind podman exec
)

// Options describe one attachment. Cmd, In and Out are required.
type Options struct {
	// Cmd attaches: podman exec -it …, not started. It must not be bound to the context given to
	// Run, which would kill it before it could detach.
	Cmd *exec.Cmd
	In  *os.File // the person's terminal
	Out *os.File
	// Menu is what Ctrl-q opens; nil means StatusMenu{}.
	Menu Menu
	// Hint, when set, says what the title of the terminal's window shall be and whether to ring the
	// bell; it is asked at the start and whenever Changed has a token, which redraws an open menu
	// too. The container cannot set the title, so what stands there is ours.
	Hint    func() (title string, bell bool)
	Changed <-chan struct{}
	NoTitle bool // the terminal has none: ring only
	// LeaveKeys are typed to the program to make it let go, e.g. "\x01d" for a tmux whose
	// prefix is C-a. Without them, or when they do not help within 2 s, the command is killed.
	LeaveKeys string
}

// Outcome tells how an attachment ended.
type Outcome struct {
	Detached bool // the person or a signal left; the program inside goes on
	Code     int  // exit code of Cmd when it ended by itself
}

// Run attaches until the program ends, the person detaches, ctx ends or SIGHUP or SIGTERM
// arrives. A Problem "terminal_needed" means that In or Out is no terminal.
func Run(ctx context.Context, o Options) (out Outcome, err error) {
	if !term.IsTerminal(int(o.In.Fd())) || !term.IsTerminal(int(o.Out.Fd())) {
		return out, problem.New("terminal_needed", problem.Declined, "attaching needs a terminal on stdin and stdout")
	}
	if o.Menu == nil {
		o.Menu = StatusMenu{}
	}
	size, err := pty.GetsizeFull(o.Out)
	if err != nil {
		return out, fmt.Errorf("size of the terminal: %w", err)
	}
	saved, err := term.MakeRaw(int(o.In.Fd()))
	if err != nil {
		return out, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	r := &relay{o: o, events: make(chan event), stop: make(chan struct{})}
	titled := o.Hint != nil && !o.NoTitle
	if titled {
		_, _ = o.Out.WriteString(saveTitle)
	}
	defer func() {
		if titled {
			_, _ = o.Out.WriteString(restoreTitle)
		}
		_, _ = o.Out.Write(r.filter.Reset())
		if e := term.Restore(int(o.In.Fd()), saved); e != nil && err == nil {
			err = fmt.Errorf("restore the terminal: %w", e)
		}
	}()
	if r.master, err = start(o.Cmd, size); err != nil {
		return out, fmt.Errorf("start %s: %w", o.Cmd.Path, err)
	}
	return r.run(ctx)
}

// start runs cmd on a new pty and returns its master side, non-blocking: package pty leaves it
// blocking, and then neither a deadline nor Close ends a read or write.
func start(cmd *exec.Cmd, size *pty.Winsize) (*os.File, error) {
	f, err := pty.StartWithSize(cmd, size)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pty"), nil
}

type relay struct {
	o      Options
	master *os.File
	filter Filter
	events chan event
	stop   chan struct{} // closed when run returns: goroutines stop sending

	menu    bool // open
	drawn   int  // lines of the open menu
	title   string
	leaving bool
	regrow  <-chan time.Time // when the program gets its true size back, see redraw
}

// event is one thing that happened; exactly one field is set, or kind alone says it.
type event struct {
	kind eventKind
	data []byte        // input or output
	ack  chan struct{} // output: closed when it was written
	err  error
}

type eventKind uint8

const (
	inputEvent eventKind = iota
	inputEnd
	outputEvent
	outputEnd
	panicked
)

// run owns the state: all other goroutines only send events.
func (r *relay) run(ctx context.Context) (Outcome, error) {
	wakeR, wakeW, err := os.Pipe()
	if err != nil {
		r.kill()
		return Outcome{}, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGWINCH, unix.SIGTERM, unix.SIGHUP)
	inputDone, outputDone := make(chan struct{}), make(chan struct{})
	go r.guard(inputDone, func() { r.readInput(wakeR) })
	go r.guard(outputDone, r.readOutput)
	defer func() {
		signal.Stop(signals)
		close(r.stop)
		r.kill()
		_ = wakeW.Close() // wakes the reader of the terminal
		_ = r.master.Close()
		<-inputDone
		<-outputDone
		_ = wakeR.Close()
	}()

	r.hint()
	var held []event // output that arrived while the menu was open; at most one: its sender waits
	var deadline <-chan time.Time
	done := ctx.Done()
	leave := func() {
		if r.leaving {
			return
		}
		r.leaving, r.menu = true, false
		timer := time.NewTimer(leaveGrace)
		deadline = timer.C
		if r.o.LeaveKeys == "" {
			r.kill()
		} else {
			r.typeKeys([]byte(r.o.LeaveKeys))
		}
	}
	for {
		if !r.menu {
			for _, e := range held {
				r.print(e)
			}
			held = nil
		}
		select {
		case e := <-r.events:
			switch e.kind {
			case inputEvent:
				if r.input(e.data) {
					leave()
				}
			case inputEnd: // the terminal is gone
				leave()
			case outputEvent:
				if r.menu {
					held = append(held, e)
				} else {
					r.print(e)
				}
			case outputEnd:
				return r.ended()
			case panicked:
				r.kill()
				_ = r.o.Cmd.Wait()
				return Outcome{}, e.err
			}
		case <-r.o.Changed:
			r.hint()
			if r.menu {
				r.draw()
			}
		case s := <-signals:
			if s == unix.SIGWINCH {
				r.resize()
			} else {
				leave()
			}
		case <-done:
			done = nil
			leave()
		case <-r.regrow:
			r.regrow = nil
			r.resize()
		case <-deadline:
			deadline = nil
			r.kill()
		}
	}
}

// ended collects the command, whose pty is closed.
func (r *relay) ended() (Outcome, error) {
	timer := time.AfterFunc(leaveGrace, r.kill) // closed its terminal and did not end
	defer timer.Stop()
	err := r.o.Cmd.Wait()
	out := Outcome{Detached: r.leaving}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		out.Code, err = ee.ExitCode(), nil
	}
	if r.leaving {
		out.Code, err = 0, nil
	}
	return out, err
}

// input handles keys; it reports whether the person leaves.
func (r *relay) input(keys []byte) (leave bool) {
	if r.leaving {
		return false
	}
	for len(keys) > 0 {
		if !r.menu {
			i := bytes.IndexByte(keys, reservedKey)
			if i < 0 {
				r.typeKeys(keys)
				return false
			}
			r.typeKeys(keys[:i])
			keys = keys[i+1:]
			r.menu, r.drawn = true, 0
			r.draw()
			continue
		}
		n, action := r.o.Menu.Keys(keys)
		keys = keys[max(n, 1):]
		switch action {
		case Stay:
			r.draw()
		case Detach:
			return true
		case Forward:
			r.typeKeys([]byte{reservedKey})
			r.close()
		case Close:
			r.close()
		}
	}
	return false
}

// typeKeys gives keys to the program. One that does not read them loses them: the menu must
// open all the same.
func (r *relay) typeKeys(keys []byte) {
	_ = r.master.SetWriteDeadline(time.Now().Add(keyGrace))
	_, _ = r.master.Write(keys)
}

func (r *relay) draw() {
	size, err := pty.GetsizeFull(r.o.Out)
	if err != nil {
		return
	}
	rows, cols := int(size.Rows), int(size.Cols)
	lines := r.o.Menu.Frame(menuSize(rows, cols))
	r.drawn = max(r.drawn, len(lines))
	_, _ = r.o.Out.Write(drawMenu(lines, r.drawn, rows, cols))
}

// hint sets the title and rings the bell. The filter passes whole sequences only, so these never
// land inside one of the container's.
func (r *relay) hint() {
	if r.o.Hint == nil {
		return
	}
	title, bell := r.o.Hint()
	if title != r.title && !r.o.NoTitle {
		r.title = title
		_, _ = r.o.Out.Write(drawTitle(title))
	}
	if bell {
		_, _ = r.o.Out.Write([]byte{bel})
	}
}

func (r *relay) close() {
	r.menu = false
	_, _ = r.o.Out.WriteString("\x1b[?25h")
	r.redraw()
}

// redraw makes the program paint everything anew: it sees another size, and its own again a
// moment later. At once would be too early: podman passes on the size that it finds when it wakes
// up, and that would be the old one.
func (r *relay) redraw() {
	size, err := pty.GetsizeFull(r.o.Out)
	if err != nil || size.Rows < 3 {
		return
	}
	size.Rows--
	r.setSize(size)
	r.regrow = time.After(redrawPause)
}

// resize gives the program the terminal's size.
func (r *relay) resize() {
	size, err := pty.GetsizeFull(r.o.Out)
	if err != nil {
		return
	}
	r.setSize(size)
	if r.menu {
		r.drawn = 0
		r.draw()
	}
}

func (r *relay) setSize(s *pty.Winsize) {
	conn, err := r.master.SyscallConn() // Fd would make it blocking
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols, Xpixel: s.X, Ypixel: s.Y})
	})
}

func (r *relay) print(e event) {
	_, _ = r.o.Out.Write(r.filter.Append(nil, e.data))
	close(e.ack)
}

func (r *relay) kill() {
	if r.o.Cmd.Process != nil {
		_ = r.o.Cmd.Process.Kill()
	}
}

// guard runs fn; a panic becomes an event, so that the terminal is restored.
func (r *relay) guard(done chan struct{}, fn func()) {
	defer close(done)
	defer func() {
		if v := recover(); v != nil {
			r.send(event{kind: panicked, err: fmt.Errorf("relay: %v\n%s", v, debug.Stack())})
		}
	}()
	fn()
}

func (r *relay) send(e event) bool {
	select {
	case r.events <- e:
		return true
	case <-r.stop:
		return false
	}
}

// readInput reads the terminal until wake is closed.
func (r *relay) readInput(wake *os.File) {
	if !ReadKeys(r.o.In, wake, func(keys []byte) bool { return r.send(event{kind: inputEvent, data: keys}) }) {
		r.send(event{kind: inputEnd})
	}
}

// readOutput reads the program. It waits until what it read was printed: a program that prints
// faster than the terminal takes is slowed down, and nothing is stored.
func (r *relay) readOutput() {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.master.Read(buf)
		if n > 0 {
			ack := make(chan struct{})
			if !r.send(event{kind: outputEvent, data: buf[:n], ack: ack}) {
				return
			}
			select {
			case <-ack:
			case <-r.stop:
				return
			}
		}
		if err != nil { // EIO: every holder of the terminal is gone
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.EIO) && !errors.Is(err, os.ErrClosed) {
				err = fmt.Errorf("read the program: %w", err)
			}
			r.send(event{kind: outputEnd, err: err})
			return
		}
	}
}
