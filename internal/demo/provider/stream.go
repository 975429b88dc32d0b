package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// sse is a stream of server-sent events.
type sse struct {
	w     http.ResponseWriter
	flush *http.ResponseController
}

func newSSE(w http.ResponseWriter) *sse {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	return &sse{w, http.NewResponseController(w)}
}

// send writes one event; without a name only its data.
func (s *sse) send(event string, v any) {
	data, _ := json.Marshal(v)
	if event != "" {
		fmt.Fprintf(s.w, "event: %s\n", event)
	}
	fmt.Fprintf(s.w, "data: %s\n\n", data)
	_ = s.flush.Flush()
}

// answerMessages sends an action as the Messages API does, streamed when that was asked for.
func answerMessages(w http.ResponseWriter, c *conversation, a action) {
	id := "msg_script" + a.id
	stop, content := "end_turn", []map[string]any{}
	if a.text != "" {
		content = append(content, map[string]any{"type": "text", "text": a.text})
	}
	input := a.arguments()
	if a.tool != "" {
		stop = "tool_use"
		content = append(content, map[string]any{"type": "tool_use", "id": toolID(a.at), "name": a.tool, "input": a.input})
	}
	usage := map[string]any{"input_tokens": tokens(c.size), "output_tokens": a.tokens(),
		"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
	message := map[string]any{"id": id, "type": "message", "role": "assistant", "model": c.model,
		"content": content, "stop_reason": stop, "stop_sequence": nil, "usage": usage}
	w.Header().Set("Request-Id", "req_script"+id)
	if !c.stream {
		answerJSON(w, http.StatusOK, message)
		return
	}
	events := newSSE(w)
	send := func(event string, v map[string]any) {
		v["type"] = event
		events.send(event, v)
	}
	message["content"], message["stop_reason"] = []any{}, nil
	message["usage"] = map[string]any{"input_tokens": tokens(c.size), "output_tokens": 1,
		"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
	send("message_start", map[string]any{"message": message})
	send("ping", map[string]any{})
	for i, block := range content {
		if block["type"] == "text" {
			send("content_block_start", map[string]any{"index": i, "content_block": map[string]any{"type": "text", "text": ""}})
			for part := range pieces(a.text, 24) {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "text_delta", "text": part}})
			}
		} else {
			send("content_block_start", map[string]any{"index": i, "content_block": map[string]any{
				"type": "tool_use", "id": block["id"], "name": block["name"], "input": map[string]any{}}})
			for part := range pieces(input, 48) {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "input_json_delta", "partial_json": part}})
			}
		}
		send("content_block_stop", map[string]any{"index": i})
	}
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": a.tokens()}})
	send("message_stop", map[string]any{})
}

// arguments is the input of the call as JSON.
func (a action) arguments() string {
	if a.input == nil {
		return "{}"
	}
	data, _ := json.Marshal(a.input)
	return string(data)
}

// tokens is what the answer costs.
func (a action) tokens() int { return tokens(len(a.text) + len(a.code) + len(a.arguments())) }

// pieces cuts a string into parts of about n bytes, between runes.
func pieces(s string, n int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for i := range s {
			if i-start >= n {
				if !yield(s[start:i]) {
					return
				}
				start = i
			}
		}
		if start < len(s) {
			yield(s[start:])
		}
	}
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
