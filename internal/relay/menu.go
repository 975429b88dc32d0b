package relay

import (
	"fmt"

	"terok/internal/clearance/board"
	"terok/internal/text"
)

// Action is what a key in the menu does.
type Action uint8

// Actions. Stay redraws the menu.
const (
	Stay Action = iota
	Close
	Detach  // leave; what runs in the container goes on
	Forward // give the reserved key to the container
)

// Menu is the host's side of the reserved key. Its methods are called from one goroutine, and
// the container neither sees the keys nor can draw while the menu is open. The relay passes
// every line through the sanitiser; they may hold strings from a container.
type Menu interface {
	// Frame is what to show: at most rows lines of cols characters. It is asked again after every
	// key and every change.
	Frame(rows, cols int) []board.Line
	// Keys handles the first key in p, which is not empty, and returns how many bytes it had.
	Keys(p []byte) (int, Action)
}

// StatusMenu is the small menu: one status line, detach, back.
type StatusMenu struct {
	Status func() string // one line; may be nil
}

// Frame implements Menu.
func (m StatusMenu) Frame(int, int) []board.Line {
	var lines []board.Line
	if m.Status != nil {
		lines = append(lines, board.Line{Text: "terok  " + m.Status(), Style: board.Title})
	}
	return append(lines, board.Line{Text: "d detach (it goes on)   q back   ^Q give Ctrl-q to the container"})
}

// Keys implements Menu.
func (m StatusMenu) Keys(p []byte) (int, Action) {
	k, n := board.ParseKey(p)
	switch k {
	case 'd', 'D':
		return n, Detach
	case board.Reserved:
		return n, Forward
	case 'q', 'Q', board.Interrupt, board.Enter, ' ', board.Escape:
		return n, Close
	}
	return n, Stay
}

// RequestMenu is the menu of a task whose requests can be answered: a board.Desk.
type RequestMenu struct {
	*board.Desk
	rung map[string]bool // request ids that the bell was rung for
}

// NewRequestMenu makes the menu of a desk, which stays the caller's to close.
func NewRequestMenu(d *board.Desk) *RequestMenu {
	return &RequestMenu{Desk: d, rung: map[string]bool{}}
}

// Frame implements Menu.
func (m *RequestMenu) Frame(rows, cols int) []board.Line { return m.Desk.Frame(rows, cols, false) }

// Keys implements Menu.
func (m *RequestMenu) Keys(p []byte) (int, Action) {
	n, then := m.Desk.Keys(p)
	return n, map[board.Then]Action{board.Stay: Stay, board.Leave: Close, board.Detach: Detach, board.Forward: Forward}[then]
}

// Hint is the title of the terminal's window, and whether to ring the bell: once for each new
// request of the attached task.
func (m *RequestMenu) Hint() (title string, bell bool) {
	m.Refresh()
	title = m.Name()
	ids := m.WaitingIDs()
	for _, id := range ids {
		bell = bell || !m.rung[id]
	}
	clear(m.rung)
	for _, id := range ids {
		m.rung[id] = true
	}
	if len(ids) > 0 {
		title = fmt.Sprintf("(%d!) %s: blocked, Ctrl-q answers", len(ids), title)
	}
	return title, bell
}

// Looks of the menu's lines. All of it is reverse, so that it is told from what the container
// draws; the selected line is not.
var looks = map[board.Style]string{
	board.Plain: "\x1b[0;7m", board.Title: "\x1b[0;1;7m", board.Selected: "\x1b[0;1m", board.Faint: "\x1b[0;7m",
}

const (
	menuRows = 16 // at most
	maxTitle = 80
)

// menuSize is how much of a terminal the menu may take: one line is left to the container, so
// that the person sees that it lies over something.
func menuSize(rows, cols int) (int, int) {
	return min(max(rows-1, 0), menuRows), max(cols-2, 4)
}

// drawMenu writes the menu over the last lines of the screen. It covers at least least lines: a
// menu that has become smaller leaves nothing of itself above.
func drawMenu(lines []board.Line, least, rows, cols int) []byte {
	high, wide := menuSize(rows, cols)
	for len(lines) < min(least, high) {
		at := min(1, len(lines))
		lines = append(lines[:at:at], append([]board.Line{{}}, lines[at:]...)...)
	}
	lines = lines[:min(len(lines), high)]
	out := []byte("\x1b7\x1b[?25l\x1b[?6l")
	for i, l := range lines {
		t := text.Line(" "+l.Text, wide+1)
		out = fmt.Appendf(out, "\x1b[%d;1H%s%-*s\x1b[0m\x1b[K", rows-len(lines)+1+i, looks[l.Style], wide+1, t)
	}
	return append(out, "\x1b8"...)
}

// drawTitle sets the title of the terminal's window (xterm ctlseqs, OSC 2). The text passes the
// sanitiser: it is the one string that is written inside a control string.
func drawTitle(title string) []byte {
	return fmt.Appendf(nil, "\x1b]2;%s\a", text.Line(title, maxTitle))
}

// The window's title is kept on the terminal's stack meanwhile. A terminal without one is left
// with none, so that it shows its own.
const (
	saveTitle    = "\x1b[22;2t"
	restoreTitle = "\x1b]2;\a\x1b[23;2t"
)
