package terok

import (
	"context"
	"errors"
	"os"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/passphrase"
	"terok/internal/vault/recovery"
	"terok/internal/vault/store"
)

// NewRecoveryCode makes a recovery code. Whoever shows it clears it.
func NewRecoveryCode() RecoveryCode { return recovery.New() }

// RecoveryCode is the way into the vault that a person keeps on paper: "terok-rk-" and six groups.
type RecoveryCode = recovery.Code

// RecoveryPrefix begins every recovery code.
const RecoveryPrefix = recovery.Prefix

// IsRecoveryCode reports whether what was typed is meant to be a recovery code.
func IsRecoveryCode(typed []byte) bool { return recovery.Looks(typed) }

// RecoveryGroups is how many groups a recovery code has.
func RecoveryGroups() int { return recovery.Groups() }

// MintPassphrase makes a passphrase of 256 random bits, 43 characters.
func MintPassphrase() []byte { return store.Mint() }

// VaultSlots lists the ways into the vault; while it is open they are proven with its key.
func (a *App) VaultSlots(ctx context.Context) ([]VaultSlot, error) {
	st, err := a.VaultStatus(ctx)
	switch {
	case err != nil:
		return nil, err
	case st.State == VaultUnprovisioned:
		return nil, a.noVault()
	case st.State == VaultUnlocked:
		c, err := a.operator(ctx)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		w, err := c.Ways(ctx)
		return w.Slots, a.vaultProblem(err)
	}
	return st.Slots, nil
}

// VaultSlotRemove takes a way in away, by id, the beginning of one, or kind. The last one stays:
// Problem last_slot (7). What the keyring keeps for it is deleted.
func (a *App) VaultSlotRemove(ctx context.Context, name string) (VaultSlot, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return VaultSlot{}, err
	}
	defer c.Close()
	s, err := c.RemoveSlot(ctx, name)
	if err != nil {
		return VaultSlot{}, a.vaultProblem(err)
	}
	a.note("vault_slot_removed", map[string]string{"slot": s.ID, "kind": s.Kind})
	return s, a.forgetRing(ctx, store.Slot{ID: s.ID, Kind: s.Kind})
}

// VaultPassphraseChange replaces the passphrase, or makes one. The other ways in stay, and running
// tasks notice nothing. generated says that terok minted it: then the vault keeps it and can show
// it. With credentials.passphrase_command configured it is refused: the command's own source is
// the place to change it; resync then takes what the command prints now.
func (a *App) VaultPassphraseChange(ctx context.Context, pass []byte, generated bool) error {
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return err
	}
	if cfg.Credentials.PassphraseCommand != "" {
		return problem.New("passphrase_command", problem.Conflict, "credentials.passphrase_command gives the passphrase, so it is changed where that gets it").
			WithHint("change it there, then: terok vault passphrase resync")
	}
	return a.addSlot(ctx, keyholder.NewSlot{Kind: store.SlotPassphrase, Generated: generated}, pass)
}

// VaultPassphraseResync makes what credentials.passphrase_command prints now a way into the vault.
func (a *App) VaultPassphraseResync(ctx context.Context) error {
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return err
	}
	if cfg.Credentials.PassphraseCommand == "" {
		return problem.New("passphrase_command", problem.Usage, "no credentials.passphrase_command is set").WithHint("terok vault passphrase change")
	}
	pass, err := passphrase.Command(ctx, cfg.Credentials.PassphraseCommand, a.Environ, os.Environ(), a.Progress)
	if err != nil {
		return err
	}
	defer clear(pass)
	return a.addSlot(ctx, keyholder.NewSlot{Kind: store.SlotCommand}, pass)
}

// VaultRecoveryRotate makes code the vault's recovery code; the one before opens nothing any more.
func (a *App) VaultRecoveryRotate(ctx context.Context, code RecoveryCode) error {
	return a.addSlot(ctx, keyholder.NewSlot{Kind: store.SlotRecovery}, code)
}

