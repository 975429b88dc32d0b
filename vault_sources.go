package terok

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"terok/internal/config"
	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/vault/credsd"
	"terok/internal/vault/keyring"
	"terok/internal/vault/passphrase"
	"terok/internal/vault/store"
)

// Reasons why a vault is locked.
const (
	LockUser       = "user_locked"       // somebody locked it; nothing opens it silently
	LockPanic      = "panic"             // the panic lock stands
	LockNoSource   = "no_source"         // only a person can open it
	LockNotStarted = "not_started"       // the next command that needs it opens it
	LockUnreadable = "source_unreadable" // what should open it cannot be read now
	LockMismatch   = "source_mismatch"   // what should open it opens no slot
)

// creds is the systemd-creds of this machine.
func (a *App) creds() credsd.Client {
	uid, err := peer.HostUID()
	if err != nil {
		uid = os.Getuid()
	}
	return credsd.Client{Socket: a.CredsSocket, UID: uid}
}

// ring is the Secret Service of this session. Somebody is at the screen only where there is one.
func (a *App) ring(prompt bool) keyring.Client {
	address := a.Environ("DBUS_SESSION_BUS_ADDRESS")
	if dir := a.Environ("XDG_RUNTIME_DIR"); address == "" && dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "bus")); err == nil {
			address = "unix:path=" + filepath.Join(dir, "bus")
		}
	}
	screen := a.Environ("WAYLAND_DISPLAY") != "" || a.Environ("DISPLAY") != ""
	return keyring.Client{Address: address, Prompt: prompt && screen}
}

// ringItem names a slot's secret in the keyring.
func ringItem(slotID string) map[string]string {
	return map[string]string{"application": "terok", "slot": slotID}
}

// unattended gets a secret that opens the vault without a person: from systemd-creds, then the
// Secret Service, then the configured command. A sealed copy or a command that is there and fails
// ends the search, since it may have been made to fail so that another way is taken; a keyring that
// does not answer is passed over. The source is "" when there is none at all.
func (a *App) unattended(ctx context.Context, ways store.Ways) (secret []byte, source string, err error) {
	for _, s := range ways.Slots {
		if s.Kind != store.SlotSystemdCreds {
			continue
		}
		secret, err := a.creds().Unseal(ctx, s.Sealed)
		if err != nil {
			return nil, s.Kind, unreadable(s.Kind, err)
		}
		return secret, s.Kind, nil
	}
	var passed error
	for _, s := range ways.Slots {
		if s.Kind != store.SlotSecretService {
			continue
		}
		secret, err := a.ring(false).Load(ctx, ringItem(s.ID))
		if err == nil {
			return secret, s.Kind, nil
		}
		if ctx.Err() != nil {
			return nil, s.Kind, ctx.Err()
		}
		passed = unreadable(s.Kind, err)
	}
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, "", err
	}
	if line := cfg.Credentials.PassphraseCommand; line != "" {
		secret, err := passphrase.Command(ctx, line, a.Environ, os.Environ(), a.Progress)
		if err != nil {
			p := problem.Of(err)
			return nil, store.SlotCommand, p.With("lock_reason", LockUnreadable)
		}
		return secret, store.SlotCommand, nil
	}
	if passed != nil {
		return nil, store.SlotSecretService, passed
	}
	return nil, "", nil
}

func unreadable(source string, err error) error {
	hint := "terok vault unlock"
	if errors.Is(err, keyring.ErrLocked) {
		hint = "unlock your keyring, or: terok vault unlock"
	}
	return problem.New("vault_locked", problem.Locked, "the vault is locked: %s cannot open it: %w", source, err).
		WithHint("%s", hint).With("lock_reason", LockUnreadable)
}

// wake opens a locked vault by what needs no person, if something can; otherwise it says why not.
// person is whether one asked for it.
func (a *App) wake(ctx context.Context, person bool) error {
	ways, err := store.ReadWays(a.Roots.VaultDir())
	if err != nil {
		return err
	}
	secret, source, err := a.unattended(ctx, ways)
	if err != nil {
		return err
	}
	if source == "" {
		return a.lockedProblem(LockNoSource)
	}
	defer clear(secret)
	err = a.unlock(ctx, secret, person)
	if problem.Is(err, store.CodeMismatch) || problem.Is(err, store.CodeWrong) {
		return problem.New("vault_locked", problem.Locked, "the vault is locked: what %s has does not open it", source).
			WithHint("terok vault unlock").With("lock_reason", LockMismatch)
	}
	return err
}

// seal mints the secret of a slot and gives it to the machine's keeper of a kind.
func (a *App) seal(ctx context.Context, kind, key string, prompt bool) (store.NewSlot, error) {
	id, secret := store.NewSlotSecret()
	n := store.NewSlot{Kind: kind, ID: id, Secret: secret}
	var err error
	switch kind {
	case store.SlotSystemdCreds:
		if n.Sealed, err = a.creds().Seal(ctx, secret, key); err != nil {
			return n, unavailable(kind, err, "systemctl status systemd-creds.socket   (systemd 257 or newer)")
		}
		// A copy that cannot be read back would be found out when it is needed.
		back, err := a.creds().Unseal(ctx, n.Sealed)
		defer clear(back)
		if err != nil || string(back) != string(secret) {
			return n, unavailable(kind, errors.Join(errors.New("what it sealed does not come back"), err), "terok vault passphrase to-keyring")
		}
	case store.SlotSecretService:
		item := ringItem(id)
		if err := a.ring(prompt).Store(ctx, "terok vault", item, secret); err != nil {
			return n, unavailable(kind, err, "unlock your keyring, or: terok vault passphrase seal")
		}
		back, err := a.ring(false).Load(ctx, item)
		defer clear(back)
		if err != nil || string(back) != string(secret) {
			return n, unavailable(kind, errors.Join(errors.New("what it stored does not come back"), err), "terok vault passphrase seal")
		}
	}
	return n, nil
}

func unavailable(kind string, err error, hint string) error {
	return problem.New("tier_unavailable", problem.Manual, "%s cannot keep the vault's key: %w", kind, err).WithHint("%s", hint)
}

// forgetRing deletes what the keyring keeps for slots; a keyring that is not there keeps nothing
// that opens anything once the slot is gone.
func (a *App) forgetRing(ctx context.Context, slots ...store.Slot) error {
	var errs []error
	for _, s := range slots {
		if s.Kind != store.SlotSecretService {
			continue
		}
		if err := a.ring(false).Delete(ctx, ringItem(s.ID)); err != nil && !errors.Is(err, keyring.ErrNoItem) && !errors.Is(err, keyring.ErrAbsent) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
