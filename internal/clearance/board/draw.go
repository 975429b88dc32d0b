package board

import (
	"errors"
	"fmt"
	"strings"

	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/text"
)

// Style is how a line looks; there are no colours, so NO_COLOR changes nothing.
type Style uint8

// Styles.
const (
	Plain Style = iota
	Title
	Selected
	Faint
)

// Line is one line of the board: printable ASCII, no longer than the width that was asked for.
type Line struct {
	Text  string
	Style Style
}

// ProblemText is an error for people, with its cure.
func ProblemText(err error) string {
	p := problem.Of(err)
	s := text.Line(p.Message, 200)
	if refusal, ok := errors.AsType[*control.Error](err); ok {
		s = text.Line(refusal.Message, 200)
	}
	if p.Hint != "" {
		s += " -> " + text.Line(p.Hint, 120)
	}
	return s
}

// Frame draws the board into at most rows lines of cols characters. fill makes it exactly rows
// lines. What it shows counts as seen from now on.
func (b *Board) Frame(rows, cols int, fill bool) []Line {
	cols = max(cols, 8)
	if rows < 1 {
		return nil
	}
	c := canvas{cols: cols}
	c.add(Title, b.title(cols))
	foot := b.foot(cols, rows)
	room := max(rows-1-len(foot.lines), 0)
	var body []Line
	shown := false
	switch b.mode {
	case details:
		body, shown = b.detail(cols).lines, true
	case helping:
		body = b.help(cols).lines
	default:
		body, shown = b.list(room, cols)
	}
	if len(body) > room {
		body = body[:room]
		if room > 0 {
			body[room-1] = Line{fit("... (the terminal is too small for all of it)", cols), Faint}
		}
	}
	c.lines = append(c.lines, body...)
	if fill {
		for len(c.lines) < rows-len(foot.lines) {
			c.add(Plain, "")
		}
	}
	c.lines = append(c.lines, foot.lines...)
	if len(c.lines) > rows {
		c.lines = c.lines[:rows]
	}
	if shown {
		b.painted()
	}
	return c.lines
}

// canvas collects lines.
type canvas struct {
	cols  int
	lines []Line
}

func (c *canvas) add(s Style, t string) { c.lines = append(c.lines, Line{fit(t, c.cols), s}) }

// wrap adds t on as many lines as it needs, at most max.
func (c *canvas) wrap(s Style, t string, indent, max int) {
	for n := 0; n < max; n++ {
		width := c.cols
		pad := ""
		if n > 0 {
			pad = strings.Repeat(" ", min(indent, c.cols/3))
			width -= len(pad)
		}
		if len(t) <= width {
			c.add(s, pad+t)
			return
		}
		cut := width
		if i := strings.LastIndexByte(t[:width], ' '); i > width/2 {
			cut = i
		}
		if n == max-1 {
			c.add(s, pad+fit(t, width))
			return
		}
		c.add(s, pad+t[:cut])
		t = strings.TrimLeft(t[cut:], " ")
	}
}

