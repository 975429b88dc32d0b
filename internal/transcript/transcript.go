// Package transcript turns what a headless agent prints into something a person can follow while
// it runs, and into a summary at the end.
//
// Its input is the container's log: JSON Lines of the agent, mixed with whatever else was
// printed, all of it hostile. The guarantees: memory is bounded (one line of at most MaxLine
// bytes); every byte that comes out was made here or passed the sanitiser of package text; one
// event prints a bounded number of lines; no input makes it fail. What it does not know it
// leaves out; the raw log has it.
//
// A Summary is what the agent says of itself. A hostile one can say anything there: it is for
// reading, and nothing may be decided by it. Tokens that were really spent are in the ledger.
//
//	t := transcript.New(os.Stderr, agent.Stream, transcript.Options{Width: 100})
//	err := podman.Logs(ctx, id, true, t)
//	t.Close()
//	fmt.Println(t.Summary().Usage())
package transcript

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"terok/internal/text"
)

// Bounds of what is taken and shown.
const (
	MaxLine    = 4 << 20 // a longer line of the log is left out, in bytes
	maxProse   = 400     // lines of one text
	maxPlain   = 500     // bytes of a line that is not the agent's JSON
	maxInput   = 200     // bytes of a tool's input
	maxFailure = 3       // lines of a failed tool's output
	maxResult  = 64 << 10
)

// Options say how to print. The zero value prints 100 columns without colour.
type Options struct {
	Width int  // columns; below 40 means 100
	Color bool // ANSI colours, by us: none of the input's get through
}

// Summary is what the agent reported at its end.
type Summary struct {
	Complete     bool    `json:"complete"` // the agent sent its closing report
	Result       string  `json:"result"`   // sanitised, at most 64 KiB
	IsError      bool    `json:"is_error"`
	Session      string  `json:"session,omitempty"`
	Model        string  `json:"model,omitempty"`
	Turns        int64   `json:"turns"`
	ToolCalls    int64   `json:"tool_calls"`
	ToolFailures int64   `json:"tool_failures"`
	InputTokens  int64   `json:"input_tokens"` // cached ones included
	OutputTokens int64   `json:"output_tokens"`
	CostUSD      float64 `json:"cost_usd"` // list price, as the agent computed it
	DurationMS   int64   `json:"duration_ms"`
}

// Usage is the part of the closing line about tokens and cost, e.g. "118 k tokens, $0.42"; ""
// when the agent did not report.
func (s Summary) Usage() string {
	if !s.Complete {
		return ""
	}
	if s.InputTokens+s.OutputTokens == 0 && !s.IsError {
		return "" // the agent does not tell
	}
	out := text.Count(s.InputTokens+s.OutputTokens) + " tokens"
	if s.CostUSD > 0 {
		out += fmt.Sprintf(", $%.2f", s.CostUSD)
	}
	return out
}

// Renderer is an io.Writer for a log. It is not safe for concurrent use.
type Renderer struct {
	out     io.Writer
	opts    Options
	form    func(*Renderer, []byte) bool // reads one event; nil where every line is printed
	line    []byte                       // begun, without its newline
	skip    bool                         // the rest of this line is left out
	summary Summary
	last    string // the text printed last, so that the result is not printed twice
	err     error
}

// Forms are the streams that are understood, by the roster's Stream.
func Forms() []string { return []string{"claude", "codex", "copilot", "opencode", "pi"} }

// New makes a Renderer that prints to w. The form is the roster's Stream, one of Forms; anything
// else prints the sanitised lines as they are.
func New(w io.Writer, form string, o Options) *Renderer {
	if o.Width < 40 {
		o.Width = 100
	}
	r := &Renderer{out: w, opts: o}
	switch form {
	case "claude":
		r.form = (*Renderer).claudeEvent
	case "codex":
		r.form = (*Renderer).codexEvent
	case "copilot":
		r.form = (*Renderer).copilotEvent
	case "opencode":
		r.form = (*Renderer).opencodeEvent
	case "pi":
		r.form = (*Renderer).piEvent
	}
	return r
}

// Write takes a piece of the log. It fails only when the output does.
func (r *Renderer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte{'\n'})
		p = rest
		if !r.skip && len(r.line)+len(part) > MaxLine {
			r.skip, r.line = true, nil
			r.note("a line of more than 4 MiB is left out; it is in the raw log")
		}
		if !r.skip {
			r.line = append(r.line, part...)
		}
		if ended {
			r.flush()
		}
	}
	return n, r.err
}

// Close prints a last line that has no newline.
func (r *Renderer) Close() error {
	if len(r.line) > 0 {
		r.flush()
	}
	return r.err
}

// Summary is what is known so far; complete once the agent has reported.
func (r *Renderer) Summary() Summary { return r.summary }

func (r *Renderer) flush() {
	if !r.skip {
		r.render(r.line)
	}
	r.skip = false
	if cap(r.line) > 64<<10 { // one big line must not keep its memory
		r.line = nil
	}
	r.line = r.line[:0]
}

func (r *Renderer) render(line []byte) {
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if trimmed := bytes.TrimSpace(line); r.form != nil && len(trimmed) > 0 && trimmed[0] == '{' && r.form(r, trimmed) {
		return
	}
	if len(bytes.TrimSpace(line)) > 0 {
		r.print("", "", strings.TrimRight(text.ProseBlock(string(line), 1, maxPlain), "\n"))
	}
}

// style is an SGR sequence of ours; "" is none.
type style string

const (
	dim  style = "\x1b[2m"
	red  style = "\x1b[31m"
	blue style = "\x1b[34m"
)

// print writes sanitised lines below a head of ours.
func (r *Renderer) print(st style, head, s string) {
	on, off := string(st), "\x1b[0m"
	if !r.opts.Color || st == "" {
		on, off = "", ""
	}
	var b strings.Builder
	for line := range strings.SplitSeq(s, "\n") {
		b.WriteString(on + head + line + off + "\n")
		head = strings.Repeat(" ", len([]rune(head)))
	}
	if r.err == nil {
		_, r.err = io.WriteString(r.out, b.String())
	}
}

func (r *Renderer) note(s string) { r.print(red, "! ", text.Prose(s, maxInput)) }

// prose prints a text of the agent's, wrapped.
func (r *Renderer) prose(indent, s string) {
	s = strings.TrimSpace(s)
	if s == "" {
		return
	}
	r.last = s
	clean := strings.TrimRight(text.ProseBlock(s, maxProse, text.MaxShow), "\n")
	var b strings.Builder
	for line := range strings.SplitSeq(clean, "\n") {
		hang := text.Width(line) - text.Width(strings.TrimLeft(line, listMarks))
		b.WriteString(text.Wrap(strings.TrimRight(line, " \t"), r.opts.Width-len(indent), hang) + "\n")
	}
	r.print("", indent, strings.TrimRight(b.String(), "\n"))
}

// listMarks begin lines whose continuation stands below their text.
const listMarks = " \t-*>0123456789.•–—"
