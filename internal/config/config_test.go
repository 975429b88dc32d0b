package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok/internal/problem"
)

type sample struct {
	Schema int               `yaml:"schema"`
	Name   string            `yaml:"name"`
	Class  string            `yaml:"class" oneof:"gatekeeping online"`
	Hosts  []string          `yaml:"hosts"`
	Env    map[string]string `yaml:"env"`
	Port   uint16            `yaml:"port"`
	N      int8              `yaml:"n"`
	Ratio  float64           `yaml:"ratio"`
	On     bool              `yaml:"on_start"`
	Hold   time.Duration     `yaml:"hold"`
	Net    netip.Prefix      `yaml:"net"`
	Gpu    *int              `yaml:"gpu"`
	Any    any               `yaml:"any"`
	Token  string            `yaml:"token"`
	Run    struct {
		Memory Size  `yaml:"memory"`
		CPUs   CPUs  `yaml:"cpus"`
		Rules  rules `yaml:"rules"`
	} `yaml:"run"`
	Inline `yaml:",inline"`
}

type Inline struct {
	Extra string `yaml:"extra"`
}

type rules []rule

type rule struct {
	Host   string `yaml:"host"`
	Reason string `yaml:"reason"`
}

func (r *rule) Validate() []FieldError {
	if r.Reason == "" {
		return []FieldError{{Path: "reason", Message: "a reason is required"}}
	}
	return nil
}

func (s *sample) Validate() []FieldError {
	var errs []FieldError
	for i, h := range s.Hosts {
		if strings.Contains(h, " ") {
			errs = append(errs, FieldError{Path: "hosts[" + string(rune('0'+i)) + "]", Message: "not a host", Suggestion: `"x"`})
		}
	}
	return errs
}

func (*sample) MaxSchema() int { return 1 }

func (*sample) Moved() map[string]string {
	return map[string]string{"ui.*": "write tui.*", "run.sets": "write run.rules"}
}

