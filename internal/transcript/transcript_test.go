package transcript

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden renders streams that the real agents printed (testdata/FORM-*.jsonl): work with one
// failing command, and a key that the provider refuses. What is long and not read is cut out.
//
// spec/agents.md §17: 21.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.jsonl")
	if len(files) < 2*len(Forms()) {
		t.Fatal("the recorded streams are missing")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			form, _, _ := strings.Cut(filepath.Base(file), "-")
			r := New(&out, form, Options{Width: 80})
			for _, c := range in { // byte by byte: cuts do not matter
				if _, err := r.Write([]byte{c}); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			s := r.Summary()
			fmt.Fprintf(&out, "--- %s, complete %v, error %v, session %v, calls %d, failed %d\n", s.Usage(), s.Complete, s.IsError, s.Session != "", s.ToolCalls, s.ToolFailures)
			golden := strings.TrimSuffix(file, ".jsonl") + ".golden"
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("got:\n%s\nwant:\n%s", out.Bytes(), want)
			}
		})
	}
}

func TestSummaryOfARealRun(t *testing.T) {
	in, err := os.ReadFile("testdata/claude-work.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	r := New(&bytes.Buffer{}, "claude", Options{})
	_, _ = r.Write(in)
	s := r.Summary()
	if !s.Complete || s.IsError || s.Turns != 7 || s.ToolCalls != 6 || s.ToolFailures != 1 || s.InputTokens != 89967 ||
		s.OutputTokens != 144 || s.CostUSD != 0.362748 || s.DurationMS != 782 || s.Result != "Done: the sum is **right** and committed." {
		t.Errorf("summary %+v", s)
	}
	if s.Usage() != "90 k tokens, $0.36" {
		t.Errorf("usage %q", s.Usage())
	}
}

func TestHostileLines(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain lines pass", "npm warn x\n\n", "npm warn x\n"},
		{"escapes of a plain line", "\x1b]52;c;x\a\x1b[2J\n", `\x1b]52;c;x\x07\x1b[2J` + "\n"},
		{"escapes in JSON", `{"type":"assistant","message":{"content":[{"type":"text","text":"a\u001b[2Jb\u202ec"}]}}` + "\n", `a\x1b[2Jb\u{202e}c` + "\n"},
		{"escapes in a tool name", `{"type":"assistant","message":{"content":[{"type":"tool_use","name":"B\u001b]0;x\u0007","input":{"command":"a\nb\u009b"}}]}}` + "\n", "* B ]0;x : a; b\\u{9b}\n"},
		{"unknown event", `{"type":"rate_limit_event","x":[1]}` + "\n", ""},
		{"JSON that is no event", `{"a":1}` + "\n", `{"a":1}` + "\n"},
		{"wrong types", `{"type":"assistant","message":{"content":[{"type":5},7,{"type":"text","text":"ok"}]}}` + "\n", "ok\n"},
		{"content is a string", `{"type":"assistant","message":{"content":"hi"}}` + "\n", "hi\n"},
		{"no newline at the end", `x`, "x\n"},
		{"languages", `{"type":"assistant","message":{"content":"Größe geändert, 修复完成, готово"}}`, "Größe geändert, 修复完成, готово\n"},
		{"typography", `{"type":"assistant","message":{"content":"it’s — done… ✅"}}`, "it’s — done… ✅\n"},
		{"error without text", `{"type":"result","subtype":"error_max_turns","is_error":true}`, "! the agent gave up: error_max_turns\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := New(&out, "claude", Options{})
			_, _ = r.Write([]byte(c.in))
			_ = r.Close()
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}

func TestNumbersAreBounded(t *testing.T) {
	r := New(&bytes.Buffer{}, "claude", Options{})
	_, _ = r.Write([]byte(`{"type":"result","num_turns":-5,"total_cost_usd":1e300,"usage":{"input_tokens":1e308,"output_tokens":-1}}` + "\n"))
	if s := r.Summary(); s.Turns != 0 || s.CostUSD != 1e6 || s.InputTokens != 1e15 || s.OutputTokens != 0 {
		t.Errorf("%+v", s)
	}
}

func TestLongLineIsLeftOut(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, "claude", Options{})
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range 6 {
		_, _ = r.Write(chunk)
		if len(r.line) > MaxLine {
			t.Fatalf("holds %d bytes", len(r.line))
		}
	}
	_, _ = r.Write([]byte("\nnext\n"))
	if got := out.String(); strings.Count(got, "left out") != 1 || !strings.HasSuffix(got, "next\n") {
		t.Errorf("%q", got)
	}
}

func TestColoursAreOurs(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, "claude", Options{Color: true})
	_, _ = r.Write([]byte(`{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"\u001b[5mx"}}]}}` + "\n"))
	if out.String() != "\x1b[34m* Bash: \\x1b[5mx\x1b[0m\n" {
		t.Errorf("%q", out.String())
	}
}

// unprintable reports whether s has a character that is not ours to print: the sanitiser's own
// tests have the finer points.
func unprintable(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return r != '\t' && r != '\n' && r != 0x200c && r != 0x200d && !unicode.IsPrint(r)
	})
}

// FuzzRenderer: whatever is in the log, only printable text comes out, bounded, and the cut
// between two writes does not matter.
func FuzzRenderer(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.jsonl")
	for i, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			f.Add(line, i)
		}
	}
	f.Add([]byte("\x1b]0;x\a\n{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"is_error\":true,\"content\":\"a\\nb\\nc\\nd\"}]}}"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		n := 0
		if len(in) > 0 {
			n = int(uint(cut) % uint(len(in)))
		}
		var one, two bytes.Buffer
		form := Forms()[uint(cut)%uint(len(Forms()))]
		a, b := New(&one, form, Options{Width: 60}), New(&two, form, Options{Width: 60})
		_, _ = a.Write(in)
		_ = a.Close()
		_, _ = b.Write(in[:n])
		_, _ = b.Write(in[n:])
		_ = b.Close()
		if unprintable(one.String()) {
			t.Fatalf("%q", one.Bytes())
		}
		if !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Fatalf("cut at %d: %q and %q", n, one.Bytes(), two.Bytes())
		}
		if s := a.Summary(); unprintable(s.Result+s.Model+s.Session) || s.InputTokens < 0 || s.Turns < 0 {
			t.Fatalf("%+v", s)
		}
		if one.Len() > 200*len(in)+1000 {
			t.Fatalf("%d bytes became %d", len(in), one.Len())
		}
	})
}

// TestCodexCommands: what a person reads is the command, not the shell around it.
func TestCodexCommands(t *testing.T) {
	for in, want := range map[string]string{
		`/bin/bash -lc 'ls -la'`:                                         `ls -la`,
		`/bin/bash -lc "a \"b\" \$c"`:                                    `a "b" $c`,
		`/bin/bash -lc "sed -i 's/\\"'$2/$1/'"' greet.sh && sh test.sh"`: `sed -i 's/\$2/$1/' greet.sh && sh test.sh`,
		`bash -lc ls`:      `ls`,
		`bash -lc 'a`:      `bash -lc 'a`,
		`bash -lc "a`:      `bash -lc "a`,
		`bash -lc 'a' b`:   `bash -lc 'a' b`,
		`bash -lc \`:       `bash -lc \`,
		`python3 -c 'x y'`: `python3 -c 'x y'`,
	} {
		if got := unwrapped(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}
