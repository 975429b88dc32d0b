// Package vault holds the end-to-end tests of the vault's commands and of the keyholder's peers in
// real namespaces of rootless podman.
//
//	scripts/rootless base && scripts/rootless run -- go test ./test/vault
package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyholder/holder"
)

const (
	base   = "localhost/debian:12"
	pass   = "correct horse battery staple"
	secret = "sk-ant-api03-REAL-canary-0123456789"
	asPeer = "TEROK_VAULT_TEST_PEER" // socket; makes the test binary a client
)

var terok string // the program under test

func TestMain(m *testing.M) {
	if socket := os.Getenv(asPeer); socket != "" {
		client(socket, os.Getenv(asPeer+"_SANDBOX"))
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "vault-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		terok = filepath.Join(dir, "terok")
		build := exec.Command("go", "build", "-o", terok, "terok/cmd/terok")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// client says what the keyholder does for this process as an operator and as a supervisor.
func client(socket, sandboxFile string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := keyholder.Dial(ctx, socket)
	if err == nil {
		_, err = c.Status(ctx)
		c.Close()
	}
	fmt.Println("operator:", err)
	if init, ierr := strconv.Atoi(os.Getenv(asPeer + "_INIT")); ierr == nil {
		if err := keyholder.Register(sandboxFile, init); err != nil {
			fmt.Println("register:", err)
		}
	}
	conn, err := keyholder.Connect(ctx, socket, sandboxFile)
	if err == nil {
		s := keyholder.NewSession(conn)
		var got keyholder.Secret
		got, err = s.Credential(ctx, "anthropic")
		s.Close()
		fmt.Printf("supervisor: %q %v\n", got.Value, err)
		return
	}
	fmt.Println("supervisor:", err)
}

// user is one relocated tree.
type user struct {
	t     *testing.T
	dir   string
	roots state.Roots
}

func newUser(t *testing.T) *user {
	t.Helper()
	dir, err := os.MkdirTemp("", "tv") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t, dir, state.Roots{Config: dir + "/c/terok", Data: dir + "/d/terok", Runtime: dir + "/r/terok"}}
	t.Cleanup(func() {
		if _, err := holder.Kill(u.roots); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return u
}

func (u *user) file(name, content string) string {
	u.t.Helper()
	p := filepath.Join(u.dir, name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		u.t.Fatal(err)
	}
	return p
}

// run runs one command line and checks its exit code.
func (u *user) run(exit int, stdin string, args ...string) (stdout, stderr string) {
	u.t.Helper()
	cmd := exec.Command(terok, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+u.dir+"/c", "XDG_DATA_HOME="+u.dir+"/d", "XDG_RUNTIME_DIR="+u.dir+"/r")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != exit {
		u.t.Fatalf("terok %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, exit, &out, &errw)
	}
	if s := out.String() + errw.String(); strings.Contains(s, secret) || strings.Contains(s, pass) {
		u.t.Fatalf("terok %s shows a secret:\n%s", strings.Join(args, " "), s)
	}
	return out.String(), errw.String()
}

func (u *user) state() string {
	u.t.Helper()
	out, _ := u.run(0, "", "vault", "status", "--json")
	var got struct {
		Schema string
		Data   struct {
			State      string
			LockReason string `json:"lock_reason"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Schema != "terok.vault.status/1" {
		u.t.Fatal(out, err)
	}
	return got.Data.State + "/" + got.Data.LockReason
}

func TestCommands(t *testing.T) {
	u := newUser(t)
	is := func(want string) {
		t.Helper()
		if got := u.state(); got != want {
			t.Errorf("state %s, want %s", got, want)
		}
	}
	is("unprovisioned/")
	u.run(8, "", "vault", "unlock")
	u.run(8, "", "vault", "lock")
	u.run(8, secret, "auth", "claude", "--api-key-stdin")
	u.run(2, "", "vault", "init")
	u.run(2, "", "vault", "init", "--passphrase-file", u.file("empty", "\n"))
	p := u.file("p", pass+"\n")
	u.run(0, "", "vault", "init", "--passphrase-file", p)
	is("unlocked/")
	u.run(7, "", "vault", "init", "--passphrase-file", p)
	u.run(2, "", "auth", "claude", "--api-key-stdin")
	u.run(2, "", "auth", "claude", "--api-key", secret)
	u.run(2, "", "auth", "claude", "--api-key="+secret)
	u.run(2, secret, "auth", "no-such-agent", "--api-key-stdin")
	if out, _ := u.run(0, secret+"\n", "auth", "claude", "--api-key-stdin", "--no-verify"); out != "anthropic: key stored (shared) · not verified\n" {
		t.Errorf("%q", out)
	}
	if out, _ := u.run(0, secret+"\n", "auth", "anthropic", "--api-key-stdin", "--no-verify"); out != "anthropic: key replaced (shared) · not verified\n" {
		t.Errorf("%q", out)
	}
	u.run(0, "", "vault", "lock")
	u.run(0, "", "vault", "lock")
	is("locked/user_locked")
	if _, errs := u.run(8, "", "auth", "--list"); !strings.Contains(errs, "terok vault unlock") {
		t.Errorf("%q", errs)
	}
	u.run(1, "", "vault", "unlock", "--passphrase-file", u.file("w", "not it at all"))
	is("locked/user_locked")
	u.run(0, "", "vault", "unlock", "--passphrase-file", p)
	if out, _ := u.run(0, "", "auth", "--list"); !strings.Contains(out, "anthropic  shared") {
		t.Errorf("%q", out)
	}
	if _, err := holder.Kill(u.roots); err != nil {
		t.Fatal(err)
	}
	u.run(8, "", "auth", "--list")

	// A command opens it on demand, but not after a person has locked it.
	if err := os.MkdirAll(u.roots.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.roots.ConfigFile(), []byte("schema: 1\ncredentials:\n  passphrase_command: cat "+p+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	is("locked/not_started")
	u.run(0, "", "auth", "--list")
	is("unlocked/")
	u.run(0, "", "vault", "lock")
	u.run(8, "", "auth", "--list")
	u.run(0, "", "vault", "unlock")
	u.run(0, "", "auth", "claude", "--revoke")
	u.run(6, "", "auth", "claude", "--revoke")

	if err := os.Chmod(u.roots.VaultDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, errs := u.run(1, "", "vault", "unlock"); !strings.Contains(errs, "chmod 700") {
		t.Errorf("%q", errs)
	}
	for _, dir := range []string{u.roots.Data, u.roots.Runtime} {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if data, rerr := os.ReadFile(path); rerr == nil && (bytes.Contains(data, []byte(secret)) || bytes.Contains(data, []byte(pass))) {
				t.Errorf("%s holds a secret", path)
			}
			return err
		})
	}
}

// TestNamespaces asks from podman's own namespace, where supervisors run, and from containers,
// whose processes have the operator's uid in the kernel's eyes.
func TestNamespaces(t *testing.T) {
	u := newUser(t)
	p := u.file("p", pass)
	u.run(0, "", "vault", "init", "--passphrase-file", p)
	u.run(0, secret, "auth", "claude", "--api-key-stdin", "--no-verify")
	init := exec.Command("sleep", "1000")
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { init.Process.Kill(); init.Wait() }()
	dir := u.roots.SandboxDir("t1")
	digest := hex.EncodeToString(make([]byte, 32))
	f := sandbox.File{Schema: sandbox.Schema, Key: "t1", Name: "t1", Launch: "l1", Dir: dir, RuntimeDir: u.roots.RunDir("t1"),
		CIDFile: filepath.Join(dir, "container.id"), StartError: filepath.Join(dir, "start-error"), PanicLock: u.roots.PanicLock(),
		Keyholder: u.roots.KeyholderSocket(), SeccompSHA256: digest, GuestSHA256: digest, SigningKey: make([]byte, 32),
		Vault: &sandbox.Vault{Grants: []sandbox.Grant{{Provider: "anthropic", Scope: "shared"}}}}
	if err := state.WriteJSON(sandbox.Path(dir), f); err != nil {
		t.Fatal(err)
	}
	if err := state.WriteFile(f.CIDFile, []byte(strings.Repeat("ab", 32))); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{asPeer + "=" + u.roots.KeyholderSocket(), asPeer + "_SANDBOX=" + sandbox.Path(dir), asPeer + "_INIT=" + strconv.Itoa(init.Process.Pid)}
	ask := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return string(out)
	}
	if out := ask(env, self); !strings.Contains(out, "operator: <nil>\n") {
		t.Errorf("the host: %s", out)
	}
	out := ask(env, "podman", "unshare", self)
	if !strings.Contains(out, "operator: only a process of the operator's session") || !strings.Contains(out, fmt.Sprintf("supervisor: %q <nil>", secret)) {
		t.Errorf("podman's namespace: %s", out)
	}
	for _, flags := range [][]string{{"--userns", "keep-id"}, {"--userns", "keep-id", "--pid", "host"}, {"--userns", "host"}, {"--userns", "host", "--pid", "host"}} {
		args := append([]string{"run", "--rm", "--pull", "never", "--network", "none", "-v", u.dir + ":" + u.dir, "-v", self + ":/peer:ro"}, flags...)
		for _, e := range env[:2] {
			args = append(args, "--env", e)
		}
		out := ask(nil, "podman", append(args, base, "/peer")...)
		if strings.Contains(out, "operator: <nil>") || strings.Contains(out, secret) {
			t.Errorf("container %v: %s", flags, out)
		}
	}
}
