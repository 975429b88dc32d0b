package usage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// feed gives a meter a text in pieces of n bytes.
func feed(contentType, body string, n int) *Meter {
	m := NewMeter(contentType)
	for p := []byte(body); len(p) > 0; {
		k := min(n, len(p))
		m.Write(p[:k])
		p = p[k:]
	}
	return m
}

const anthropicStream = "event: message_start\n" +
	`data: {"type":"message_start","message":{"id":"msg_1","model":"claude-sonnet-4-5-20250929","content":[],"usage":{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1}}}` + "\n\n" +
	"event: ping\ndata: {\"type\": \"ping\"}\n\n" +
	`data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\"usage\":{\"output_tokens\":99999}"}}` + "\n\n" +
	": comment\n" +
	`data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}` + "\r\n\r\n" +
	"data: {\"type\":\"message_stop\"}\n\n"

func TestProvidersUsage(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body, model string
		want                           Tokens
	}{
		{"Anthropic Messages", "application/json; charset=utf-8",
			`{"id":"m","model":"claude-opus-4-5","content":[{"type":"text","text":"{\"usage\":{\"input_tokens\":5}}"},{"type":"tool_use","input":{"usage":{"output_tokens":77},"model":"x"}}],"usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":5,"cache_creation_input_tokens":6,"server_tool_use":{"web_search_requests":9},"service_tier":"standard"}}`,
			"claude-opus-4-5", Tokens{Input: 3, Output: 4, CacheRead: 5, CacheWrite: 6}},
		{"Anthropic stream", "text/event-stream", anthropicStream, "claude-sonnet-4-5-20250929",
			Tokens{Input: 25, Output: 15, CacheRead: 7, CacheWrite: 100, CacheLong: 40}},
		{"OpenAI Responses", "application/json", `{"object":"response","model":"gpt-5.1","output":[{"usage":{"output_tokens":1000}}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":20,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":120}}`,
			"gpt-5.1", Tokens{Input: 40, Output: 20, CacheRead: 60}},
		{"OpenAI Responses stream", "text/event-stream",
			"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-5\",\"usage\":null}}\n\n" +
				"data: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n" +
				"data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":10,\"output_tokens\":3}}}\n\n",
			"gpt-5", Tokens{Input: 10, Output: 3}},
		{"OpenAI Chat", "application/json", `{"model":"gpt-4o","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4}}}`,
			"gpt-4o", Tokens{Input: 5, Output: 12, CacheRead: 4}},
		{"OpenAI Chat stream", "text/event-stream",
			"data: {\"model\":\"gpt-4o\",\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n" +
				"data:{\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12}}\n\ndata: [DONE]\n\n",
			"gpt-4o", Tokens{Input: 9, Output: 12}},
		{"a liar", "application/json", `{"model":"m","usage":{"input_tokens":1,"output_tokens":-5,"input_tokens_details":{"cached_tokens":99}}}`,
			"m", Tokens{CacheRead: 99}},
	} {
		for _, n := range []int{1, 2, 3, 7, 64, 1 << 20} {
			m := feed(tt.contentType, tt.body, n)
			got, estimated := m.Tokens(4000)
			if got != tt.want || estimated || m.Model() != tt.model {
				t.Errorf("%s in pieces of %d: %+v estimated %v model %q, want %+v", tt.name, n, got, estimated, m.Model(), tt.want)
			}
		}
	}
}

// A client that goes away before the usage field, or asks for none, is counted nevertheless.
func TestWithoutUsageIsEstimated(t *testing.T) {
	cut := anthropicStream[:strings.Index(anthropicStream, "message_delta")]
	cut += strings.Repeat("data: {\"type\":\"content_block_delta\"}\n\n", 50)
	got, estimated := feed("text/event-stream", cut, 100).Tokens(4000)
	if !estimated || got.Input != 25 || got.Output < 50 {
		t.Errorf("a cut stream: %+v %v", got, estimated)
	}
	chat := strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", 30) + "data: [DONE]\n\n"
	got, estimated = feed("text/event-stream", chat, 100).Tokens(4000)
	if !estimated || got.Input != 1000 || got.Output != 30 {
		t.Errorf("a chat without usage: %+v %v", got, estimated)
	}
	got, estimated = feed("application/json", `{"content":"`+strings.Repeat("a", 4000), 100).Tokens(4000)
	if !estimated || got.Input != 1000 || got.Output < 1000 {
		t.Errorf("a cut document: %+v %v", got, estimated)
	}
	if got, estimated = NewMeter("application/json").Tokens(4000); estimated || got != (Tokens{}) {
		t.Errorf("no answer at all: %+v %v", got, estimated)
	}
	if NewMeter("image/png") != nil || NewMeter("") != nil {
		t.Error("a meter for what it cannot read")
	}
}