func (a *App) addSlot(ctx context.Context, n keyholder.NewSlot, secret []byte) error {
	c, err := a.operator(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.AddSlot(ctx, n, secret)
	if err != nil {
		return a.vaultProblem(err)
	}
	a.note("vault_slot_added", map[string]string{"slot": s.ID, "kind": s.Kind})
	return nil
}

// VaultSeal adds a way in that this machine keeps: systemd-creds, bound to key (auto, tpm, host or
// tpm+host), or the Secret Service. It is read back before it counts. exclusive takes the other
// machine-kept ways away. A keeper that cannot be used is the Problem tier_unavailable (5).
func (a *App) VaultSeal(ctx context.Context, kind, key string, exclusive bool) (VaultSlot, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return VaultSlot{}, err
	}
	defer c.Close()
	ways, err := store.ReadWays(a.Roots.VaultDir())
	if err != nil {
		return VaultSlot{}, err
	}
	n, err := a.seal(ctx, kind, key, a.Confirm != nil)
	defer clear(n.Secret)
	if err != nil {
		return VaultSlot{}, err
	}
	s, err := c.AddSlot(ctx, keyholder.NewSlot{Kind: kind, ID: n.ID, Sealed: n.Sealed, Replace: true}, n.Secret)
	if err != nil {
		return VaultSlot{}, a.vaultProblem(err)
	}
	a.note("vault_slot_added", map[string]string{"slot": s.ID, "kind": s.Kind})
	var errs []error
	for _, old := range ways.Slots {
		switch {
		case old.Kind == kind: // replaced
			errs = append(errs, a.forgetRing(ctx, old))
		case exclusive && (old.Kind == store.SlotSystemdCreds || old.Kind == store.SlotSecretService || old.Kind == store.SlotCommand):
			if _, err := c.RemoveSlot(ctx, old.ID); err != nil {
				errs = append(errs, a.vaultProblem(err))
				continue
			}
			errs = append(errs, a.forgetRing(ctx, old))
		}
	}
	return s, errors.Join(errs...)
}

// VaultAcknowledge records that somebody has the recovery code and reports whether that was known.
func (a *App) VaultAcknowledge(ctx context.Context) (before bool, err error) {
	c, err := a.operator(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	before, err = c.Acknowledge(ctx)
	if err == nil && !before {
		a.note("vault_recovery_acknowledged", nil)
	}
	return before, a.vaultProblem(err)
}

// VaultReveal returns the passphrase if terok minted it; the caller clears it. One that a person
// chose is not kept: Problem passphrase_not_kept (1).
func (a *App) VaultReveal(ctx context.Context) ([]byte, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p, err := c.Reveal(ctx)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	a.note("vault_passphrase_revealed", nil)
	return p, nil
}

// VaultKeep says which ways into the vault survive a rotation of its key.
type VaultKeep struct {
	Secrets [][]byte    // of the ways that do; cleared by VaultRotateKey
	Lost    []VaultSlot // that do not, since their secret is not at hand
}

// VaultRotatePlan gathers what opens the vault without a person, and pass, which may be nil, and
// says which ways in a rotation would drop.
func (a *App) VaultRotatePlan(ctx context.Context, pass []byte) (VaultKeep, error) {
	ways, err := store.ReadWays(a.Roots.VaultDir())
	if err != nil {
		return VaultKeep{}, err
	}
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return VaultKeep{}, err
	}
	var k VaultKeep
	for _, s := range ways.Slots {
		var secret []byte
		var err error
		switch s.Kind {
		case store.SlotSystemdCreds:
			secret, err = a.creds().Unseal(ctx, s.Sealed)
		case store.SlotSecretService:
			secret, err = a.ring(a.Confirm != nil).Load(ctx, ringItem(s.ID))
		case store.SlotCommand:
			if cfg.Credentials.PassphraseCommand != "" {
				secret, err = passphrase.Command(ctx, cfg.Credentials.PassphraseCommand, a.Environ, os.Environ(), a.Progress)
			}
		case store.SlotPassphrase:
			secret = pass
		}
		if err != nil || len(secret) == 0 {
			k.Lost = append(k.Lost, VaultSlot{ID: s.ID, Kind: s.Kind, CreatedAt: s.CreatedAt, Generated: s.Generated})
			continue
		}
		k.Secrets = append(k.Secrets, secret)
	}
	return k, nil
}

// VaultRotateKey gives the vault a new key and returns the ways in that were dropped. Nothing that
// was written before can be read with the new one, and the other way round. Tasks go on.
func (a *App) VaultRotateKey(ctx context.Context, k VaultKeep) ([]VaultSlot, error) {
	defer func() {
		for _, s := range k.Secrets {
			clear(s)
		}
	}()
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	dropped, err := c.Rotate(ctx, k.Secrets)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	a.note("vault_key_rotated", nil)
	return dropped, nil
}
