// Package text holds the one sanitiser: everything that comes out of a container, a repository
// or the network passes it before a person sees it.
//
// It defends against terminal escape sequences, markup, look-alike and right-to-left characters
// and endless strings: what comes out is printable, of bounded length, and never parsed back.
// There are five ways through it. For names, paths, hosts, refs and code, which are judged:
//
//   - Line for names and notices: what is not printable ASCII becomes a space;
//   - Show for one line in which nothing may be lost (authors, paths): what is not printable
//     ASCII becomes a visible escape such as \u{202e};
//   - Block for diffs and logs: Show line by line, newlines and tabs kept.
//
// For prose, which is read (an agent's words, commit messages, reasons), in any language:
//
//   - Prose for one line, ProseBlock for several: what is invisible, reorders text, moves the
//     cursor or floods becomes a visible escape, every other character is shown.
//
// Nothing here may be used to make a string safe for a shell, a path or markup.
package text

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLine is the default cap of a sanitised line, in bytes.
const MaxLine = 256

// MaxShow is the cap of a line made by Show, in bytes.
const MaxShow = 4096

// Line returns s as one line of printable ASCII (0x20–0x7E) of at most max bytes. Every other
// rune becomes one space, and a cut is shown by "...". A max below 4 means MaxLine.
func Line(s string, max int) string {
	if max < 4 {
		max = MaxLine
	}
	var b strings.Builder
	b.Grow(min(len(s), max+1))
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

// Show returns s as one line of printable ASCII of at most MaxShow bytes in which every other
// character is visible: \n, \r, \t, \xNN for control characters and bytes that are not UTF-8,
// \u{XXXX} for everything beyond ASCII, letters included, since look-alikes are letters. A
// backslash stays as it is: the result is for eyes, not for parsers. A cut is shown by a marker
// that tells how many bytes of s are missing.
func Show(s string) string { return escape(s, MaxShow, strict{}) }

// Block is Show for text of several lines, such as a diff or a log: newlines and tabs are kept,
// a carriage return is visible. At most maxLines lines of at most maxLine bytes each come out,
// plus one line that says how many are missing. Values below 1 mean 1000 lines and MaxShow bytes.
func Block(s string, maxLines, maxLine int) string {
	return block(s, maxLines, maxLine, func(line string, max int) string { return escape(line, max, strict{tabs: true}) })
}

func block(s string, maxLines, maxLine int, show func(line string, max int) string) string {
	if maxLines < 1 {
		maxLines = 1000
	}
	if maxLine < 1 {
		maxLine = MaxShow
	}
	maxLine = atLeast(maxLine)
	var b strings.Builder
	for n := 0; s != ""; n++ {
		if n == maxLines {
			rest := strings.Count(s, "\n")
			if !strings.HasSuffix(s, "\n") {
				rest++
			}
			fmt.Fprintf(&b, "[%d more lines]\n", rest)
			break
		}
		line, rest, found := strings.Cut(s, "\n")
		b.WriteString(show(line, maxLine))
		if found {
			b.WriteByte('\n')
		}
		s = rest
	}
	return b.String()
}

// minShow leaves room for the marker of a cut.
const minShow = 48

func atLeast(n int) int { return max(n, minShow) }

// rules say how the character r, the first n bytes of s, is shown; s goes on to the end of the text.
type rules interface {
	char(s string, r rune, n int) string
}

// strict shows printable ASCII.
type strict struct{ tabs bool }

func (o strict) char(s string, r rune, n int) string {
	if r >= 0x20 && r <= 0x7e || r == '\t' && o.tabs {
		return s[:n]
	}
	return code(s, r, n)
}

// escape shows s in at most max bytes (max ≥ minShow). It looks at no more of s than it needs.
func escape(s string, max int, how rules) string {
	var b strings.Builder
	b.Grow(min(len(s), max))
	fits := 0 // length of the output that still leaves room for the marker
	left := 0 // bytes of s behind that point
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		e := how.char(s[i:], r, n)
		if b.Len()+len(e) > max {
			return b.String()[:fits] + fmt.Sprintf("...[%d bytes cut]", left)
		}
		b.WriteString(e)
		i += n
		if b.Len() <= max-minShow+8 {
			fits, left = b.Len(), len(s)-i
		}
	}
	return b.String()
}
