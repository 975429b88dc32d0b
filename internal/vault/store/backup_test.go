package store

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"terok/internal/problem"
	"terok/internal/vault/recovery"
)

func TestBackupAndRestore(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	code := recovery.New()
	tpm, tpmSecret := machine(SlotSystemdCreds)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: code})
	mustAdd(t, v, tpm)
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := v.Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o600 {
		t.Error(st.Mode())
	}
	wantCode(t, v.Backup(file, "", noon), "exists", problem.Conflict)
	data, _ := os.ReadFile(file)
	for _, s := range []string{secret, "openai", "systemd-creds", string(code)} {
		if bytes.Contains(data, []byte(s)) {
			t.Errorf("the backup holds %s", s)
		}
	}
	// Into nothing.
	fresh := filepath.Join(t.TempDir(), "data", "vault")
	if old, err := Restore(fresh, file, noon); err != nil || old != "" {
		t.Fatal(old, err)
	}
	for _, s := range [][]byte{[]byte(pass), code} {
		if l, err := open2(t, fresh, s).List(); err != nil || len(l) != 1 {
			t.Error(l, err)
		}
	}
	wantCode(t, opensWith(fresh, tpmSecret), CodeMismatch, 1)
	// Over a vault: nothing of it is lost.
	other := newVault(t)
	if _, err := open(t, other).Put(key("shared", "github", []byte(secret)), noon); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		old, err := Restore(other, file, noon)
		if err != nil || old == "" {
			t.Fatal(old, err)
		}
		if _, err := os.Stat(filepath.Join(old, "vault.age")); err != nil {
			t.Error(err)
		}
	}
	if _, ok, err := open(t, other).Get(Key{"shared", "openai", "work"}); !ok || err != nil {
		t.Error(ok, err)
	}
	// spec/vault.md §10: 69. After a wipe nothing opens the vault, the ones moved aside included.
	if err := Wipe(other); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(other + "*")
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	if err := Wipe(other); err != nil {
		t.Error("nothing to wipe is no error:", err)
	}
}

func TestMerge(t *testing.T) {
	from, dir := newVault(t), newVault(t)
	v := open(t, from)
	theirs := oauthCred()
	for _, c := range []Credential{theirs, key("shared", "github", []byte(secret+"-theirs"))} {
		if _, err := v.Put(c, noon); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := v.Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	ours := open(t, dir)
	if _, err := ours.Put(key("shared", "github", []byte(secret+"-ours")), noon); err != nil {
		t.Fatal(err)
	}
	_, err := ours.Merge(file, []byte("wrong"), noon)
	wantCode(t, err, CodeWrong, 1)
	for _, want := range []Merged{{1, 1}, {0, 2}} {
		if m, err := ours.Merge(file, []byte(pass), noon); err != nil || m != want {
			t.Error(m, err)
		}
	}
	v = open(t, dir)
	c, _, _ := v.Get(Key{Scope: "shared", Provider: "github"})
	if string(c.Secret) != secret+"-ours" {
		t.Error("written over")
	}
	if c, ok, _ := v.Get(theirs.Key()); !ok || string(c.Refresh) != string(theirs.Refresh) {
		t.Error("not added")
	}
}

func TestBackupWithAnotherLayer(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	err = v.Backup(file, "age1nothing", noon)
	wantCode(t, err, "usage", problem.Usage)
	if err := v.Backup(file, id.Recipient().String(), noon); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(filepath.Join(t.TempDir(), "v"), file, noon)
	wantCode(t, err, "backup_encrypted", problem.Manual)
	data, _ := os.ReadFile(file)
	plain, err := decrypt(data, id)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(file, plain, 0o600)
	if _, err := Restore(filepath.Join(t.TempDir(), "v"), file, noon); err != nil {
		t.Error(err)
	}
}

func TestNoBackupThatNobodyOpens(t *testing.T) {
	v := open(t, newVault(t))
	tpm, _ := machine(SlotSystemdCreds)
	mustAdd(t, v, tpm)
	if _, err := v.RemoveSlot(SlotPassphrase, noon); err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.Backup(filepath.Join(t.TempDir(), "b"), "", noon), "no_portable_slot", problem.Conflict)
}

// TestDamagedBackup: a backup that was cut or changed is refused before anything is touched.
func TestDamagedBackup(t *testing.T) {
	dir := newVault(t)
	file := filepath.Join(t.TempDir(), "backup")
	if err := open(t, dir).Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(file)
	before, _ := os.ReadFile(vaultFile(dir))
	bad := [][]byte{nil, []byte("{}"), data[:len(data)/2], bytes.Replace(data, []byte("backup/1"), []byte("backup/9"), 1)}
	for i := 0; i < len(data); i += len(data) / 60 {
		b := bytes.Clone(data)
		b[i] ^= 1
		bad = append(bad, b)
	}
	for i, b := range bad {
		os.WriteFile(file, b, 0o600)
		if _, err := Restore(dir, file, noon); err == nil {
			if after, _ := os.ReadFile(vaultFile(dir)); opensWith(dir, []byte(pass)) != nil || !bytes.Equal(before, after) {
				t.Errorf("%d: a damaged backup was restored", i)
			}
		} else if p := problem.Of(err); p.Hint == "" || !strings.Contains(p.Message, file) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// spec/vault.md §10: 54. Verify finds what was changed behind the keyholder's back.
func TestVerify(t *testing.T) {
	for name, spoil := range map[string]func(dir string, v *Vault){
		"an older vault.age": func(dir string, _ *Vault) {
			data, _ := os.ReadFile(vaultFile(dir) + ".1")
			os.WriteFile(vaultFile(dir), data, 0o600)
		},
		"vault.age cut":   func(dir string, _ *Vault) { os.Truncate(vaultFile(dir), 300) },
		"generation":      func(dir string, _ *Vault) { os.WriteFile(vaultFile(dir)+".1", []byte("x"), 0o600) },
		"mirror":          func(dir string, _ *Vault) { os.WriteFile(slotsFile(dir)+".1", []byte("x"), 0o600) },
		"slots":           func(dir string, _ *Vault) { os.Truncate(slotsFile(dir), 10) },
		"mode":            func(dir string, _ *Vault) { os.Chmod(vaultFile(dir), 0o644) },
		"slots not there": func(dir string, _ *Vault) { os.Remove(slotsFile(dir)) },
		"bad credential": func(_ string, v *Vault) {
			v.Update(time.Now(), func(t *Tx) error { t.doc.Credentials[0].Secret = []byte("x"); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newVault(t)
			v := open(t, dir)
			for range 2 {
				if _, err := v.Put(oauthCred(), noon); err != nil {
					t.Fatal(err)
				}
			}
			if f, err := v.Verify(); err != nil || len(f) != 0 {
				t.Fatal(f, err)
			}
			if err := Look(dir); err != nil {
				t.Error(err)
			}
			spoil(dir, v)
			if f, err := v.Verify(); err != nil || len(f) == 0 {
				t.Error("nothing found", err)
			}
		})
	}
}
