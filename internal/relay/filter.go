package relay

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of the parser.
const (
	maxSequence = 256     // a control sequence longer than this is dropped, in bytes
	maxString   = 1 << 20 // a string (OSC, DCS, ...) that is not ended by then is over, in bytes
)

// Filter lets through what a full-screen program needs to draw, and nothing that makes a
// terminal answer, remember, fetch or reconfigure itself. It is an allow-list:
//
//   - text: valid UTF-8 without C1 controls; other bytes become U+FFFD
//   - BEL, BS, HT, LF, VT, FF, CR, SO, SI
//   - cursor movement, erasing, scrolling, insertion, tabs, margins, SGR, cursor style
//   - private modes of drawing, mouse, focus, paste (modes)
//   - ESC 7 8 = > D E H M and the character sets B, 0 and A
//
// Dropped whole are therefore OSC (titles, clipboard, colours, hyperlinks, notifications,
// working directory), DCS (settings and capability queries, sixel, tmux pass-through), APC, PM,
// SOS, screen titles, window operations, media copy, and every query whose answer the terminal
// would type for the program: device attributes, status reports, DECRQM, ENQ. Such an answer is
// how output becomes input.
//
// The zero value is ready. A sequence may be cut anywhere between calls. A Filter holds at most
// maxSequence bytes and is not safe for concurrent use.
type Filter struct {
	state state
	seq   []byte // the sequence or rune begun, incomplete
	over  bool   // the sequence is too long and will be dropped
	str   int    // bytes of the string seen
	on    []int  // private modes that are switched on now
}

type state uint8

const (
	ground state = iota
	escape       // after ESC, perhaps with intermediates
	csi          // after ESC [
	str          // inside a string that is dropped
)

const (
	bel = 0x07
	can = 0x18
	sub = 0x1a
	esc = 0x1b
)

// Append filters p and appends what is left to dst.
func (f *Filter) Append(dst, p []byte) []byte {
	for i := 0; i < len(p); {
		if f.state == ground && len(f.seq) == 0 {
			// The fast path: a run of printable ASCII.
			j := i
			for j < len(p) && p[j] >= 0x20 && p[j] < 0x7f {
				j++
			}
			if j > i {
				dst = append(dst, p[i:j]...)
				i = j
				continue
			}
		}
		dst = f.step(dst, p[i])
		i++
	}
	return dst
}

func (f *Filter) step(dst []byte, c byte) []byte {
	// These act in every state, as in a terminal.
	switch c {
	case esc:
		if f.state == ground {
			dst = f.broken(dst)
		}
		f.begin(escape)
		return dst
	case can, sub:
		if f.state == ground {
			dst = f.broken(dst)
		}
		f.begin(ground)
		return dst
	}
	switch f.state {
	case ground:
		return f.text(dst, c)
	case escape:
		return f.escape(dst, c)
	case csi:
		return f.control(dst, c)
	default:
		f.str++
		if c == bel || f.str >= maxString {
			f.begin(ground)
		}
		return dst
	}
}

func (f *Filter) begin(s state) {
	f.state, f.seq, f.over, f.str = s, f.seq[:0], false, 0
}

// broken replaces a rune that was begun and not ended.
func (f *Filter) broken(dst []byte) []byte {
	if len(f.seq) > 0 {
		f.seq = f.seq[:0]
		dst = utf8.AppendRune(dst, utf8.RuneError)
	}
	return dst
}

func (f *Filter) text(dst []byte, c byte) []byte {
	if c < utf8.RuneSelf {
		dst = f.broken(dst)
		if c >= 0x20 && c != 0x7f || c >= bel && c <= 0x0f {
			dst = append(dst, c)
		}
		return dst
	}
	if len(f.seq) > 0 && utf8.RuneStart(c) {
		dst = f.broken(dst)
	}
	f.seq = append(f.seq, c)
	if !utf8.FullRune(f.seq) {
		return dst
	}
	r, _ := utf8.DecodeRune(f.seq)
	n := len(f.seq)
	f.seq = f.seq[:0]
	switch {
	case r == utf8.RuneError: // invalid, or U+FFFD itself
		return utf8.AppendRune(dst, utf8.RuneError)
	case r >= 0x80 && r <= 0x9f && n == 2: // C1: U+009B is CSI to a terminal
		return dst
	case bidiOrTag(r): // reorders or hides text
		return dst
	}
	return utf8.AppendRune(dst, r)
}

// bidiOrTag reports runes that change how the text around them is read: bidirectional controls
// and invisible tags.
func bidiOrTag(r rune) bool {
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r >= 0xe0000 && r <= 0xe007f
}

