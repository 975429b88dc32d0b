package store

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"filippo.io/age"

	"terok/internal/problem"
	"terok/internal/state"
)

// Vault is an unlocked vault. It does not keep the identity: reading happened at Open, writing
// needs its public half only. The plain document lies in memory that is locked, not dumped and
// wiped by Close.
type Vault struct {
	dir       string
	id        string
	recipient *age.HybridRecipient
	plain     *lockedBuffer
}

// Init makes a new vault in dir that passphrase opens. It fails with vault_exists where one is.
func Init(dir string, passphrase []byte, now time.Time) error {
	return initialise(dir, passphrase, calibrated(), now)
}

func initialise(dir string, passphrase []byte, work int, now time.Time) error {
	if len(passphrase) == 0 {
		return emptyPassphrase()
	}
	if len(passphrase) > MaxPassphrase {
		return problem.New("usage", problem.Usage, "the passphrase is longer than %d bytes", MaxPassphrase)
	}
	if err := state.MkdirAll(dir); err != nil {
		return err
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	unlock, err := state.Lock(lockName(dir))
	if err != nil {
		return err
	}
	defer unlock()
	_, slotsErr := os.Lstat(slotsFile(dir))
	_, vaultErr := os.Lstat(vaultFile(dir))
	if slotsErr == nil {
		return problem.New(CodeExists, problem.Conflict, "there is a vault in %s already", dir).WithHint("terok vault unlock")
	}
	// slots.json is written last: vault.age alone, of an init that was killed, holds nothing and
	// nobody has its key. One that ever was in use has a generation before it.
	if _, err := os.Lstat(vaultFile(dir) + ".1"); vaultErr == nil && err == nil {
		return damaged(slotsFile(dir), errors.New("it is missing while vault.age is there"))
	}
	sweep(dir)
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	vaultID := randomID()
	doc := document{Schema: Schema, VaultID: vaultID, Generation: 1, CreatedAt: now.UTC().Truncate(time.Second), Credentials: []Credential{}}
	plain, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	data, err := encrypt(plain, identity.Recipient())
	if err != nil {
		return err
	}
	if err := state.WriteFile(vaultFile(dir), data); err != nil {
		return err
	}
	sl, err := newSlot(vaultID, randomID(), passphrase, identity, work, now)
	if err != nil {
		return err
	}
	s := slots{Schema: slotsSchema, VaultID: vaultID, Recipient: identity.Recipient().String(), Slots: []slot{sl}}
	return s.write(dir, identity)
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Open unlocks the vault in dir. The errors are Problems with the codes of this package.
func Open(dir string, passphrase []byte) (*Vault, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	s, err := readSlots(dir)
	if err != nil {
		return nil, err
	}
	path := vaultFile(dir)
	data, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(path, errors.New("it is missing while slots.json is there"))
	}
	if err != nil {
		return nil, err
	}
	identity, err := s.open(dir, passphrase)
	if err != nil {
		return nil, err
	}
	plain, err := decrypt(data, identity)
	if err != nil {
		return nil, damaged(path, errors.New("it cannot be decrypted with its own key"))
	}
	v := &Vault{dir: dir, id: s.VaultID, recipient: identity.Recipient()}
	if v.plain, err = newLockedBuffer(plain); err != nil {
		return nil, err
	}
	if err := v.migrate(data); err != nil {
		v.Close()
		return nil, err
	}
	doc, err := v.document()
	if err != nil {
		v.Close()
		return nil, err
	}
	doc.wipe()
	return v, nil
}

// document decodes the plain text; the caller wipes it.
func (v *Vault) document() (*document, error) {
	path := vaultFile(v.dir)
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(v.plain.bytes(), &head); err != nil {
		return nil, damaged(path, errors.New("its content is not JSON"))
	}
	if head.Schema > Schema {
		return nil, newer(path, head.Schema, Schema)
	}
	dec := json.NewDecoder(bytes.NewReader(v.plain.bytes()))
	dec.DisallowUnknownFields()
	var doc document
	if err := dec.Decode(&doc); err != nil {
		return nil, damaged(path, errors.New("its content is not a vault"))
	}
	if doc.VaultID != v.id {
		return nil, damaged(path, errors.New("it belongs to another vault than slots.json"))
	}
	return &doc, nil
}

// View reads the document. What read keeps beyond its call it got from methods of Tx.
func (v *Vault) View(read func(*Tx) error) error {
	doc, err := v.document()
	if err != nil {
		return err
	}
	defer doc.wipe()
	return read(&Tx{doc: doc})
}

// Get returns a credential with its secrets, which the caller should clear after use; ok is false
// when there is none.
func (v *Vault) Get(k Key) (c Credential, ok bool, err error) {
	err = v.View(func(t *Tx) error { c, ok = t.Get(k); return nil })
	return c, ok, err
}

// List returns every credential without its secrets, by scope, provider and account.
func (v *Vault) List() (list []Credential, err error) {
	err = v.View(func(t *Tx) error { list = t.List(); return nil })
	return list, err
}

// Put stores a credential durably, as Tx.Put does.
func (v *Vault) Put(c Credential, now time.Time) (replaced bool, err error) {
	err = v.Update(now, func(t *Tx) (err error) { replaced, err = t.Put(c); return err })
	return replaced, err
}

// Delete removes a credential durably, as Tx.Delete does.
func (v *Vault) Delete(k Key) (found bool, err error) {
	err = v.Update(time.Time{}, func(t *Tx) error {
		if found = t.Delete(k); !found {
			return errUnchanged
		}
		return nil
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return found, err
}

var errUnchanged = errors.New("unchanged")

// Update changes the document in one step: on disk first, durably, and in memory after that. An
// error of change leaves both as they were. The generation before stays on disk, unless something
// secret was deleted.
func (v *Vault) Update(now time.Time, change func(*Tx) error) error {
	unlock, err := state.Lock(lockName(v.dir))
	if err != nil {
		return err
	}
	defer unlock()
	sweep(v.dir)
	doc, err := v.document()
	if err != nil {
		return err
	}
	defer doc.wipe()
	doc.Generation++
	tx := &Tx{doc: doc, now: now}
	if err := change(tx); err != nil {
		return err
	}
	replace := replaceVault
	if tx.purge {
		replace = replaceBoth
	}
	return v.store(doc, replace)
}

// store writes doc and keeps it in memory. The caller holds the lock and wipes doc.
func (v *Vault) store(doc *document, replace func(dir string, data []byte) error) error {
	plain, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	data, err := encrypt(plain, v.recipient)
	if err != nil {
		clear(plain)
		return err
	}
	next, err := newLockedBuffer(plain)
	if err != nil {
		return err
	}
	if err := replace(v.dir, data); err != nil {
		next.close()
		return fmt.Errorf("store the vault: %w", err)
	}
	if v.plain != nil {
		v.plain.close()
	}
	v.plain = next
	return nil
}

// Close wipes the plain document. The vault is not usable afterwards.
func (v *Vault) Close() {
	if v.plain != nil {
		v.plain.close()
		v.plain = nil
	}
}
