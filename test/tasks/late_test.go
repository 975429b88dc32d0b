package tasks

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/test/fakeapi"
)

// through runs a command in a task's container as a login of now does.
func through(t *testing.T, task taskView, script string) string {
	t.Helper()
	return podman(t, "exec", task.Container.ID, "/run/terok/bin/terok", "guest", "exec", "--", "sh", "-c", script)
}

// withAPI makes a vault and points providers at a fake, without a credential of any.
func (tr *tree) withAPI(providers ...string) *fakeapi.Server {
	tr.t.Helper()
	api, err := fakeapi.Start(tr.t.TempDir())
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(api.Close)
	for _, name := range providers {
		tr.file("config/terok/providers/"+name+".yml", fmt.Sprintf("upstream: %s\nca_file: %s\nallow_private: true\n", api.URL(), api.CAFile()))
	}
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	return api
}

// store gives the vault a key.
func (tr *tree) store(key string, args ...string) (out string) {
	tr.t.Helper()
	out, _, err := tr.try(0, key+"\n", "", append(append([]string{"auth"}, args...), "--api-key-stdin", "--no-verify")...)
	if err != nil {
		tr.t.Fatal(err)
	}
	return out
}

// last is the credential that the newest request carried.
func last(api *fakeapi.Server) string {
	all := api.Requests()
	if len(all) == 0 {
		return ""
	}
	h := all[len(all)-1].Header
	return strings.TrimPrefix(h.Get("Authorization"), "Bearer ") + h.Get("X-Api-Key")
}

// use is a request to OpenAI's API with what the environment of a login has.
const use = `curl -sS --max-time 20 -w '\n%{http_code} %header{x-terok-broker}' ${OPENAI_API_KEY:+-H "Authorization: Bearer $OPENAI_API_KEY"} https://api.openai.com/v1/models`

