package transcript

import "encoding/json"

// piEvent is one line of `pi --mode json`, as far as it is read (measured with 1.6.0).
type piEvent struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Message json.RawMessage `json:"message"`
	Tool    string          `json:"toolName"`
	Args    json.RawMessage `json:"args"`
	IsError bool            `json:"isError"`
	Result  struct {
		Content json.RawMessage `json:"content"`
	} `json:"result"`
	Aborted bool `json:"aborted"`
}

type piMessage struct {
	Role    string          `json:"role"`
	Model   string          `json:"model"`
	Content json.RawMessage `json:"content"`
	Stop    string          `json:"stopReason"`
	Error   string          `json:"errorMessage"`
	Usage   struct {
		Input      float64 `json:"input"`
		Output     float64 `json:"output"`
		CacheRead  float64 `json:"cacheRead"`
		CacheWrite float64 `json:"cacheWrite"`
		Cost       struct {
			Total float64 `json:"total"`
		} `json:"cost"`
	} `json:"usage"`
}

func (r *Renderer) piEvent(line []byte) bool {
	var e piEvent
	if !event(line, &e, &e.Type) {
		return false
	}
	s := &r.summary
	switch e.Type {
	case "session":
		r.begin(e.ID, "")
	case "agent_start":
		s.Complete, s.IsError = false, false
	case "message_end":
		var m piMessage
		if json.Unmarshal(e.Message, &m) == nil && m.Role == "assistant" {
			r.piMessage(&m)
		}
	case "tool_execution_start":
		r.tool("", e.Tool, e.Args)
	case "tool_execution_end":
		if e.IsError {
			r.toolFailed("", blocksText(e.Result.Content))
		}
	case "agent_settled":
		s.Complete = true
		if e.Aborted {
			r.failed("it was interrupted")
		}
	}
	return true
}

func (r *Renderer) piMessage(m *piMessage) {
	s := &r.summary
	if s.Model == "" && m.Model != "" {
		r.begin(s.Session, m.Model)
	}
	if said := blocksText(m.Content); said != "" {
		r.say(said)
	}
	s.InputTokens += whole(m.Usage.Input) + whole(m.Usage.CacheRead) + whole(m.Usage.CacheWrite)
	s.OutputTokens += whole(m.Usage.Output)
	s.CostUSD = dollars(s.CostUSD + dollars(m.Usage.Cost.Total))
	s.IsError = false
	if m.Stop == "error" || m.Stop == "aborted" {
		r.failed(m.Error)
	}
}
