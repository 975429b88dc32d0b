package store

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/bits"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/scrypt"

	"terok/internal/problem"
	"terok/internal/vault/recovery"
)

// Bounds of scrypt's work factor, log2 of N. Memory is 2^(factor+10) bytes: 128 MiB to 1 GiB. A
// machine that is busy while the vault is made gets no less than the lower one; the upper one bounds
// what an edited slots.json can make us do.
const (
	probeWork = 15
	leastWork = 17
	maxWork   = 20
	// A secret of 128 bits and more needs no stretching: such a slot opens in milliseconds.
	randomWork = 10
)

// secretPrefix begins the secrets that terok mints for slots that no person opens. They say which
// slot is theirs: "terok-sk-<slot id>-<43 characters>".
const secretPrefix = "terok-sk-"

// NewSlotSecret mints the secret of a slot that a machine keeps, 256 random bits, with the slot's id.
func NewSlotSecret() (id string, secret []byte) {
	id = randomID()
	secret = append([]byte(secretPrefix+id+"-"), mint()...)
	return id, secret
}

// Mint makes a passphrase of 256 random bits, 43 characters.
func Mint() []byte { return mint() }

func mint() []byte {
	var b [32]byte
	rand.Read(b[:])
	defer clear(b[:])
	return base64.RawURLEncoding.AppendEncode(nil, b[:])
}

// calibrated is the work factor at which a guess costs this machine 0.3 to 0.7 s, or leastWork.
func calibrated() int {
	best := time.Hour
	for range 2 { // the first call also pays for its memory
		start := time.Now()
		_, _ = scrypt.Key([]byte("calibration"), make([]byte, 16), 1<<probeWork, 8, 1, 32)
		best = min(best, time.Since(start))
	}
	return workFor(best)
}

// workFor doubles from the time that probeWork took, up to the last step that stays at or below
// 0.7 s.
func workFor(probe time.Duration) int {
	steps := bits.Len64(uint64(700*time.Millisecond/max(probe, time.Millisecond))) - 1
	return min(max(probeWork+steps, leastWork), maxWork)
}

// CheckPassphrase judges a new passphrase as far as every vault must: not empty, not too long, not
// of a form that means something else.
func CheckPassphrase(p []byte) error {
	switch {
	case len(p) == 0:
		return emptyPassphrase()
	case len(p) > MaxPassphrase:
		return problem.New("usage", problem.Usage, "the passphrase is longer than %d bytes", MaxPassphrase)
	case recovery.Looks(p) || bytes.HasPrefix(p, []byte(secretPrefix)):
		return problem.New("usage", problem.Usage, "a passphrase cannot begin with %s or %s", recovery.Prefix, secretPrefix)
	}
	return nil
}

// wrap makes a slot of kind that secret opens. work is scrypt's factor for what a person chose; 0
// is calibrated now.
func wrap(vaultID, id, kind string, secret []byte, identity string, work int, now time.Time) (slot, error) {
	switch kind {
	case SlotPassphrase, SlotCommand:
		if err := CheckPassphrase(secret); err != nil {
			return slot{}, err
		}
		if work == 0 {
			work = calibrated()
		}
	case SlotRecovery:
		if _, err := recovery.Parse(secret); err != nil {
			return slot{}, err
		}
		work = randomWork
	default:
		if slotOf(secret) != id {
			return slot{}, errors.New("the secret of a slot names another slot")
		}
		work = randomWork
	}
	r, err := age.NewScryptRecipient(string(secret))
	if err != nil {
		return slot{}, err
	}
	r.SetWorkFactor(work)
	plain, err := json.Marshal(wrapped{vaultID, id, identity})
	if err != nil {
		return slot{}, err
	}
	defer clear(plain)
	data, err := encrypt(plain, r)
	if err != nil {
		return slot{}, err
	}
	return slot{ID: id, Kind: kind, CreatedAt: stamp(now), Wrapped: data}, nil
}

// slotOf is the slot that a minted secret names, or "".
func slotOf(secret []byte) string {
	rest, ok := bytes.CutPrefix(secret, []byte(secretPrefix))
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(string(rest[:min(len(rest), 64)]), "-")
	return id
}

// opens reports whether secret is of the kind that sl takes.
func (sl *slot) opens(secret []byte) bool {
	switch id := slotOf(secret); {
	case id != "":
		return sl.ID == id
	case recovery.Looks(secret):
		return sl.Kind == SlotRecovery
	}
	return sl.Kind == SlotPassphrase || sl.Kind == SlotCommand
}

// open finds the slot that secret opens: a passphrase, a recovery code or a minted secret, told
// apart by their beginning.
func (s *slots) open(path string, secret []byte) (*age.HybridIdentity, Slot, error) {
	if len(secret) == 0 {
		return nil, Slot{}, emptyPassphrase()
	}
	if recovery.Looks(secret) {
		code, err := recovery.Parse(secret)
		if err != nil {
			return nil, Slot{}, problem.New(CodeRecovery, problem.Failed, "%w", err).WithHint("terok vault unlock --recovery")
		}
		defer clear(code)
		secret = code
	}
	tried := false
	for i := range s.Slots {
		sl := &s.Slots[i]
		if !sl.opens(secret) {
			continue
		}
		tried = true
		identity, err := s.unwrap(path, sl, secret)
		if errors.Is(err, age.ErrIncorrectIdentity) {
			continue // not this slot's passphrase: the checksum was right, so it is not damage
		}
		if err != nil {
			return nil, Slot{}, err
		}
		return identity, sl.describe(), nil
	}
	switch {
	case recovery.Looks(secret) && !tried:
		return nil, Slot{}, problem.New(CodeRecovery, problem.Failed, "this vault has no recovery code").WithHint("terok vault unlock")
	case recovery.Looks(secret):
		return nil, Slot{}, problem.New(CodeRecovery, problem.Failed, "this recovery code is not of this vault, or a newer one replaced it").WithHint("terok vault unlock")
	case slotOf(secret) != "" && !tried:
		return nil, Slot{}, problem.New(CodeMismatch, problem.Failed, "what the machine keeps is of a slot that this vault does not have").WithHint("terok vault unlock")
	case slotOf(secret) != "":
		return nil, Slot{}, problem.New(CodeMismatch, problem.Failed, "what the machine keeps does not open its slot").WithHint("terok vault unlock")
	case !tried:
		return nil, Slot{}, problem.New(CodeWrong, problem.Failed, "this vault has no passphrase").WithHint("terok vault unlock --recovery")
	}
	return nil, Slot{}, problem.New(CodeWrong, problem.Failed, "wrong passphrase").WithHint("terok vault unlock")
}

func (s *slots) unwrap(path string, sl *slot, secret []byte) (*age.HybridIdentity, error) {
	id, err := age.NewScryptIdentity(string(secret))
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(maxWork)
	plain, err := decrypt(sl.Wrapped, id)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, err
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
	if err := s.prove(path, w.Identity, identity.Recipient().String()); err != nil {
		return nil, err
	}
	return identity, nil
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
