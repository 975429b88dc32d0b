package store

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

// Kinds of slots.
const (
	SlotPassphrase    = "passphrase"
	SlotRecovery      = "recovery"
	SlotCommand       = "command" // what credentials.passphrase_command prints
	SlotSystemdCreds  = "systemd-creds"
	SlotSecretService = "secret-service"
)

// slots is slots.json.
type slots struct {
	Schema     int     `json:"schema"`
	VaultID    string  `json:"vault_id"`
	Recipient  string  `json:"recipient"`            // the identity's public half, age1pq1…
	Generation uint64  `json:"generation,omitempty"` // grows with every write; the document knows the last one
	Recovery   *escrow `json:"recovery,omitempty"`
	Slots      []slot  `json:"slots"`
	Sum        string  `json:"sum"` // SHA-256 of the rest: tells damage from a wrong passphrase
	MAC        string  `json:"mac"` // HMAC of the rest under a key of the identity: tells tampering
}

// escrow says whether somebody has confirmed to have the recovery code.
type escrow struct {
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
}

// slot is one way in.
type slot struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	CreatedAt time.Time `json:"created_at"`
	Generated bool      `json:"generated,omitempty"` // a passphrase that terok minted
	Wrapped   []byte    `json:"wrapped"`             // age file (scrypt) that holds a wrapped
	Sealed    []byte    `json:"sealed,omitempty"`    // the slot's secret, sealed by systemd-creds
}

// wrapped is what a slot protects; the ids bind it to its place.
type wrapped struct {
	VaultID  string `json:"vault_id"`
	SlotID   string `json:"slot_id"`
	Identity string `json:"identity"` // AGE-SECRET-KEY-PQ-1…
}

// Slot describes one way in, without what it protects.
type Slot struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	CreatedAt time.Time `json:"created_at"`
	Generated bool      `json:"generated,omitempty"`
	Sealed    []byte    `json:"-"` // systemd-creds blob
}

// Ways are the ways into a vault.
type Ways struct {
	VaultID      string    `json:"vault_id"`
	Slots        []Slot    `json:"slots"`
	Acknowledged time.Time `json:"acknowledged_at,omitzero"` // of the recovery code; zero: not
}

// Has reports whether there is a slot of a kind.
func (w Ways) Has(kind string) bool {
	return slices.ContainsFunc(w.Slots, func(s Slot) bool { return s.Kind == kind })
}

// ReadWays reads slots.json without a key: nothing in it is proven before the vault is open.
func ReadWays(dir string) (Ways, error) {
	if err := checkDir(dir); err != nil {
		return Ways{}, err
	}
	s, err := readSlots(dir)
	if err != nil {
		return Ways{}, err
	}
	return s.ways(), nil
}

func (s *slots) ways() Ways {
	w := Ways{VaultID: s.VaultID, Slots: make([]Slot, len(s.Slots))}
	for i, sl := range s.Slots {
		w.Slots[i] = sl.describe()
	}
	if s.Recovery != nil {
		w.Acknowledged = s.Recovery.AcknowledgedAt
	}
	return w
}

func (sl *slot) describe() Slot {
	return Slot{ID: sl.ID, Kind: sl.Kind, CreatedAt: sl.CreatedAt, Generated: sl.Generated, Sealed: sl.Sealed}
}

// sums returns checksum and MAC of everything else in s.
func (s slots) sums(identity string) (sum, mac string, err error) {
	s.Sum, s.MAC = "", ""
	body, err := json.Marshal(s)
	if err != nil {
		return "", "", err
	}
	key, err := hkdf.Key(sha256.New, []byte(identity), []byte(s.VaultID), "terok slots mac v1", 32)
	if err != nil {
		return "", "", err
	}
	m := hmac.New(sha256.New, key)
	m.Write(body)
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:]), hex.EncodeToString(m.Sum(nil)), nil
}

func (s *slots) seal(identity string) (err error) {
	s.Schema = slotsSchema
	s.Generation++
	s.Sum, s.MAC, err = s.sums(identity)
	return err
}

// write replaces slots.json and then its mirror, slots.json.1: the same, never an older one that a
// removed slot could still open.
func (s *slots) write(dir string) error {
	if err := state.WriteJSON(slotsFile(dir), s); err != nil {
		return err
	}
	return state.WriteJSON(slotsFile(dir)+".1", s)
}

// readSlots reads slots.json and checks everything that needs no key.
func readSlots(dir string) (*slots, error) {
	path := slotsFile(dir)
	data, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		if ok, eerr := Exists(dir); eerr == nil && ok {
			return nil, damaged(path, errors.New("it is missing while vault.age is there"))
		}
		return nil, missing(dir)
	}
	if err != nil {
		return nil, err
	}
	return decodeSlots(path, data)
}

func decodeSlots(path string, data []byte) (*slots, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, damaged(path, errors.New("not JSON"))
	}
	if head.Schema > slotsSchema {
		return nil, newer(path, head.Schema, slotsSchema)
	}
	var s slots
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, damaged(path, err)
	}
	sum, _, err := s.sums("")
	if err != nil {
		return nil, err
	}
	if sum != s.Sum || s.Schema < 1 || len(s.Slots) == 0 {
		return nil, damaged(path, errors.New("its checksum is wrong"))
	}
	return &s, nil
}

// prove checks s with the identity that one of its slots gave.
func (s *slots) prove(path, identity, recipient string) error {
	_, mac, err := s.sums(identity)
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(mac), []byte(s.MAC)) || recipient != s.Recipient {
		return tampered(path)
	}
	return nil
}

func tampered(path string) error {
	return problem.New(CodeTampered, problem.Failed, "%s was changed by something other than terok; it is not used", path).
		WithHint("%s", cure(path))
}

func emptyPassphrase() error {
	return problem.New(CodeEmpty, problem.Usage, "an empty passphrase is refused").WithHint("terok vault init --passphrase-file FILE")
}
