package provider

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// run is a script that any agent with a shell can play.
var run = []Step{{Text: "I look.", Run: "ls"}, {Text: "Done."}}

// startRun starts a server with it.
func startRun(t *testing.T, ws bool) (*Server, *http.Client) {
	t.Helper()
	s, c := serve(t)
	s.cfg.Script, s.cfg.WebSocket = run, ws // before the first request
	return s, c
}

// bearer sends a request as OpenAI's clients do and returns the events of the answer.
func bearer(t *testing.T, c *http.Client, url, body string) (int, []map[string]any) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer real")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var events []map[string]any
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data := strings.TrimPrefix(lines.Text(), "data: ")
		var v map[string]any
		if json.Unmarshal([]byte(data), &v) == nil {
			events = append(events, v)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, events
}

// find walks through values for the first member of a name.
func find(v any, key string) any {
	switch v := v.(type) {
	case map[string]any:
		if x, ok := v[key]; ok {
			return x
		}
		for _, x := range v {
			if f := find(x, key); f != nil {
				return f
			}
		}
	case []any:
		for _, x := range v {
			if f := find(x, key); f != nil {
				return f
			}
		}
	}
	return nil
}

func count(events []map[string]any, kind string) int {
	n := 0
	for _, e := range events {
		if e["type"] == kind {
			n++
		}
	}
	return n
}

// TestResponses plays the script to the Responses API in the forms in which clients offer their
// shell: a function, a function that wants a list, a required extra, and Codex's JavaScript.
func TestResponses(t *testing.T) {
	s, c := startRun(t, false)
	for name, x := range map[string]struct{ tools, kind, want string }{
		"function": {`"tools":[{"type":"function","name":"bash","parameters":{"properties":{"command":{"type":"string"}},"required":["command"]}}]`,
			"function_call", `{"command":"ls"}`},
		"list": {`"tools":[{"type":"function","name":"shell","parameters":{"properties":{"command":{"type":"array"}},"required":["command"]}}]`,
			"function_call", `{"command":["bash","-c","ls"]}`},
		"strict": {`"tools":[{"type":"function","name":"bash","parameters":{"properties":{"command":{"type":"string"},"timeout":{"anyOf":[{"type":"number"},{"type":"null"}]},"n":{"type":"integer"},"why":{"type":"string"}},"required":["command","timeout","n","why"]}}]`,
			"function_call", `{"command":"ls","n":120,"timeout":null,"why":"work"}`},
		"code": {`"input":[{"type":"additional_tools","tools":[{"type":"namespace","name":"functions","tools":[{"type":"custom","name":"exec"}]}]}]`,
			"custom_tool_call", `exec_command({cmd: "ls"`},
	} {
		code, events := bearer(t, c, s.URL()+"/v1/responses", `{"model":"m","stream":true,`+x.tools+`}`)
		last := events[len(events)-1]
		if code != 200 || last["type"] != "response.completed" || count(events, "response.output_item.done") != 2 || find(last, "total_tokens") == nil {
			t.Fatalf("%s: %d %v", name, code, last)
		}
		output := find(last, "output").([]any)
		call := output[1].(map[string]any)
		got, _ := call["arguments"].(string)
		if got == "" {
			got, _ = call["input"].(string)
		}
		if call["type"] != x.kind || !strings.Contains(got, x.want) || call["call_id"] != callID(0) {
			t.Errorf("%s: %v", name, call)
		}
		if name == "code" && call["namespace"] != "functions" {
			t.Errorf("%s: %v", name, call)
		}
	}
	shell := `"tools":[{"type":"function","name":"bash","parameters":{"properties":{"command":{"type":"string"}}}}]`
	done := fmt.Sprintf(`[{"type":"function_call","call_id":%q,"name":"bash"},{"type":"function_call_output","call_id":%[1]q,"output":"made.txt"}]`, callID(0))
	if _, events := bearer(t, c, s.URL()+"/v1/responses", `{"stream":true,`+shell+`,"input":`+done+`}`); find(events[len(events)-1], "text") != "Done." {
		t.Errorf("after the result: %v", events[len(events)-1])
	}
	if r, ok := s.Result(0); !ok || r.Text != "made.txt" {
		t.Errorf("%+v %v", r, ok)
	}
	if code, events := bearer(t, c, s.URL()+"/v1/responses", `{"input":"a title, please"}`); code != 200 || find(events[0], "text") != "Scripted session" {
		t.Errorf("not streamed: %d %v", code, events)
	}
	if code, _ := bearer(t, c, s.URL()+"/v1/responses", `7`); code != 400 {
		t.Errorf("no request: %d", code)
	}
}

