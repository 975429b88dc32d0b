package transcript

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"time"

	"terok/internal/text"
)

// event reads one event into v; false means that the line is none.
func event(line []byte, v any, kind *string) bool {
	return json.Unmarshal(line, v) == nil && *kind != ""
}

// begin notes what the agent said of itself first.
func (r *Renderer) begin(session, model string) {
	s := &r.summary
	if session != "" {
		s.Session = text.Line(session, 64)
	}
	if model != "" {
		s.Model = text.Line(model, 64)
		r.print(dim, "", "model "+s.Model)
	}
}

// tool prints a call of a tool.
func (r *Renderer) tool(indent, name string, input json.RawMessage) {
	r.summary.ToolCalls++
	call := text.Line(name, 40)
	if in := toolInput(input); in != "" {
		call += ": " + in
	}
	r.print(blue, indent+"* ", text.Fit(call, max(r.opts.Width-2-len(indent), 40)))
}

// toolFailed prints the begin of what a failed tool said.
func (r *Renderer) toolFailed(indent, output string) {
	r.summary.ToolFailures++
	output = strings.TrimSpace(output)
	for strings.Contains(output, "\n\n") {
		output = strings.ReplaceAll(output, "\n\n", "\n")
	}
	s := strings.TrimRight(text.ProseBlock(output, maxFailure, maxInput), "\n")
	if s == "" {
		s = "failed"
	}
	r.print(dim, indent+"  ! ", s)
}

// result keeps the agent's last word.
func (r *Renderer) result(s string) {
	if len(s) > maxResult {
		s = s[:maxResult]
	}
	s = strings.TrimRight(text.ProseBlock(strings.TrimSpace(s), maxProse, text.MaxShow), "\n")
	if len(s) > maxResult {
		s = strings.ToValidUTF8(s[:maxResult], "")
	}
	r.summary.Result = s
}

// say prints a text of the agent's, which may turn out to be its last word.
func (r *Renderer) say(s string) {
	r.summary.Turns++
	r.prose("", s)
	r.result(s)
}

// failed notes an error that ends the agent's work.
func (r *Renderer) failed(message string) {
	s := &r.summary
	s.IsError = true
	if message = strings.TrimSpace(message); message == "" {
		message = "the agent gave up"
	}
	r.result(message)
	if message != r.last {
		r.last = message
		r.note(oneLine(message))
	}
}

// inputKeys are the members of a tool's input that tell what it does, the first that is there.
var inputKeys = []string{"command", "file_path", "notebook_path", "path", "pattern", "url", "query", "description", "prompt", "skill"}

// toolInput is the telling part of a tool's input on one line; the whole input when none is known.
func toolInput(raw json.RawMessage) string {
	var in map[string]json.RawMessage
	if json.Unmarshal(raw, &in) != nil || len(in) == 0 {
		return ""
	}
	for _, k := range inputKeys {
		var s string
		if v, ok := in[k]; ok && json.Unmarshal(v, &s) == nil && s != "" {
			return text.Prose(oneLine(s), maxInput)
		}
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return ""
	}
	return text.Prose(b.String(), maxInput)
}

// oneLine joins the lines of a script; more than the sanitiser will keep is not looked at.
func oneLine(s string) string {
	if len(s) > 4*maxInput {
		s = s[:4*maxInput]
	}
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c == '\n' || c == '\r' }), "; ")
}

// whole turns a number of the agent's into a count that can be added up.
func whole(f float64) int64 {
	if math.IsNaN(f) || f < 0 {
		return 0
	}
	return int64(min(f, 1e15))
}

// millis turns milliseconds of the agent's into a span of at most a day.
func millis(f float64) time.Duration {
	return time.Duration(min(whole(f), 86_400_000)) * time.Millisecond
}

// dollars bounds a price of the agent's.
func dollars(f float64) float64 {
	if math.IsNaN(f) {
		return 0
	}
	return min(max(f, 0), 1e6)
}
