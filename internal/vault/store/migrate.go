package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"terok/internal/state"
)

// keepCopies is how long the copy from before a migration stays.
const keepCopies = 14 * 24 * time.Hour

// migrations[n] turns a document of schema n+1 into one of schema n+2. They work on plain JSON, so
// that old shapes need no types for ever.
var migrations = []func(doc map[string]any) error{
	// 1→2: credentials have an account and a state.
	func(doc map[string]any) error {
		list, _ := doc["credentials"].([]any)
		for _, v := range list {
			c, ok := v.(map[string]any)
			if !ok {
				return errors.New("a credential is not an object")
			}
			c["account"], c["state"] = DefaultAccount, StateUnverified
		}
		return nil
	},
}

// upgrade brings the document in memory to today's schema; document says what is wrong with one
// that cannot be.
func (v *Vault) upgrade() error {
	path := vaultFile(v.dir)
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(v.plain.bytes(), &head); err != nil || head.Schema >= Schema {
		return nil
	}
	if head.Schema < 1 {
		return damaged(path, errors.New("its schema number is wrong"))
	}
	var raw map[string]any
	if err := json.Unmarshal(v.plain.bytes(), &raw); err != nil {
		return damaged(path, errors.New("its content is not a vault"))
	}
	for _, step := range migrations[head.Schema-1:] {
		if err := step(raw); err != nil {
			return damaged(path, err)
		}
	}
	raw["schema"], raw[fromSchema] = Schema, head.Schema
	plain, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	next, err := newLockedBuffer(plain)
	if err != nil {
		return err
	}
	v.plain.close()
	v.plain = next
	return nil
}

// fromSchema marks a document in memory that the disk has in an older form.
const fromSchema = "from_schema"

// migrate writes an upgraded document: a copy of the file first, then one atomic replacement.
// Whoever is interrupted finds the old file and starts again. data is the file's content.
func (v *Vault) migrate(data []byte) error {
	doc, err := v.document()
	if err != nil {
		return err
	}
	defer doc.wipe()
	if doc.FromSchema == 0 {
		return nil
	}
	unlock, err := state.Lock(lockName(v.dir))
	if err != nil {
		return err
	}
	defer unlock()
	doc.Generation++
	doc.FromSchema = 0
	if err := state.WriteFile(fmt.Sprintf("%s.pre-%d", vaultFile(v.dir), Schema), data); err != nil {
		return err
	}
	return v.store(doc, replaceVault)
}

// removeCopies removes the copies of migrations, all of them or those from before a time.
func removeCopies(dir string, before time.Time) error {
	copies, err := filepath.Glob(globEscape(vaultFile(dir)) + ".pre-*")
	if err != nil {
		return err
	}
	for _, path := range copies {
		if st, err := os.Lstat(path); !before.IsZero() && (err != nil || st.ModTime().After(before)) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
