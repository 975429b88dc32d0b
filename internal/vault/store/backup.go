package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
)

// backupFormat is what a backup file says it is.
const backupFormat = "terok-backup/1"

const maxBackup = 2 * maxFile // bytes; it holds both files, one of them in base64

// ageHeader begins every age file.
const ageHeader = "age-encryption.org/"

// backup is one file that a person keeps elsewhere: vault.age as it is, and the slots that do not
// hang on this machine.
type backup struct {
	Format      string    `json:"format"`
	CreatedAt   time.Time `json:"created_at"`
	Slots       slots     `json:"slots"`
	Vault       []byte    `json:"vault"`
	VaultSHA256 string    `json:"vault_sha256"` // hex
}

// portable reports whether a slot is of use on another machine.
func portable(sl slot) bool {
	return sl.Kind == SlotPassphrase || sl.Kind == SlotRecovery || sl.Kind == SlotCommand
}

// Backup writes a new file at path (0600) with the vault and the ways in that a person has:
// passphrase, command, recovery code. recipient, an age public key or "", encrypts it once more.
// An existing path is a Problem exists (exit 7), a vault that only this machine opens no_portable_slot.
func (v *Vault) Backup(path, recipient string, now time.Time) error {
	s, err := v.slots()
	if err != nil {
		return err
	}
	s.Slots = slices.DeleteFunc(slices.Clone(s.Slots), func(sl slot) bool { return !portable(sl) })
	if len(s.Slots) == 0 {
		return problem.New("no_portable_slot", problem.Conflict, "only this machine opens the vault, so a backup would open nowhere").
			WithHint("terok vault recovery rotate")
	}
	if err := s.seal(string(v.identity.bytes())); err != nil {
		return err
	}
	data, err := read(vaultFile(v.dir))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	out, err := json.MarshalIndent(backup{backupFormat, stamp(now), *s, data, hex.EncodeToString(sum[:])}, "", "  ")
	if err != nil {
		return err
	}
	if recipient != "" {
		r, err := parseRecipient(recipient)
		if err != nil {
			return err
		}
		if out, err = encrypt(out, r); err != nil {
			return err
		}
	}
	err = state.Create(path, out, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return problem.New("exists", problem.Conflict, "%s exists already", path).WithHint("choose another name")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return problem.New("unwritable", problem.Usage, "%w", err)
	}
	return err
}

func parseRecipient(s string) (age.Recipient, error) {
	if r, err := age.ParseHybridRecipient(s); err == nil {
		return r, nil
	}
	r, err := age.ParseX25519Recipient(s)
	if err != nil {
		return nil, problem.New("usage", problem.Usage, "not an age public key (age1…)").WithHint("age-keygen -y KEYFILE")
	}
	return r, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readBackup reads and checks a backup as far as that needs no key.
func readBackup(path string) (*backup, error) {
	bad := func(why string) error {
		return problem.New("backup_damaged", problem.Failed, "%s is no backup of a vault that can be used: %s", path, why).WithHint("use another backup")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, problem.New("backup_missing", problem.NotFound, "there is no %s", path)
	}
	if err != nil {
		return nil, problem.New("backup_unreadable", problem.Usage, "%w", err)
	}
	defer f.Close()
	// Whoever may read it has nothing without a way in, and FAT lets everybody read.
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxBackup {
		return nil, bad("it is no file, or too large for one")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBackup))
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte(ageHeader)) {
		return nil, problem.New("backup_encrypted", problem.Manual, "%s is encrypted once more", path).
			WithHint("age -d -i KEYFILE %s > FILE && chmod 600 FILE && terok vault restore FILE", quote(path))
	}
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, bad("it is not JSON")
	}
	if head.Format != backupFormat {
		return nil, bad("it has another format")
	}
	var b backup
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return nil, bad("its content is not a vault")
	}
	sum := sha256.Sum256(b.Vault)
	if hex.EncodeToString(sum[:]) != b.VaultSHA256 {
		return nil, bad("the checksum of the vault is wrong")
	}
	raw, err := json.Marshal(b.Slots)
	if err != nil {
		return nil, err
	}
	_, err = decodeSlots(path, raw)
	return &b, err
}

// CheckBackup says what is wrong with a backup as far as that needs no key.
func CheckBackup(path string) error {
	_, err := readBackup(path)
	return err
}

// Restore puts the vault of a backup into dir. A vault that is there is moved to dir.old-STAMP,
// which is returned; nothing of it is lost, also when this is killed and run again. No keyholder may
// run.
func Restore(dir, path string, now time.Time) (old string, err error) {
	return restore(dir, path, now, func() {})
}