func TestDecode(t *testing.T) {
	var s sample
	s.Port, s.Ratio = 443, 0.5
	err := Decode("p.yml", []byte(`
# a comment
schema: 1
name: 'webshop'
class: online
hosts: [a.test, "b.test"]
env:
  A: b
  1: "2"
n: -5
on_start: true
hold: 90s
net: 10.0.0.0/8
gpu: 3
any: {a: [1, -1, 1.5, x, true, ~]}
run:
  memory: 1.5 GiB
  cpus: 2
  rules:
  - host: &h c.test
    reason: |
      because
  - {host: *h, reason: r}
extra: yes
ratio:
`), &s)
	if err != nil {
		t.Fatal(err)
	}
	gpu := 3
	want := sample{Schema: 1, Name: "webshop", Class: "online", Hosts: []string{"a.test", "b.test"},
		Env: map[string]string{"A": "b", "1": "2"}, Port: 443, N: -5, Ratio: 0.5, On: true, Hold: 90 * time.Second,
		Net: netip.MustParsePrefix("10.0.0.0/8"), Gpu: &gpu,
		Any:    map[string]any{"a": []any{int64(1), int64(-1), 1.5, "x", true, nil}},
		Inline: Inline{Extra: "yes"}}
	want.Run.Memory, want.Run.CPUs = "1536m", "2"
	want.Run.Rules = rules{{"c.test", "because\n"}, {"c.test", "r"}}
	if diff := cmp.Diff(want, s, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for _, empty := range []string{"", "\n", "# only a comment\n", "---\n", "~\n", "\ufeff", "{}"} {
		if err := Decode("e.yml", []byte(empty), &s); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// TestAllErrorsAtOnce is the form of errors that users see; every line of it is a promise.
func TestAllErrorsAtOnce(t *testing.T) {
	var s sample
	err := Decode("project.yml", []byte(`nam: webshop
class: gatekeping
hosts:
  - good
  - a b
  - 7
port: 70000
n: x
on_start: yes
hold: fortnight
net: 10.0.0.0
token: 12345
env: [a]
name: {a: 1}
gpu: 1.5
memory: 4g
ui: {theme: dark}
run:
  memory: 4 gigs
  cpus: -1
  sets: []
  rules:
  - host: a
    reasn: b
  -
name: twice
<<: {a: b}
any: !!set {a}
zzzzzz: 1
"a\e[31m\u202e": 1
`), &s)
	p := problem.Of(err)
	if p.Code != "config_invalid" || p.Exit != problem.Usage {
		t.Fatalf("%+v", p)
	}
	var list Errors
	if !errors.As(err, &list) {
		t.Fatal("no Errors in the chain")
	}
	want := `project.yml:1:1: nam: unknown key "nam" (did you mean "name"?)
project.yml:2:8: class: "gatekeping" is not one of: gatekeeping, online (did you mean "gatekeeping"?)
project.yml:5:5: hosts[1]: not a host (did you mean "x"?)
project.yml:6:5: hosts[2]: expected a string (put it in quotes), got the number "7"
project.yml:7:7: port: expected a whole number from 0 to 65535, got the number "70000"
project.yml:8:4: n: expected a whole number of at most 127, got "x"
project.yml:9:11: on_start: expected true or false, got "yes" (did you mean true?)
project.yml:10:7: hold: expected a span of time such as 30s, 5m or 1h30m, or a number of seconds, got "fortnight"
project.yml:11:6: net: netip.ParsePrefix("10.0.0.0"): no '/'
project.yml:12:8: token: expected a string (put it in quotes), got the number a value that is not shown
project.yml:13:6: env: expected a mapping, got a list
project.yml:14:7: name: expected a string, got a mapping
project.yml:15:6: gpu: expected a whole number of at most 9223372036854775807, got the number "1.5"
project.yml:16:1: memory: unknown key "memory" (did you mean "run.memory"?)
project.yml:17:1: ui: this key is gone: write tui.*
project.yml:19:11: run.memory: "4 gigs" is not a size; examples: 512m, 4g, 1.5GiB
project.yml:20:9: run.cpus: cpus must be a positive number such as 2 or 0.5
project.yml:21:3: run.sets: this key is gone: write run.rules
project.yml:23:5: run.rules[0].reason: a reason is required
project.yml:24:5: run.rules[0].reasn: unknown key "reasn" (did you mean "reason"?)
project.yml:25:4: run.rules[1]: an empty entry
project.yml:26:1: name: this key is already set in line 14
project.yml:27:1: merge keys (<<) are not supported; write the keys out
project.yml:28:6: any: YAML tags are not supported
project.yml:29:1: zzzzzz: unknown key "zzzzzz"; known here: schema, name, class, hosts, env, port, n, ratio, on_start, hold, net, gpu, any, token, run, extra
project.yml:30:1: a [31m : unknown key "a [31m "; known here: schema, name, class, hosts, env, port, n, ratio, on_start, hold, net, gpu, any, token, run, extra`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(err.Error(), "12345") {
		t.Error("a secret is shown")
	}
}

func TestRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 10) + "]\n"
	}
	for name, c := range map[string]struct{ in, want string }{
		"syntax":        {"a: [1\nb: 2", "f.yml:2:1: ',' or ']'"},
		"tab":           {"a:\n\tb: 1", "f.yml:2:1: "},
		"two documents": {"a: 1\n---\nb: 2", "only one YAML document"},
		"not a mapping": {"- a\n- b", "expected a mapping"},
		"large":         {strings.Repeat("# x\n", MaxSize/4+1), "larger than 1048576 bytes"},
		"utf-8":         {"a: \xff", "not UTF-8"},
		"nul":           {"a: \x00", "NUL"},
		"flow depth":    {"a: " + strings.Repeat("[", 15_000), "nested deeper"},
		"map depth":     {"a: " + strings.Repeat("{a: ", 10_000), "nested deeper"},
		"entry depth":   {strings.Repeat("- ", 15_000), "beyond column"},
		"long line":     {"a: " + strings.Repeat("{a: ", 200_000), "longer than 65536 bytes"},
		"many keys":     {strings.Repeat("a: 1\n", 200_000), "more than 40000 words"},
		"bomb":          {bomb, "aliases expand beyond 10000"},
		"own anchor":    {"a: &a [*a]", "without an anchor"},
		"no anchor":     {"a: *b", "without an anchor"},
		"complex key":   {"? [a]\n: b\n", "f.yml:2:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			var v map[string]any
			start := time.Now()
			err := Decode("f.yml", []byte(c.in), &v)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %.300v, want %s", err, c.want)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
	var s sample
	if err := Decode("f.yml", []byte("schema: 2\nunheard: of\n"), &s); problem.Of(err).Exit != problem.Newer {
		t.Errorf("a newer schema gives %v", err)
	}
}

func TestLoadGlobal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	g, err := LoadGlobal(path)
	if err != nil || !reflect.DeepEqual(g, Defaults()) {
		t.Fatalf("%+v %v", g, err)
	}
	if errs := g.Validate(); errs != nil {
		t.Errorf("the defaults are not valid: %v", errs)
	}
	write := func(s string, mode fs.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("run: {memory: 512, pids_limit: 100}\nclearance:\n  hold: 5\nshield:\ngit: {human_name: Ä}\n", 0o644)
	g, err = LoadGlobal(path)
	if err != nil || g.Run.Memory.Bytes() != 512 || g.Run.PidsLimit != 100 || g.Run.ShmSize.Bytes() != 1<<30 ||
		g.Clearance.Hold != 5*time.Second || g.Shield.Range.String() != "198.18.0.0/15" || g.Git.HumanName != "Ä" {
		t.Fatalf("%+v %v", g, err)
	}
	write("run: {privilege: root, shutdown_timeout: 1500ms, pids_limit: 1, shm_size: ''}\nshield: {range: 10.0.0.1/8}\nimage: {base_image: -x, mirror: 'ftp://x'}\ncredentials: {passphrase: hunter2}\nclearance: {hold: 1h}\ngit: {human_name: \"a\\nb\"}\nschema: 0", 0o600)
	_, err = LoadGlobal(path)
	var list Errors
	if !errors.As(err, &list) || len(list) != 11 || strings.Contains(err.Error(), "hunter2") || problem.Of(err).Hint != "edit "+path {
		t.Fatalf("%v", err)
	}
	for _, mode := range []fs.FileMode{0o620, 0o602, 0o666} {
		write("", mode)
		if _, err := LoadGlobal(path); !problem.Is(err, "config_unsafe") || problem.Of(err).Hint != "chmod go-w "+path {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := LoadGlobal(filepath.Dir(path)); !problem.Is(err, "config_unreadable") {
		t.Errorf("a directory: %v", err)
	}
	if err := Load(path+"x", &g); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestSuggest(t *testing.T) {
	for _, c := range []struct {
		word string
		from []string
		want string
	}{
		{"shiled", []string{"run", "shield", "git"}, `"shield"`},
		{"pyhton", []string{"python", "node"}, `"python"`},
		{"gti", []string{"git", "run"}, `"git"`},
		{"gpu", []string{"cpu", "gpus", "npu", "zzz"}, `"cpu" or "gpus" or "npu"`},
		{"ab", []string{"cd", "xy"}, ""},
		{"abc", []string{"xyc"}, ""},
		{"STOP", []string{"stop", "start"}, `"stop"`},
		{"listing", []string{"list"}, ""},
		{strings.Repeat("x", 100), []string{strings.Repeat("x", 100)}, ""},
	} {
		if got := suggestion(c.word, c.from); got != c.want {
			t.Errorf("%s → %s, want %s", c.word, got, c.want)
		}
	}
	if Suggest("prmote", []string{"review", "promote"}) != "promote" || Suggest("x", nil) != "" {
		t.Error("Suggest")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"name: a\nhosts: [b]\nrun:\n  memory: 4g\n", "a: &x [*x]", "? a\n: b", "- - - a", "a: |\n  b\n c",
		"env: {a: b}\n<<: {}\nany: !!str x", "hold: 1h\nnet: ::/0\n...\n---\n", "\"a\\u0000\": 'b'\n", "any: &a {b: *a}\n", "{a: [}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		err := Decode("f.yml", data, &s)
		if err != nil {
			if problem.Of(err).Exit == problem.Failed {
				t.Fatalf("unclassified: %v", err)
			}
			for _, r := range err.Error() {
				if r < ' ' && r != '\n' || r > '~' {
					t.Fatalf("an error with %q: %q", r, err)
				}
			}
			return
		}
		edited, err := Edit("f.yml", data, "run.memory", "4g")
		if err != nil {
			return // said plainly, nothing changed
		}
		var after sample
		if err := Decode("f.yml", edited, &after); err != nil || after.Run.Memory != "4g" {
			t.Fatalf("%q became %q: %v", data, edited, err)
		}
		s.Run.Memory, after.Run.Memory = "", ""
		if diff := cmp.Diff(s, after, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b float64) bool { return a == b || a != a })); diff != "" {
			t.Fatal(diff)
		}
	})
}
