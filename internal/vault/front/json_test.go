package front

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// inspect runs the inspector over doc in chunks of n bytes.
func inspect(doc []byte, n int, fetch bool) error {
	in := &jsonInspector{}
	in.reset(bodyRules{fetch: fetch})
	for len(doc) > 0 {
		k := min(n, len(doc))
		if err := in.write(doc[:k]); err != nil {
			return err
		}
		doc = doc[k:]
	}
	return in.close()
}

// reference is the same judgement, written the plain way: decode everything, then walk.
func reference(doc []byte, fetch bool) bool {
	dec := json.NewDecoder(bytes.NewReader(doc))
	type level struct {
		object, opaque, note, key bool
		name, member              string
	}
	var stack []level
	hit := false
	scalar := func(s string, isString, calls bool) {
		if len(stack) == 0 {
			return
		}
		f := &stack[len(stack)-1]
		key := f.name
		if f.object {
			key = f.member
		}
		opaque := f.opaque || f.object && opaqueMember(f.name, key)
		if opaque {
			return
		}
		if !isString {
			hit = hit || calls && !fetch && !f.note && callingMembers[key] && !(f.object && noteMember(f.name, key))
			return
		}
		if s != "" && (credentialNames[key] || len(stack) == 1 && f.object && weakNames[key]) {
			hit = true
		}
		hit = hit || !fetch && !f.note && callsOut(f.name, key, []byte(s[:min(len(s), captured)]), len(s))
	}
	for {
		tok, err := dec.Token()
		if err != nil {
			return hit
		}
		if n := len(stack); n > 0 && stack[n-1].object && stack[n-1].key {
			if s, ok := tok.(string); ok {
				stack[n-1].member, stack[n-1].key = foldName(s), false
				continue
			}
		}
		switch v := tok.(type) {
		case json.Delim:
			if v == '}' || v == ']' {
				stack = stack[:len(stack)-1]
			} else {
				next := level{object: v == '{', key: v == '{'}
				if n := len(stack); n > 0 {
					f := stack[n-1]
					next.name = f.name
					next.opaque, next.note = f.opaque, f.note
					if f.object {
						next.name = f.member
						next.opaque = f.opaque || opaqueMember(f.name, f.member)
						next.note = f.note || noteMember(f.name, f.member)
					}
					if !fetch && !next.opaque && !next.note && callingMembers[next.name] && next.object {
						hit = true
					}
				}
				stack = append(stack, next)
				continue
			}
		case string:
			scalar(v, true, true)
		case bool:
			scalar("", false, v)
		default:
			scalar("", false, v != nil)
		}
		if n := len(stack); n > 0 && stack[n-1].object {
			stack[n-1].key = true
		}
	}
}

func FuzzJSONInspector(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"x"}}]}]}`,
		`{"tools":[{"name":"n","input_schema":{"api_key":"x"}},{"type":"web_fetch_1"}]}`,
		`{"\u0061pi-key":"x","a":[1,-2.5e3,true,false,null,"\ud83d\ude00"]}`,
		`{"mcp_servers":[[]],"api_key":""}`, `{"api_key":{"a":"b"},"token":"t"}`, `[[[[]]]]`, `"\"`, `{"a":1,}`, `01`, "\ufeff{}",
		`{"content":{"input":{"password":"x"}},"password":"y"}`,
	} {
		f.Add([]byte(s), 3, false)
		f.Add([]byte(s), 1, true)
	}
	f.Fuzz(func(t *testing.T, doc []byte, n int, fetch bool) {
		if len(doc) > 1<<16 {
			return
		}
		n = max(1, n%17)
		got := inspect(doc, n, fetch)
		if whole := inspect(doc, len(doc)+1, fetch); (whole == nil) != (got == nil) || got != nil && got.Error() != whole.Error() {
			t.Fatalf("in chunks %v, at once %v", got, whole)
		}
		if !json.Valid(doc) || !utf8.Valid(doc) || deep(doc) {
			return
		}
		if bytes.Contains(doc, []byte(`\u`)) && strings.Contains(strings.ToLower(string(doc)), `\ud`) {
			return // lone surrogates: the reference replaces them, with other lengths
		}
		if want := reference(doc, fetch); want != (got != nil) {
			t.Fatalf("inspector %v, reference %v: %s", got, want, doc)
		}
	})
}

