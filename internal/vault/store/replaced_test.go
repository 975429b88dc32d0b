package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"terok/internal/problem"
)

// TestNoWriteOverAnotherVault: while a keyholder had a vault open, another one was put in its place,
// or all of it was removed. A refresh that comes in then must neither lock the new one up, whose
// slots hold another key, nor bring back what was wiped.
func TestNoWriteOverAnotherVault(t *testing.T) {
	for name, change := range map[string]func(dir string){
		"another vault": func(dir string) {
			os.RemoveAll(dir)
			if err := os.Rename(newVault(t), dir); err != nil {
				t.Fatal(err)
			}
		},
		"a new key": func(dir string) {
			if _, err := open(t, dir).RotateKey([][]byte{[]byte(pass)}, noon); err != nil {
				t.Fatal(err)
			}
		},
		"wiped": func(dir string) {
			if err := Wipe(dir); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newVault(t)
			v := open(t, dir)
			change(dir)
			before, _ := os.ReadFile(vaultFile(dir))
			_, err := v.Put(oauthCred(), noon)
			wantCode(t, err, CodeReplaced, problem.Failed)
			after, _ := os.ReadFile(vaultFile(dir))
			if !bytes.Equal(before, after) {
				t.Error("written over")
			}
			if before != nil && opensWith(dir, []byte(pass)) != nil {
				t.Error("the vault there opens no more")
			}
		})
	}
}

// TestDamagedSlotsStopNoRefresh: a token that rotates is stored although slots.json is damaged: the
// key is the same, and the token is nowhere else.
func TestDamagedSlotsStopNoRefresh(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	os.Truncate(slotsFile(dir), 10)
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Error(err)
	}
}

// TestNothingIsStoredThatCannotBeRead: a vault larger than what is read back is never written.
func TestNothingIsStoredThatCannotBeRead(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	err := v.Update(noon, func(tx *Tx) error {
		tx.doc.Generated = bytes.Repeat([]byte("x"), maxFile)
		return nil
	})
	wantCode(t, err, "vault_full", problem.Failed)
	if err := opensWith(dir, []byte(pass)); err != nil {
		t.Error(err)
	}
}

// TestInitTakesNoVaultForALeftover: a restored vault has no generation before it yet; when its
// slots.json is lost it is damaged, and not what an interrupted init left.
func TestInitTakesNoVaultForALeftover(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup")
	if err := open(t, newVault(t)).Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "vault")
	if _, err := Restore(dir, file, noon); err != nil {
		t.Fatal(err)
	}
	os.Remove(slotsFile(dir))
	before, _ := os.ReadFile(vaultFile(dir))
	wantCode(t, initialise(dir, passphrase("another one"), testWork, time.Now()), CodeDamaged, problem.Failed)
	if after, _ := os.ReadFile(vaultFile(dir)); !bytes.Equal(before, after) {
		t.Error("a vault was made over the restored one")
	}
}

// TestRestoreLosesNothing: killed at any step and run again, or where only the generations before
// are left, what was there is still somewhere beside the vault.
func TestRestoreLosesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup")
	if err := open(t, newVault(t)).Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for die := 0; ; die++ {
		dir := newVault(t)
		if _, err := open(t, dir).Put(oauthCred(), noon); err != nil {
			t.Fatal(err)
		}
		want, _ := os.ReadFile(vaultFile(dir))
		done := restoreUntil(dir, file, die)
		if err := opensWith(dir, []byte(pass)); err != nil {
			t.Errorf("killed at step %d: %v", die, err)
		}
		if !done {
			steps++
			if _, err := Restore(dir, file, noon.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		all, _ := filepath.Glob(dir + "*/vault.age")
		found := false
		for _, path := range all {
			data, _ := os.ReadFile(path)
			found = found || bytes.Equal(data, want)
		}
		if !found {
			t.Errorf("killed at step %d and run again: the vault before is gone (%v)", die, all)
		}
		if done {
			break
		}
	}
	if steps < 3 {
		t.Errorf("%d steps were tried", steps)
	}
	// A restore by an earlier version was killed when the vault before lay where it prepares the other.
	left := newVault(t)
	dir := newVault(t)
	if err := os.Rename(left, dir+".restoring"); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(dir, file, noon); err != nil {
		t.Fatal(err)
	}
	if all, _ := filepath.Glob(dir + ".old-*/vault.age"); len(all) != 2 {
		t.Error("what lay there is gone:", all)
	}
	// Only the copies of both files are left.
	dir = newVault(t)
	if _, err := open(t, dir).Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	os.Remove(vaultFile(dir))
	os.Remove(slotsFile(dir))
	old, err := Restore(dir, file, noon)
	if err != nil || old == "" {
		t.Fatal(old, err)
	}
	for _, name := range []string{"vault.age.1", "slots.json.1"} {
		if _, err := os.Stat(filepath.Join(old, name)); err != nil {
			t.Error(err)
		}
	}
}

// restoreUntil restores until step n and is killed there; true: it was done before.
func restoreUntil(dir, file string, n int) (done bool) {
	defer func() { recover() }()
	_, err := restore(dir, file, noon, func() {
		if n--; n < 0 {
			panic("killed")
		}
	})
	return err == nil
}

// TestRestoreFromAStick: FAT shows every file as readable by others. A backup is encrypted, so that
// is no reason to refuse it; a link and a directory are no files.
func TestRestoreFromAStick(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup")
	if err := open(t, newVault(t)).Backup(file, "", noon); err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o755)
	if _, err := Restore(filepath.Join(t.TempDir(), "vault"), file, noon); err != nil {
		t.Error(err)
	}
	_, err := Restore(filepath.Join(t.TempDir(), "vault"), t.TempDir(), noon)
	wantCode(t, err, "backup_damaged", problem.Failed)
}

// TestRollbackStays: neither confirming the recovery code nor a further change of the slots that
// were put back makes an older copy count as the newest.
func TestRollbackStays(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: []byte("terok-rk-00000-00000-00000-00000-00000-00000")})
	first, _ := os.ReadFile(slotsFile(dir))
	for _, p := range []string{"one more passphrase", "and another one", "the last of them"} {
		mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: []byte(p)})
	}
	later, _ := os.ReadFile(slotsFile(dir))
	os.WriteFile(slotsFile(dir), first, 0o600)
	v = open(t, dir)
	_, err := v.Acknowledge(noon)
	wantCode(t, err, "slots_rolled_back", problem.Conflict)
	if v = open(t, dir); !v.RolledBack() {
		t.Error("confirming the code made the copy the newest")
	}
	mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: []byte(pass)})
	os.WriteFile(slotsFile(dir), later, 0o600)
	if !open2(t, dir, []byte("the last of them")).RolledBack() {
		t.Error("a copy from before the change is not noticed")
	}
}

// TestWork: a busy machine must not make a vault that is cheap to guess for ever.
func TestWork(t *testing.T) {
	for best, want := range map[time.Duration]int{10 * time.Second: leastWork, 300 * time.Millisecond: leastWork, 40 * time.Millisecond: 19, time.Microsecond: maxWork} {
		if got := workFor(best); got != want {
			t.Errorf("%s: %d, want %d", best, got, want)
		}
	}
	if leastWork < 17 { // 128 MiB: what OWASP asks of scrypt
		t.Error(leastWork)
	}
}
