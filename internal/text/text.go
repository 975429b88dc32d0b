// Package text holds the one sanitiser: everything that comes out of a container, a repository
// or the network passes it before a person sees it.
//
// It defends against terminal escape sequences, markup, look-alike and right-to-left characters
// and endless strings: what comes out is printable ASCII of bounded length, never parsed back.
package text

import "strings"

// MaxLine is the default cap of a sanitised line, in bytes.
const MaxLine = 256

// Line returns s as one line of printable ASCII (0x20–0x7E) of at most max bytes. Every other
// rune becomes one space, and a cut is shown by "...". A max below 4 means MaxLine.
func Line(s string, max int) string {
	if max < 4 {
		max = MaxLine
	}
	var b strings.Builder
	for _, r := range s {
		if b.Len() > max {
			break
		}
		if r < 0x20 || r > 0x7e {
			r = ' '
		}
		b.WriteByte(byte(r))
	}
	out := b.String()
	if len(out) > max {
		out = out[:max-3] + "..."
	}
	return out
}
