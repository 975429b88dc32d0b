package transcript

import "encoding/json"

// opencodeEvent is one line of `opencode run --format json`, as far as it is read (measured with
// 1.18.33). There is no closing event: the last step that finished by itself is the end.
type opencodeEvent struct {
	Type    string          `json:"type"`
	Session string          `json:"sessionID"`
	Part    json.RawMessage `json:"part"`
	Error   struct {
		Name string `json:"name"`
		Data struct {
			Message string `json:"message"`
		} `json:"data"`
	} `json:"error"`
}

type opencodePart struct {
	Text   string `json:"text"`
	Tool   string `json:"tool"`
	Reason string `json:"reason"`
	State  struct {
		Status   string          `json:"status"`
		Input    json.RawMessage `json:"input"`
		Output   string          `json:"output"`
		Error    string          `json:"error"`
		Metadata struct {
			Exit float64 `json:"exit"`
		} `json:"metadata"`
	} `json:"state"`
	Tokens struct {
		Input  float64 `json:"input"`
		Output float64 `json:"output"`
		Cache  struct {
			Read  float64 `json:"read"`
			Write float64 `json:"write"`
		} `json:"cache"`
	} `json:"tokens"`
	Cost float64 `json:"cost"`
}

func (r *Renderer) opencodeEvent(line []byte) bool {
	var e opencodeEvent
	if !event(line, &e, &e.Type) {
		return false
	}
	s := &r.summary
	if s.Session == "" && e.Session != "" {
		r.begin(e.Session, "")
	}
	var p opencodePart
	if len(e.Part) > 0 && json.Unmarshal(e.Part, &p) != nil {
		return true
	}
	switch e.Type {
	case "step_start":
		s.Complete, s.IsError = false, false
	case "text":
		r.say(p.Text)
	case "tool_use":
		r.tool("", p.Tool, p.State.Input)
		if p.State.Status == "error" {
			r.toolFailed("", p.State.Error)
		} else if p.State.Metadata.Exit != 0 {
			r.toolFailed("", p.State.Output)
		}
	case "step_finish":
		s.Complete = p.Reason != "tool-calls"
		s.InputTokens += whole(p.Tokens.Input) + whole(p.Tokens.Cache.Read) + whole(p.Tokens.Cache.Write)
		s.OutputTokens += whole(p.Tokens.Output)
		s.CostUSD = dollars(s.CostUSD + dollars(p.Cost))
	case "error":
		s.Complete = true
		message := e.Error.Data.Message
		if message == "" {
			message = e.Error.Name
		}
		r.failed(message)
	}
	return true
}
