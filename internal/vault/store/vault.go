package store

import (
	"bytes"
	"cmp"
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

// Vault is an unlocked vault. Key and plain document lie in memory that is locked, not dumped and
// wiped by Close.
type Vault struct {
	dir       string
	id        string
	opened    Slot
	recipient *age.HybridRecipient
	identity  *lockedBuffer // AGE-SECRET-KEY-PQ-1…
	plain     *lockedBuffer
	work      int               // scrypt's factor of new slots; 0: calibrated when one is made
	rollback  bool              // slots.json was older than the document says
	fault     func(step string) // tests end the process between two steps
}

// NewSlot is a way in that is to be made.
type NewSlot struct {
	Kind      string
	ID        string // of a minted secret (NewSlotSecret), else ""
	Secret    []byte
	Sealed    []byte // what systemd-creds made of Secret
	Generated bool   // the passphrase was minted: the vault keeps it and can show it
}

// Init makes a new vault in dir with at least one way in. It fails with vault_exists where one is.
func Init(dir string, ways []NewSlot, now time.Time) error { return initialise(dir, ways, 0, now) }

func initialise(dir string, ways []NewSlot, work int, now time.Time) error {
	for _, w := range ways {
		if w.Kind == SlotPassphrase || w.Kind == SlotCommand {
			if err := CheckPassphrase(w.Secret); err != nil {
				return err
			}
		}
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
	// nobody has its key. One that ever was in use has a copy of one of the files.
	for _, path := range []string{vaultFile(dir) + ".1", slotsFile(dir) + ".1"} {
		if _, err := os.Lstat(path); vaultErr == nil && err == nil {
			return damaged(slotsFile(dir), errors.New("it is missing while vault.age is there"))
		}
	}
	sweep(dir)
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	doc := document{Schema: Schema, VaultID: randomID(), Generation: 1, SlotsGeneration: 1, CreatedAt: stamp(now), Credentials: []Credential{}}
	defer doc.wipe()
	s := slots{VaultID: doc.VaultID, Recipient: identity.Recipient().String()}
	for _, w := range ways {
		if err := s.add(&doc, w, identity.String(), work, now); err != nil {
			return err
		}
	}
	if err := s.seal(identity.String()); err != nil {
		return err
	}
	plain, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	defer clear(plain)
	data, err := encrypt(plain, identity.Recipient())
	if err != nil {
		return err
	}
	if err := state.WriteFile(vaultFile(dir), data); err != nil {
		return err
	}
	return s.write(dir)
}

// add makes a slot; a minted passphrase is kept in the document.
func (s *slots) add(doc *document, w NewSlot, identity string, work int, now time.Time) error {
	sl, err := wrap(s.VaultID, cmp.Or(w.ID, randomID()), w.Kind, w.Secret, identity, work, now)
	if err != nil {
		return err
	}
	sl.Sealed, sl.Generated = bytes.Clone(w.Sealed), w.Generated
	s.Slots = append(s.Slots, sl)
	switch w.Kind {
	case SlotRecovery:
		s.Recovery = &escrow{}
	case SlotPassphrase:
		clear(doc.Generated)
		doc.Generated = nil
		if w.Generated {
			doc.Generated = bytes.Clone(w.Secret)
		}
	}
	return nil
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Open unlocks the vault in dir. secret is a passphrase, a recovery code or the minted secret of a
// slot; its beginning tells which. The errors are Problems with the codes of this package.
func Open(dir string, secret []byte) (*Vault, error) {
	return openWith(dir, func(s *slots) (*age.HybridIdentity, Slot, error) { return s.open(slotsFile(dir), secret) })
}

// opener gets the identity out of slots, and says by which slot.
type opener func(*slots) (*age.HybridIdentity, Slot, error)

func openWith(dir string, with opener) (*Vault, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if err := settle(dir); err != nil {
		return nil, err
	}
	s, err := readSlots(dir)
	if err != nil {
		return nil, err
	}
	data, err := read(vaultFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(vaultFile(dir), errors.New("it is missing while slots.json is there"))
	}
	if err != nil {
		return nil, err
	}
	v, err := decode(dir, s, data, with)
	if err != nil {
		return nil, err
	}
	if err := v.migrate(data); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// decode opens what was read; on disk the document may be of an older schema still.
func decode(dir string, s *slots, data []byte, with opener) (*Vault, error) {
	identity, opened, err := with(s)
	if err != nil {
		return nil, err
	}
	v := &Vault{dir: dir, id: s.VaultID, opened: opened, recipient: identity.Recipient()}
	if v.identity, err = newLockedBuffer([]byte(identity.String())); err != nil {
		return nil, err
	}
	plain, err := decrypt(data, identity)
	if err != nil {
		v.Close()
		return nil, damaged(vaultFile(dir), errors.New("the key in slots.json does not decrypt it, so one of the two is damaged or from another time"))
	}
	if v.plain, err = newLockedBuffer(plain); err != nil {
		v.Close()
		return nil, err
	}
	if err := v.upgrade(); err != nil {
		v.Close()
		return nil, err
	}
	doc, err := v.document()
	if err != nil {
		v.Close()
		return nil, err
	}
	defer doc.wipe()
	v.rollback = s.Generation < doc.SlotsGeneration
	return v, nil
}

// Opened is the slot that opened the vault.
func (v *Vault) Opened() Slot { return v.opened }

// RolledBack reports whether slots.json was older than the one that this vault last wrote:
// somebody put back an old copy, and a passphrase or slot taken away since opens the vault again.
func (v *Vault) RolledBack() bool { return v.rollback }

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
	return v.update(now, change)
}

// update is Update for a caller that holds the lock.
func (v *Vault) update(now time.Time, change func(*Tx) error) error {
	if err := settleLocked(v.dir); err != nil {
		return err
	}
	if err := v.inPlace(); err != nil {
		return err
	}
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

// inPlace refuses to write where another vault lies than the one in memory, or none any more: a
// vault.age without the slots of its key opens never again. Slots that are only damaged keep no
// token from being stored.
func (v *Vault) inPlace() error {
	s, err := readSlots(v.dir)
	if problem.Is(err, CodeMissing) || err == nil && (s.VaultID != v.id || s.Recipient != v.recipient.String()) {
		return problem.New(CodeReplaced, problem.Failed, "another vault lies in %s now than the one that is open, or none", v.dir).
			WithHint("terok vault lock && terok vault unlock")
	}
	return nil
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
	if len(data) > maxFile {
		next.close()
		return problem.New("vault_full", problem.Failed, "the vault would have more than %d MiB", maxFile>>20).WithHint("terok auth --list")
	}
	if err := replace(v.dir, data); err != nil {
		next.close()
		return fmt.Errorf("store the vault: %w", err)
	}
	v.plain.close()
	v.plain = next
	return nil
}

// Close wipes key and document. The vault is not usable afterwards.
func (v *Vault) Close() {
	for _, b := range []**lockedBuffer{&v.plain, &v.identity} {
		if *b != nil {
			(*b).close()
			*b = nil
		}
	}
}

func (v *Vault) step(name string) {
	if v.fault != nil {
		v.fault(name)
	}
}

// Key is the vault's key, for a successor of this process; the caller clears it.
func (v *Vault) Key() ([]byte, error) {
	if v.identity == nil {
		return nil, errors.New("the vault is closed")
	}
	return json.Marshal(handover{string(v.identity.bytes()), v.opened})
}

// handover is what Key holds.
type handover struct {
	Identity string `json:"identity"`
	Opened   Slot   `json:"opened"`
}

// OpenKey opens the vault in dir with what Key returned.
func OpenKey(dir string, key []byte) (*Vault, error) {
	var h handover
	if err := json.Unmarshal(key, &h); err != nil {
		return nil, errors.New("what was handed over is no key")
	}
	identity, err := age.ParseHybridIdentity(h.Identity)
	if err != nil {
		return nil, errors.New("what was handed over is no key")
	}
	return openWith(dir, func(s *slots) (*age.HybridIdentity, Slot, error) {
		return identity, h.Opened, s.prove(slotsFile(dir), h.Identity, identity.Recipient().String())
	})
}
