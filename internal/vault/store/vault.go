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
	"regexp"
	"slices"
	"time"

	"filippo.io/age"

	"terok/internal/problem"
	"terok/internal/state"
)

// Bounds of a secret in bytes. A shorter one would be found in ordinary text when responses are
// scrubbed.
const (
	MinSecret = 12
	MaxSecret = 8 << 10
)

const maxCredentials = 150 // the keyholder lists them in one message

// document is the plain text of vault.age.
type document struct {
	Schema      int          `json:"schema"`
	VaultID     string       `json:"vault_id"`
	Generation  uint64       `json:"generation"` // grows with every write
	CreatedAt   time.Time    `json:"created_at"`
	Credentials []Credential `json:"credentials"`
}

// Credential is one stored credential. Scope and provider name it.
type Credential struct {
	Scope     string    `json:"scope"`    // "shared" or "project:<name>"
	Provider  string    `json:"provider"` // roster name
	Kind      string    `json:"kind"`     // "api_key"
	Secret    []byte    `json:"secret,omitempty"`
	Hint      string    `json:"hint"` // last four characters
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Revision  uint64    `json:"revision"` // of the document when it was written
}

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
	s := slots{Schema: Schema, VaultID: vaultID, Recipient: identity.Recipient().String(), Slots: []slot{sl}}
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
		return nil, newer(path, head.Schema)
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

func (d *document) wipe() {
	for _, c := range d.Credentials {
		clear(c.Secret)
	}
}

func (d *document) find(scope, provider string) int {
	return slices.IndexFunc(d.Credentials, func(c Credential) bool { return c.Scope == scope && c.Provider == provider })
}

// Get returns a credential with its secret, which the caller should clear after use; ok is false
// when there is none.
func (v *Vault) Get(scope, provider string) (c Credential, ok bool, err error) {
	doc, err := v.document()
	if err != nil {
		return Credential{}, false, err
	}
	defer doc.wipe()
	i := doc.find(scope, provider)
	if i < 0 {
		return Credential{}, false, nil
	}
	c = doc.Credentials[i]
	c.Secret = bytes.Clone(c.Secret)
	return c, true, nil
}

// List returns every credential without its secret, by scope and provider.
func (v *Vault) List() ([]Credential, error) {
	doc, err := v.document()
	if err != nil {
		return nil, err
	}
	doc.wipe()
	for i := range doc.Credentials {
		doc.Credentials[i].Secret = nil
	}
	slices.SortFunc(doc.Credentials, func(a, b Credential) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Provider, b.Provider))
	})
	return doc.Credentials, nil
}

var (
	scopeShape    = regexp.MustCompile(`^(shared|project:[A-Za-z0-9][A-Za-z0-9._-]{0,63})$`)
	providerShape = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
)

// Put stores a credential durably and reports whether it replaced one.
func (v *Vault) Put(scope, provider, kind string, secret []byte, now time.Time) (replaced bool, err error) {
	switch {
	case !scopeShape.MatchString(scope):
		return false, problem.New("invalid_scope", problem.Usage, "not a credential scope: want shared or project:NAME")
	case !providerShape.MatchString(provider):
		return false, problem.New("invalid_provider", problem.Usage, "not a provider's name")
	case kind != "api_key":
		return false, problem.New("usage", problem.Usage, "not a kind of credential that this version stores")
	case len(secret) < MinSecret || len(secret) > MaxSecret:
		return false, problem.New("usage", problem.Usage, "a key has %d to %d characters, this has %d", MinSecret, MaxSecret, len(secret))
	}
	for _, b := range secret {
		if b <= 0x20 || b >= 0x7f {
			return false, problem.New("usage", problem.Usage, "a key is visible ASCII without spaces")
		}
	}
	now = now.UTC().Truncate(time.Second)
	err = v.update(func(d *document) error {
		c := Credential{Scope: scope, Provider: provider, Kind: kind, Secret: bytes.Clone(secret),
			Hint: string(secret[len(secret)-4:]), CreatedAt: now, UpdatedAt: now, Revision: d.Generation}
		if i := d.find(scope, provider); i >= 0 {
			replaced = true
			c.CreatedAt = d.Credentials[i].CreatedAt
			clear(d.Credentials[i].Secret)
			d.Credentials[i] = c
			return nil
		}
		if len(d.Credentials) == maxCredentials {
			return problem.New("vault_full", problem.Failed, "the vault holds %d credentials already", maxCredentials).WithHint("terok auth --list")
		}
		d.Credentials = append(d.Credentials, c)
		return nil
	})
	return replaced, err
}

// Delete removes a credential durably, from the generation before as well, and reports whether
// there was one.
func (v *Vault) Delete(scope, provider string) (found bool, err error) {
	err = v.updateWith(replaceBoth, func(d *document) error {
		i := d.find(scope, provider)
		if i < 0 {
			return errUnchanged
		}
		found = true
		clear(d.Credentials[i].Secret)
		d.Credentials = slices.Delete(d.Credentials, i, i+1)
		return nil
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return found, err
}

var errUnchanged = errors.New("unchanged")

// update changes the document on disk first and in memory after that; the generation before stays.
func (v *Vault) update(change func(*document) error) error { return v.updateWith(replaceVault, change) }

func (v *Vault) updateWith(replace func(dir string, data []byte) error, change func(*document) error) error {
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
	if err := change(doc); err != nil {
		return err
	}
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
	v.plain.close()
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