// deep reports whether doc may nest deeper than the inspector follows.
func deep(doc []byte) bool {
	return bytes.Count(doc, []byte("{"))+bytes.Count(doc, []byte("[")) >= maxDepth
}

func FuzzScrubber(f *testing.F) {
	f.Add([]byte("data: "+realKey+"\n\n"), 7)
	f.Add([]byte(strings.Repeat(realKey[:20], 3)+realKey+realKey), 1)
	for _, n := range newScrubber([]byte(realKey)).needles {
		f.Add(append(append([]byte("a"), n...), n[:len(n)-1]...), 3)
	}
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		if len(body) > 1<<16 {
			return
		}
		n = max(1, n%64)
		s := newScrubber([]byte(realKey))
		st := scrubStream{scrubber: s, buf: make([]byte, 4*s.longest+n)}
		var got []byte
		for rest, out := body, 0; ; {
			k := min(n, len(rest))
			copy(st.room(out), rest[:k])
			rest = rest[k:]
			chunk := st.next(k, len(rest) == 0)
			got = append(got, chunk...)
			out = len(chunk)
			if len(rest) == 0 {
				break
			}
		}
		if len(got) != len(body) {
			t.Fatalf("%d bytes in, %d out", len(body), len(got))
		}
		// The oracle: no spelling of the key is left, and what is not in one is as it was.
		covered := make([]bool, len(body))
		for _, needle := range s.needles {
			if bytes.Contains(got, needle) {
				t.Fatalf("%q is in the output", needle)
			}
			for from := 0; ; from++ {
				i := bytes.Index(body[from:], needle)
				if i < 0 {
					break
				}
				from += i
				for j := range needle {
					covered[from+j] = true
				}
			}
		}
		for i := range got {
			if got[i] != body[i] && (got[i] != 'x' || !covered[i]) {
				t.Fatalf("byte %d was changed from %q to %q", i, body[i], got[i])
			}
		}
	})
}

// TestPlainRun: every byte at every place of a word, after and before every other kind of byte.
func TestPlainRun(t *testing.T) {
	special := func(c byte) bool { return c < 0x20 || c == '"' || c == '\\' }
	var p [19]byte
	for _, rest := range []byte{' ', '!', '#', '[', ']', 0x7f, 0x80, 0x9f, 0xa2, 0xdc, 0xff} {
		for c := range 256 {
			for at := range p {
				for i := range p {
					p[i] = rest
				}
				p[at] = byte(c)
				want := len(p)
				if special(byte(c)) {
					want = at
				}
				if got := plainRun(p[:]); got != want {
					t.Fatalf("%#x at %d among %#x: %d", c, at, rest, got)
				}
				if at > 0 { // the second of two is not the first
					p[at-1] = '"'
					if got := plainRun(p[:]); got != at-1 {
						t.Fatalf("a quote at %d before %#x: %d", at-1, c, got)
					}
				}
			}
		}
	}
}

func BenchmarkInspect(b *testing.B) {
	doc := []byte(`{"model":"m","max_tokens":1000,"messages":[{"role":"user","content":[{"type":"text","text":"` + strings.Repeat("word ", 20000) + `"}]}],"stream":true}`)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := inspect(doc, 32<<10, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScrub(b *testing.B) {
	body := []byte(strings.Repeat(`{"type":"content_block_delta","delta":{"text":"some words here"}}`+"\n", 500))
	s := newScrubber([]byte(realKey))
	st := scrubStream{scrubber: s, buf: make([]byte, len(body)+4*s.longest)}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		copy(st.buf, body)
		st.held = 0
		st.next(len(body), true)
	}
}

func TestArmsOnce(t *testing.T) {
	rt := &route{grant: &grant{auths: map[string]*auth{"": {header: "X"}}}}
	start := time.Now()
	a, err := rt.arm(Secret{Value: []byte(realKey)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := rt.arm(Secret{Value: []byte(realKey)})
	if err != nil || a != b {
		t.Error("the same secret was made ready twice", time.Since(start))
	}
	for _, bad := range []string{"", "short", "with a space in it", "line\nbreak-in-key", strings.Repeat("a", maxSecret+1)} {
		if _, err := rt.arm(Secret{Value: []byte(bad)}); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
}
