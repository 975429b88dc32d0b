package vault

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	core "terok"
	"terok/internal/problem"
	"terok/internal/vault/credsd/credsdtest"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyholder/holder"
	"terok/internal/vault/keyring/keyringtest"
)

// app is the core of one user, with a systemd-creds of the test's own and no session bus.
func (u *user) app(creds *credsdtest.Service, env map[string]string) *core.App {
	a := &core.App{Roots: u.roots, Self: terok, Now: time.Now, Progress: io.Discard,
		Environ: func(k string) string {
			if k == "PATH" {
				return os.Getenv(k)
			}
			return env[k]
		}}
	a.CredsSocket = filepath.Join(u.dir, "no-systemd")
	if creds != nil {
		a.CredsSocket = creds.Socket
	}
	return a
}

func (u *user) config(text string) {
	u.t.Helper()
	if err := os.MkdirAll(u.roots.Config, 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(u.roots.ConfigFile(), []byte("schema: 1\n"+text), 0o600); err != nil {
		u.t.Fatal(err)
	}
}

func (u *user) kill() {
	u.t.Helper()
	if _, err := holder.Kill(u.roots); err != nil {
		u.t.Fatal(err)
	}
}

func reason(err error) any {
	if p := problem.Of(err); p != nil {
		return p.Details["lock_reason"]
	}
	return nil
}

// spec/vault.md §10: 60, 64, 65. A vault that systemd-creds opens: by any command, after a kill -9
// too; a sealed copy that does not open ends the search; a lock by a person holds; the copies are
// destroyed only by somebody who has another way in.
func TestSystemdCreds(t *testing.T) {
	t.Parallel()
	u, creds := newUser(t), credsdtest.Start(t)
	a := u.app(creds, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	code := core.NewRecoveryCode()
	if err := a.VaultInit(ctx, core.VaultSetup{Slot: "systemd-creds", Recovery: slices.Clone(code)}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AuthKey(ctx, core.AuthRequest{Name: "anthropic", NoVerify: true}, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	is := func(state, why string) {
		t.Helper()
		st, err := a.VaultStatus(ctx)
		if err != nil || st.State != state || st.LockReason != why {
			t.Fatalf("%s/%s %v, want %s/%s", st.State, st.LockReason, err, state, why)
		}
	}
	is(core.VaultUnlocked, "")
	u.kill()
	is(core.VaultLocked, core.LockNotStarted)
	if l, err := a.AuthList(ctx); err != nil || len(l) != 1 {
		t.Fatal(l, err)
	}

	// The TPM breaks. A command that would open the vault is not asked: it may be the reason.
	u.kill()
	creds.Fail("KeyBelongsToOtherTPM")
	u.config("credentials:\n  passphrase_command: touch " + filepath.Join(u.dir, "asked") + "\n")
	if _, err := a.AuthList(ctx); problem.Of(err).Exit != problem.Locked || reason(err) != core.LockUnreadable || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("%v (%v)", err, reason(err))
	}
	if _, err := os.Stat(filepath.Join(u.dir, "asked")); err == nil {
		t.Error("the search went on")
	}
	if err := a.VaultUnlock(ctx, slices.Clone(code)); err != nil {
		t.Error("the recovery code does not open it", err)
	}
	creds.Fail("")
	u.config("")

	// Locked by a person: no sealed copy opens it, whatever is tried; unlock does.
	if err := a.VaultLock(ctx); err != nil {
		t.Fatal(err)
	}
	calls := len(creds.Calls())
	if _, err := a.AuthList(ctx); reason(err) != core.LockUser {
		t.Error(err)
	}
	is(core.VaultLocked, core.LockUser)
	if len(creds.Calls()) != calls {
		t.Error("the sealed copy was opened")
	}
	if err := a.VaultUnlock(ctx, nil); err != nil {
		t.Fatal(err)
	}
	is(core.VaultUnlocked, "")

	if _, err := a.VaultDestroyCopies(ctx, false); problem.Of(err).Exit != problem.Declined {
		t.Error("destroyed without another way in", err)
	}
	if s, err := a.VaultSlots(ctx); err != nil || len(s) != 2 {
		t.Fatal(s, err)
	}
	if before, err := a.VaultAcknowledge(ctx); err != nil || before {
		t.Fatal(before, err)
	}
	if gone, err := a.VaultDestroyCopies(ctx, false); err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	if err := a.VaultUnlock(ctx, nil); reason(err) != core.LockNoSource {
		t.Error(err)
	}
	if err := a.VaultUnlock(ctx, slices.Clone(code)); err != nil {
		t.Error(err)
	}
	// Where systemd-creds is missing, it is said which piece.
	b := u.app(nil, nil)
	if _, err := b.VaultSeal(ctx, "systemd-creds", "auto", false); problem.Of(err).Exit != problem.Manual {
		t.Error(err)
	}
}

// spec/vault.md §10: 60, 61, 62. A real keyring opens the vault; one that is gone is passed over for
// the command; a command that fails ends the search. Nothing of the session is needed to unlock by
// hand.
func TestKeyring(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	address := keyringtest.Bus(t)
	stop := keyringtest.Gnome(t, address)
	a := u.app(nil, map[string]string{"DBUS_SESSION_BUS_ADDRESS": address})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, ring := a.VaultKeepers(ctx); !ring {
		t.Fatal("the keyring is not seen")
	}
	if err := a.VaultInit(ctx, core.VaultSetup{Slot: "secret-service"}); err != nil {
		t.Fatal(err)
	}
	u.kill()
	if _, err := a.AuthList(ctx); err != nil {
		t.Fatal(err)
	}
	if st, err := a.VaultStatus(ctx); err != nil || st.Source != "secret-service" || len(st.Warnings) != 1 || st.Warnings[0].Kind != "recovery-volatile" {
		t.Errorf("%+v %v", st, err)
	}
	pass := u.file("p", "correct horse battery staple\n")
	u.config("credentials:\n  passphrase_command: cat " + pass + "\n")
	if err := a.VaultPassphraseResync(ctx); err != nil {
		t.Fatal(err)
	}
	u.kill()
	stop()
	if _, err := a.AuthList(ctx); err != nil {
		t.Fatal("a keyring that is gone is not passed over:", err)
	}
	if st, _ := a.VaultStatus(ctx); st.Source != "command" {
		t.Errorf("%+v", st)
	}
	u.kill()
	u.config("credentials:\n  passphrase_command: /bin/false\n")
	if _, err := a.AuthList(ctx); problem.Of(err).Exit != problem.Locked || reason(err) != core.LockUnreadable {
		t.Error(err)
	}
	u.config("credentials:\n  passphrase_command: echo something else\n")
	if _, err := a.AuthList(ctx); problem.Of(err).Exit != problem.Locked || reason(err) != core.LockMismatch {
		t.Error(err)
	}
	if err := a.VaultUnlock(ctx, []byte("correct horse battery staple")); err != nil {
		t.Error(err)
	}
}

// spec/vault.md §10: 7, adapted to the keyholder. Another process of the same user reads neither its
// memory nor its files, and a crash leaves no core.
func TestKeyholderIsClosed(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass+"\n"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := keyholder.Dial(ctx, u.roots.KeyholderSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strconv.Itoa(st.PID)
	status, err := os.ReadFile(proc + "/status")
	if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Error("new privileges are possible", err)
	}
	limits, err := os.ReadFile(proc + "/limits")
	if err == nil && !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Error("it may leave a core")
	}
	if os.Getuid() == 0 {
		return // root may look at everything
	}
	for _, name := range []string{"mem", "environ", "maps", "auxv"} {
		f, err := os.Open(proc + "/" + name)
		if err != nil {
			continue
		}
		var b [1]byte
		if n, err := f.Read(b[:]); n > 0 {
			t.Errorf("%s can be read (%v)", name, err)
		}
		f.Close()
	}
	if _, err := os.ReadDir(proc + "/fd"); err == nil {
		t.Error("its descriptors can be listed")
	}
}

// TestPassphraseCommandFails: a command that does not give the passphrase leaves the vault locked,
// says why by its first word alone, and leaves nothing of its own in any file. spec/vault.md §10: 62.
func TestPassphraseCommandFails(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass+"\n"))
	if _, err := holder.Kill(u.roots); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(u.roots.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		`false --token=s3cret-argument`:                         "(false) ended with exit code 1",
		`true s3cret-argument`:                                  "(true) printed no passphrase",
		`sh -c "head -c 1048576 /dev/zero" s3cret-argument`:     "(sh) printed more than 4096 bytes",
		`sh -c "echo s3cret-phrase; exit 4" s3cret-argument`:    "(sh) ended with exit code 4",
		`sh -c "echo not-the-passphrase" s3cret-argument`:       "what command has does not open it",
		`no-such-program-of-anybody --password s3cret-argument`: "(no-such-program-of-anybody)",
	} {
		if err := os.WriteFile(u.roots.ConfigFile(), []byte("schema: 1\ncredentials:\n  passphrase_command: '"+command+"'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs := u.run(8, "", "auth", "--list")
		if !strings.Contains(errs, want) || strings.Contains(out+errs, "s3cret") {
			t.Errorf("%s: %q", command, errs)
		}
		if got := u.state(); !strings.HasPrefix(got, "locked/") {
			t.Errorf("%s: %s", command, got)
		}
	}
	if err := os.Remove(u.roots.ConfigFile()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{u.roots.Data, u.roots.Runtime} {
		_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
			if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte("s3cret")) {
				t.Errorf("%s holds an argument or what was printed", path)
			}
			return nil
		})
	}
}
