package cli

import (
	"fmt"
	"strconv"
	"strings"

	"terok"
	"terok/internal/gate/review"
	"terok/internal/text"
)

// A diff is drawn from printable strings only; every colour is ours. On a terminal each file has a
// bar, lines have their numbers, and what changed within a line stands out; elsewhere it is a plain
// unified diff.

// painter colours, or does not.
type painter struct {
	color bool
	width int  // cells of the terminal
	fancy bool // a person looks: bars, numbers of lines
	drawn bool // the diff was drawn by delta
}

func (p painter) paint(code, s string) string {
	if !p.color || s == "" || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string  { return p.paint("1", s) }
func (p painter) faint(s string) string { return p.paint("2", s) }

// Colours of a diff: the line, and the part of it that changed.
const (
	addLine, addPart = "32", "32;1;7"
	delLine, delPart = "31", "31;1;7"
)

// files draws the diffs of files.
func (p painter) files(b *strings.Builder, files []terok.ReviewFile, word bool) {
	for _, f := range files {
		p.fileBar(b, f)
		if f.TooLarge > 0 {
			b.WriteString(p.paint("33", "  "+tooLarge(f)) + "\n")
		} else if f.Binary {
			b.WriteString(p.faint("  binary") + "\n")
		}
		p.hunks(b, f.Patch, word)
		p.cut(b, f.Cut)
		if t := f.LFS; t.Shown() {
			p.bar(b, "── "+f.Path+review.InLFS+" ", t.Insertions, t.Deletions)
			if t.Whole {
				b.WriteString(p.faint("  "+review.WholeLFS) + "\n")
			}
			p.hunks(b, t.Patch, word)
			p.cut(b, t.Cut)
		}
	}
}

func (p painter) cut(b *strings.Builder, cut bool) {
	if cut {
		b.WriteString(p.paint("33", "  [too large to show whole]") + "\n")
	}
}

// tooLarge says why there is no diff of a file.
func tooLarge(f terok.ReviewFile) string {
	return fmt.Sprintf("too large to show (%d MiB)", (f.TooLarge+1<<20-1)>>20)
}

// fileBar is the headline of one file.
func (p painter) fileBar(b *strings.Builder, f terok.ReviewFile) {
	what := map[string]string{"A": "new", "D": "deleted", "T": "type changed"}[f.Status]
	if f.OldMode != f.NewMode && f.Status == "M" {
		what = "mode " + f.OldMode + " → " + f.NewMode
	}
	if what == "new" && f.NewMode == "100755" {
		what = "new, executable"
	}
	if f.NewMode == "120000" {
		what = strings.TrimSpace(what + " symbolic link")
	}
	head := "── " + f.Path + " "
	if what != "" {
		head += "(" + what + ") "
	}
	p.bar(b, head, f.Insertions, f.Deletions)
}

func (p painter) bar(b *strings.Builder, head string, insertions, deletions int) {
	ins, del := fmt.Sprintf("+%d", insertions), fmt.Sprintf("−%d", deletions)
	rule := max(p.width-text.Width(head)-len(ins+" "+del)-1, 2)
	fmt.Fprintf(b, "\n%s%s %s\n", p.paint("1;36", head), p.faint(strings.Repeat("─", rule)), p.paint(addLine, ins)+" "+p.paint(delLine, del))
}

// hunks draws the hunks of one file with the numbers of their lines.
func (p painter) hunks(b *strings.Builder, patch string, word bool) {
	lines := strings.Split(strings.TrimSuffix(patch, "\n"), "\n")
	if patch == "" {
		return
	}
	before, after := 0, 0
	digits := len(strconv.Itoa(highest(lines)))
	gutter := func(a, z string) string { return p.faint(fmt.Sprintf("%*s %*s │ ", digits, a, digits, z)) }
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "@@"):
			before, after = hunkStart(line)
			b.WriteString(p.paint("36", line) + "\n")
		case strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+"):
			var removed, added []string
			for ; i < len(lines) && strings.HasPrefix(lines[i], "-"); i++ {
				removed = append(removed, lines[i][1:])
			}
			marker := i < len(lines) && strings.HasPrefix(lines[i], `\`)
			if marker {
				i++
			}
			for ; i < len(lines) && strings.HasPrefix(lines[i], "+"); i++ {
				added = append(added, lines[i][1:])
			}
			i--
			p.block(b, removed, added, &before, &after, gutter, word)
		case strings.HasPrefix(line, `\`):
			b.WriteString(p.faint("  "+strings.TrimSpace(line[1:])) + "\n")
		default:
			b.WriteString(gutter(strconv.Itoa(before), strconv.Itoa(after)) + " " + strings.TrimPrefix(line, " ") + "\n")
			before, after = before+1, after+1
		}
	}
}

// block draws lines that were removed and lines that stand in their place.
func (p painter) block(b *strings.Builder, removed, added []string, before, after *int, gutter func(a, z string) string, word bool) {
	if word && len(removed) > 0 && len(added) > 0 {
		for _, line := range p.words(strings.Join(removed, "\n"), strings.Join(added, "\n")) {
			b.WriteString(gutter("", strconv.Itoa(*after)) + " " + line + "\n")
			*after++
		}
		*before += len(removed)
		return
	}
	paired := len(removed) == len(added)
	for n, line := range removed {
		if paired {
			line, _ = p.emphasise(line, added[n])
		} else {
			line = p.paint(delLine, line)
		}
		b.WriteString(gutter(strconv.Itoa(*before), "") + p.paint(delLine, "-") + line + "\n")
		*before++
	}
	for n, line := range added {
		if paired {
			_, line = p.emphasise(removed[n], line)
		} else {
			line = p.paint(addLine, line)
		}
		b.WriteString(gutter("", strconv.Itoa(*after)) + p.paint(addLine, "+") + line + "\n")
		*after++
	}
}

// emphasise colours two lines, the parts that differ more than the rest. Lines that have little in
// common are coloured evenly.
func (p painter) emphasise(a, z string) (string, string) {
	if !p.color {
		return a, z
	}
	parts := wordDiff(a, z)
	same := 0
	for _, part := range parts {
		if part.op == ' ' {
			same += len(strings.TrimSpace(part.text))
		}
	}
	if 3*same < max(len(a), len(z)) || len(parts) > 200 {
		return p.paint(delLine, a), p.paint(addLine, z)
	}
	var left, right strings.Builder
	for _, part := range parts {
		switch part.op {
		case ' ':
			left.WriteString(p.paint(delLine, part.text))
			right.WriteString(p.paint(addLine, part.text))
		case '-':
			left.WriteString(p.paint(delPart, part.text))
		case '+':
			right.WriteString(p.paint(addPart, part.text))
		}
	}
	return left.String(), right.String()
}

// words draws a change word by word: without colours what went is in [-…-] and what came in {+…+},
// as git-diff(1) --word-diff has it.
func (p painter) words(a, z string) []string {
	var b strings.Builder
	for _, part := range wordDiff(a, z) {
		for i, piece := range strings.Split(part.text, "\n") {
			if i > 0 && part.op != '-' {
				b.WriteByte('\n')
			} else if i > 0 {
				b.WriteByte(' ')
			}
			switch {
			case piece == "":
			case part.op == '-' && p.color:
				b.WriteString(p.paint(delLine+";9", piece))
			case part.op == '+' && p.color:
				b.WriteString(p.paint(addLine+";1", piece))
			case part.op == '-':
				b.WriteString("[-" + piece + "-]")
			case part.op == '+':
				b.WriteString("{+" + piece + "+}")
			default:
				b.WriteString(piece)
			}
		}
	}
	return strings.Split(b.String(), "\n")
}

// part is a run of text that stayed (' '), went ('-') or came ('+').
type part struct {
	op   byte
	text string
}

// maxWords bounds the comparison, which is quadratic.
const maxWords = 2000

// wordDiff compares two texts word by word by their longest common subsequence.
func wordDiff(a, z string) []part {
	x, y := tokens(a), tokens(z)
	if len(x) > maxWords || len(y) > maxWords {
		return []part{{'-', a}, {'+', z}}
	}
	head := 0
	for head < len(x) && head < len(y) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(x)-head && tail < len(y)-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	m, n := x[head:len(x)-tail], y[head:len(y)-tail]
	// longest[i][j] is the length of the common subsequence of m[i:] and n[j:].
	longest := make([][]int16, len(m)+1)
	for i := range longest {
		longest[i] = make([]int16, len(n)+1)
	}
	for i := len(m) - 1; i >= 0; i-- {
		for j := len(n) - 1; j >= 0; j-- {
			if m[i] == n[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	var out []part
	add := func(op byte, s string) {
		if s == "" {
			return
		}
		if len(out) > 0 && out[len(out)-1].op == op {
			out[len(out)-1].text += s
			return
		}
		out = append(out, part{op, s})
	}
	add(' ', strings.Join(x[:head], ""))
	i, j := 0, 0
	for i < len(m) || j < len(n) {
		switch {
		case i < len(m) && j < len(n) && m[i] == n[j]:
			add(' ', m[i])
			i, j = i+1, j+1
		case j == len(n) || i < len(m) && longest[i+1][j] >= longest[i][j+1]:
			add('-', m[i])
			i++
		default:
			add('+', n[j])
			j++
		}
	}
	add(' ', strings.Join(x[len(x)-tail:], ""))
	return out
}

// tokens are words, runs of blanks, and single other characters.
func tokens(s string) []string {
	var out []string
	kind := func(c byte) int {
		switch {
		case c == ' ' || c == '\t':
			return 1
		case c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
			return 2
		}
		return 0
	}
	for start := 0; start < len(s); {
		end := start + 1
		if k := kind(s[start]); k > 0 {
			for end < len(s) && kind(s[end]) == k {
				end++
			}
		}
		out = append(out, s[start:end])
		start = end
	}
	return out
}

// hunkStart reads "@@ -A,B +C,D @@".
func hunkStart(line string) (before, after int) {
	_, _ = fmt.Sscanf(numbers(line, '-'), "%d", &before)
	_, _ = fmt.Sscanf(numbers(line, '+'), "%d", &after)
	return before, after
}

func numbers(line string, mark byte) string {
	i := strings.IndexByte(line, mark)
	if i < 0 {
		return "0"
	}
	end := i + 1
	for end < len(line) && line[end] >= '0' && line[end] <= '9' && end < i+10 {
		end++
	}
	return line[i+1 : end]
}

func highest(lines []string) int {
	most := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "@@") {
			before, after := hunkStart(line)
			most = max(most, before, after)
		}
	}
	return most + len(lines)
}
