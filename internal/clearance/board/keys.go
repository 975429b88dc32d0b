package board

// Key is one key of a person: a printable ASCII character or one of the constants.
type Key rune

// Keys beyond the characters.
const (
	None Key = -iota
	Up
	Down
	PageUp
	PageDown
	Home
	End
	Enter
	Escape
	Backspace
	Interrupt // Ctrl-c
	Reserved  // Ctrl-q, the key that opens the menu
)

// ParseKey takes the first key off p, which is what a terminal in raw mode sent at once, and
// returns how many bytes it has; p is not empty. A sequence that means nothing here is None, and
// so is every byte beyond ASCII. An escape that nothing follows is the key Escape.
func ParseKey(p []byte) (Key, int) {
	switch c := p[0]; {
	case c == 0x1b && len(p) > 1 && (p[1] == '[' || p[1] == 'O'):
		return sequence(p)
	case c == 0x1b:
		return Escape, 1
	case c == '\r' || c == '\n':
		return Enter, 1
	case c == 0x7f || c == 0x08:
		return Backspace, 1
	case c == 0x03:
		return Interrupt, 1
	case c == 0x11:
		return Reserved, 1
	case c == 0x0e:
		return Down, 1 // Ctrl-n
	case c == 0x10:
		return Up, 1 // Ctrl-p
	case c >= 0x20 && c < 0x7f:
		return Key(c), 1
	}
	return None, 1
}

// sequence reads ESC [ or ESC O, parameters and a final byte (ECMA-48 §5.4).
func sequence(p []byte) (Key, int) {
	n := 2
	for n < len(p) && p[n] >= 0x20 && p[n] < 0x40 {
		n++
	}
	if n == len(p) || p[n] < 0x40 || p[n] > 0x7e {
		return None, n // cut short
	}
	switch final, params := p[n], string(p[2:n]); {
	case final == 'A' && params == "":
		return Up, n + 1
	case final == 'B' && params == "":
		return Down, n + 1
	case final == 'H', final == '~' && (params == "1" || params == "7"):
		return Home, n + 1
	case final == 'F', final == '~' && (params == "4" || params == "8"):
		return End, n + 1
	case final == '~' && params == "5":
		return PageUp, n + 1
	case final == '~' && params == "6":
		return PageDown, n + 1
	}
	return None, n + 1
}
