package provider

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
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
		Name string `json:"name"`
	} `json:"tools"`
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

func stepOf(id string) (int, bool) {
	digits, ok := strings.CutPrefix(id, "toolu_script")
	if !ok || len(digits) != 6 {
		return 0, false
	}
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

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

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rec := Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Proto: r.Proto,
		Header: r.Header.Clone(), KeyOK: s.keyOK(r.Header), Kind: "other",
	}
	defer func() { s.record(rec) }()
	fail := func(status int, kind, message string) {
		rec.Status = status
		answerJSON(w, status, map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
	}
	switch {
	case r.URL.Path == "/" || r.URL.Path == "/api/hello":
		rec.Kind, rec.Status = "hello", http.StatusOK
		answerJSON(w, http.StatusOK, map[string]string{"message": "hello"})
		return
	case !strings.HasPrefix(r.URL.Path, "/v1/"):
		fail(http.StatusNotFound, "not_found_error", "not served by the scripted provider")
		return
	case !rec.KeyOK:
		fail(http.StatusUnauthorized, "authentication_error", "invalid x-api-key")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fail(http.StatusRequestEntityTooLarge, "request_too_large", "request too large")
		return
	}
	rec.Body = body
	switch {
	case r.URL.Path == "/v1/models" && r.Method == http.MethodGet:
		rec.Kind, rec.Status = "models", http.StatusOK
		answerJSON(w, http.StatusOK, map[string]any{"data": []any{model("claude-scripted")}, "has_more": false, "first_id": "claude-scripted", "last_id": "claude-scripted"})
	case strings.HasPrefix(r.URL.Path, "/v1/models/") && r.Method == http.MethodGet:
		rec.Kind, rec.Status = "models", http.StatusOK
		answerJSON(w, http.StatusOK, model(strings.TrimPrefix(r.URL.Path, "/v1/models/")))
	case r.URL.Path == "/v1/messages/count_tokens" && r.Method == http.MethodPost:
		rec.Kind, rec.Status = "count", http.StatusOK
		answerJSON(w, http.StatusOK, map[string]int{"input_tokens": tokens(len(body))})
	case r.URL.Path == "/v1/messages" && r.Method == http.MethodPost:
		var req messagesRequest
		if err := json.Unmarshal(body, &req); err != nil {
			fail(http.StatusBadRequest, "invalid_request_error", "the body is not a Messages request")
			return
		}
		rec.Model = req.Model
		for _, t := range req.Tools {
			rec.Tools = append(rec.Tools, t.Name)
		}
		step, at := s.choose(&req)
		rec.Kind, rec.Step = "side", at
		if at >= 0 {
			rec.Kind = "step"
		}
		rec.Status = http.StatusOK
		s.wait(r.Context())
		answer(w, &req, step, at, len(body))
	default:
		fail(http.StatusNotFound, "not_found_error", "not served by the scripted provider")
	}
}

// choose finds what to answer: a step of the script and its index, or a short text and -1.
func (s *Server) choose(req *messagesRequest) (Step, int) {
	if !s.offersTools(req) {
		if len(req.OutputConfig.Format) > 0 {
			return Step{Text: `{"title":"Scripted session"}`}, -1
		}
		return Step{Text: "Scripted session"}, -1
	}
	next := 0
	for i, m := range req.Messages {
		for _, b := range blocks(m.Content) {
			if b.Type != "tool_result" {
				continue
			}
			if n, ok := stepOf(b.ToolUseID); ok && n < len(s.cfg.Script) {
				next = max(next, n+1)
				s.keep(Result{Step: n, Text: resultText(b.Content), IsError: b.IsError})
			}
		}
		// The final text was given and the person asks for more.
		if i > 0 && m.Role == "assistant" && next == len(s.cfg.Script)-1 && i < len(req.Messages)-1 && !hasTool(m.Content) {
			return Step{Text: "The script is over."}, -1
		}
	}
	step := s.cfg.Script[next]
	if step.Tool != "" && !slices.ContainsFunc(req.Tools, func(t struct {
		Name string `json:"name"`
	}) bool {
		return t.Name == step.Tool
	}) {
		return Step{Text: "The script needs the tool " + step.Tool + ", which is not offered."}, next
	}
	return step, next
}

// offersTools reports whether the request is the working conversation: it offers some tool that
// the script uses. A script without tools plays to anybody who offers any.
func (s *Server) offersTools(req *messagesRequest) bool {
	uses := false
	for _, st := range s.cfg.Script {
		if st.Tool == "" {
			continue
		}
		uses = true
		for _, t := range req.Tools {
			if t.Name == st.Tool {
				return true
			}
		}
	}
	return !uses && len(req.Tools) > 0
}

func hasTool(raw json.RawMessage) bool {
	return slices.ContainsFunc(blocks(raw), func(b block) bool { return b.Type == "tool_use" })
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

// tokens is a rough but stable count: four bytes each.
func tokens(n int) int { return n/4 + 1 }

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
