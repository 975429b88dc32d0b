package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// The parts of the Responses API that are read (platform.openai.com/docs/api-reference/responses).
type responsesRequest struct {
	Type   string          `json:"type"` // over a WebSocket: "response.create"
	Model  string          `json:"model"`
	Stream bool            `json:"stream"`
	Input  json.RawMessage `json:"input"` // a string or a list of items
	Tools  []responsesTool `json:"tools"`
	Text   struct {
		Format struct {
			Type string `json:"type"`
		} `json:"format"`
	} `json:"text"`
	Previous string `json:"previous_response_id"`
	Generate *bool  `json:"generate"` // over a WebSocket: false only prepares the connection
}

// responsesTool is a tool or, with Tools, a namespace of some.
type responsesTool struct {
	Type       string          `json:"type"`
	Name       string          `json:"name"`
	Parameters toolSchema      `json:"parameters"`
	Tools      []responsesTool `json:"tools"`
}

// offered flattens tools; a namespace stays with its tools' names.
func offered(list []responsesTool, namespace string) []tool {
	var out []tool
	for _, t := range list {
		switch t.Type {
		case "namespace":
			out = append(out, offered(t.Tools, t.Name)...)
		case "local_shell":
			out = append(out, tool{name: t.Type})
		case "custom":
			out = append(out, tool{name: t.Name, namespace: namespace, custom: true})
		case "function":
			out = append(out, tool{name: t.Name, namespace: namespace, schema: t.Parameters})
		}
	}
	return out
}

type responsesItem struct {
	Type   string          `json:"type"`
	Role   string          `json:"role"`
	CallID string          `json:"call_id"`
	Output json.RawMessage `json:"output"`
	Tools  []responsesTool `json:"tools"` // of additional_tools: how Codex offers some models theirs
}

func (req *responsesRequest) conversation(size int) *conversation {
	c := &conversation{model: req.Model, stream: req.Stream, structure: req.Text.Format.Type == "json_schema", size: size,
		continues: strings.TrimPrefix(req.Previous, "resp_script"), tools: offered(req.Tools, "")}
	var items []responsesItem
	_ = json.Unmarshal(req.Input, &items) // a string is a conversation without a turn
	for _, i := range items {
		if i.Type == "additional_tools" {
			c.tools = append(c.tools, offered(i.Tools, "")...)
			continue
		}
		t := turn{assistant: i.Role == "assistant", text: i.Type == "message" || i.Type == ""}
		switch i.Type {
		case "function_call", "local_shell_call", "custom_tool_call":
			t.assistant, t.calls = true, true
		case "function_call_output", "local_shell_call_output", "custom_tool_call_output":
			t.results = []toolOutcome{{id: i.CallID, text: resultText(i.Output)}}
		}
		c.turns = append(c.turns, t)
	}
	return c
}

// responses serves POST …/responses.
func (s *Server) responses(w http.ResponseWriter, r *http.Request, rec *Request) {
	var req responsesRequest
	if err := json.Unmarshal(rec.Body, &req); err != nil {
		failOpenAI(w, rec, http.StatusBadRequest, "invalid_request_error", "the body is not a Responses request")
		return
	}
	c := req.conversation(len(rec.Body))
	a := s.play(r.Context(), c, rec)
	if !c.stream {
		answerJSON(w, http.StatusOK, response(c, a, "completed", a.items("completed")))
		return
	}
	events := newSSE(w)
	respond(c, a, func(event string, v map[string]any) error {
		events.send(event, v)
		return nil
	})
}

// response is the object that begins and ends an answer.
func response(c *conversation, a action, status string, output []map[string]any) map[string]any {
	r := map[string]any{"id": "resp_script" + a.id, "object": "response", "created_at": created, "status": status,
		"model": c.model, "output": output, "error": nil, "incomplete_details": nil, "usage": nil}
	if status == "completed" {
		r["usage"] = map[string]any{"input_tokens": tokens(c.size), "input_tokens_details": map[string]int{"cached_tokens": 0},
			"output_tokens": a.tokens(), "output_tokens_details": map[string]int{"reasoning_tokens": 0},
			"total_tokens": tokens(c.size) + a.tokens()}
	}
	return r
}

