package store

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/bits"
	"os"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/scrypt"

	"terok/internal/problem"
	"terok/internal/state"
)

// slots is slots.json.
type slots struct {
	Schema    int    `json:"schema"`
	VaultID   string `json:"vault_id"`
	Recipient string `json:"recipient"` // the identity's public half, age1pq1…
	Slots     []slot `json:"slots"`
	Sum       string `json:"sum"` // SHA-256 of the rest: tells damage from a wrong passphrase
	MAC       string `json:"mac"` // HMAC of the rest under a key of the identity: tells tampering
}

// slot is one way in.
type slot struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // "passphrase"
	CreatedAt time.Time `json:"created_at"`
	Wrapped   []byte    `json:"wrapped"` // age file (scrypt) that holds a wrapped
}

// wrapped is what a slot protects; the ids bind it to its place.
type wrapped struct {
	VaultID  string `json:"vault_id"`
	SlotID   string `json:"slot_id"`
	Identity string `json:"identity"` // AGE-SECRET-KEY-PQ-1…
}

const kindPassphrase = "passphrase"

// Bounds of scrypt's work factor, log2 of N. Memory is 2^(factor+10) bytes: 32 MiB to 1 GiB. The
// upper one bounds what an edited slots.json can make us do.
const (
	minWork = 15
	maxWork = 20
)

// calibrated is the work factor at which a guess costs this machine 0.3 to 1 s.
func calibrated() int {
	best := time.Hour
	for range 2 { // the first call also pays for its memory
		start := time.Now()
		_, _ = scrypt.Key([]byte("calibration"), make([]byte, 16), 1<<minWork, 8, 1, 32)
		best = min(best, time.Since(start))
	}
	// Doubling from the measured time, the last step that stays at or below 0.7 s.
	steps := bits.Len64(uint64(700*time.Millisecond/max(best, time.Millisecond))) - 1
	return min(max(minWork+max(steps, 0), minWork), maxWork)
}

func newSlot(vaultID, id string, passphrase []byte, identity *age.HybridIdentity, work int, now time.Time) (slot, error) {
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return slot{}, err
	}
	r.SetWorkFactor(work)
	plain, err := json.Marshal(wrapped{vaultID, id, identity.String()})
	if err != nil {
		return slot{}, err
	}
	defer clear(plain)
	data, err := encrypt(plain, r)
	if err != nil {
		return slot{}, err
	}
	return slot{ID: id, Kind: kindPassphrase, CreatedAt: now.UTC().Truncate(time.Second), Wrapped: data}, nil
}

func encrypt(plain []byte, r age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func decrypt(data []byte, id age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(data), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
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

func (s *slots) write(dir string, identity *age.HybridIdentity) error {
	var err error
	if s.Sum, s.MAC, err = s.sums(identity.String()); err != nil {
		return err
	}
	return state.WriteJSON(slotsFile(dir), s)
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
	if sum != s.Sum || s.Schema != slotsSchema || len(s.Slots) == 0 {
		return nil, damaged(path, errors.New("its checksum is wrong"))
	}
	return &s, nil
}

// open finds the slot that the passphrase opens.
func (s *slots) open(dir string, passphrase []byte) (*age.HybridIdentity, error) {
	if len(passphrase) == 0 {
		return nil, emptyPassphrase()
	}
	path := slotsFile(dir)
	for _, sl := range s.Slots {
		if sl.Kind != kindPassphrase {
			continue
		}
		id, err := age.NewScryptIdentity(string(passphrase))
		if err != nil {
			return nil, err
		}
		id.SetMaxWorkFactor(maxWork)
		plain, err := decrypt(sl.Wrapped, id)
		if errors.Is(err, age.ErrIncorrectIdentity) {
			continue // not this slot's passphrase: the checksum was right, so it is not damage
		}
		if err != nil {
			return nil, damaged(path, errors.New("slot "+sl.ID+" cannot be read"))
		}
		defer clear(plain)
		var w wrapped
		if err := json.Unmarshal(plain, &w); err != nil {
			return nil, damaged(path, errors.New("slot "+sl.ID+" holds no identity"))
		}
		identity, err := age.ParseHybridIdentity(w.Identity)
		if err != nil {
			return nil, damaged(path, errors.New("slot "+sl.ID+" holds no identity"))
		}
		if w.VaultID != s.VaultID || w.SlotID != sl.ID {
			return nil, tampered(path)
		}
		_, mac, err := s.sums(w.Identity)
		if err != nil {
			return nil, err
		}
		if !hmac.Equal([]byte(mac), []byte(s.MAC)) || identity.Recipient().String() != s.Recipient {
			return nil, tampered(path)
		}
		return identity, nil
	}
	return nil, problem.New(CodeWrong, problem.Failed, "wrong passphrase").WithHint("terok vault unlock")
}

func tampered(path string) error {
	return problem.New(CodeTampered, problem.Failed, "%s was changed by something other than terok; it is not used", path).
		WithHint("restore %s from a backup", quote(path))
}

func emptyPassphrase() error {
	return problem.New(CodeEmpty, problem.Usage, "an empty passphrase is refused").WithHint("terok vault init --passphrase-file FILE")
}
