package passphrase

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/child"
	"terok/internal/problem"
)

func TestFile(t *testing.T) {
	write := func(s string, mode os.FileMode) string {
		p := filepath.Join(t.TempDir(), "it's")
		if err := os.WriteFile(p, []byte(s), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for in, want := range map[string]string{"a b": "a b", "x\n": "x", "x\r\n": "x", " x \n\n": " x \n"} {
		if got, err := File(write(in, 0o600)); err != nil || string(got) != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, path := range []string{write("", 0o600), write("\n", 0o600), write("secret-text", 0o644), write(strings.Repeat("x", 5000), 0o600), "/nonexistent", t.TempDir()} {
		if _, err := File(path); err == nil || strings.Contains(err.Error(), "secret-text") {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err := File(write("x", 0o640))
	if p := problem.Of(err); !strings.HasPrefix(p.Hint, "chmod 600 ") {
		t.Errorf("hint %q", p.Hint)
	}
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	tool := filepath.Join(dir, "my-pass")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho \"$1 $PASS_DIR\"\necho second\necho hello >&2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	getenv := func(string) string { return dir + ":/usr/bin:/bin" }
	run := func(line string) (string, string, error) {
		var said bytes.Buffer
		out, err := Command(context.Background(), line, getenv, []string{"PASS_DIR=store"}, &said)
		return string(out), said.String(), err
	}
	if out, said, err := run(`my-pass 'show it'`); err != nil || out != "show it store" || !strings.Contains(said, "hello") {
		t.Errorf("%q %q %v", out, said, err)
	}
	for line, want := range map[string]string{
		"false --token=s3cret":           "exit code 1",
		"true s3cret":                    "printed no passphrase",
		"no-such-program s3cret":         "not in PATH",
		"./my-pass s3cret":               "absolute path",
		"head -c 10000 /dev/zero s3cret": "",
		`"s3cret`:                        "left open",
	} {
		_, _, err := run(line)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", line, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Command(ctx, "sleep 100", getenv, nil, nil); err == nil {
		t.Error("a command outlived its context")
	}
}

// TestCommandEnds: whatever a command does, it has failed within 31 seconds, nothing of it goes on,
// and nothing that it was given or printed is told. spec/vault.md §10: 62.
func TestCommandEnds(t *testing.T) {
	d := production()
	if total := d.term + d.kill + child.PipeGrace; total > 31*time.Second || d.term < 25*time.Second {
		t.Errorf("a command may take %s of %s", total, d.term)
	}
	quick := deadline{300 * time.Millisecond, 100 * time.Millisecond}
	getenv := func(string) string { return "/usr/bin:/bin" }
	pids := filepath.Join(t.TempDir(), "pids")
	for _, c := range []struct{ name, script, want string }{
		{"sleeps", "sleep 1000", "took longer"},
		{"ignores SIGTERM", `trap "" TERM; while :; do sleep 1; done`, "took longer"},
		{"answers too late", "echo s3cret-phrase; sleep 1000", "took longer"},
		{"leaves a descendant with our pipes", "setsid sleep 8 & sleep 1000", "took longer"},
		{"prints 1 MiB", "head -c 1048576 /dev/zero", "more than 4096 bytes"},
		{"prints for ever", "yes s3cret-phrase", "more than 4096 bytes"},
		{"fails after it printed", "echo s3cret-phrase; echo s3cret-phrase >&2; exit 3", "exit code 3"},
		{"prints nothing", ":", "printed no passphrase"},
		{"prints an empty line first", "echo; echo s3cret-phrase", "printed no passphrase"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			out, err := quick.command(t.Context(), `sh -c 'echo $$ >> `+pids+`; `+c.script+`' s3cret-argument`, getenv, nil, nil)
			took := time.Since(start)
			if p := problem.Of(err); err == nil || out != nil || p.Exit != problem.Locked || !strings.Contains(p.Message, c.want) {
				t.Errorf("%q %v", out, err)
			}
			if p := problem.Of(err); strings.Contains(fmt.Sprint(err, p.Hint, p.Details), "s3cret") || !strings.Contains(p.Message, "(sh)") {
				t.Errorf("told: %v", err)
			}
			if took > 20*time.Second { // bounded by the deadline, not by the command
				t.Errorf("it took %s", took)
			}
		})
	}
	data, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(data)) {
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(line), pids) {
			t.Errorf("%s still runs", pid)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		`pass show a/b`:     `["pass" "show" "a/b"]`,
		`a 'b c' "d \" $e"`: `["a" "b c" "d \" $e"]`,
		`a\ b '' "x"y`:      `["a b" "" "xy"]`,
		"  a\tb  ":          `["a" "b"]`,
		`a "\n"`:            `["a" "\\n"]`,
		`a; b $(c) *`:       `["a;" "b" "$(c)" "*"]`,
	} {
		if got, err := Words(in); err != nil || fmt.Sprintf("%q", got) != want {
			t.Errorf("%s: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "  ", `"a`, `a\`, `''`, `'`} {
		if got, err := Words(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}
