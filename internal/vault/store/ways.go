package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"filippo.io/age"

	"terok/internal/problem"
	"terok/internal/state"
)

// Ways returns the ways in, proven with the vault's key.
func (v *Vault) Ways() (Ways, error) {
	s, err := v.slots()
	if err != nil {
		return Ways{}, err
	}
	return s.ways(), nil
}

// slots reads slots.json and proves it.
func (v *Vault) slots() (*slots, error) {
	s, err := readSlots(v.dir)
	if err != nil {
		return nil, err
	}
	if s.VaultID != v.id {
		return nil, tampered(slotsFile(v.dir))
	}
	if err := s.prove(slotsFile(v.dir), string(v.identity.bytes()), v.recipient.String()); err != nil {
		return nil, err
	}
	return s, v.View(func(t *Tx) error {
		v.rollback = v.rollback || s.Generation < t.doc.SlotsGeneration
		return nil
	})
}

// changeSlots rewrites slots.json in one step and tells the document its new generation. A crash
// before that leaves the document behind, which is no sign of anything.
func (v *Vault) changeSlots(now time.Time, change func(*slots, *document) error) error {
	unlock, err := state.Lock(lockName(v.dir))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := v.slots()
	if err != nil {
		return err
	}
	return v.update(now, func(t *Tx) error {
		kept := bytes.Clone(t.doc.Generated)
		defer clear(kept)
		if err := change(s, t.doc); err != nil {
			return err
		}
		// Never below what was known before, or copies from in between would count as newer.
		s.Generation = max(s.Generation, t.doc.SlotsGeneration)
		if err := s.seal(string(v.identity.bytes())); err != nil {
			return err
		}
		v.step("slots changed in memory")
		if err := s.write(v.dir); err != nil {
			return err
		}
		v.step("slots written")
		t.doc.SlotsGeneration = s.Generation
		v.rollback = false
		// A minted passphrase that is no way in any more is in no generation.
		t.purge = len(kept) > 0 && !bytes.Equal(kept, t.doc.Generated)
		return nil
	})
}

// AddSlot adds a way in. Slots of a kind that there is one of (passphrase, recovery, command)
// replace the one before; so does any kind with replace set.
func (v *Vault) AddSlot(w NewSlot, replace bool, now time.Time) (Slot, error) {
	var added Slot
	err := v.changeSlots(now, func(s *slots, doc *document) error {
		if replace || w.Kind == SlotPassphrase || w.Kind == SlotRecovery || w.Kind == SlotCommand {
			s.Slots = slices.DeleteFunc(s.Slots, func(sl slot) bool { return sl.Kind == w.Kind })
		}
		if err := s.add(doc, w, string(v.identity.bytes()), v.work, now); err != nil {
			return err
		}
		added = s.Slots[len(s.Slots)-1].describe()
		return nil
	})
	return added, err
}

// RemoveSlot takes a way in away, by its id or the only one of a kind. The last one that a person
// or a machine can use stays: without it the vault would be lost.
func (v *Vault) RemoveSlot(name string, now time.Time) (Slot, error) {
	var removed Slot
	err := v.changeSlots(now, func(s *slots, doc *document) error {
		i, err := s.find(name)
		if err != nil {
			return err
		}
		if len(s.Slots) == 1 {
			return problem.New("last_slot", problem.Conflict, "that is the last way into the vault").WithHint("terok vault passphrase change")
		}
		removed = s.Slots[i].describe()
		s.Slots = slices.Delete(s.Slots, i, i+1)
		switch removed.Kind {
		case SlotRecovery:
			s.Recovery = nil
		case SlotPassphrase:
			clear(doc.Generated)
			doc.Generated = nil
		}
		return nil
	})
	return removed, err
}

// find finds a slot by id, by the beginning of one, or by kind.
func (s *slots) find(name string) (int, error) {
	at := -1
	for i, sl := range s.Slots {
		if sl.ID == name {
			return i, nil
		}
		if sl.Kind != name && (len(name) < 4 || len(sl.ID) < len(name) || sl.ID[:len(name)] != name) {
			continue
		}
		if at >= 0 {
			return 0, problem.New("slot_ambiguous", problem.Conflict, "several slots match %q", name).WithHint("terok vault slots")
		}
		at = i
	}
	if at < 0 {
		return 0, problem.New("slot_missing", problem.NotFound, "the vault has no slot %q", name).WithHint("terok vault slots")
	}
	return at, nil
}