// fit cuts to width; everything before it is sanitised already, and is once more.
func fit(s string, width int) string {
	if len(s) <= width && printable(s) {
		return s
	}
	if width < 4 {
		return text.Line(s, text.MaxLine)[:min(len(s), max(width, 0))]
	}
	return text.Line(s, width)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func (b *Board) title(cols int) string {
	waiting := b.Waiting()
	what := "nothing waits"
	if waiting > 0 {
		what = fmt.Sprintf("%d waiting", waiting)
	}
	name := text.Line(b.name, 64)
	if b.own != "" {
		if b.others > 0 {
			what += fmt.Sprintf(", %d in other tasks", b.others)
		}
		return "terok  " + what + "  " + name
	}
	left := "terok  " + name + "  " + what
	if b.filter != "" || b.mode == filtering {
		left += fmt.Sprintf("  /%s (%d)", b.filter, len(b.rows))
	}
	right := fmt.Sprintf("%d tasks  %s", len(b.state.Tasks), Clock(b.now()))
	if len(b.state.Tasks) == 1 {
		right = "1 task" + strings.TrimPrefix(right, "1 tasks")
	}
	if gap := cols - len(left) - len(right); gap >= 2 {
		return left + strings.Repeat(" ", gap) + right
	}
	return left
}

// list draws the requests and, on the screen, what was decided. shown tells that the selected
// row is on it.
func (b *Board) list(room, cols int) (lines []Line, shown bool) {
	c := canvas{cols: cols}
	if len(b.rows) == 0 {
		switch {
		case b.filter != "":
			c.add(Plain, "no request matches the filter; Esc clears it")
		case b.own != "":
			c.add(Plain, "no blocked connections")
		case len(b.state.Tasks) == 0:
			c.add(Plain, "no task is running; start one with: terok run claude")
		default:
			c.add(Plain, "no blocked connections")
		}
	} else {
		if room > 4 {
			c.add(Faint, b.row(cols, columns{mark: " ", time: "TIME", task: "TASK", host: "TARGET", port: "PORT", source: "SOURCE", count: "COUNT", age: "AGE"}))
			room--
		}
		space := max(room, 1)
		first := 0
		if at := b.at(); at >= space {
			first = at - space + 1
		}
		for i := first; i < len(b.rows) && i-first < space; i++ {
			style := Plain
			mark := " "
			if rowID(b.rows[i]) == b.sel {
				style, mark, shown = Selected, ">", true
			}
			c.add(style, b.row(cols, b.columns(b.rows[i], mark)))
		}
		room -= min(len(b.rows), space)
	}
	if b.own != "" || room < 4 {
		return c.lines, shown
	}
	if n := min(room-2, len(b.state.Decided), 12); n > 0 {
		c.add(Plain, "")
		for i := len(b.state.Decided) - 1; i >= len(b.state.Decided)-n; i-- {
			d := b.state.Decided[i]
			at := d.LastSeen
			if d.Decision != nil {
				at = d.Decision.At
			}
			c.add(Faint, fmt.Sprintf("  %s %s  %s: %s", Clock(at), Task(d), Target(d), Outcome(d)))
		}
	}
	return c.lines, shown
}

type columns struct{ mark, time, task, host, port, source, count, age string }

func (b *Board) columns(r control.Request, mark string) columns {
	host := Host(r)
	if r.Proto != "" && r.Proto != "tcp" {
		host += "/" + text.Line(r.Proto, 8)
	}
	return columns{mark, Clock(r.FirstSeen), Task(r), host, fmt.Sprint(r.Port), Source(r), fmt.Sprint(r.Count), Age(b.now().Sub(r.FirstSeen))}
}

// row lays out one request: time, task, target, port, source, count, age; narrow terminals drop
// what the person needs least. The target is cut from the left.
func (b *Board) row(cols int, v columns) string {
	task := ""
	if b.own == "" {
		width := min(max(cols/5, 8), 20)
		task = fmt.Sprintf("%-*s ", width, Tail(v.task, width))
	}
	var left, right string
	switch {
	case cols >= 70:
		left = fmt.Sprintf("%s %-8s %s", v.mark, v.time, task)
		right = fmt.Sprintf(" %5s %-7s %5s %4s", v.port, v.source, v.count, v.age)
	case cols >= 36:
		left = v.mark + " " + task
		right = fmt.Sprintf(" %5s %5s %4s", v.port, v.count, v.age)
	default:
		left, right = v.mark+" ", " "+v.port
	}
	width := max(cols-len(left)-len(right), 4)
	return fmt.Sprintf("%s%-*s%s", left, width, Tail(v.host, width), right)
}

// foot is what stands below the list: the question or the last result, the selected target in
// full, the keys.
func (b *Board) foot(cols, rows int) *canvas {
	c := &canvas{cols: cols}
	small := rows < 12
	i := b.at()
	if b.mode == listing || b.mode == asking {
		if i >= 0 {
			r := b.rows[i]
			about := Target(r)
			if d := Domain(r); d != "" && d != Host(r) {
				about += " (of " + d + ")"
			}
			if !small {
				about += "  " + Why(r)
				if r.Held > 0 {
					about += fmt.Sprintf(", %d held open", r.Held)
				}
				if who := Process(r); who != "" {
					about += ", by " + who
				}
				if risks := Risks(r); risks != "" {
					about += "  ! " + risks
				}
				if why := Reason(r); why != "" {
					about += "  the agent says (not to be trusted): " + why
				}
			}
			c.wrap(Plain, about, 2, max(min(rows/3, 5), 1))
		}
	}
	switch {
	case b.mode == filtering:
		c.add(Selected, "filter: "+b.filter+"_  (Enter keeps it, Esc clears it)")
		return c
	case b.mode == asking && i >= 0:
		c.wrap(Selected, Grant(b.rows[i], b.ask)+"?  y does it, any other key does not", 2, 3)
		return c
	case b.note != "":
		c.wrap(Selected, b.note, 2, 2)
	}
	b.hints(c, small)
	return c
}

// hints are the keys that do something now, on as few lines as they fit.
func (b *Board) hints(c *canvas, small bool) {
	var keys []string
	if i := b.at(); i >= 0 {
		for _, ch := range choices {
			for _, can := range b.rows[i].Choices {
				if can == ch.choice {
					keys = append(keys, ch.hint)
				}
			}
		}
		if b.mode != details {
			keys = append(keys, "Enter details")
		}
	}
	if b.last != nil && b.now().Sub(b.since) <= UndoWithin {
		keys = append(keys, "u undo")
	}
	switch {
	case b.mode == details || b.mode == helping:
		keys = append(keys, "q back")
	case b.own != "":
		keys = append(keys, "d detach (it goes on)", "q back")
		if !small {
			keys = append(keys, "^Q give Ctrl-q to the container")
		}
	default:
		keys = append(keys, "/ filter", "? help", "q quit")
	}
	line := ""
	for _, k := range keys {
		switch {
		case line == "":
			line = k
		case len(line)+3+len(k) > c.cols:
			c.add(Faint, line)
			line = k
		default:
			line += "   " + k
		}
	}
	c.add(Faint, line)
}

func (b *Board) detail(cols int) *canvas {
	c := &canvas{cols: cols}
	i := b.at()
	if i < 0 {
		return c
	}
	r := b.rows[i]
	row := func(k, v string) {
		if v != "" {
			c.wrap(Plain, fmt.Sprintf("%-9s %s", k, v), 10, 5)
		}
	}
	row("target", Target(r))
	row("domain", Domain(r))
	row("task", Task(r))
	row("because", Why(r))
	row("name from", Source(r))
	row("risk", Risks(r))
	if why := Reason(r); why != "" {
		row("reason", why+" (the agent's words, not to be trusted)")
	}
	if who := Process(r); who != "" {
		row("process", who+" (its own name for itself; of the first attempt)")
	}
	row("attempts", fmt.Sprintf("%d since %s, the last at %s, %d held open", r.Count, Clock(r.FirstSeen), Clock(r.LastSeen), r.Held))
	row("tier", text.Line(r.Tier, 40))
	if r.Decision != nil {
		row("before", Outcome(r))
	}
	for _, ch := range choices {
		for _, can := range r.Choices {
			if can == ch.choice {
				row(string(rune(ch.key)), Grant(r, can))
			}
		}
	}
	row("else", "without an answer it is refused; it leaves this list at "+Clock(r.ExpiresAt))
	return c
}

func (b *Board) help(cols int) *canvas {
	c := &canvas{cols: cols}
	for _, l := range []string{
		"up down j k g G   select a request; nothing is answered that is not selected",
		"a   allow this target until the task is deleted",
		"o   allow it for 15 minutes",
		"p   allow it in every task of the project: written into project.yml",
		"w   allow the name and all names below it, for the task",
		"x   deny, and do not ask again for an hour   (also d in terok clearance)",
		"X   deny always                              (also D in terok clearance)",
		"u   take the last verdict back, for ten seconds",
		"Enter   details   / filter   q back",
	} {
		c.wrap(Plain, l, 4, 3)
	}
	return c
}
