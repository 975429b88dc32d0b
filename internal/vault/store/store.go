// Package store keeps the vault on disk: one age-encrypted document and the ways in.
//
//	vault.age     JSON document of credentials, encrypted to a hybrid post-quantum age identity
//	vault.age.1   the generation before it; without what was deleted since
//	slots.json    that identity, wrapped once per way in (each an age file with a passphrase)
//	slots.json.1  the same again, against damage
//	vault.lock    held by whoever writes
//
// A slot's secret is a passphrase that a person knows, what a command prints, a recovery code, or
// 256 random bits that systemd-creds or the Secret Service keeps. Who has one of them has the
// vault; taking one away takes nothing from the others.
//
// What it guarantees: both files are replaced atomically and durably, so a kill -9 at any point
// leaves the old or the new; a wrong passphrase, a damaged file and a missing one are told apart;
// slots that were edited, or taken from another vault, are refused after unlocking; a file of a
// newer version is refused and not touched; files that others could read are refused. An empty
// passphrase is refused everywhere, and there is no mode without encryption.
//
// Both files are ordinary age files below their JSON and can be opened by hand with `age -d`,
// should terok ever be gone.
//
// A slots.json that was put back to an older state, so that a removed way opens again, is noticed
// once the vault is open. It cannot detect that both files were put back together.
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
)

// Versions of the two files that this program writes.
const (
	Schema      = 2 // vault.age
	slotsSchema = 2 // slots.json
)

// MaxPassphrase bounds a passphrase in bytes.
const MaxPassphrase = 4096

const maxFile = 16 << 20 // bytes of either file

// Codes of the problems of this package.
const (
	CodeMissing     = "vault_missing"       // exit 8
	CodeWrong       = "wrong_passphrase"    // exit 1
	CodeDamaged     = "vault_damaged"       // exit 1
	CodeTampered    = "vault_tampered"      // exit 1
	CodeNewer       = "vault_newer"         // exit 4
	CodePermissions = "vault_permissions"   // exit 1
	CodeExists      = "vault_exists"        // exit 7
	CodeEmpty       = "empty_passphrase"    // exit 2
	CodeRecovery    = "wrong_recovery_code" // exit 1
	CodeMismatch    = "slot_mismatch"       // exit 1
	CodeReplaced    = "vault_replaced"      // exit 1
)

func vaultFile(dir string) string { return filepath.Join(dir, "vault.age") }
func slotsFile(dir string) string { return filepath.Join(dir, "slots.json") }
func lockName(dir string) string  { return filepath.Join(dir, "vault") }

// Exists reports whether dir holds a vault. Half of one is a vault, damaged.
func Exists(dir string) (bool, error) {
	for _, path := range []string{slotsFile(dir), vaultFile(dir)} {
		switch _, err := os.Lstat(path); {
		case err == nil:
			return true, nil
		case !errors.Is(err, os.ErrNotExist):
			return false, err
		}
	}
	return false, nil
}

func missing(dir string) error {
	return problem.New(CodeMissing, problem.Locked, "there is no vault in %s", dir).WithHint("terok vault init")
}

// checkDir demands a private directory of our own.
func checkDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return missing(dir)
		}
		return fmt.Errorf("%s: %w", dir, err)
	}
	return checkStat(dir, &st, unix.S_IFDIR, 0o700)
}

func checkStat(path string, st *unix.Stat_t, kind, mode uint32) error {
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return problem.New(CodePermissions, problem.Failed, "%s is not what it should be (symbolic link or special file)", path).
			WithHint("ls -ld %s", quote(path))
	case int(st.Uid) != os.Geteuid():
		return problem.New(CodePermissions, problem.Failed, "%s belongs to another user", path).
			WithHint("chown %d %s", os.Geteuid(), quote(path))
	case st.Mode&0o077 != 0:
		return problem.New(CodePermissions, problem.Failed, "others may reach %s", path).
			WithHint("chmod %o %s", mode, quote(path))
	}
	return nil
}

func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

// read returns a private file of our own; a missing one is fs.ErrNotExist.
func read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, problem.New(CodePermissions, problem.Failed, "%s is a symbolic link", path).WithHint("ls -l %s", quote(path))
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if err := checkStat(path, &st, unix.S_IFREG, 0o600); err != nil {
		return nil, err
	}
	if st.Size > maxFile {
		return nil, damaged(path, errors.New("impossibly large"))
	}
	data := make([]byte, st.Size)
	n, err := f.ReadAt(data, 0)
	if n != len(data) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

func damaged(path string, err error) error {
	return problem.New(CodeDamaged, problem.Failed, "%s is damaged: %w", path, err).WithHint("%s", cure(path))
}

// cure is how a person gets a good file back.
func cure(path string) string {
	if _, err := os.Lstat(path + ".1"); err == nil {
		what := "the generation before it"
		if filepath.Base(path) != "vault.age" {
			what = "its mirror"
		}
		return fmt.Sprintf("cp -p %s %s   (%s)", quote(path+".1"), quote(path), what)
	}
	return "terok vault restore FILE, from a backup"
}

func newer(path string, schema, known int) error {
	return problem.New(CodeNewer, problem.Newer, "%s was written by a newer terok (schema %d, this one knows %d)", path, schema, known).
		WithHint("install the newer terok again")
}

// sweep removes what a killed writer left behind. The caller holds the lock.
func sweep(dir string) {
	for _, pattern := range []string{".vault.age*", ".slots.json*", "vault.age.1.new"} {
		left, _ := filepath.Glob(filepath.Join(globEscape(dir), pattern))
		for _, path := range left {
			_ = os.Remove(path)
		}
	}
	_ = removeCopies(dir, time.Now().Add(-keepCopies))
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// replaceBoth writes data as both generations, the earlier one first: what was deleted is in no
// file once vault.age is replaced, and while it is not, the deletion has not happened.
func replaceBoth(dir string, data []byte) error {
	if err := state.WriteFile(vaultFile(dir)+".1", data); err != nil {
		return err
	}
	if err := removeCopies(dir, time.Time{}); err != nil {
		return err
	}
	return state.WriteFile(vaultFile(dir), data)
}

// replaceVault writes a new generation of vault.age and keeps the one before it. At every point
// vault.age is whole: a hard link of it becomes vault.age.1 before the new file is renamed over it.
func replaceVault(dir string, data []byte) error {
	path, link := vaultFile(dir), vaultFile(dir)+".1.new"
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	switch err := os.Link(path, link); {
	case err == nil:
		if err := os.Rename(link, path+".1"); err != nil {
			return err
		}
		// rename(2) does nothing when both names are one file already.
		_ = os.Remove(link)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return state.WriteFile(path, data)
}
