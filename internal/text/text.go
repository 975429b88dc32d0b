// Package text holds the one sanitiser: everything that comes out of a container, a repository
// or the network passes it before a person sees it.
//
// It defends against terminal escape sequences, markup, look-alike and right-to-left characters
// and endless strings: what comes out is printable ASCII of bounded length, never parsed back.
// There are three ways through it:
//
//   - Line for names and notices: what is not printable ASCII becomes a space;
//   - Show for one line in which nothing may be lost (subjects, authors, paths): what is not
//     printable ASCII becomes a visible escape such as \u{202e};
//   - Block for diffs and logs: Show line by line, newlines and tabs kept.
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
func Show(s string) string { return show(s, MaxShow, false) }

// Block is Show for text of several lines, such as a diff or a log: newlines and tabs are kept,
// a carriage return is visible. At most maxLines lines of at most maxLine bytes each come out,
// plus one line that says how many are missing. Values below 1 mean 1000 lines and MaxShow bytes.
func Block(s string, maxLines, maxLine int) string {
	if maxLines < 1 {
		maxLines = 1000
	}
	if maxLine < 1 {
		maxLine = MaxShow
	}
	maxLine = max(maxLine, minShow)
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
		b.WriteString(show(line, maxLine, true))
		if found {
			b.WriteByte('\n')
		}
		s = rest
	}
	return b.String()
}

// minShow leaves room for the marker of a cut.
const minShow = 48

// show escapes s into at most max bytes (max ≥ minShow). It looks at no more of s than it needs.
func show(s string, max int, tabs bool) string {
	var b strings.Builder
	b.Grow(min(len(s), max))
	fits := 0 // length of the output that still leaves room for the marker
	left := 0 // bytes of s behind that point
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		var e string
		switch {
		case r >= 0x20 && r <= 0x7e:
			e = s[i : i+1]
		case r == '\t' && tabs:
			e = "\t"
		case r == '\n':
			e = `\n`
		case r == '\r':
			e = `\r`
		case r == '\t':
			e = `\t`
		case r < 0x80:
			e = fmt.Sprintf(`\x%02x`, r)
		case r == utf8.RuneError && n == 1:
			e = fmt.Sprintf(`\x%02x`, s[i])
		default:
			e = fmt.Sprintf(`\u{%x}`, r)
		}
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
