package transcript

import (
	"encoding/json"
	"strings"

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
		r.begin(e.SessionID, e.Model)
	case "api_retry":
		why := "it cannot be reached"
		if status := string(e.ErrorStatus); status != "" && status != "null" {
			why = text.Line(status+" "+strings.Trim(string(e.Error), `"`), 80)
		}
		r.note("provider: " + why + "; try " + text.Count(whole(e.Attempt)) + " of " + text.Count(whole(e.MaxRetries)) +
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
		r.tool(indent, b.Name, b.Input)
	case b.Type == "tool_result" && b.IsError:
		r.toolFailed(indent, blocksText(b.Content))
	}
}

// blocksText joins the texts of a content.
func blocksText(content json.RawMessage) string {
	var all strings.Builder
	for _, c := range contentBlocks(content) {
		all.WriteString(c.Text)
	}
	return all.String()
}

func (r *Renderer) claudeResult(e *claudeEvent) {
	s := &r.summary
	s.Complete, s.IsError = true, e.IsError || e.Subtype != "success"
	r.result(e.Result)
	if e.SessionID != "" {
		s.Session = text.Line(e.SessionID, 64)
	}
	s.Turns, s.DurationMS = whole(e.NumTurns), whole(e.Duration)
	s.InputTokens = whole(e.Usage.Input) + whole(e.Usage.CacheWrites) + whole(e.Usage.CacheReads)
	s.OutputTokens = whole(e.Usage.Output)
	s.CostUSD = dollars(e.Cost)
	switch {
	case s.IsError && s.Result == "":
		r.note("the agent gave up: " + e.Subtype)
	case strings.TrimSpace(e.Result) != r.last:
		r.prose("", e.Result)
	}
}
