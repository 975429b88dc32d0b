package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// The parts of the Messages API that are read (platform.claude.com/docs/en/api/messages).
type messagesRequest struct {
	Model    string `json:"model"`
	Stream   bool   `json:"stream"`
	Messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Tools []struct {
		Name   string     `json:"name"`
		Schema toolSchema `json:"input_schema"`
	} `json:"tools"`
	Thread struct {
		Previous string `json:"previous_message_id"`
	} `json:"thread"`
	OutputConfig struct {
		Format json.RawMessage `json:"format"`
	} `json:"output_config"`
}

type block struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	Text      string          `json:"text"`
	ToolUseID string          `json:"tool_use_id"`
	Content   json.RawMessage `json:"content"`
	IsError   bool            `json:"is_error"`
}

// toolID names the call of a step; the place in the script is read back from it.
func toolID(step int) string { return fmt.Sprintf("toolu_script%06d", step) }

// blocks reads a message's content, which is a string or a list.
func blocks(raw json.RawMessage) []block {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return []block{{Type: "text", Text: s}}
	}
	var list []block
	_ = json.Unmarshal(raw, &list)
	return list
}

// conversation is the request in the words that the script is played by.
func (req *messagesRequest) conversation(size int) *conversation {
	c := &conversation{model: req.Model, stream: req.Stream, structure: len(req.OutputConfig.Format) > 0,
		continues: strings.TrimPrefix(req.Thread.Previous, "msg_script"), size: size}
	for _, t := range req.Tools {
		c.tools = append(c.tools, tool{name: t.Name, schema: t.Schema})
	}
	for _, m := range req.Messages {
		t := turn{assistant: m.Role == "assistant"}
		for _, b := range blocks(m.Content) {
			switch b.Type {
			case "tool_result":
				t.results = append(t.results, toolOutcome{b.ToolUseID, resultText(b.Content), b.IsError})
			case "tool_use":
				t.calls = true
			case "text":
				t.text = true
			}
		}
		c.turns = append(c.turns, t)
	}
	return c
}

// resultText flattens a tool result, which is a string or a list of blocks.
func resultText(raw json.RawMessage) string {
	var b strings.Builder
	for _, p := range blocks(raw) {
		b.WriteString(p.Text)
	}
	return b.String()
}

func model(id string) map[string]string {
	return map[string]string{"type": "model", "id": id, "display_name": id, "created_at": "2025-01-01T00:00:00Z"}
}

// messages serves POST /v1/messages.
func (s *Server) messages(w http.ResponseWriter, r *http.Request, rec *Request) {
	var req messagesRequest
	if err := json.Unmarshal(rec.Body, &req); err != nil {
		failAnthropic(w, rec, http.StatusBadRequest, "invalid_request_error", "the body is not a Messages request")
		return
	}
	c := req.conversation(len(rec.Body))
	a := s.play(r.Context(), c, rec)
	answerMessages(w, c, a)
}

func failAnthropic(w http.ResponseWriter, rec *Request, status int, kind, message string) {
	rec.Status = status
	answerJSON(w, status, map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}