// TestLateCredential: a task that began without a provider's credential uses it once somebody signs
// in: its programs are told of the token at their next start, and before that a request says what is
// missing. Another kind takes the place of the first, and one that was taken away is not there any
// more. spec/vault.md §10: 17.
func TestLateCredential(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	api := tr.withAPI("anthropic", "openai")
	tr.store("sk-ant-api03-REAL-"+random(), "anthropic")
	repo := tr.repo("greet")
	task := tr.start(repo, "script")
	tr.ready(task)

	if got := through(t, task, `env | grep -c OPENAI; ls /home/dev/.codex 2>/dev/null; true`); got != "0" {
		t.Errorf("a provider without a credential shows in the environment: %s", got)
	}
	got := through(t, task, use)
	if !strings.HasSuffix(got, "403 credential_missing") || !strings.Contains(got, `{"error":{`) || !strings.Contains(got, "terok auth openai") {
		t.Errorf("before: %s", got)
	}
	if len(api.Requests()) != 0 {
		t.Error("it went to the provider")
	}
	key := "sk-proj-REAL" + random()
	out := tr.store(key, "codex")
	if !strings.Contains(out, "greet/"+task.ID) || !strings.Contains(out, "when their agent starts next") {
		t.Errorf("%q", out)
	}
	if got := through(t, task, use); !strings.HasSuffix(got, "\n200") || last(api) != key {
		t.Errorf("after: %s, the provider saw %q", got, last(api))
	}
	if got := inside(t, task, "jq -er .OPENAI_API_KEY /run/terok/env.json"); !strings.HasPrefix(got, "terok-p-") {
		t.Error(got)
	}

	// Another kind than at launch, and back.
	signIn := `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-REAL-` + random() + `","refreshToken":"r-` + random() + `","expiresAt":` +
		fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()) + `,"scopes":["user:inference"]}}`
	tr.run(0, "", "auth", "claude", "--import-file", tr.file("import", signIn), "--yes", "--no-verify")
	const kinds = `echo "$ANTHROPIC_API_KEY/$CLAUDE_CODE_OAUTH_TOKEN"`
	if got := through(t, task, kinds); !strings.HasPrefix(got, "/terok-p-") {
		t.Errorf("with a sign-in: %s", got)
	}
	through(t, task, `curl -sS --max-time 20 -H "Authorization: Bearer $CLAUDE_CODE_OAUTH_TOKEN" https://api.anthropic.com/v1/models`)
	if !strings.HasPrefix(last(api), "sk-ant-oat01-REAL-") {
		t.Errorf("the provider saw %q", last(api))
	}
	tr.store("sk-ant-api03-REAL-"+random(), "claude")
	if got := through(t, task, kinds); !strings.HasPrefix(got, "terok-p-") || !strings.HasSuffix(got, "/") {
		t.Errorf("with a key again: %s", got)
	}

	// Taken away: gone from programs, and the agent says it before it fails in its own words.
	tr.run(0, "", "auth", "openai", "--revoke")
	tr.run(0, "", "auth", "anthropic", "--revoke")
	if got := through(t, task, use+"; "+kinds); !strings.HasSuffix(got, "403 credential_missing/") {
		t.Errorf("revoked: %s", got)
	}
	agent := exec.CommandContext(t.Context(), "podman", "exec", task.Container.ID, "/run/terok/bin/terok", "guest", "agent", "script")
	if out, err := agent.CombinedOutput(); err == nil || !strings.Contains(string(out), "terok auth anthropic") {
		t.Errorf("an agent without a credential: %v %s", err, out)
	}

	// A locked vault at launch: the task needs none, and finds what there is after the unlock.
	tr.store(key, "openai")
	tr.run(0, "", "vault", "lock")
	shell := tr.start(repo, "shell")
	tr.ready(shell)
	if got := through(t, shell, use); !strings.HasSuffix(got, "401 missing_token") {
		t.Errorf("locked: %s", got)
	}
	tr.run(0, "", "vault", "unlock", "--passphrase-file", tr.dir+"/passphrase")
	tr.wait(10*time.Second, "the shell uses what the vault has", func() bool { return strings.HasSuffix(through(t, shell, use), "\n200") })
	// What was revoked by hand stays revoked, also for a later start.
	if out, _ := tr.run(0, "", "task", "revoke-credentials", "greet/"+shell.ID); !strings.Contains(out, ": openai revoked") {
		t.Errorf("%q", out)
	}
	if got := through(t, shell, use); !strings.Contains(got, "\n401 ") {
		t.Errorf("revoked by hand: %s", got)
	}
}

