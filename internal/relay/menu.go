package relay

import "terok/internal/text"

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
// Lines through the sanitiser; they may hold strings from a container.
type Menu interface {
	Lines() []string     // what to show, at most 8 lines; asked again after every key
	Key(key byte) Action // one key of the person
}

// StatusMenu is the small menu: one status line, detach, back.
type StatusMenu struct {
	Status func() string // one line; may be nil
}

// Lines implements Menu.
func (m StatusMenu) Lines() []string {
	var lines []string
	if m.Status != nil {
		lines = append(lines, m.Status())
	}
	return append(lines, "d detach (it goes on)   q back   ^Q give Ctrl-q to the container")
}

// Key implements Menu.
func (m StatusMenu) Key(key byte) Action {
	switch key {
	case 'd', 'D':
		return Detach
	case reservedKey:
		return Forward
	case 'q', 'Q', 0x03, '\r', '\n', ' ', esc:
		return Close
	}
	return Stay
}

// drawMenu writes the menu over the last lines of the screen.
func drawMenu(lines []string, rows, cols int) []byte {
	lines = lines[:min(len(lines), 8, max(rows-1, 0))]
	out := []byte("\x1b7\x1b[?25l\x1b[?6l")
	for i, l := range lines {
		head := "        "
		if i == 0 {
			head = " terok  "
		}
		l = text.Line(head+l, max(cols-1, 4))
		for len(l) < cols-1 {
			l += " "
		}
		out = append(out, "\x1b["...)
		out = appendInt(out, rows-len(lines)+1+i)
		out = append(out, ";1H\x1b[0;7m"...)
		out = append(out, l...)
		out = append(out, "\x1b[0m\x1b[K"...)
	}
	return append(out, "\x1b8"...)
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}
