package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"filippo.io/age"
)

// Finding is something that is wrong with the vault.
type Finding struct {
	File    string `json:"file"`
	Message string `json:"message"`
}

// Verify reads everything again from disk and returns what is wrong; none means that the vault on
// disk is whole and is the one in memory.
func (v *Vault) Verify() ([]Finding, error) {
	var out []Finding
	bad := func(file, format string, args ...any) {
		out = append(out, Finding{file, fmt.Sprintf(format, args...)})
	}
	if err := checkDir(v.dir); err != nil {
		bad("", "%v", err)
	}
	if s, err := v.slots(); err != nil {
		bad("slots.json", "%v", err)
	} else {
		if v.rollback {
			bad("slots.json", "it was put back from an older copy")
		}
		here, herr := read(slotsFile(v.dir))
		mirror, merr := read(slotsFile(v.dir) + ".1")
		switch {
		case errors.Is(merr, os.ErrNotExist) && s.Schema == 1: // made by the first version
		case merr != nil:
			bad("slots.json.1", "%v", merr)
		case herr == nil && !bytes.Equal(here, mirror):
			bad("slots.json.1", "it is not the same as slots.json; the next change of a slot mends it")
		}
	}
	doc, err := v.document()
	if err != nil {
		return nil, err
	}
	defer doc.wipe()
	for name, must := range map[string]bool{"vault.age": true, "vault.age.1": false} {
		generation, err := v.generation(vaultFile(v.dir) + name[len("vault.age"):])
		switch {
		case errors.Is(err, os.ErrNotExist) && !must:
		case err != nil:
			bad(name, "%v", err)
		case must && generation != doc.Generation:
			bad(name, "it is generation %d, the keyholder has %d: somebody put a copy in its place", generation, doc.Generation)
		}
	}
	doc.verify(func(format string, args ...any) { bad("vault.age", format, args...) })
	return out, nil
}

// generation decrypts a file and returns the generation it holds.
func (v *Vault) generation(path string) (uint64, error) {
	data, err := read(path)
	if err != nil {
		return 0, err
	}
	identity, err := age.ParseHybridIdentity(string(v.identity.bytes()))
	if err != nil {
		return 0, err
	}
	plain, err := decrypt(data, identity)
	if err != nil {
		return 0, errors.New("it cannot be decrypted")
	}
	other := &Vault{dir: v.dir, id: v.id}
	if other.plain, err = newLockedBuffer(plain); err != nil {
		return 0, err
	}
	defer other.Close()
	if err := other.upgrade(); err != nil {
		return 0, err
	}
	doc, err := other.document()
	if err != nil {
		return 0, err
	}
	defer doc.wipe()
	return doc.Generation, nil
}

// verify looks for records that contradict the rules by which they were written.
func (d *document) verify(bad func(format string, args ...any)) {
	seen := map[Key]bool{}
	for i := range d.Credentials {
		c := &d.Credentials[i]
		k := c.Key()
		if err := c.check(); err != nil {
			bad("credential %s %s %s: %v", k.Scope, k.Provider, k.Account, err)
		}
		if seen[k] {
			bad("credential %s %s %s is there twice", k.Scope, k.Provider, k.Account)
		}
		seen[k] = true
	}
	keys := map[string]bool{}
	for i := range d.SSHKeys {
		k := &d.SSHKeys[i]
		if err := k.check(); err != nil || keys[k.ID] {
			bad("SSH key %s is not whole, or there twice", k.Fingerprint)
		}
		keys[k.ID] = true
	}
	for _, a := range d.SSHAssignments {
		if !keys[a.KeyID] {
			bad("project %s is assigned an SSH key that is not there", a.Scope)
		}
	}
}

// Look checks a locked vault as far as that needs no key.
func Look(dir string) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	if _, err := readSlots(dir); err != nil {
		return err
	}
	data, err := read(vaultFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return damaged(vaultFile(dir), errors.New("it is missing while slots.json is there"))
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(data, []byte(ageHeader)) {
		return damaged(vaultFile(dir), errors.New("it is no age file"))
	}
	return nil
}
