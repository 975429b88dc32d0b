package vault

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "terok"
	"terok/internal/problem"
)

// TestLockedMeanwhile: a person locks the vault while another command is fetching what opens it
// without anybody. It stays locked, and that command says so.
func TestLockedMeanwhile(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	a := u.app(nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	u.config("credentials:\n  passphrase_command: echo " + strings.ReplaceAll(pass, " ", "-") + "\n")
	if err := a.VaultInit(ctx, core.VaultSetup{Slot: "command"}); err != nil {
		t.Fatal(err)
	}
	u.kill()
	script := filepath.Join(u.dir, "slow-passphrase")
	lines := []string{"#!/bin/sh", "XDG_CONFIG_HOME=" + u.dir + "/c XDG_DATA_HOME=" + u.dir + "/d XDG_RUNTIME_DIR=" + u.dir + "/r " + terok + " vault lock >&2 || exit 3",
		"echo " + strings.ReplaceAll(pass, " ", "-"), ""}
	if err := os.WriteFile(script, []byte(strings.Join(lines, "\n")), 0o700); err != nil {
		t.Fatal(err)
	}
	u.config("credentials:\n  passphrase_command: " + script + "\n")
	if _, err := a.AuthList(ctx); reason(err) != core.LockUser {
		t.Errorf("%v (%v)", err, reason(err))
	}
	if st, err := a.VaultStatus(ctx); err != nil || st.State != core.VaultLocked || st.LockReason != core.LockUser {
		t.Errorf("%+v %v", st, err)
	}
	// Whoever asks for it is a person.
	u.config("credentials:\n  passphrase_command: echo " + strings.ReplaceAll(pass, " ", "-") + "\n")
	if err := a.VaultUnlock(ctx, nil); err != nil {
		t.Error(err)
	}
	if _, err := a.AuthList(ctx); err != nil {
		t.Error(err)
	}
}

// TestBadBackupLocksNothing: a restore that cannot be done does not take the keys from tasks.
func TestBadBackupLocksNothing(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	a := u.app(nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := a.VaultInit(ctx, core.VaultSetup{Passphrase: []byte(pass)}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(u.dir, "nothing"), u.file("bad", "{}")} {
		if _, err := a.VaultRestore(ctx, file); err == nil {
			t.Error("restored", file)
		}
	}
	if st, err := a.VaultStatus(ctx); err != nil || st.State != core.VaultUnlocked {
		t.Errorf("%+v %v", st, err)
	}
}

// TestExportLeavesNothing: where the public half cannot be written, no private key lies about.
func TestExportLeavesNothing(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	a := u.app(nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := a.VaultInit(ctx, core.VaultSetup{Passphrase: []byte(pass)}); err != nil {
		t.Fatal(err)
	}
	u.project("webshop")
	key, _, err := a.SSHAdd(ctx, "webshop", "ed25519", "", false)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, taken := range []string{"out.pub", "out"} {
		if err := os.WriteFile(filepath.Join(dir, taken), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.SSHExport(ctx, key.Fingerprint, dir, "out"); !problem.Is(err, "exists") {
			t.Error(err)
		}
		left, _ := os.ReadDir(dir)
		if len(left) != 1 {
			t.Errorf("%s was there: %v", taken, left)
		}
		os.Remove(filepath.Join(dir, taken))
	}
	if _, err := a.SSHExport(ctx, key.Fingerprint, dir, "out"); err != nil {
		t.Error(err)
	}
}

// TestUnlockWithoutATerminal: the cure is not the command that was just tried.
func TestUnlockWithoutATerminal(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass+"\n"))
	u.run(0, "", "vault", "lock")
	if _, errs := u.run(8, "", "vault", "unlock"); !strings.Contains(errs, "terok vault unlock --passphrase-file FILE") {
		t.Error(errs)
	}
}

func (u *user) project(name string) {
	u.t.Helper()
	if err := os.MkdirAll(u.roots.ProjectDir(name), 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(u.roots.ProjectFile(name), []byte("project:\n  name: "+name+"\n"), 0o600); err != nil {
		u.t.Fatal(err)
	}
}
