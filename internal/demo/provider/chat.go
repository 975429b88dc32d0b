package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// The parts of the Chat Completions API that are read (platform.openai.com/docs/api-reference/chat),
// which many providers speak.
type chatRequest struct {
	Model    string `json:"model"`
	Stream   bool   `json:"stream"`
	Messages []struct {
		Role    string            `json:"role"`
		Content json.RawMessage   `json:"content"`
		Calls   []json.RawMessage `json:"tool_calls"`
		CallID  string            `json:"tool_call_id"`
	} `json:"messages"`
	Tools []struct {
		Function struct {
			Name       string     `json:"name"`
			Parameters toolSchema `json:"parameters"`
		} `json:"function"`
	} `json:"tools"`
	Format struct {
		Type string `json:"type"`
	} `json:"response_format"`
	StreamOptions struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func (req *chatRequest) conversation(size int) *conversation {
	c := &conversation{model: req.Model, stream: req.Stream, structure: req.Format.Type == "json_schema", size: size}
	for _, t := range req.Tools {
		c.tools = append(c.tools, tool{name: t.Function.Name, schema: t.Function.Parameters})
	}
	for _, m := range req.Messages {
		t := turn{assistant: m.Role == "assistant", calls: len(m.Calls) > 0, text: resultText(m.Content) != ""}
		if m.Role == "tool" {
			t.results = []toolOutcome{{id: m.CallID, text: resultText(m.Content)}}
		}
		c.turns = append(c.turns, t)
	}
	return c
}

// chat serves POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request, rec *Request) {
	var req chatRequest
	if err := json.Unmarshal(rec.Body, &req); err != nil {
		failOpenAI(w, rec, http.StatusBadRequest, "invalid_request_error", "the body is not a chat completions request")
		return
	}
	c := req.conversation(len(rec.Body))
	a := s.play(r.Context(), c, rec)
	id := "chatcmpl-script" + a.id
	stop := "stop"
	call := map[string]any{"id": callID(a.at), "type": "function", "function": map[string]any{"name": a.tool, "arguments": a.arguments()}}
	if a.tool != "" {
		stop = "tool_calls"
	}
	usage := map[string]any{"prompt_tokens": tokens(c.size), "completion_tokens": a.tokens(), "total_tokens": tokens(c.size) + a.tokens()}
	if !c.stream {
		message := map[string]any{"role": "assistant", "content": a.text}
		if a.tool != "" {
			message["tool_calls"] = []any{call}
		}
		answerJSON(w, http.StatusOK, map[string]any{"id": id, "object": "chat.completion", "created": created, "model": c.model, "usage": usage,
			"choices": []any{map[string]any{"index": 0, "message": message, "finish_reason": stop}}})
		return
	}
	events := newSSE(w)
	send := func(delta map[string]any, finish any) {
		events.send("", map[string]any{"id": id, "object": "chat.completion.chunk", "created": created, "model": c.model,
			"choices": []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}})
	}
	send(map[string]any{"role": "assistant", "content": ""}, nil)
	for part := range pieces(a.text, 24) {
		send(map[string]any{"content": part}, nil)
	}
	if a.tool != "" {
		send(map[string]any{"tool_calls": []any{map[string]any{"index": 0, "id": callID(a.at), "type": "function",
			"function": map[string]any{"name": a.tool, "arguments": ""}}}}, nil)
		for part := range pieces(a.arguments(), 48) {
			send(map[string]any{"tool_calls": []any{map[string]any{"index": 0, "function": map[string]any{"arguments": part}}}}, nil)
		}
	}
	send(map[string]any{}, stop)
	if req.StreamOptions.Usage {
		events.send("", map[string]any{"id": id, "object": "chat.completion.chunk", "created": created, "model": c.model,
			"choices": []any{}, "usage": usage})
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// created is the time of every answer, in Unix seconds: constant, as everything here.
const created = 1767225600

// callID names the call of a step in OpenAI's protocols.
func callID(step int) string { return fmt.Sprintf("call_script%06d", step) }

func failOpenAI(w http.ResponseWriter, rec *Request, status int, kind, message string) {
	rec.Status = status
	answerJSON(w, status, map[string]any{"error": map[string]any{"type": kind, "message": message, "param": nil, "code": nil}})
}
