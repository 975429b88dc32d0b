package terok

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyholder/holder"
	"terok/internal/vault/passphrase"
	"terok/internal/vault/store"
)

// States of the vault.
const (
	VaultUnprovisioned = "unprovisioned" // there is none
	VaultLocked        = "locked"
	VaultUnlocked      = "unlocked"
)

// VaultStatus is the one truth about the vault that every face shows.
type VaultStatus struct {
	State       string `json:"state"`       // unprovisioned, locked or unlocked
	LockReason  string `json:"lock_reason"` // user_locked, no_source or command; "" unless locked
	Dir         string `json:"dir"`
	PID         int    `json:"pid"`         // of the keyholder, 0 when none runs
	Credentials int    `json:"credentials"` // stored ones, known only while unlocked
	Sessions    int    `json:"sessions"`    // supervisors connected
	Version     string `json:"version"`     // of the keyholder
	Command     bool   `json:"passphrase_command"`
	Hint        string `json:"hint"` // the next command, "" when nothing is to be done
}

// Credential describes a stored credential; the secret is never shown.
type Credential = keyholder.Credential

// VaultInit makes the vault and unlocks it. A nil passphrase comes from
// credentials.passphrase_command. An existing vault is the Problem vault_exists (exit 7).
func (a *App) VaultInit(ctx context.Context, pass []byte) error {
	if pass == nil {
		var err error
		if pass, err = a.commandPassphrase(ctx, "init"); err != nil {
			return err
		}
	}
	defer clear(pass)
	if err := a.notPanicked(); err != nil {
		return err
	}
	if err := store.Init(a.Roots.VaultDir(), []store.NewSlot{{Kind: store.SlotPassphrase, Secret: pass}}, a.Now()); err != nil {
		return err
	}
	a.note("vault_init", nil)
	return a.unlock(ctx, pass)
}

// VaultUnlock unlocks the vault for every task and face at once, starting the keyholder if need
// be. A nil passphrase comes from credentials.passphrase_command. Problems: vault_missing (8),
// wrong_passphrase (1), vault_damaged (1).
func (a *App) VaultUnlock(ctx context.Context, pass []byte) error {
	if err := a.notPanicked(); err != nil {
		return err
	}
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return errors.Join(err, a.noVault())
	}
	if pass == nil {
		var err error
		if pass, err = a.commandPassphrase(ctx, "unlock"); err != nil {
			return err
		}
	}
	defer clear(pass)
	return a.unlock(ctx, pass)
}

func (a *App) unlock(ctx context.Context, pass []byte) error {
	if err := holder.Start(ctx, a.Self, a.Roots); err != nil {
		return err
	}
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if err != nil {
		return a.vaultProblem(err)
	}
	defer c.Close()
	if err := c.Unlock(ctx, pass); err != nil {
		return a.vaultProblem(err)
	}
	a.note("vault_unlock", nil)
	if err := os.Remove(a.userLocked()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// userLocked is the file that stands while a person wants the vault locked: then no command and
// no sealed copy opens it again silently.
func (a *App) userLocked() string { return filepath.Join(a.Roots.VaultDir(), "user-locked") }

// VaultLock locks the vault: the keyholder forgets everything and ends, running tasks get 503
// with the cure in words. Locking a locked vault is no error.
func (a *App) VaultLock(ctx context.Context) error {
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return errors.Join(err, a.noVault())
	}
	if err := state.WriteFile(a.userLocked(), nil); err != nil {
		return err
	}
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if errors.Is(err, keyholder.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Lock(ctx); err != nil {
		return err
	}
	a.note("vault_lock", nil)
	return nil
}

// VaultStatus says how the vault is. It never unlocks and never asks.
func (a *App) VaultStatus(ctx context.Context) (VaultStatus, error) {
	st := VaultStatus{Dir: a.Roots.VaultDir(), State: VaultUnprovisioned, Hint: "terok vault init"}
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return st, err
	}
	st.Command = cfg.Credentials.PassphraseCommand != ""
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return st, err
	}
	st.State, st.LockReason, st.Hint = VaultLocked, "no_source", "terok vault unlock"
	if st.Command {
		st.LockReason = "command"
	}
	if _, err := os.Lstat(a.userLocked()); err == nil {
		st.LockReason = "user_locked"
	}
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if errors.Is(err, keyholder.ErrLocked) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	defer c.Close()
	ks, err := c.Status(ctx)
	if errors.Is(err, keyholder.ErrLocked) { // it ended just now
		return st, nil
	}
	if err != nil {
		return st, a.vaultProblem(err)
	}
	st.PID, st.Credentials, st.Sessions, st.Version = ks.PID, ks.Credentials, ks.Sessions, ks.Version
	if ks.Unlocked {
		st.State, st.LockReason, st.Hint = VaultUnlocked, "", ""
	}
	return st, nil
}

