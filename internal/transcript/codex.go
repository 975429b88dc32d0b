package transcript

import (
	"encoding/json"
	"strings"
)

// codexEvent is one line of `codex exec --json`, as far as it is read (measured with 0.171.0).
type codexEvent struct {
	Type    string          `json:"type"`
	Thread  string          `json:"thread_id"`
	Message string          `json:"message"`
	Error   codexFailure    `json:"error"`
	Item    json.RawMessage `json:"item"`
	Usage   struct {
		Input  float64 `json:"input_tokens"` // cached ones included
		Output float64 `json:"output_tokens"`
	} `json:"usage"`
}

type codexFailure struct {
	Message string `json:"message"`
}

// codexItem is something that the agent said or did.
type codexItem struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	Message string          `json:"message"`
	Command string          `json:"command"`
	Output  string          `json:"aggregated_output"`
	Status  string          `json:"status"`
	Server  string          `json:"server"`
	Tool    string          `json:"tool"`
	Args    json.RawMessage `json:"arguments"`
	Query   string          `json:"query"`
	Changes []struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
	} `json:"changes"`
	Error codexFailure `json:"error"`
}

func (r *Renderer) codexEvent(line []byte) bool {
	var e codexEvent
	if !event(line, &e, &e.Type) {
		return false
	}
	s := &r.summary
	switch e.Type {
	case "thread.started":
		r.begin(e.Thread, "")
	case "turn.started":
		s.Complete, s.IsError = false, false
	case "item.started", "item.completed":
		var i codexItem
		if json.Unmarshal(e.Item, &i) == nil {
			r.codexItem(&i, e.Type == "item.completed")
		}
	case "turn.completed":
		s.Complete = true
		s.InputTokens += whole(e.Usage.Input)
		s.OutputTokens += whole(e.Usage.Output)
	case "turn.failed":
		s.Complete = true
		r.failed(e.Error.Message)
	case "error": // it goes on trying, or turn.failed follows with the same words
		if m := strings.TrimSpace(e.Message); m != r.last {
			r.last = m
			r.note("provider: " + oneLine(m))
		}
	}
	return true
}

// codexItem prints an item once: a call when it begins, a text when it is complete.
func (r *Renderer) codexItem(i *codexItem, done bool) {
	switch i.Type {
	case "agent_message":
		if done {
			r.say(i.Text)
		}
	case "error":
		if done {
			r.note(oneLine(i.Message))
		}
	case "command_execution":
		if !done {
			r.tool("", "shell", quoted("command", unwrapped(i.Command)))
		} else if i.Status == "failed" {
			r.toolFailed("", i.Output)
		}
	case "file_change":
		if done {
			for _, c := range i.Changes[:min(len(i.Changes), 100)] {
				r.tool("", c.Kind, quoted("path", c.Path))
			}
			if i.Status == "failed" {
				r.toolFailed("", "")
			}
		}
	case "mcp_tool_call":
		if !done {
			r.tool("", i.Server+"."+i.Tool, i.Args)
		} else if i.Status == "failed" {
			r.toolFailed("", i.Error.Message)
		}
	case "web_search":
		if done {
			r.tool("", "search", quoted("query", i.Query))
		}
	}
}

// quoted is an input with one member.
func quoted(key, value string) json.RawMessage {
	data, _ := json.Marshal(map[string]string{key: value}) // strings always encode
	return data
}

// unwrapped takes off the shell that Codex puts around every command.
func unwrapped(command string) string {
	_, word, ok := strings.Cut(command, "bash -lc ")
	if !ok {
		return command
	}
	plain, ok := unquoted(word)
	if !ok {
		return command
	}
	return plain
}

// unquoted reads one word as a shell does (POSIX.1-2024, Shell Command Language, 2.2); ok is false
// when it is not one word.
func unquoted(word string) (plain string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		switch c := word[i]; c {
		case ' ', '\t', '\n':
			return "", false
		case '\\':
			if i++; i == len(word) {
				return "", false
			}
			b.WriteByte(word[i])
		case '\'':
			end := strings.IndexByte(word[i+1:], '\'')
			if end < 0 {
				return "", false
			}
			b.WriteString(word[i+1 : i+1+end])
			i += end + 1
		case '"':
			for i++; i < len(word) && word[i] != '"'; i++ {
				if word[i] == '\\' && i+1 < len(word) && strings.IndexByte("\"\\$`", word[i+1]) >= 0 {
					i++
				}
				b.WriteByte(word[i])
			}
			if i == len(word) {
				return "", false
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}
