package guest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"terok/internal/control"
	"terok/internal/sandbox"
)

const phantomA, phantomB = "terok-p-aaaaaaaaaa-one", "terok-p-bbbbbbbbbb-two"

// vaultOf is a supervisor that says what the vault has.
type vaultOf struct {
	mu  sync.Mutex
	now control.Credentials
}

func (v *vaultOf) set(known bool, held ...sandbox.Held) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = control.Credentials{Known: known, Held: append([]sandbox.Held{}, held...)}
}

// TestLateCredentials: programs are told of a token once the vault has a credential for it, of its
// kind; one that is gone, or was replaced by another kind, is taken back from files and environment,
// also from one that was inherited; what a program wrote itself is left alone; without an answer
// what was known last holds. spec/vault.md §10: 17.
func TestLateCredentials(t *testing.T) {
	dir := t.TempDir()
	path, envPath, file := filepath.Join(dir, "credentials.json"), filepath.Join(dir, "env.json"), filepath.Join(dir, "home", "auth.json")
	v := &vaultOf{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if r.URL.Path != "/v1/credentials" || r.Method != http.MethodGet {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		_ = json.NewEncoder(w).Encode(v.now)
	}))
	defer srv.Close()
	sup := &supervisor{base: srv.URL, http: srv.Client()}
	auth := func(name string) map[string]sandbox.Auth {
		return map[string]sandbox.Auth{
			sandbox.APIKey: {Env: map[string]string{name + "_KEY": sandbox.PhantomMark}},
			sandbox.OAuth: {Env: map[string]string{name + "_OAUTH": sandbox.PhantomMark},
				Files: []sandbox.StartFile{{Path: file, Mode: 0o400, Content: `{"token":"{phantom}","who":"{public.account}"}`}}},
		}
	}
	c := credentials{Tokens: []sandbox.Token{{Provider: "a", Phantom: phantomA, Auth: auth("A")}, {Provider: "b", Phantom: phantomB, Auth: auth("B")}},
		Held: []sandbox.Held{{Provider: "a", Kind: sandbox.APIKey}}}
	if err := c.save(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(envPath, []byte(`{"HOME":"/h","A_KEY":"`+phantomA+`","B_KEY":"mine"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func() string {
		t.Helper()
		if err := refreshCredentials(sup, path, envPath); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(envPath)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]string
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		if m["HOME"] != "/h" {
			t.Errorf("%s", data)
		}
		var got []string
		for _, k := range []string{"A_KEY", "A_OAUTH", "B_KEY", "B_OAUTH"} {
			if m[k] != "" {
				got = append(got, k+"="+strings.NewReplacer(phantomA, "a", phantomB, "b").Replace(m[k]))
			}
		}
		return strings.Join(got, " ")
	}
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	t.Setenv("A_KEY", phantomA) // as a login of before has it
	t.Setenv("A_OAUTH", "a person's own")

	v.set(false)
	is("nobody knows", env(), "A_KEY=a B_KEY=mine")
	v.set(true, sandbox.Held{Provider: "a", Kind: sandbox.APIKey}, sandbox.Held{Provider: "b", Kind: sandbox.OAuth, Public: map[string]string{"account": "x@y"}})
	is("a sign-in that came later", env(), "A_KEY=a B_KEY=mine B_OAUTH=b")
	if data, err := os.ReadFile(file); err != nil || string(data) != `{"token":"`+phantomB+`","who":"x@y"}` {
		t.Errorf("%s %v", data, err)
	}
	v.set(true, sandbox.Held{Provider: "a", Kind: sandbox.OAuth})
	is("another kind, and one that is gone", env(), "A_OAUTH=a B_KEY=mine")
	if os.Getenv("A_KEY") != "" {
		t.Error("an inherited token of the kind that is gone is still there")
	}
	v.set(true)
	is("none", env(), "B_KEY=mine")
	if os.Getenv("A_OAUTH") != "a person's own" {
		t.Error("what is not of terok was taken away")
	}

	// A program may change its file, or put something else there: the next start has it again, and
	// what a planted link leads to stays as it is. spec/vault.md §10: 19, 20.
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.set(true, sandbox.Held{Provider: "a", Kind: sandbox.OAuth})
	env()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, file); err != nil {
		t.Fatal(err)
	}
	env()
	if data, _ := os.ReadFile(other); string(data) != "untouched" {
		t.Errorf("written through a link: %s", data)
	}
	if st, err := os.Lstat(file); err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != 0o400 {
		t.Errorf("%v %v", st, err)
	}

	// Starts at the same time do not disturb each other.
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := refreshCredentials(sup, path, envPath); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	is("after many", env(), "A_OAUTH=a B_KEY=mine")
	srv.Close()
	is("no supervisor", env(), "A_OAUTH=a B_KEY=mine")
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := refreshCredentials(sup, filepath.Join(dir, "none.json"), envPath); err != nil {
		t.Error("a container without providers", err)
	}
}

// TestWiring: an agent is started with what the kind of credential takes that the vault has now; one
// without a usable credential is not started to fail in its own words, unless a person wants
// something particular of it.
func TestWiring(t *testing.T) {
	spec := sandbox.Agent{Name: "demo", Program: "demo", Provider: "a", SignIn: "terok auth a --project p", Kinds: map[string]sandbox.Wiring{
		sandbox.APIKey: {Env: map[string]string{"MODE": "key"}},
		sandbox.OAuth:  {Env: map[string]string{"MODE": "oauth"}, Home: []sandbox.HomeFile{{Path: ".demo", Mode: 0o600}}},
	}}
	w := testWrapper(t, spec)
	w.credentials = filepath.Join(w.home, "credentials.json")
	for _, c := range []struct {
		held []sandbox.Held
		args []string
		mode string
		err  string
	}{
		{[]sandbox.Held{{Provider: "a", Kind: sandbox.APIKey}}, nil, "key", ""},
		{[]sandbox.Held{{Provider: "b", Kind: sandbox.APIKey}, {Provider: "a", Kind: sandbox.OAuth}}, nil, "oauth", ""},
		{[]sandbox.Held{{Provider: "b", Kind: sandbox.APIKey}}, nil, "", "terok auth a --project p"},
		{[]sandbox.Held{{Provider: "a", Kind: sandbox.PAT}}, nil, "", "cannot use"},
		{nil, []string{"--version"}, "", ""},
	} {
		if err := (&credentials{Held: c.held}).save(w.credentials); err != nil {
			t.Fatal(err)
		}
		got := spec
		w.args = c.args
		err := w.wire(&got)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %v", c.held, err)
		}
		if got.Env["MODE"] != c.mode || len(got.Home) != map[string]int{"oauth": 1}[c.mode] {
			t.Errorf("%+v: %+v", c.held, got)
		}
	}
	if err := w.wire(&sandbox.Agent{Name: "shell"}); err != nil {
		t.Error("an agent without a provider", err)
	}
}