// VaultNeed makes sure that the vault is unlocked, by credentials.passphrase_command where one is
// configured and the person has not locked the vault. Otherwise it is the Problem vault_missing or
// vault_locked (exit 8), which a face with a terminal may cure and try again.
func (a *App) VaultNeed(ctx context.Context) error {
	st, err := a.VaultStatus(ctx)
	if err != nil {
		return err
	}
	switch {
	case st.State == VaultUnlocked:
		return nil
	case st.State == VaultUnprovisioned:
		return a.noVault()
	case st.LockReason == "command":
		return a.VaultUnlock(ctx, nil)
	}
	return a.lockedProblem()
}

func (a *App) operator(ctx context.Context) (*keyholder.Client, error) {
	if err := a.VaultNeed(ctx); err != nil {
		return nil, err
	}
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	return c, a.vaultProblem(err)
}

// AuthKey stores an API key for an agent's or a provider's name, in scope "shared" or
// "project:NAME", and reports the provider and whether a key was replaced. Running tasks use it
// from their next request on.
func (a *App) AuthKey(ctx context.Context, name, scope string, key []byte) (provider string, replaced bool, err error) {
	defer clear(key)
	if err := a.notPanicked(); err != nil {
		return "", false, err
	}
	p, err := a.provider(name)
	if err != nil {
		return "", false, err
	}
	trimmed := bytes.TrimSpace(key)
	if len(trimmed) < store.MinSecret || bytes.ContainsAny(trimmed, " \t\r\n\"'") {
		return "", false, problem.New("usage", problem.Usage, "that is not an API key: one line, at least %d characters, without quotes", store.MinSecret).
			WithHint("%s", strings.TrimSpace("get one at "+p.KeyURL))
	}
	c, err := a.operator(ctx)
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	replaced, err = c.Put(ctx, Credential{Scope: scope, Provider: p.Name, Kind: "api_key", State: "unverified"}, keyholder.Secrets{Secret: trimmed})
	if err != nil {
		return "", false, a.vaultProblem(err)
	}
	a.note("auth_stored", map[string]string{"provider": p.Name, "scope": scope})
	return p.Name, replaced, nil
}

// AuthList describes the stored credentials.
func (a *App) AuthList(ctx context.Context) ([]Credential, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.List(ctx)
	if list == nil {
		list = []Credential{}
	}
	return list, a.vaultProblem(err)
}

// AuthHas reports whether a credential is stored that a task of project ("" for none) may use for
// provider.
func (a *App) AuthHas(ctx context.Context, provider, project string) (bool, error) {
	list, err := a.AuthList(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if c.Provider == provider && (c.Scope == "shared" || project != "" && c.Scope == "project:"+project) {
			return true, nil
		}
	}
	return false, nil
}

// AuthRemove forgets a credential; running tasks lose it with their next request.
func (a *App) AuthRemove(ctx context.Context, name, scope string) (provider string, err error) {
	p, err := a.provider(name)
	if err != nil {
		return "", err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.Delete(ctx, scope, p.Name, ""); err != nil {
		if errors.Is(err, keyholder.ErrNoCredential) {
			return "", problem.New("credential_missing", problem.NotFound, "no %s credential is stored for %s", scope, p.Name).WithHint("terok auth --list")
		}
		return "", a.vaultProblem(err)
	}
	a.note("auth_removed", map[string]string{"provider": p.Name, "scope": scope})
	return p.Name, nil
}

// KnownCredential reports whether name is an agent or a provider that takes a credential.
func (a *App) KnownCredential(name string) error {
	_, err := a.provider(name)
	return err
}

func (a *App) provider(name string) (*roster.Provider, error) {
	r, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	return r.Credential(name)
}

// commandPassphrase runs credentials.passphrase_command for a verb of `terok vault`.
func (a *App) commandPassphrase(ctx context.Context, verb string) ([]byte, error) {
	cfg, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	line := cfg.Credentials.PassphraseCommand
	if line == "" {
		return nil, problem.New("passphrase_needed", problem.Declined, "a passphrase is needed and nobody can be asked").
			WithHint("terok vault %s --passphrase-file FILE, or set credentials.passphrase_command in %s", verb, a.Roots.ConfigFile())
	}
	return passphrase.Command(ctx, line, a.Environ, os.Environ(), a.Progress)
}

func (a *App) notPanicked() error {
	if _, err := os.Lstat(a.Roots.PanicLock()); err == nil {
		return problem.New("panic", problem.Conflict, "the panic lock stands").WithHint("terok panic --clear")
	}
	return nil
}

func (a *App) noVault() error {
	return problem.New(store.CodeMissing, problem.Locked, "there is no vault yet").WithHint("terok vault init")
}

func (a *App) lockedProblem() error {
	return problem.New(keyholder.CodeLocked, problem.Locked, "the vault is locked").WithHint("terok vault unlock")
}

// vaultProblem turns what the keyholder said into what a person reads.
func (a *App) vaultProblem(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*keyholder.Refusal](err); ok && r.Code != keyholder.CodeLocked {
		p := problem.New(r.Code, max(r.Exit, problem.Failed), "%w", r)
		p.Hint = r.Hint
		return p
	}
	if errors.Is(err, keyholder.ErrLocked) {
		return a.lockedProblem()
	}
	return err
}
