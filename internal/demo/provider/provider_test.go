package provider

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

var script = []Step{
	{Text: "First.", Tool: "Bash", Input: map[string]any{"command": "true"}},
	{Tool: "Edit", Input: map[string]any{"file_path": "f"}},
	{Text: "Done, ünïcode."},
}

func serve(t *testing.T) (*Server, *http.Client) {
	t.Helper()
	s, err := Start(Config{Key: "real", Script: script, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	pem, err := os.ReadFile(s.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("the CA file holds no certificate")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return s, &http.Client{Transport: tr}
}

func post(t *testing.T, c *http.Client, url, key, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("x-api-key", key)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

const tools = `"tools":[{"name":"Bash"},{"name":"Edit"}]`

// history is a conversation in which n steps are done.
func history(n int) string {
	m := `{"role":"user","content":"go"}`
	for i := range n {
		m += fmt.Sprintf(`,{"role":"assistant","content":[{"type":"tool_use","id":%q,"name":"x","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":%q,"content":[{"type":"text","text":"out%d"}],"is_error":%t}]}`, toolID(i), toolID(i), i, i == 1)
	}
	return m
}

func TestScriptIsPlayedFromTheConversation(t *testing.T) {
	s, c := serve(t)
	for _, n := range []int{0, 1, 1, 2, 0} { // repeated and out of order: a retry, a second conversation
		code, body := post(t, c, s.URL()+"/v1/messages?beta=true", "real", `{"model":"m",`+tools+`,"messages":[`+history(n)+`]}`)
		var got struct {
			Content []struct{ Type, Text, ID, Name string }
			Stop    string `json:"stop_reason"`
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		last := got.Content[len(got.Content)-1]
		if script[n].Tool != "" && (last.Name != script[n].Tool || last.ID != toolID(n) || got.Stop != "tool_use") || script[n].Tool == "" && (last.Text != script[n].Text || got.Stop != "end_turn") {
			t.Errorf("step %d: %s", n, body)
		}
	}
	if r, ok := s.Result(1); !ok || r.Text != "out1" || !r.IsError {
		t.Errorf("result of step 1: %+v %v", r, ok)
	}
	if !s.Finished() {
		t.Error("the last step was answered")
	}
	_, body := post(t, c, s.URL()+"/v1/messages", "real", `{`+tools+`,"messages":[`+history(2)+`,{"role":"assistant","content":[{"type":"text","text":"Done"}]},{"role":"user","content":"more"}]}`)
	if !strings.Contains(body, "The script is over.") {
		t.Errorf("after the end: %s", body)
	}
}

func TestStreaming(t *testing.T) {
	s, c := serve(t)
	_, body := post(t, c, s.URL()+"/v1/messages", "real", `{"stream":true,`+tools+`,"messages":[`+history(0)+`]}`)
	var events []string
	var input strings.Builder
	for line := range strings.Lines(body) {
		if e, ok := strings.CutPrefix(line, "event: "); ok {
			events = append(events, strings.TrimSpace(e))
		}
		if d, ok := strings.CutPrefix(line, "data: "); ok {
			var v struct {
				Delta struct {
					Partial string `json:"partial_json"`
				}
			}
			if err := json.Unmarshal([]byte(d), &v); err != nil {
				t.Fatal(err)
			}
			input.WriteString(v.Delta.Partial)
		}
	}
	want := "message_start ping content_block_start content_block_delta content_block_stop content_block_start content_block_delta content_block_stop message_delta message_stop"
	if strings.Join(events, " ") != want {
		t.Errorf("events %v", events)
	}
	if input.String() != `{"command":"true"}` {
		t.Errorf("input %s", input.String())
	}
}

func TestWrongKeysAreRefusedAndRecorded(t *testing.T) {
	s, c := serve(t)
	for _, key := range []string{"", "phantom"} {
		if code, body := post(t, c, s.URL()+"/v1/messages", key, `{`+tools+`,"messages":[]}`); code != 401 || !strings.Contains(body, "authentication_error") {
			t.Errorf("%q: %d %s", key, code, body)
		}
	}
	req, _ := http.NewRequest(http.MethodPost, s.URL()+"/v1/messages", bytes.NewReader(nil))
	req.Header.Set("x-api-key", "real")
	req.Header.Set("Authorization", "Bearer other")
	if resp, err := c.Do(req); err != nil || resp.StatusCode != 401 {
		t.Errorf("a second credential beside the right one: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	wrong := s.WrongKeys()
	if len(wrong) != 3 || wrong[1].Header.Get("X-Api-Key") != "phantom" || wrong[0].Proto != "HTTP/2.0" {
		t.Errorf("%+v", wrong)
	}
}

func TestSideRequestsMoveNothing(t *testing.T) {
	s, c := serve(t)
	for _, body := range []string{`{"messages":[{"role":"user","content":"quota"}],"max_tokens":1}`, `{"tools":[{"name":"Other"}],"messages":[]}`, `{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_script999999"}]}]}`} {
		if code, answer := post(t, c, s.URL()+"/v1/messages", "real", body); code != 200 || strings.Contains(answer, "tool_use\"") {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
	if code, _ := post(t, c, s.URL()+"/v1/messages/count_tokens", "real", `{}`); code != 200 {
		t.Error("count_tokens", code)
	}
	if code, _ := post(t, c, s.URL()+"/v1/organizations", "real", `{}`); code != 404 {
		t.Error("unknown path", code)
	}
	if code, _ := post(t, c, s.URL()+"/v1/messages", "real", `nonsense`); code != 400 {
		t.Error("no JSON", code)
	}
	for _, r := range s.Requests() {
		if r.Kind == "step" {
			t.Errorf("%+v", r)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	for _, c := range []Config{{}, {Key: "k"}, {Key: "k", Script: script[:1]}} {
		if s, err := Start(c); err == nil {
			s.Close()
			t.Errorf("%+v was taken", c)
		}
	}
}

// FuzzChoose: no request makes the provider fail or leave the script.
func FuzzChoose(f *testing.F) {
	f.Add([]byte(`{` + tools + `,"messages":[` + history(2) + `]}`))
	f.Add([]byte(`{"tools":[{"name":"Bash"}],"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_script999999"}]}]}`))
	f.Add([]byte(`{"messages":[{"content":7}]}`))
	s := &Server{cfg: Config{Script: script}, results: map[int]Result{}}
	f.Fuzz(func(t *testing.T, body []byte) {
		var messages messagesRequest
		var chat chatRequest
		var responses responsesRequest
		for _, c := range []interface{ conversation(int) *conversation }{&messages, &chat, &responses} {
			if json.Unmarshal(body, c) != nil {
				continue
			}
			if a := s.choose(c.conversation(len(body))); a.at < -1 || a.at >= len(script) {
				t.Fatalf("step %d", a.at)
			}
		}
	})
}