// TestChat plays the script to the Chat Completions API.
func TestChat(t *testing.T) {
	s, c := startRun(t, false)
	shell := `"tools":[{"type":"function","function":{"name":"bash","parameters":{"properties":{"command":{"type":"string"}},"required":["command"]}}}]`
	_, events := bearer(t, c, s.URL()+"/api/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},`+shell+`,"messages":[{"role":"user","content":"go"}]}`)
	args, text := "", ""
	for _, e := range events {
		if a, ok := find(e, "arguments").(string); ok {
			args += a
		}
		if a, ok := find(e, "content").(string); ok {
			text += a
		}
	}
	if args != `{"command":"ls"}` || text != "I look." || find(events[len(events)-1], "total_tokens") == nil {
		t.Errorf("%q %q %v", args, text, events[len(events)-1])
	}
	done := fmt.Sprintf(`{"role":"assistant","tool_calls":[{"id":%q}]},{"role":"tool","tool_call_id":%[1]q,"content":"made.txt"}`, callID(0))
	_, events = bearer(t, c, s.URL()+"/v1/chat/completions", `{`+shell+`,"messages":[`+done+`]}`)
	if find(events[0], "content") != "Done." || find(events[0], "finish_reason") != "stop" {
		t.Errorf("%v", events)
	}
	if r, ok := s.Result(0); !ok || r.Text != "made.txt" || !s.Finished() {
		t.Errorf("%+v %v", r, ok)
	}
}

// TestWebSocket: each message is a request, also one that only goes on from an answer; without
// leave the upgrade is refused, so that Codex falls back.
func TestWebSocket(t *testing.T) {
	s, c := startRun(t, true)
	url := "wss" + strings.TrimPrefix(s.URL(), "https") + "/v1/responses"
	dial := func(key string) (*websocket.Conn, int) {
		opts := &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}, HTTPClient: http11(c)}
		conn, resp, err := websocket.Dial(t.Context(), url, opts)
		if err != nil {
			return nil, resp.StatusCode
		}
		conn.SetReadLimit(1 << 20)
		return conn, resp.StatusCode
	}
	if _, code := dial("phantom"); code != 401 {
		t.Errorf("a wrong key: %d", code)
	}
	conn, code := dial("real")
	if code != 101 {
		t.Fatal(code)
	}
	ask := func(body string) map[string]any {
		t.Helper()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(body)); err != nil {
			t.Fatal(err)
		}
		for {
			_, data, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var v map[string]any
			if err := json.Unmarshal(data, &v); err != nil {
				t.Fatal(err)
			}
			if v["type"] == "response.completed" || v["type"] == "error" {
				return v
			}
		}
	}
	if v := ask(`{"type":"response.create","generate":false}`); len(find(v, "output").([]any)) != 0 {
		t.Errorf("%v", v)
	}
	first := ask(`{"type":"response.create","stream":true,"tools":[{"type":"custom","name":"exec"}]}`)
	if !strings.Contains(find(first, "input").(string), "ls") {
		t.Errorf("%v", first)
	}
	id := first["response"].(map[string]any)["id"].(string)
	if v := ask(`{"type":"response.create","previous_response_id":"` + id + `","input":[{"type":"custom_tool_call_output","call_id":"` + callID(0) + `","output":"x"}]}`); find(v, "text") != "Done." {
		t.Errorf("%v", v)
	}
	if v := ask(`{"type":"other"}`); v["type"] != "error" {
		t.Errorf("%v", v)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the connection outlives the server")
	}

	s, c = startRun(t, false)
	url = "wss" + strings.TrimPrefix(s.URL(), "https") + "/v1/responses"
	if _, code := dial("real"); code != http.StatusUpgradeRequired {
		t.Errorf("not refused: %d", code)
	}
}

// http11 is the client without HTTP/2, over which there are no upgrades.
func http11(c *http.Client) *http.Client {
	tr := c.Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = false
	tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return &http.Client{Transport: tr}
}