// TestScopesAndBindings: a project's own credential comes before the shared one, a project that keeps
// to itself never uses that and does not start without its own, and a binding chooses among accounts,
// also for a task that runs. spec/vault.md §10: 18.
func TestScopesAndBindings(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	api := tr.withAPI("anthropic", "openai")
	key := func(name string) string { return "sk-proj-REAL-" + name + "-" + random() }
	shared, own, work, home := key("shared"), key("own"), key("work"), key("home")
	anthropic := "sk-ant-api03-REAL-" + random()
	tr.store(anthropic, "anthropic")
	tr.store(shared, "openai")
	repo := tr.repo("greet")
	task := tr.start(repo, "script")
	tr.ready(task)
	sees := func(task taskView, what, want string) {
		t.Helper()
		if got := through(t, task, use); !strings.HasSuffix(got, "\n200") || last(api) != want {
			t.Errorf("%s: %s, the provider saw %q, not %q", what, got, last(api), want)
		}
	}
	sees(task, "shared", shared)
	tr.store(own, "openai", "--project", "greet")
	sees(task, "the project's own", own)

	tr.store(work, "openai", "--account", "work")
	tr.store(home, "openai", "--account", "home")
	sees(task, "accounts that nobody chose", own)
	for _, c := range []struct{ account, key string }{{"work", work}, {"home", home}} {
		out, _ := tr.run(0, "", "auth", "openai", "--bind", "greet", "--account", c.account)
		if !strings.Contains(out, "greet/"+task.ID) {
			t.Errorf("%q", out)
		}
		sees(task, "bound to "+c.account, c.key)
	}
	// A bound account that is gone is not replaced by one that nobody chose.
	tr.run(0, "", "auth", "openai", "--revoke", "--account", "home")
	if got := through(t, task, use); !strings.Contains(got, "403 credential_missing") {
		t.Errorf("the bound account is gone: %s", got)
	}
	tr.run(0, "", "auth", "openai", "--unbind", "greet")
	sees(task, "unbound", own)

	// A project that keeps to itself.
	alone := tr.repo("alone")
	tr.file("config/terok/projects/alone/project.yml", "project: {name: alone}\ngit: {upstream_url: "+alone+"}\ncredentials: {scope: project}\n")
	before := len(api.Requests())
	if _, errs := tr.run(8, alone, "run", "script", "-d"); !strings.Contains(errs, "terok auth anthropic --project alone") {
		t.Errorf("%q", errs)
	}
	if n := len(tr.tasks()); n != 1 {
		t.Errorf("%d tasks: one stayed of a launch that failed", n)
	}
	mine := "sk-ant-api03-REAL-" + random()
	tr.store(mine, "anthropic", "--project", "alone")
	other := tr.start(alone, "script")
	tr.wait(30*time.Second, "ready", func() bool {
		var v struct{ Ready_at *time.Time }
		tr.decode(&v, "", "task", "status", "alone/"+other.ID)
		return v.Ready_at != nil
	})
	if got := through(t, other, use); !strings.Contains(got, "403 credential_missing") || !strings.Contains(got, "terok auth openai --project alone") {
		t.Errorf("what is shared is not theirs: %s", got)
	}
	if n := len(api.Requests()) - before; n != 0 {
		t.Errorf("%d requests with somebody else's key", n)
	}
	through(t, other, `curl -sS --max-time 20 -H "X-Api-Key: $ANTHROPIC_API_KEY" https://api.anthropic.com/v1/models`)
	if last(api) != mine {
		t.Errorf("the provider saw %q", last(api))
	}
}

// TestKeyholderCrash: where something opens the vault without a person, a keyholder that was killed is
// followed by another and the tasks at work go on, without a command of anybody; one that a person locked
// stays locked. spec/vault.md §10: 64; §3.6.
func TestKeyholderCrash(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	secret := tr.file("passphrase", pass+"\n")
	tr.file("config/terok/config.yml", "schema: 1\ncredentials:\n  passphrase_command: cat "+secret+"\n")
	api := tr.withAPI("anthropic")
	key := "sk-ant-api03-REAL-" + random()
	tr.store(key, "anthropic")
	repo := tr.repo("greet")
	task := tr.start(repo, "script")
	tr.ready(task)
	token := phantom(t, task)
	served := func() bool { return ask(t, task, token) == "200" }
	if !served() || last(api) != key {
		t.Fatal("not served at all")
	}
	keyholder := func() (pid int) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(tr.data(), "vault", "keyholder.pid"))
		if err == nil {
			_, err = fmt.Sscan(string(data), &pid)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	first := keyholder()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tr.wait(30*time.Second, "the task goes on", func() bool { return keyholder() != first && served() })

	tr.run(0, "", "vault", "lock")
	if code := ask(t, task, token); code != "503" {
		t.Errorf("locked: %s", code)
	}
	tr.wait(10*time.Second, "no guard is left", func() bool { return tr.guards() == 0 })
	if code := ask(t, task, token); code != "503" {
		t.Errorf("still locked: %s", code)
	}
	tr.run(0, "", "vault", "unlock")
	tr.wait(10*time.Second, "unlocked", served)
	// A restart opens it too, where nothing else has.
	_ = syscall.Kill(keyholder(), syscall.SIGTERM)
	tr.wait(10*time.Second, "the keyholder has ended", func() bool { return ask(t, task, token) == "503" })
	tr.run(0, "", "task", "restart", "greet/"+task.ID)
	tr.ready(task)
	tr.wait(10*time.Second, "served after a restart", func() bool { return ask(t, task, phantom(t, task)) == "200" })
}

// guards counts the guards of the tree's keyholder.
func (tr *tree) guards() (n int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte("keyholder-guard\x00"+tr.data())) {
			n++
		}
	}
	return n
}