// escape takes the bytes after ESC.
func (f *Filter) escape(dst []byte, c byte) []byte {
	switch {
	case c < 0x20 || c >= 0x7f: // broken: dropped, with the byte
		f.begin(ground)
	case c <= 0x2f: // intermediate
		if len(f.seq) >= 4 {
			f.over = true
		} else {
			f.seq = append(f.seq, c)
		}
	case len(f.seq) == 0 && c == '[':
		f.begin(csi)
	case len(f.seq) == 0 && bytes.IndexByte([]byte("]PX^_k"), c) >= 0: // OSC DCS SOS PM APC, title
		f.begin(str)
	default:
		charset := len(f.seq) == 1 && f.seq[0] >= '(' && f.seq[0] <= '+' && bytes.IndexByte([]byte("0AB"), c) >= 0
		plain := len(f.seq) == 0 && bytes.IndexByte([]byte("78=>DEHM"), c) >= 0
		if !f.over && (charset || plain) {
			dst = append(append(append(dst, esc), f.seq...), c)
		}
		f.begin(ground)
	}
	return dst
}

// control takes the bytes after ESC [.
func (f *Filter) control(dst []byte, c byte) []byte {
	switch {
	case c < 0x20 || c >= 0x7f:
		f.begin(ground)
	case c < 0x40: // parameter or intermediate
		if len(f.seq) >= maxSequence {
			f.over = true
		} else {
			f.seq = append(f.seq, c)
		}
	default:
		if !f.over {
			dst = f.emit(dst, c)
		}
		f.begin(ground)
	}
	return dst
}

// emit judges a complete control sequence: f.seq holds its parameters and intermediates.
func (f *Filter) emit(dst []byte, final byte) []byte {
	params, inter := f.seq, []byte(nil)
	if i := bytes.IndexFunc(f.seq, func(r rune) bool { return r < 0x30 }); i >= 0 {
		params, inter = f.seq[:i], f.seq[i:]
		if bytes.ContainsFunc(inter, func(r rune) bool { return r >= 0x30 }) {
			return dst // parameters after intermediates: no such sequence
		}
	}
	private := byte(0)
	if len(params) > 0 && params[0] >= 0x3c { // < = > ?
		private, params = params[0], params[1:]
	}
	if bytes.ContainsAny(params, "<=>?") {
		return dst
	}
	pass := false
	switch {
	case len(inter) == 1:
		// Cursor style; soft reset.
		pass = private == 0 && (inter[0] == ' ' && final == 'q' || inter[0] == '!' && final == 'p')
	case len(inter) > 1:
	case private == 0:
		pass = bytes.IndexByte([]byte("@ABCDEFGHIJKLMPSXZ`abdefgmrsu"), final) >= 0 ||
			final == 'T' && !bytes.ContainsRune(params, ';') || // with five parameters: mouse tracking
			(final == 'h' || final == 'l') && string(params) == "4"
	case private == '?' && (final == 'h' || final == 'l'):
		return f.modes(dst, params, final)
	case private == '?':
		pass = final == 'J' || final == 'K'
	case private == '>':
		pass = final == 'm' && bytes.HasPrefix(params, []byte("4")) // modified keys
	}
	if !pass {
		return dst
	}
	return append(append(append(dst, esc, '['), f.seq...), final)
}

// modes are the private modes that may be switched (xterm's ctlseqs).
var modes = []int{
	1, 5, 6, 7, 12, 25, 45, 69, // keys, colours, origin, wrap, cursor, margins
	47, 1047, 1048, 1049, // alternate screen
	9, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, // mouse and focus
	2004, 2026, // bracketed paste, synchronised output
}

// modes keeps the allowed ones of a list of private modes.
func (f *Filter) modes(dst, params []byte, final byte) []byte {
	var keep []int
	for p := range bytes.SplitSeq(params, []byte{';'}) {
		n := 0
		for _, c := range p {
			if c < '0' || c > '9' || n > 9999 {
				n = -1
				break
			}
			n = n*10 + int(c-'0')
		}
		if slices.Contains(modes, n) {
			keep = append(keep, n)
		}
	}
	for _, n := range keep {
		dst = fmt.Appendf(dst, "\x1b[?%d%c", n, final)
		f.on = slices.DeleteFunc(f.on, func(m int) bool { return m == n })
		if final == 'h' {
			f.on = append(f.on, n)
		}
	}
	return dst
}

// Reset returns what puts a terminal back after a program that ended in the middle: modes that
// are still on are switched off, the cursor is shown, colours, margins and character sets are
// the default ones.
func (f *Filter) Reset() []byte {
	out := []byte("\x1b[0m\x1b(B\x0f\x1b[4l\x1b>")
	if slices.Contains(f.on, 69) {
		out = append(out, "\x1b[?69l"...)
	}
	for _, m := range slices.Backward(f.on) {
		if m != 7 && m != 25 && m != 69 { // on by default, or done
			out = fmt.Appendf(out, "\x1b[?%dl", m)
		}
	}
	f.on = nil
	f.begin(ground)
	return append(out, "\x1b[?7h\x1b[?25h\x1b[>4m"...)
}
