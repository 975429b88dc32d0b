package transcript

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"time"

	"terok/internal/text"
)

// claudeEvent is one line of `claude -p --output-format stream-json --verbose`, as far as it is
// read (measured with 2.1.332). Fields of the agent that may have several forms stay raw, so
// that a new form loses one field and not the line.
type claudeEvent struct {
	Type      string          `json:"type"`
	Subtype   string          `json:"subtype"`
	SessionID string          `json:"session_id"`
	Parent    *string         `json:"parent_tool_use_id"`
	Model     string          `json:"model"`
	Message   json.RawMessage `json:"message"`

	// system/api_retry
	Attempt     float64         `json:"attempt"`
	MaxRetries  float64         `json:"max_retries"`
	RetryDelay  float64         `json:"retry_delay_ms"`
	ErrorStatus json.RawMessage `json:"error_status"`
	Error       json.RawMessage `json:"error"`

	// result
	IsError  bool        `json:"is_error"`
	Result   string      `json:"result"`
	NumTurns float64     `json:"num_turns"`
	Duration float64     `json:"duration_ms"`
	Cost     float64     `json:"total_cost_usd"`
	Usage    claudeUsage `json:"usage"`
}

type claudeUsage struct {
	Input       float64 `json:"input_tokens"`
	CacheWrites float64 `json:"cache_creation_input_tokens"`
	CacheReads  float64 `json:"cache_read_input_tokens"`
	Output      float64 `json:"output_tokens"`
}

type claudeBlock struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	Name    string          `json:"name"`
	Input   json.RawMessage `json:"input"`
	Content json.RawMessage `json:"content"`
	IsError bool            `json:"is_error"`
}

// claudeEvent prints one event; false means that the line is none.
func (r *Renderer) claudeEvent(line []byte) bool {
	var e claudeEvent
	if json.Unmarshal(line, &e) != nil || e.Type == "" {
		return false
	}
	indent := ""
	if e.Parent != nil {
		indent = "  " // a subagent's
	}
	switch e.Type {
	case "system":
		r.claudeSystem(&e)
	case "assistant", "user":
		for _, b := range claudeBlocks(e.Message) {
			r.claudeBlock(indent, e.Type, b)
		}
	case "result":
		r.claudeResult(&e)
	}
	return true
}

func (r *Renderer) claudeSystem(e *claudeEvent) {
	switch e.Subtype {
	case "init":
		r.summary.Session, r.summary.Model = text.Line(e.SessionID, 64), text.Line(e.Model, 64)
		r.print(dim, "", "model "+r.summary.Model)
	case "api_retry":
		why := "it cannot be reached"
		if status := string(e.ErrorStatus); status != "" && status != "null" {
			why = text.Line(status+" "+strings.Trim(string(e.Error), `"`), 80)
		}
		r.note("provider: " + why + "; try " + count(whole(e.Attempt)) + " of " + count(whole(e.MaxRetries)) +
			", next in " + text.Duration(millis(e.RetryDelay)))
	}
}

// claudeBlocks reads a message's content, which is a string or a list of blocks.
func claudeBlocks(message json.RawMessage) []claudeBlock {
	var m struct {
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(message, &m) != nil {
		return nil
	}
	return contentBlocks(m.Content)
}

func contentBlocks(content json.RawMessage) []claudeBlock {
	var s string
	if json.Unmarshal(content, &s) == nil {
		return []claudeBlock{{Type: "text", Text: s}}
	}
	var list []json.RawMessage
	if json.Unmarshal(content, &list) != nil {
		return nil
	}
	var blocks []claudeBlock
	for _, raw := range list[:min(len(list), 1000)] {
		var b claudeBlock
		if json.Unmarshal(raw, &b) == nil {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

func (r *Renderer) claudeBlock(indent, role string, b claudeBlock) {
	switch {
	case b.Type == "text" && role == "assistant":
		r.prose(indent, b.Text)
	case b.Type == "tool_use":
		r.summary.ToolCalls++
		call := text.Line(b.Name, 40)
		if in := toolInput(b.Input); in != "" {
			call += ": " + in
		}
		r.print(blue, indent+"* ", text.Fit(call, max(r.opts.Width-2-len(indent), 40)))
	case b.Type == "tool_result" && b.IsError:
		r.summary.ToolFailures++
		var all strings.Builder
		for _, c := range contentBlocks(b.Content) {
			all.WriteString(c.Text)
		}
		s := strings.TrimRight(text.ProseBlock(strings.TrimSpace(all.String()), maxFailure, maxInput), "\n")
		if s == "" {
			s = "failed"
		}
		r.print(dim, indent+"  ! ", s)
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

func (r *Renderer) claudeResult(e *claudeEvent) {
	s := &r.summary
	s.Complete, s.IsError = true, e.IsError || e.Subtype != "success"
	result := e.Result
	if len(result) > maxResult {
		result = result[:maxResult]
	}
	s.Result = strings.TrimRight(text.ProseBlock(strings.TrimSpace(result), maxProse, text.MaxShow), "\n")
	if len(s.Result) > maxResult {
		s.Result = strings.ToValidUTF8(s.Result[:maxResult], "")
	}
	if e.SessionID != "" {
		s.Session = text.Line(e.SessionID, 64)
	}
	s.Turns, s.DurationMS = whole(e.NumTurns), whole(e.Duration)
	s.InputTokens = whole(e.Usage.Input) + whole(e.Usage.CacheWrites) + whole(e.Usage.CacheReads)
	s.OutputTokens = whole(e.Usage.Output)
	s.CostUSD = min(max(e.Cost, 0), 1e6)
	switch {
	case s.IsError && s.Result == "":
		r.note("the agent gave up: " + e.Subtype)
	case strings.TrimSpace(e.Result) != r.last:
		r.prose("", e.Result)
	}
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
