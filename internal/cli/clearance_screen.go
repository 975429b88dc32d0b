package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"terok"
	"terok/internal/clearance/board"
	"terok/internal/relay"
)

// The looks of lines on the screen: no colours, so that NO_COLOR has nothing to take away.
var screenLooks = map[board.Style]string{
	board.Plain: "\x1b[0m", board.Title: "\x1b[0;1m", board.Selected: "\x1b[0;7m", board.Faint: "\x1b[0;2m",
}

// clearanceScreen shows the board on the whole terminal until the person leaves. The terminal is
// as it was afterwards, also after a signal or a panic.
func (e *env) clearanceScreen(ctx context.Context, target string) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP)
	defer stop()
	w, err := e.app.WatchRequests(ctx, terok.WatchOptions{Target: target, Answers: present})
	if err != nil {
		return err
	}
	defer w.Close()
	name := "clearance"
	if target != "" {
		name += " " + target
	}
	desk := board.NewDesk(ctx, board.New("", name, time.Now), w, e.app.Answerer("clearance"))
	defer desk.Close()
	w.Settle(ctx)

	in, out := e.in.(*os.File), e.out.(*os.File)
	saved, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	defer func() {
		_, _ = out.WriteString("\x1b[0m\x1b[?25h\x1b[?1049l")
		_ = term.Restore(int(in.Fd()), saved)
	}()
	_, _ = out.WriteString("\x1b[?1049h\x1b[?25l")

	wakeR, wakeW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wakeR.Close()
	ctx, cancel := context.WithCancel(ctx)
	keys, gone, done := make(chan []byte), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if !relay.ReadKeys(in, wakeR, func(p []byte) bool {
			select {
			case keys <- p:
				return true
			case <-ctx.Done():
				return false
			}
		}) {
			close(gone)
		}
	}()
	defer func() {
		cancel()
		wakeW.Close()
		<-done
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)

	for {
		desk.Refresh()
		drawScreen(out, desk)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-gone:
			return nil
		case <-resized:
		case <-desk.Changed():
		case p := <-keys:
			for len(p) > 0 {
				n, then := desk.Keys(p)
				p = p[n:]
				if then == board.Leave {
					return nil
				}
			}
		}
	}
}

// drawScreen paints the whole board in one write, as one frame where the terminal can
// (synchronised output, mode 2026).
func drawScreen(out *os.File, desk *board.Desk) {
	cols, rows, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return
	}
	var b bytes.Buffer
	b.WriteString("\x1b[?2026h\x1b[H")
	for i, l := range desk.Frame(rows, cols, true) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(screenLooks[l.Style])
		if l.Style == board.Selected {
			fmt.Fprintf(&b, "%-*s", cols-1, l.Text)
		} else {
			b.WriteString(l.Text)
		}
		b.WriteString("\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J\x1b[?2026l")
	_, _ = out.Write(b.Bytes())
}
