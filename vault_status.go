package terok

import (
	"context"
	"errors"
	"os"
	"time"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyring"
	"terok/internal/vault/store"
)

// States of the vault.
const (
	VaultUnprovisioned = "unprovisioned" // there is none
	VaultLocked        = "locked"
	VaultUnlocked      = "unlocked"
	VaultError         = "error" // its files cannot be used
)

// VaultStatus is the one truth about the vault that every face shows.
type VaultStatus struct {
	State       string         `json:"state"`       // unprovisioned, locked, unlocked or error
	LockReason  string         `json:"lock_reason"` // "" unless locked
	Error       string         `json:"error"`       // "" unless the state is error
	Source      string         `json:"source"`      // kind of the slot that opened it; "" unless unlocked
	Dir         string         `json:"dir"`
	PID         int            `json:"pid"` // of the keyholder, 0 when none runs
	Version     string         `json:"version"`
	Since       time.Time      `json:"since,omitzero"` // of the keyholder's start
	Credentials int            `json:"credentials"`    // stored ones, known only while unlocked
	Sessions    int            `json:"sessions"`       // supervisors connected
	Command     bool           `json:"passphrase_command"`
	Slots       []VaultSlot    `json:"slots"`
	Chain       []VaultSource  `json:"chain"`    // in the order in which they are tried
	Recovery    string         `json:"recovery"` // none, unconfirmed or confirmed
	Warnings    []VaultWarning `json:"warnings"`
	Hint        string         `json:"hint"` // the next command, "" when nothing is to be done
}

// VaultSlot describes one way in.
type VaultSlot = keyholder.Slot

// VaultSource is something that may open the vault.
type VaultSource struct {
	Source  string `json:"source"`
	Present bool   `json:"present"`
	Active  bool   `json:"active"` // it would open the vault now, as far as can be seen without opening it
	Detail  string `json:"detail"`
}

// VaultWarning is something about the vault that somebody should do something about.
type VaultWarning struct {
	Kind     string `json:"kind"`
	Severity string `json:"severity"` // warning or error
	Message  string `json:"message"`
	Hint     string `json:"hint"`
}

// VaultStatus says how the vault is. It never unlocks, never asks and never prompts.
func (a *App) VaultStatus(ctx context.Context) (VaultStatus, error) {
	st := VaultStatus{Dir: a.Roots.VaultDir(), State: VaultUnprovisioned, Hint: "terok vault init", Recovery: "none",
		Slots: []VaultSlot{}, Chain: []VaultSource{}, Warnings: []VaultWarning{}}
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return st, err
	}
	st.Command = cfg.Credentials.PassphraseCommand != ""
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return st, err
	}
	st.State, st.Hint = VaultLocked, "terok vault unlock"
	ways, err := store.ReadWays(a.Roots.VaultDir())
	if err != nil {
		p := problem.Of(err)
		st.State, st.Error, st.Hint = VaultError, p.Message, p.Hint
	}
	for _, s := range ways.Slots {
		st.Slots = append(st.Slots, VaultSlot{ID: s.ID, Kind: s.Kind, CreatedAt: s.CreatedAt, Generated: s.Generated})
	}
	if err := a.askKeyholder(ctx, &st); err != nil {
		return st, err
	}
	a.describeChain(ctx, &st, ways)
	a.describeRecovery(&st, ways)
	if st.State == VaultLocked {
		st.LockReason = a.lockReason(st)
		switch st.LockReason {
		case LockPanic:
			st.Hint = "terok panic --clear"
		case LockNotStarted:
			st.Hint = ""
		}
	}
	return st, nil
}

