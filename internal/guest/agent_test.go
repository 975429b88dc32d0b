package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok/internal/sandbox"
)

// testWrapper is a wrapper whose home and agent directory are temporary.
func testWrapper(t *testing.T, spec sandbox.Agent) *wrapper {
	t.Helper()
	home := t.TempDir()
	w := &wrapper{home: home, dir: filepath.Join(home, ".terok"), environ: []string{"PATH=/usr/bin:/bin"}, name: spec.Name}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"agents", "bin"} {
		if err := os.MkdirAll(w.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.path("agents", spec.Name+".json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

var demoAgent = sandbox.Agent{
	Name: "demo", Program: "demo", Headless: []string{"-p"}, Permission: []string{"--yes"},
	Instructions: []string{"--file", "{file}"}, NewSession: []string{"--id", "{id}"}, Resume: []string{"--resume", "{id}"},
	SessionFile: ".demo/*/{id}.jsonl", Refuse: map[string]string{"login": "on the host: terok auth demo"},
}

func TestArguments(t *testing.T) {
	w := testWrapper(t, demoAgent)
	if err := os.WriteFile(w.path("instructions.md"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.headless = true
	first := w.arguments(&demoAgent)
	id := first[slices.Index(first, "--id")+1]
	want := []string{"--yes", "--file", w.path("instructions.md"), "-p", "--id", id}
	if !slices.Equal(first, want) || len(id) != 36 {
		t.Fatalf("%q", first)
	}
	if again := w.arguments(&demoAgent); slices.Contains(again, "--resume") {
		t.Errorf("a session that the agent does not have was resumed: %q", again)
	}
	stored, _ := os.ReadFile(w.path("demo-session.txt"))
	id = strings.TrimSpace(string(stored))
	if err := os.MkdirAll(filepath.Join(w.home, ".demo", "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.home, ".demo", "p", id+".jsonl"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if again := w.arguments(&demoAgent); !slices.Contains(again, "--resume") || !slices.Contains(again, id) {
		t.Errorf("the session was not resumed: %q", again)
	}
	w.newSession = true
	if again := w.arguments(&demoAgent); slices.Contains(again, "--resume") {
		t.Errorf("--new-session: %q", again)
	}

	restricted := demoAgent
	restricted.Restricted = true
	w.headless, w.args = false, []string{"mcp", "list"}
	if got := w.arguments(&restricted); !slices.Equal(got, []string{"--file", w.path("instructions.md"), "mcp", "list"}) {
		t.Errorf("restricted, by hand: %q", got)
	}
}

func TestHostileSessionFile(t *testing.T) {
	w := testWrapper(t, demoAgent)
	anySession := demoAgent
	anySession.SessionFile = "" // so that nothing but the form of the id decides
	for name, content := range map[string]string{"glob": "../../*", "option": "--evil-option\n", "long": strings.Repeat("a", 1000), "empty": ""} {
		if err := os.WriteFile(w.path("demo-session.txt"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := w.session(&anySession); got[0] != "--id" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestParse(t *testing.T) {
	for _, bad := range [][]string{nil, {"--nope", "demo"}, {"../x"}, {"--headless"}, {"Demo"}} {
		if code, err := (&wrapper{dir: t.TempDir()}).main(bad); code != agentUsage || err == nil {
			t.Errorf("%q: %d %v", bad, code, err)
		}
	}
	if code, err := (&wrapper{dir: t.TempDir()}).main([]string{"other"}); code != agentNotFound || err == nil {
		t.Errorf("an agent that the task does not have: %d %v", code, err)
	}
	w := testWrapper(t, demoAgent)
	if code, err := w.main([]string{"demo", "--", "login"}); code != agentFailed || !strings.Contains(fmt.Sprint(err), "terok auth demo") {
		t.Errorf("refused subcommand: %d %v", code, err)
	}
	if code, err := w.main([]string{"demo"}); code != agentNotFound || err == nil {
		t.Errorf("a program that is missing: %d %v", code, err)
	}
}

func TestProgramPassesOverShims(t *testing.T) {
	w := testWrapper(t, demoAgent)
	real := t.TempDir()
	for _, dir := range []string{w.path("bin"), real} {
		if err := os.WriteFile(filepath.Join(dir, "demo"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.setenv("PATH", w.path("bin")+":relative:"+real)
	if got, err := w.program("demo"); err != nil || got != filepath.Join(real, "demo") {
		t.Errorf("%q %v", got, err)
	}
}

func TestAuthorship(t *testing.T) {
	w := testWrapper(t, demoAgent)
	w.environ = append(w.environ, "GIT_AUTHOR_NAME=old")
	w.prepareEnv(&sandbox.Agent{Author: sandbox.Identity{Name: "Claude", Email: "c@x"}, Committer: sandbox.Identity{Name: "Hugo", Email: "h@x"}, Env: map[string]string{"QUIET": "1"}})
	for k, want := range map[string]string{"GIT_AUTHOR_NAME": "Claude", "GIT_AUTHOR_EMAIL": "c@x", "GIT_COMMITTER_NAME": "Hugo", "GIT_COMMITTER_EMAIL": "h@x", "QUIET": "1"} {
		if got := w.getenv(k); got != want {
			t.Errorf("%s = %q, want %q", k, got, want)
		}
	}
}

func TestHomeFiles(t *testing.T) {
	w := testWrapper(t, demoAgent)
	w.setenv("KEY", `sk-"quoted"-0123456789012345`)
	file := filepath.Join(w.home, ".demo.json")
	have := `{"big":1795635845585123,"own":"kept","approved":["old"],"projects":{"/a":{"x":1}}}`
	if err := os.WriteFile(file, []byte(have), 0o600); err != nil {
		t.Fatal(err)
	}
	add := sandbox.HomeFile{Path: ".demo.json", Mode: 0o600, Merge: true,
		Content: `{"approved":["{tail20:KEY}"],"projects":{"/workspace":{"trusted":true}},"missing":"{env:NOPE}"}`}
	for range 2 { // the second start changes nothing
		if err := w.writeHome([]sandbox.HomeFile{add}); err != nil {
			t.Fatal(err)
		}
	}
	data, _ := os.ReadFile(file)
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got["approved"]) != `[old ed"-0123456789012345]` || got["own"] != "kept" || !strings.Contains(string(data), "1795635845585123") {
		t.Errorf("%s", data)
	}
	if p := got["projects"].(map[string]any); len(p) != 2 {
		t.Errorf("projects %v", p)
	}
	for _, bad := range []string{"../x", "/etc/x"} {
		if err := w.writeHome([]sandbox.HomeFile{{Path: bad, Content: "{}"}}); err == nil {
			t.Errorf("%s was written", bad)
		}
	}
}

// FuzzMergeHome: whatever an agent left in its file, merging gives JSON that holds what was added.
func FuzzMergeHome(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,2]}`, `[]`, `nonsense`, `{"a":{"b":null}}`, `{"a":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, have []byte) {
		home := t.TempDir()
		w := &wrapper{home: home}
		path := filepath.Join(home, "f")
		if err := os.WriteFile(path, have, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := w.homeContent(path, sandbox.HomeFile{Merge: true, Content: `{"a":{"b":["x"]}}`})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any // a struct would match member names in any case
		dec := json.NewDecoder(bytes.NewReader(out))
		dec.UseNumber() // the agent's numbers are kept, those beyond float64 as well
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		a, _ := got["a"].(map[string]any)
		if b, _ := a["b"].([]any); !slices.Contains(b, any("x")) {
			t.Fatalf("%s", out)
		}
	})
}

// TestScriptAgent lets the small agent work against a server that plays two tool calls.
func TestScriptAgent(t *testing.T) {
	dir := t.TempDir()
	steps := []string{
		`{"content":[{"type":"tool_use","id":"1","name":"Write","input":{"file_path":"a/f","content":"one"}}]}`,
		`{"content":[{"type":"text","text":"t"},{"type":"tool_use","id":"2","name":"Edit","input":{"file_path":"a/f","old_string":"one","new_string":"two"}},
		             {"type":"tool_use","id":"3","name":"Bash","input":{"command":"cat a/f; exit 3"}},{"type":"tool_use","id":"4","name":"Nope","input":{}}]}`,
		`{"content":[{"type":"text","text":"done"}],"usage":{"input_tokens":3,"output_tokens":4}}`,
	}
	var bodies []string
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != "k" || r.URL.Path != "/v1/messages" {
			rw.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(rw, `{"error":{"message":"bad key"}}`)
			return
		}
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body)
		bodies = append(bodies, b.String())
		fmt.Fprint(rw, steps[len(bodies)-1])
	}))
	defer srv.Close()
	var out bytes.Buffer
	a := &scriptAgent{client: srv.Client(), base: srv.URL, key: "k", dir: dir, out: &out}
	if err := a.run(context.Background(), "work"); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "a", "f")); string(data) != "two" {
		t.Errorf("file %q", data)
	}
	for _, want := range []string{`exit code 3\ntwo`, `there is no tool \"Nope\"`} {
		if !strings.Contains(bodies[2], want) {
			t.Errorf("the provider was not told %q: %s", want, bodies[2])
		}
	}
	if !strings.Contains(out.String(), `"result":"done"`) || !strings.Contains(out.String(), `"output_tokens":4`) {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	a = &scriptAgent{client: srv.Client(), base: srv.URL, key: "wrong", dir: dir, out: &out}
	if err := a.run(context.Background(), "work"); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: bad key") || !strings.Contains(out.String(), `"is_error":true`) {
		t.Errorf("%v %s", err, out.String())
	}
}

// TestLastSession: an agent that chooses its own ids goes on with its last session, once there is
// one, and the words for that stand behind its subcommand.
func TestLastSession(t *testing.T) {
	a := sandbox.Agent{Name: "demo", Program: "demo", Headless: []string{"exec", "--json"}, Resume: []string{"resume", "--last"}, SessionFile: ".demo/*.jsonl"}
	w := testWrapper(t, a)
	w.headless = true
	if got := w.arguments(&a); !slices.Equal(got, []string{"exec", "--json"}) {
		t.Errorf("first: %q", got)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(w.home, ".demo"), 0o755), os.WriteFile(filepath.Join(w.home, ".demo", "x.jsonl"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if got := w.arguments(&a); !slices.Equal(got, []string{"exec", "--json", "resume", "--last"}) {
		t.Errorf("second: %q", got)
	}
	w.headless = false
	if got := w.arguments(&a); !slices.Equal(got, []string{"resume", "--last"}) {
		t.Errorf("with a person: %q", got)
	}
	w.newSession = true
	if got := w.arguments(&a); len(got) != 0 {
		t.Errorf("--new-session: %q", got)
	}
}

// TestEnvironmentOfTheProvider: variables of this start fill the agent's own.
func TestEnvironmentOfTheProvider(t *testing.T) {
	w := testWrapper(t, demoAgent)
	w.environ = append(w.environ, "DEMO_KEY=terok-p-x")
	w.prepareEnv(&sandbox.Agent{Env: map[string]string{"OTHER_KEY": "{env:DEMO_KEY}", "PLAIN": "a {b}"}})
	if w.getenv("OTHER_KEY") != "terok-p-x" || w.getenv("PLAIN") != "a {b}" {
		t.Errorf("%q", w.environ)
	}
}

// TestHomeDirectory: a directory that an agent shall find read-only, also where it was made before.
func TestHomeDirectory(t *testing.T) {
	w := testWrapper(t, demoAgent)
	for range 2 {
		if err := w.writeHome([]sandbox.HomeFile{{Path: ".config/demo", Mode: 0o555, Directory: true}}); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(filepath.Join(w.home, ".config", "demo")); err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o555 {
			t.Errorf("%v %v", fi, err)
		}
	}
	if err := w.writeHome([]sandbox.HomeFile{{Path: "../x", Directory: true}}); err == nil {
		t.Error("a directory outside of the home directory was made")
	}
}
