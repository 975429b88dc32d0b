package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the small agent.
const (
	scriptTurns   = 200
	scriptAnswer  = 8 << 20  // bytes of one answer of the provider
	scriptOutput  = 30 << 10 // bytes of one tool's output that the model gets
	scriptCommand = 5 * time.Minute
	scriptRequest = 2 * time.Minute
)

// scriptAgent is the small agent `script`: it sends its stdin to the Anthropic Messages API, does
// the tool calls that come back (Bash, Read, Write, Edit), and prints the same stream of JSON
// Lines as `claude -p --output-format stream-json`. It stands in where Claude Code cannot be
// downloaded, and travels the same way: same host, same phantom, same proxy.
type scriptAgent struct {
	client *http.Client
	base   string // URL without a trailing slash
	key    string
	dir    string // working directory of the tools
	out    io.Writer
	start  time.Time

	messages      []scriptMessage
	turns         int
	input, output int64
}

type scriptMessage struct {
	Role    string           `json:"role"`
	Content []map[string]any `json:"content"`
}

type scriptAnswerBody struct {
	Content    []map[string]any `json:"content"`
	StopReason string           `json:"stop_reason"`
	Usage      struct {
		Input  int64 `json:"input_tokens"`
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
}

var scriptTools = []map[string]any{
	scriptTool("Bash", "Run a shell command.", "command"),
	scriptTool("Read", "Read a file.", "file_path"),
	scriptTool("Write", "Write a file.", "file_path", "content"),
	scriptTool("Edit", "Replace the one occurrence of a string in a file.", "file_path", "old_string", "new_string"),
}

func scriptTool(name, what string, inputs ...string) map[string]any {
	props := map[string]any{}
	for _, in := range inputs {
		props[in] = map[string]string{"type": "string"}
	}
	return map[string]any{"name": name, "description": what,
		"input_schema": map[string]any{"type": "object", "properties": props, "required": inputs}}
}

// runScripted is the program of agent `script`.
func (w *wrapper) runScripted() (int, error) {
	prompt, err := io.ReadAll(io.LimitReader(os.Stdin, 8<<20))
	if err != nil {
		return agentFailed, fmt.Errorf("read the prompt: %w", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return agentFailed, err
	}
	base := w.getenv("ANTHROPIC_BASE_URL")
	if base == "" {
		base = "https://api.anthropic.com"
	}
	a := &scriptAgent{client: &http.Client{Timeout: scriptRequest}, base: strings.TrimRight(base, "/"),
		key: w.getenv("ANTHROPIC_API_KEY"), dir: dir, out: os.Stdout, start: time.Now()}
	if err := a.run(context.Background(), string(prompt)); err != nil {
		return agentFailed, err
	}
	return 0, nil
}

func (a *scriptAgent) run(ctx context.Context, prompt string) error {
	if strings.TrimSpace(prompt) == "" {
		return errors.New("script: there is no prompt")
	}
	a.emit(map[string]any{"type": "system", "subtype": "init", "model": "scripted", "cwd": a.dir})
	a.messages = []scriptMessage{{Role: "user", Content: []map[string]any{{"type": "text", "text": prompt}}}}
	for a.turns < scriptTurns {
		answer, err := a.ask(ctx)
		if err != nil {
			a.report(err.Error(), true)
			return err
		}
		a.turns++
		message := scriptMessage{Role: "assistant", Content: answer.Content}
		a.messages = append(a.messages, message)
		a.emit(map[string]any{"type": "assistant", "message": message})
		var results []map[string]any
		text := ""
		for _, block := range answer.Content {
			switch block["type"] {
			case "text":
				text, _ = block["text"].(string)
			case "tool_use":
				results = append(results, a.call(ctx, block))
			}
		}
		if len(results) == 0 {
			a.report(text, false)
			return nil
		}
		message = scriptMessage{Role: "user", Content: results}
		a.messages = append(a.messages, message)
		a.emit(map[string]any{"type": "user", "message": message})
	}
	err := fmt.Errorf("script: no end after %d turns", scriptTurns)
	a.report(err.Error(), true)
	return err
}

// ask sends the conversation and reads the answer.
func (a *scriptAgent) ask(ctx context.Context) (*scriptAnswerBody, error) {
	body, err := json.Marshal(map[string]any{"model": "claude-scripted", "max_tokens": 8192, "tools": scriptTools, "messages": a.messages})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	req.Header.Set("X-Api-Key", a.key)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, scriptAnswer))
	if err != nil {
		return nil, fmt.Errorf("script: read the answer: %w", err)
	}
	var answer scriptAnswerBody
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("script: the provider answered %s with something else than JSON", resp.Status)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("script: the provider answered %s: %s", resp.Status, answer.Error.Message)
	}
	a.input += answer.Usage.Input
	a.output += answer.Usage.Output
	return &answer, nil
}

// call does one tool call and returns its tool_result.
func (a *scriptAgent) call(ctx context.Context, block map[string]any) map[string]any {
	name, _ := block["name"].(string)
	input, _ := block["input"].(map[string]any)
	arg := func(key string) string { s, _ := input[key].(string); return s }
	out, err := a.tool(ctx, name, arg)
	if err != nil {
		out = strings.TrimRight(err.Error()+"\n"+out, "\n")
	}
	if len(out) > scriptOutput {
		out = out[:scriptOutput] + "\n[cut]"
	}
	return map[string]any{"type": "tool_result", "tool_use_id": block["id"], "content": strings.ToValidUTF8(out, "?"), "is_error": err != nil}
}

func (a *scriptAgent) tool(ctx context.Context, name string, arg func(string) string) (string, error) {
	path := arg("file_path")
	if path != "" && !filepath.IsAbs(path) {
		path = filepath.Join(a.dir, path)
	}
	switch name {
	case "Bash":
		return a.bash(ctx, arg("command"))
	case "Read":
		data, err := readSmall(path, 1<<20)
		return string(data), err
	case "Write":
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		return "written", os.WriteFile(path, []byte(arg("content")), 0o644)
	case "Edit":
		data, err := readSmall(path, 16<<20)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(data), arg("old_string")); n != 1 || arg("old_string") == "" {
			return "", fmt.Errorf("the string is there %d times, not once", n)
		}
		fi, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		return "edited", os.WriteFile(path, []byte(strings.Replace(string(data), arg("old_string"), arg("new_string"), 1)), fi.Mode().Perm())
	}
	return "", fmt.Errorf("there is no tool %q", name)
}

// bash runs a command in a process group of its own, so that its deadline ends all of it.
func (a *scriptAgent) bash(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, scriptCommand)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Dir = a.dir
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &head{max: scriptOutput + 1}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("exit code %d", ee.ExitCode())
	}
	return out.String(), err
}

// report prints the closing line.
func (a *scriptAgent) report(result string, failed bool) {
	subtype := "success"
	if failed {
		subtype = "error_during_execution"
	}
	a.emit(map[string]any{"type": "result", "subtype": subtype, "is_error": failed, "result": result, "num_turns": a.turns,
		"duration_ms": time.Since(a.start).Milliseconds(), "total_cost_usd": 0,
		"usage": map[string]int64{"input_tokens": a.input, "output_tokens": a.output}})
}

func (a *scriptAgent) emit(v any) {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// head keeps the first max bytes and drops the rest.
type head struct {
	bytes.Buffer
	max int
}

func (h *head) Write(p []byte) (int, error) {
	if room := h.max - h.Len(); room > 0 {
		h.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