// askKeyholder fills in what the keyholder says, if there is one.
func (a *App) askKeyholder(ctx context.Context, st *VaultStatus) error {
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if errors.Is(err, keyholder.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	ks, err := c.Status(ctx)
	if errors.Is(err, keyholder.ErrLocked) { // it ended just now
		return nil
	}
	if err != nil {
		return a.vaultProblem(err)
	}
	st.PID, st.Credentials, st.Sessions, st.Version, st.Since = ks.PID, ks.Credentials, ks.Sessions, ks.Version, ks.Since
	if !ks.Unlocked {
		return nil
	}
	st.Source = ks.Opened
	if st.State == VaultLocked {
		st.State, st.Hint = VaultUnlocked, ""
	}
	if ks.RolledBack {
		st.warn("header_rollback", "error", "slots.json was put back from an older copy: a passphrase or slot taken away since opens the vault again",
			"terok vault slots, then change what should not open it")
	}
	list, err := c.List(ctx)
	if err != nil {
		return nil // it was locked just now
	}
	for _, cr := range list {
		if cr.State == store.StateReauth {
			st.warn("reauth_required", "warning", "the sign-in for "+cr.Provider+" ("+cr.Scope+") has ended", "terok auth "+cr.Provider)
		}
	}
	return nil
}

func (st *VaultStatus) warn(kind, severity, message, hint string) {
	st.Warnings = append(st.Warnings, VaultWarning{kind, severity, message, hint})
}

func (a *App) describeChain(ctx context.Context, st *VaultStatus, ways store.Ways) {
	add := func(source string, present, active bool, detail string) {
		st.Chain = append(st.Chain, VaultSource{source, present, present && active, detail})
	}
	add("keyholder", st.PID != 0, st.State == VaultUnlocked, "")
	sealed, detail := ways.Has(store.SlotSystemdCreds), ""
	reachable := a.creds().Present()
	if sealed && !reachable {
		detail = "systemd-creds does not listen"
		st.warn("broken-tier", "error", "the copy sealed by systemd-creds cannot be read: nothing listens at its socket", "terok vault unlock")
	}
	add(store.SlotSystemdCreds, sealed, reachable, detail)
	kept, open := ways.Has(store.SlotSecretService), false
	detail = ""
	if kept {
		switch err := a.ring(false).State(ctx); {
		case err == nil:
			open = true
		case errors.Is(err, keyring.ErrLocked):
			detail = "the keyring is locked"
			st.warn("keyring_locked", "warning", "the keyring is locked, so it cannot open the vault", "unlock your keyring")
		default:
			detail = "no Secret Service answers"
		}
	}
	add(store.SlotSecretService, kept, open, detail)
	add("passphrase-command", st.Command, true, "")
	add("prompt", ways.Has(store.SlotPassphrase) || ways.Has(store.SlotRecovery) || ways.Has(store.SlotCommand), true, "")
}

func (a *App) describeRecovery(st *VaultStatus, ways store.Ways) {
	person := ways.Has(store.SlotPassphrase) || ways.Has(store.SlotCommand)
	switch {
	case !ways.Has(store.SlotRecovery) && !person && len(ways.Slots) > 0:
		st.warn("recovery-volatile", "error", "only this machine opens the vault: when it is gone, so are the keys", "terok vault recovery rotate")
	case ways.Has(store.SlotRecovery) && ways.Acknowledged.IsZero():
		st.Recovery = "unconfirmed"
		st.warn("recovery-unconfirmed", "warning", "nobody has confirmed to have the recovery code", "terok vault recovery rotate, or: terok vault passphrase acknowledge")
	case ways.Has(store.SlotRecovery):
		st.Recovery = "confirmed"
	}
}

// lockReason says why a vault that could be used is locked.
func (a *App) lockReason(st VaultStatus) string {
	if a.notPanicked() != nil {
		return LockPanic
	}
	if _, err := os.Lstat(a.Roots.VaultLocked()); err == nil {
		return LockUser
	}
	reason := LockNoSource
	for _, c := range st.Chain {
		switch {
		case !c.Present || c.Source == "keyholder" || c.Source == "prompt":
		case c.Active:
			return LockNotStarted
		case c.Source == store.SlotSystemdCreds:
			return LockUnreadable // there is no way around it
		default:
			reason = LockUnreadable
		}
	}
	return reason
}