// restore calls step where a test ends it.
func restore(dir, path string, now time.Time, step func()) (old string, err error) {
	b, err := readBackup(path)
	if err != nil {
		return "", err
	}
	aside := func() string { return freeName(dir + ".old-" + now.UTC().Format("20060102-150405")) }
	fresh := dir + ".restoring"
	switch err := os.Rename(fresh, aside()); { // left by one that was killed; it is not known what it is
	case err == nil, errors.Is(err, os.ErrNotExist):
	default:
		return "", err
	}
	if err := state.MkdirAll(fresh); err != nil {
		return "", err
	}
	if err := state.WriteFile(vaultFile(fresh), b.Vault); err != nil {
		return "", err
	}
	step()
	if err := b.Slots.write(fresh); err != nil {
		return "", err
	}
	step()
	there, err := holds(dir)
	if err != nil {
		return "", err
	}
	if !there { // an empty directory may be there, with locks in it
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		if err := os.Rename(fresh, dir); err != nil {
			return "", err
		}
		return "", syncDir(filepath.Dir(dir))
	}
	// First to the name under which the other one will lie, then exchanged in one step: at every
	// moment there is a whole vault in dir, and no step after that can lose the other.
	old = aside()
	if err := os.Rename(fresh, old); err != nil {
		return "", err
	}
	step()
	if err := unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("put the restored vault in place: %w", err)
	}
	step()
	return old, syncDir(filepath.Dir(dir))
}

// holds reports whether anything of a vault lies in dir: also what is left of a damaged one may be
// wanted again.
func holds(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "vault.age") || strings.HasPrefix(e.Name(), "slots.json")
	}), err
}

func freeName(path string) string {
	for n, name := 2, path; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			return name
		}
		name = fmt.Sprintf("%s-%d", path, n)
	}
}

// Merged counts what a merge did.
type Merged struct {
	Added int `json:"added"` // credentials, SSH keys, bindings, host keys
	Kept  int `json:"kept"`  // were there already and stay as they are
}

// Merge adds what a backup has and this vault has not; nothing is written over. secret opens the
// backup.
func (v *Vault) Merge(path string, secret []byte, now time.Time) (Merged, error) {
	b, err := readBackup(path)
	if err != nil {
		return Merged{}, err
	}
	from, err := decode(filepath.Dir(path), &b.Slots, b.Vault, func(s *slots) (*age.HybridIdentity, Slot, error) { return s.open(path, secret) })
	if err != nil {
		return Merged{}, err
	}
	defer from.Close()
	var m Merged
	count := func(there bool) bool {
		if there {
			m.Kept++
		} else {
			m.Added++
		}
		return !there
	}
	theirs, err := from.document()
	if err != nil {
		return Merged{}, err
	}
	defer theirs.wipe()
	err = v.Update(now, func(t *Tx) error {
		ours := t.doc
		for _, c := range theirs.Credentials {
			if count(ours.find(c.Key()) >= 0) {
				ours.Credentials = append(ours.Credentials, c.clone())
			}
		}
		for _, x := range theirs.Bindings {
			if count(slices.ContainsFunc(ours.Bindings, func(o Binding) bool { return o.Project == x.Project && o.Provider == x.Provider })) {
				ours.Bindings = append(ours.Bindings, x)
			}
		}
		for i := range theirs.SSHKeys {
			x := &theirs.SSHKeys[i]
			if count(slices.ContainsFunc(ours.SSHKeys, func(o SSHKey) bool { return o.ID == x.ID || o.Fingerprint == x.Fingerprint })) {
				ours.SSHKeys = append(ours.SSHKeys, x.clone())
			}
		}
		for _, x := range theirs.SSHAssignments {
			known := slices.ContainsFunc(ours.SSHKeys, func(o SSHKey) bool { return o.ID == x.KeyID })
			if known && count(slices.ContainsFunc(ours.SSHAssignments, func(o SSHAssignment) bool { return o.Scope == x.Scope && o.KeyID == x.KeyID })) {
				ours.SSHAssignments = append(ours.SSHAssignments, x)
			}
		}
		for _, x := range theirs.HostKeys {
			if count(slices.ContainsFunc(ours.HostKeys, func(o HostKey) bool { return o.Host == x.Host && o.Port == x.Port && o.Type == x.Type })) {
				ours.HostKeys = append(ours.HostKeys, x)
			}
		}
		if m.Added == 0 {
			return errUnchanged
		}
		return nil
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return m, err
}
