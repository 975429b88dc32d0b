package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// answer sends a step as the API does, streamed when that was asked for.
func answer(w http.ResponseWriter, req *messagesRequest, step Step, at, bodyLen int) {
	id := fmt.Sprintf("msg_script%06d", at+1)
	stop, content := "end_turn", []map[string]any{}
	if step.Text != "" {
		content = append(content, map[string]any{"type": "text", "text": step.Text})
	}
	if step.Input == nil {
		step.Input = map[string]any{}
	}
	input, _ := json.Marshal(step.Input)
	if step.Tool != "" {
		stop = "tool_use"
		content = append(content, map[string]any{"type": "tool_use", "id": toolID(at), "name": step.Tool, "input": step.Input})
	}
	out := tokens(len(step.Text) + len(input))
	usage := map[string]any{"input_tokens": tokens(bodyLen), "output_tokens": out,
		"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
	message := map[string]any{"id": id, "type": "message", "role": "assistant", "model": req.Model,
		"content": content, "stop_reason": stop, "stop_sequence": nil, "usage": usage}
	w.Header().Set("Request-Id", "req_script"+id)
	if !req.Stream {
		answerJSON(w, http.StatusOK, message)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	send := func(event string, v map[string]any) {
		v["type"] = event
		data, _ := json.Marshal(v)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data)
		_ = flush.Flush()
	}
	message["content"], message["stop_reason"] = []any{}, nil
	message["usage"] = map[string]any{"input_tokens": tokens(bodyLen), "output_tokens": 1,
		"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
	send("message_start", map[string]any{"message": message})
	send("ping", map[string]any{})
	for i, c := range content {
		if c["type"] == "text" {
			send("content_block_start", map[string]any{"index": i, "content_block": map[string]any{"type": "text", "text": ""}})
			for part := range pieces(step.Text, 24) {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "text_delta", "text": part}})
			}
		} else {
			send("content_block_start", map[string]any{"index": i, "content_block": map[string]any{
				"type": "tool_use", "id": c["id"], "name": c["name"], "input": map[string]any{}}})
			for part := range pieces(string(input), 48) {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "input_json_delta", "partial_json": part}})
			}
		}
		send("content_block_stop", map[string]any{"index": i})
	}
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": out}})
	send("message_stop", map[string]any{})
}

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
