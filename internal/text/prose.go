package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Prose is Show for what people write to people: an agent's words, commit messages, reasons. The
// letters, digits, punctuation and symbols of every script are shown as they are, emoji included.
// Visible escapes stand for everything that could deceive the reader or disturb the terminal:
// control characters, bidirectional controls, line and paragraph separators, characters that are
// invisible or have no width, variation selectors, private use, unassigned code points, marks
// without a base and more marks than a letter has in any language.
//
// Three things are told by their surroundings. Space characters become a space. The selector and
// the joiner of an emoji are left out, so that its parts are shown one by one. The joiners that
// Persian, Hindi and their relatives need inside words stay.
//
// A letter may look like one of another script: Prose is never for names, paths, hosts or refs.
// A max below 1 means MaxShow bytes.
func Prose(s string, max int) string {
	if max < 1 {
		max = MaxShow
	}
	return escape(s, atLeast(max), &prose{})
}

// ProseBlock is Block for prose.
func ProseBlock(s string, maxLines, maxLine int) string {
	return block(s, maxLines, maxLine, func(line string, max int) string { return escape(line, max, &prose{tabs: true}) })
}

// maxMarks is how many marks may follow each other. Vietnamese needs two, Hebrew three, Tibetan
// and the scripts of India up to five.
const maxMarks = 5

// prose remembers what it takes to judge the next character.
type prose struct {
	tabs     bool
	prev     rune // the character before, 0 at the start and after an escape
	marks    int  // that follow each other, up to prev
	selected bool // prev had its selector
}

func (p *prose) char(s string, r rune, n int) string {
	shown := s[:n]
	mark, selected := isMark(r), p.selected
	p.selected = false
	switch {
	case r == '\t' && p.tabs:
		p.prev, p.marks = ' ', 0
		return shown
	case mark && p.based() && p.marks < maxMarks && !invisible(r):
		p.marks++
		p.prev = r
		return shown
	case unicode.Is(unicode.Zs, r):
		p.prev, p.marks = ' ', 0
		return " "
	case r == 0xfe0e || r == 0xfe0f:
		if pictorial(p.prev) && !selected {
			p.selected = true
			return ""
		}
	case r == 0x200d && pictorial(p.prev) && pictorial(next(s[n:])):
		p.prev, p.marks = ' ', 0
		return ""
	case (r == 0x200c || r == 0x200d) && joins(p.prev) && joins(next(s[n:])) && !isMark(next(s[n:])):
		p.prev, p.marks = ' ', 0
		return shown
	case !mark && unicode.IsPrint(r) && !invisible(r) && (r != utf8.RuneError || n > 1) && r != 0xfffd && r != 0xfffc:
		p.prev, p.marks = r, 0
		return shown
	}
	p.prev, p.marks = 0, 0
	return code(s, r, n)
}

// based reports whether a mark may follow.
func (p *prose) based() bool {
	return unicode.In(p.prev, unicode.L, unicode.N, unicode.M, unicode.So) || p.prev == '#' || p.prev == '*' || isMark(p.prev)
}

// isMark reports whether r is drawn onto what is before it. The vowels and final consonants of
// Hangul that are written apart are letters for Unicode and marks for a terminal.
func isMark(r rune) bool {
	return unicode.Is(unicode.M, r) || r >= 0x1160 && r <= 0x11ff || r >= 0xd7b0 && r <= 0xd7ff
}

// invisible are printable characters that nobody can see.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == 0x2800 || r == 0x1d159
}

// pictorial characters may be followed by an emoji's selector or joiner.
func pictorial(r rune) bool {
	switch {
	case r < 0x80:
		return r >= '0' && r <= '9' || r == '#' || r == '*'
	case r == 0x203c, r == 0x2049: // exclamation marks
		return true
	}
	return unicode.In(r, unicode.So, unicode.Sm, unicode.Sk, unicode.Me) && r != utf8.RuneError
}

// joins reports whether r belongs to a script that writes joiners inside words.
func joins(r rune) bool {
	return unicode.In(r, unicode.Arabic, unicode.Syriac, unicode.Mongolian, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi,
		unicode.Gujarati, unicode.Oriya, unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Khmer,
		unicode.Myanmar, unicode.Tibetan, unicode.Inherited) && unicode.In(r, unicode.L, unicode.M)
}

func next(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// code is the visible escape of a character that is not shown.
func code(s string, r rune, n int) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < 0x80:
		return fmt.Sprintf(`\x%02x`, r)
	case r == utf8.RuneError && n == 1:
		return fmt.Sprintf(`\x%02x`, s[0])
	}
	return fmt.Sprintf(`\u{%x}`, r)
}

// Width is how many cells of a terminal a string of this package takes, tabs counted as one.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += cells(r)
	}
	return n
}

func cells(r rune) int {
	switch {
	case r >= 0x20 && r < 0x7f:
		return 1
	case r == 0x200c || r == 0x200d, isMark(r) && !unicode.Is(unicode.Mc, r):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Fit cuts a line of prose to at most limit cells; a cut is shown by "...". A limit below 4 is 4.
func Fit(s string, limit int) string {
	limit = max(limit, 4)
	used, keep := 0, 0 // keep: length that leaves room for the dots
	for i, r := range s {
		w := cells(r)
		if used+w > limit {
			return s[:keep] + "..."
		}
		if used += w; used <= limit-3 {
			keep = i + utf8.RuneLen(r)
		}
	}
	return s
}

// Wrap breaks prose into lines of at most cells, at spaces and between wide characters; a word that
// is longer stays whole. Lines but the first begin with hang spaces. Spaces at the ends of lines go.
func Wrap(s string, limit, hang int) string {
	hang = min(max(hang, 0), max(limit/2, 0))
	var b strings.Builder
	start, used := 0, 0    // of the line: first byte, cells so far
	cut, wide := -1, false // where the line may be broken; whether the character before is wide
	for i, r := range s {
		w := cells(r)
		if i > start && w > 0 && (r == ' ' || w == 2 || wide) && strings.Trim(s[start:i], " ") != "" {
			cut = i
		}
		if used+w > limit && cut > start && r != ' ' {
			b.WriteString(strings.TrimRight(s[start:cut], " ") + "\n" + strings.Repeat(" ", hang))
			rest := strings.TrimLeft(s[cut:i], " ")
			start = i - len(rest)
			used, cut = hang+Width(rest), -1
		}
		used += w
		if w > 0 {
			wide = w == 2
		}
	}
	return b.String() + strings.TrimRight(s[start:], " ")
}
