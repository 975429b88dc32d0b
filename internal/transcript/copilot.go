package transcript

import "encoding/json"

// copilotEvent is one line of `copilot --output-format json`, as far as it is read (measured with
// 1.0.102). It reports no tokens.
type copilotEvent struct {
	Type    string          `json:"type"`
	Data    json.RawMessage `json:"data"`
	Session string          `json:"sessionId"`
	Exit    float64         `json:"exitCode"`
	Usage   struct {
		Duration float64 `json:"sessionDurationMs"`
	} `json:"usage"`
}

type copilotData struct {
	Model   string          `json:"model"`
	Content string          `json:"content"`
	Tool    string          `json:"toolName"`
	Args    json.RawMessage `json:"arguments"`
	Success *bool           `json:"success"`
	Message string          `json:"message"`
	Kind    string          `json:"infoType"`
	Result  struct {
		Content string `json:"content"`
	} `json:"result"`
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
	Shell struct {
		Exit float64 `json:"exitCode"`
	} `json:"shellExecution"`
}

func (r *Renderer) copilotEvent(line []byte) bool {
	var e copilotEvent
	if !event(line, &e, &e.Type) {
		return false
	}
	s := &r.summary
	var d copilotData
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &d) != nil {
		return true
	}
	switch e.Type {
	case "model.call_start":
		if s.Model == "" && d.Model != "" {
			r.begin(s.Session, d.Model)
		}
	case "assistant.message":
		if d.Content != "" {
			r.say(d.Content)
		}
	case "tool.execution_start":
		r.tool("", d.Tool, d.Args)
	case "tool.execution_complete":
		switch {
		case d.Success != nil && !*d.Success:
			r.toolFailed("", d.Error.Message)
		case d.Shell.Exit != 0:
			r.toolFailed("", d.Result.Content)
		}
	case "session.info":
		if d.Kind == "model_retry" {
			r.note("provider: " + oneLine(d.Message))
		}
	case "session.error":
		r.failed(d.Message)
	case "result":
		s.Complete, s.IsError = true, e.Exit != 0
		if e.Session != "" {
			r.begin(e.Session, "")
		}
		s.DurationMS = whole(e.Usage.Duration)
	}
	return true
}