func TestGenerates(t *testing.T) {
	for path, want := range map[string]bool{"/v1/messages": true, "/v1/messages/count_tokens": false, "/v1/responses": true,
		"/backend-api/codex/responses": true, "/api/v1/chat/completions": true, "/v1/models": false, "/v1/embeddings": true} {
		if Generates("POST", path) != want || Generates("GET", path) {
			t.Errorf("%s", path)
		}
	}
}

// FuzzMeter holds the meter against encoding/json: it never fails, what it finds does not depend
// on how the bytes come, and in valid documents it finds what a real parser finds.
func FuzzMeter(f *testing.F) {
	f.Add(`{"usage":{"input_tokens":3,"output_tokens":4},"model":"m"}`)
	f.Add(`{"response":{"usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4}}}}`)
	f.Add(`{"model":}"x"`)
	f.Add(`{"message":{"usage":{"cache_creation":{"ephemeral_1h_input_tokens":5}}}}`)
	f.Add(`[{"usage":{"input_tokens":3}}]`)
	f.Add(anthropicStream)
	f.Fuzz(func(t *testing.T, doc string) {
		for _, ct := range []string{"application/json", "text/event-stream"} {
			whole := feed(ct, doc, len(doc)+1)
			a, ea := whole.Tokens(0)
			for _, n := range []int{1, 5} {
				if b, eb := feed(ct, doc, n).Tokens(0); a != b || ea != eb {
					t.Fatalf("%s: %+v %v in one piece, %+v %v in pieces of %d", ct, a, ea, b, eb, n)
				}
			}
			if a.Input < 0 || a.Output < 0 || a.CacheRead < 0 {
				t.Fatalf("negative: %+v", a)
			}
		}
		want, ok := reference(doc)
		if !ok {
			return
		}
		got := feed("application/json", doc, 3).scan.tokens
		if got != want {
			t.Fatalf("%q: %+v, a parser finds %+v", doc, got, want)
		}
	})
}

// reference reads a document as a parser does; ok is false where the two may differ: a member
// twice, names with escapes, numbers that are not plain, or no JSON object.
func reference(doc string) (t Tokens, ok bool) {
	if strings.Contains(doc, `\`) || !json.Valid([]byte(doc)) {
		return t, false
	}
	dec := json.NewDecoder(strings.NewReader(doc))
	dec.UseNumber()
	var root map[string]any
	if dec.Decode(&root) != nil {
		return t, false
	}
	// encoding/json keeps the last of two members, the meter the largest.
	var again bytes.Buffer
	if json.Compact(&again, []byte(doc)) != nil {
		return t, false
	}
	names := strings.Count(again.String(), `":`)
	if countMembers(root) != names {
		return t, false
	}
	ok = true
	take := func(m map[string]any, name string, to *int64) {
		n, is := m[name].(json.Number)
		if !is {
			return
		}
		s := n.String()
		if strings.Trim(s, "0123456789") != "" || len(s) > 9 {
			ok = ok && strings.HasPrefix(s, "-")
			return
		}
		v, _ := n.Int64()
		*to = max(*to, v)
	}
	sub := func(m map[string]any, name string) map[string]any {
		v, _ := m[name].(map[string]any)
		return v
	}
	for _, at := range []map[string]any{root, sub(root, "message"), sub(root, "response")} {
		u := sub(at, "usage")
		take(u, "input_tokens", &t.Input)
		take(u, "prompt_tokens", &t.Input)
		take(u, "output_tokens", &t.Output)
		take(u, "completion_tokens", &t.Output)
		take(u, "cache_read_input_tokens", &t.CacheRead)
		take(u, "cache_creation_input_tokens", &t.CacheWrite)
		take(sub(u, "input_tokens_details"), "cached_tokens", &t.CacheRead)
		take(sub(u, "prompt_tokens_details"), "cached_tokens", &t.CacheRead)
		take(sub(u, "cache_creation"), "ephemeral_1h_input_tokens", &t.CacheLong)
	}
	return t, ok
}

func countMembers(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, w := range v {
			n += 1 + countMembers(w)
		}
	case []any:
		for _, w := range v {
			n += countMembers(w)
		}
	}
	return n
}

// Whatever numbers a provider sends, they arrive.
func TestEveryNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string) int64 { return rapid.Int64Range(0, 1e9).Draw(t, name) }
		want := Tokens{Input: n("in"), Output: n("out"), CacheRead: n("read"), CacheWrite: n("write")}
		doc := fmt.Sprintf(`{"usage" : {"input_tokens" :%d, "output_tokens": %d ,"cache_read_input_tokens":%d,"cache_creation_input_tokens":%d}}`,
			want.Input, want.Output, want.CacheRead, want.CacheWrite)
		if got, _ := feed("application/json", doc, rapid.IntRange(1, 40).Draw(t, "n")).Tokens(0); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}

func BenchmarkMeter(b *testing.B) {
	event := []byte("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"some words of an answer\"}}\n\n")
	m := NewMeter("text/event-stream")
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		m.Write(event)
	}
}