// items are what the model says: a message, a call.
func (a action) items(status string) []map[string]any {
	list := []map[string]any{}
	if a.text != "" {
		list = append(list, map[string]any{"id": "msg_script" + a.id, "type": "message", "role": "assistant", "status": status,
			"content": []any{map[string]any{"type": "output_text", "text": a.text, "annotations": []any{}, "logprobs": []any{}}}})
	}
	if a.tool != "" {
		call := map[string]any{"id": fmt.Sprintf("fc_script%06d", a.at), "type": "function_call", "status": status,
			"call_id": callID(a.at), "name": a.tool}
		if a.namespace != "" {
			call["namespace"] = a.namespace
		}
		if a.code != "" {
			call["type"], call["input"] = "custom_tool_call", a.code
		} else {
			call["arguments"] = a.arguments()
		}
		list = append(list, call)
	}
	return list
}

// respond sends the events of an answer.
func respond(c *conversation, a action, send func(event string, v map[string]any) error) {
	n := 0
	emit := func(event string, v map[string]any) bool {
		v["type"], v["sequence_number"] = event, n
		n++
		return send(event, v) == nil
	}
	open := response(c, a, "in_progress", []map[string]any{})
	if !emit("response.created", map[string]any{"response": open}) || !emit("response.in_progress", map[string]any{"response": open}) {
		return
	}
	done := a.items("completed")
	for i, item := range done {
		id := item["id"]
		place := func(more map[string]any) map[string]any {
			more["item_id"], more["output_index"] = id, i
			return more
		}
		begun := maps.Clone(item)
		begun["status"] = "in_progress"
		switch item["type"] {
		case "message":
			begun["content"] = []any{}
			emit("response.output_item.added", map[string]any{"output_index": i, "item": begun})
			part := func(text string) map[string]any {
				return place(map[string]any{"content_index": 0, "part": map[string]any{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}})
			}
			emit("response.content_part.added", part(""))
			for piece := range pieces(a.text, 24) {
				emit("response.output_text.delta", place(map[string]any{"content_index": 0, "delta": piece, "logprobs": []any{}}))
			}
			emit("response.output_text.done", place(map[string]any{"content_index": 0, "text": a.text, "logprobs": []any{}}))
			emit("response.content_part.done", part(a.text))
		case "custom_tool_call":
			begun["input"] = ""
			emit("response.output_item.added", map[string]any{"output_index": i, "item": begun})
			emit("response.custom_tool_call_input.delta", place(map[string]any{"delta": a.code}))
			emit("response.custom_tool_call_input.done", place(map[string]any{"input": a.code}))
		default:
			begun["arguments"] = ""
			emit("response.output_item.added", map[string]any{"output_index": i, "item": begun})
			for piece := range pieces(a.arguments(), 48) {
				emit("response.function_call_arguments.delta", place(map[string]any{"delta": piece}))
			}
			emit("response.function_call_arguments.done", place(map[string]any{"arguments": a.arguments(), "name": a.tool}))
		}
		emit("response.output_item.done", map[string]any{"output_index": i, "item": item})
	}
	emit("response.completed", map[string]any{"response": response(c, a, "completed", done)})
}

// upgrade serves a WebSocket on …/responses: each message of the client is a request, and the
// events of its answer are messages. Each request is recorded like one of its own.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, rec *Request) {
	if !s.cfg.WebSocket {
		failOpenAI(w, rec, http.StatusUpgradeRequired, "invalid_request_error", "this provider takes no WebSocket")
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		rec.Status = http.StatusBadRequest
		return
	}
	rec.Status, rec.Kind = http.StatusSwitchingProtocols, "upgrade"
	s.record(*rec)
	rec.recorded = true
	defer conn.CloseNow()
	conn.SetReadLimit(maxBody)
	ctx, cancel := context.WithCancel(r.Context()) // a taken-over connection is not ended by http.Server
	defer cancel()
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return
		}
		one := Request{Time: time.Now(), Method: "WEBSOCKET", Path: rec.Path, Proto: rec.Proto, Header: rec.Header, KeyOK: rec.KeyOK, Kind: "other", Body: data}
		send := func(_ string, v map[string]any) error {
			out, _ := json.Marshal(v)
			return conn.Write(ctx, websocket.MessageText, out)
		}
		var req responsesRequest
		if err := json.Unmarshal(data, &req); err != nil || req.Type != "response.create" {
			one.Status = http.StatusBadRequest
			s.record(one)
			_ = send("error", map[string]any{"type": "error", "status": 400, "error": map[string]any{"type": "invalid_request_error", "message": "not a response.create"}})
			continue
		}
		c := req.conversation(len(data))
		if req.Generate != nil && !*req.Generate {
			one.Status = http.StatusOK
			s.record(one)
			respond(c, action{at: -1, id: "prepared"}, send)
			continue
		}
		a := s.play(ctx, c, &one)
		s.record(one)
		respond(c, a, send)
	}
}