// Acknowledge records that a person has the recovery code, and reports whether that was known.
func (v *Vault) Acknowledge(now time.Time) (before bool, err error) {
	err = v.changeSlots(now, func(s *slots, _ *document) error {
		if v.rollback { // the code may be one that was replaced
			return problem.New("slots_rolled_back", problem.Conflict, "slots.json was put back from an older copy, so its recovery code may be an old one").
				WithHint("terok vault recovery rotate")
		}
		if s.Recovery == nil {
			return problem.New("no_recovery", problem.NotFound, "the vault has no recovery code").WithHint("terok vault recovery rotate")
		}
		if before = !s.Recovery.AcknowledgedAt.IsZero(); before {
			return errUnchanged
		}
		s.Recovery.AcknowledgedAt = stamp(now)
		return nil
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return before, err
}

// Reveal returns the passphrase if terok minted it; the caller clears it.
func (v *Vault) Reveal() (p []byte, err error) {
	err = v.View(func(t *Tx) error {
		if len(t.doc.Generated) == 0 {
			return problem.New("passphrase_not_kept", problem.Failed, "the vault keeps no passphrase that a person chose").WithHint("terok vault recovery rotate")
		}
		p = bytes.Clone(t.doc.Generated)
		return nil
	})
	return p, err
}

// rotation is slots.json.next: the slots of the new key, and which vault.age they belong to.
type rotation struct {
	VaultSHA256 string `json:"vault_sha256"` // hex
	Slots       slots  `json:"slots"`
}

func nextFile(dir string) string { return slotsFile(dir) + ".next" }

// RotateKey gives the vault a new key and encrypts everything to it. Slots stay whose secret is
// among secrets; the others are dropped and returned. A crash at any point leaves the old key
// valid or the new one, with its slots: vault.age decides, by its digest in slots.json.next.
func (v *Vault) RotateKey(secrets [][]byte, now time.Time) (dropped []Slot, err error) {
	unlock, err := state.Lock(lockName(v.dir))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := settleLocked(v.dir); err != nil {
		return nil, err
	}
	sweep(v.dir)
	old, err := v.slots()
	if err != nil {
		return nil, err
	}
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	key := []byte(identity.String())
	next := slots{VaultID: v.id, Recipient: identity.Recipient().String(), Generation: old.Generation, Recovery: old.Recovery}
	for i := range old.Slots {
		sl := &old.Slots[i]
		fresh, ok, err := old.rewrap(slotsFile(v.dir), sl, secrets, string(key), v.work)
		if err != nil {
			return nil, err
		}
		if !ok {
			dropped = append(dropped, sl.describe())
			continue
		}
		next.Slots = append(next.Slots, fresh)
	}
	if len(next.Slots) == 0 {
		return nil, problem.New("no_slot_left", problem.Conflict, "no way into the vault would be left: none of its secrets is known now").WithHint("terok vault rotate-key, on a terminal")
	}
	if slices.ContainsFunc(dropped, func(s Slot) bool { return s.Kind == SlotRecovery }) {
		next.Recovery = nil
	}
	if err := next.seal(string(key)); err != nil {
		return nil, err
	}
	doc, err := v.document()
	if err != nil {
		return nil, err
	}
	defer doc.wipe()
	doc.Generation++
	doc.SlotsGeneration = next.Generation
	if slices.ContainsFunc(dropped, func(s Slot) bool { return s.Kind == SlotPassphrase }) {
		clear(doc.Generated)
		doc.Generated = nil
	}
	before := v.recipient
	v.recipient = identity.Recipient()
	var unfinished error // vault.age is of the new key already
	err = v.store(doc, func(dir string, data []byte) error {
		sum := sha256.Sum256(data)
		if err := state.WriteJSON(nextFile(dir), rotation{hex.EncodeToString(sum[:]), next}); err != nil {
			return err
		}
		v.step("next written")
		if err := state.WriteFile(vaultFile(dir), data); err != nil {
			return err
		}
		v.step("vault written")
		unfinished = finishRotation(dir, data, &next, v.step)
		return nil
	})
	if err != nil {
		v.recipient = before
		return nil, err
	}
	v.identity.close()
	if v.identity, err = newLockedBuffer(key); err != nil {
		return nil, err
	}
	v.rollback = false
	if unfinished != nil {
		return dropped, fmt.Errorf("the new key is in use; what is left of the old one is removed at the next start: %w", unfinished)
	}
	return dropped, nil
}

// rewrap wraps a new key for a slot whose secret is among secrets. Id, kind and date stay.
func (s *slots) rewrap(path string, sl *slot, secrets [][]byte, key string, work int) (slot, bool, error) {
	for _, secret := range secrets {
		if len(secret) == 0 || !sl.opens(secret) {
			continue
		}
		if _, err := s.unwrap(path, sl, secret); errors.Is(err, age.ErrIncorrectIdentity) {
			continue
		} else if err != nil {
			return slot{}, false, err
		}
		fresh, err := wrap(s.VaultID, sl.ID, sl.Kind, secret, key, work, sl.CreatedAt)
		fresh.Sealed, fresh.Generated = sl.Sealed, sl.Generated
		return fresh, err == nil, err
	}
	return slot{}, false, nil
}

// finishRotation is what follows once vault.age is of the new key. The generation before and the
// copies of migrations are of the old key, which may be known to others: they go.
func finishRotation(dir string, data []byte, next *slots, step func(string)) error {
	if err := next.write(dir); err != nil {
		return err
	}
	step("slots written")
	if err := state.WriteFile(vaultFile(dir)+".1", data); err != nil {
		return err
	}
	if err := removeCopies(dir, time.Time{}); err != nil {
		return err
	}
	step("generation replaced")
	return os.Remove(nextFile(dir))
}

// settle ends a rotation that was interrupted, one way or the other.
func settle(dir string) error {
	if _, err := os.Lstat(nextFile(dir)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := state.Lock(lockName(dir))
	if err != nil {
		return err
	}
	defer unlock()
	return settleLocked(dir)
}

func settleLocked(dir string) error {
	next, err := read(nextFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := read(vaultFile(dir))
	if err != nil {
		return damaged(vaultFile(dir), err)
	}
	var r rotation
	sum := sha256.Sum256(data)
	if err := json.Unmarshal(next, &r); err != nil || r.VaultSHA256 != hex.EncodeToString(sum[:]) {
		return os.Remove(nextFile(dir)) // vault.age is of the old key
	}
	return finishRotation(dir, data, &r.Slots, func(string) {})
}
