package terok

import (
	"context"
	"errors"
	"os"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyholder/holder"
	"terok/internal/vault/passphrase"
	"terok/internal/vault/store"
)

// Credential describes a stored credential; the secret is never shown.
type Credential = keyholder.Credential

// VaultSetup says how a new vault opens.
type VaultSetup struct {
	// Slot is the kind of the first way in: passphrase, command, systemd-creds or secret-service.
	// "" is passphrase when there is one, else command.
	Slot       string
	Passphrase []byte       // for passphrase; the caller clears it
	Generated  bool         // terok minted it: the vault keeps it and can show it
	Recovery   RecoveryCode // a second way in; nil for none
}

// VaultInit makes the vault and unlocks it. An existing vault is the Problem vault_exists (exit 7),
// a keeper that cannot be used tier_unavailable (5).
func (a *App) VaultInit(ctx context.Context, s VaultSetup) error {
	if err := a.notPanicked(); err != nil {
		return err
	}
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil {
		return err
	} else if ok { // nothing is sealed for a vault that will not be made
		return problem.New(store.CodeExists, problem.Conflict, "there is a vault in %s already", a.Roots.VaultDir()).WithHint("terok vault unlock")
	}
	first := store.NewSlot{Kind: s.Slot, Secret: s.Passphrase, Generated: s.Generated}
	if first.Kind == "" {
		first.Kind = store.SlotPassphrase
		if s.Passphrase == nil {
			first.Kind = store.SlotCommand
		}
	}
	var err error
	switch first.Kind {
	case store.SlotCommand:
		first.Secret, err = a.commandPassphrase(ctx, "init")
		defer clear(first.Secret)
	case store.SlotSystemdCreds, store.SlotSecretService:
		first, err = a.seal(ctx, s.Slot, "auto", a.Confirm != nil)
		defer clear(first.Secret)
	}
	if err != nil {
		return err
	}
	ways := []store.NewSlot{first}
	if s.Recovery != nil {
		ways = append(ways, store.NewSlot{Kind: store.SlotRecovery, Secret: s.Recovery})
	}
	if err := store.Init(a.Roots.VaultDir(), ways, a.Now()); err != nil {
		return err
	}
	a.note("vault_init", map[string]string{"slot": first.Kind})
	return a.unlock(ctx, first.Secret, true)
}

// VaultKeepers says which keepers of this machine could hold the vault's key now. Nobody is asked.
func (a *App) VaultKeepers(ctx context.Context) (systemdCreds, secretService bool) {
	if a.creds().Present() {
		blob, err := a.creds().Seal(ctx, []byte("terok asks whether this works"), "auto")
		systemdCreds = err == nil && len(blob) > 0
	}
	return systemdCreds, a.ring(false).State(ctx) == nil
}

// VaultUnlock unlocks the vault for every task and face at once, starting the keyholder if need
// be. secret is a passphrase or a recovery code, which the caller clears; nil means what opens the
// vault without a person. Problems: vault_missing (8), vault_locked (8) when nothing does,
// wrong_passphrase, wrong_recovery_code, vault_damaged, vault_tampered, too_many_attempts (1).
func (a *App) VaultUnlock(ctx context.Context, secret []byte) error {
	if err := a.notPanicked(); err != nil {
		return err
	}
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return errors.Join(err, a.noVault())
	}
	if secret == nil {
		return a.wake(ctx, true)
	}
	return a.unlock(ctx, secret, true)
}

// unlock opens the vault. Only a person undoes what a person did: without one, a vault that was
// locked since the caller looked stays locked.
func (a *App) unlock(ctx context.Context, secret []byte, person bool) error {
	if err := holder.Start(ctx, a.Self, a.Roots, a.guard()); err != nil {
		return err
	}
	c, err := a.dial(ctx)
	if err != nil {
		return a.vaultProblem(err)
	}
	defer c.Close()
	open := c.Wake
	if person {
		open = c.Unlock
	}
	if err := open(ctx, secret); err != nil {
		if _, standing := os.Lstat(a.Roots.VaultLocked()); standing == nil && errors.Is(err, keyholder.ErrLocked) {
			return a.lockedProblem(LockUser)
		}
		return a.vaultProblem(err)
	}
	a.note("vault_unlock", nil)
	if !person {
		return nil
	}
	if err := os.Remove(a.Roots.VaultLocked()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// guard is what follows a keyholder that crashes: a vault that something opens without a person opens
// again, in the environment of whoever started that keyholder.
func (a *App) guard() holder.Guard {
	return holder.Guard{Wake: []string{a.Self, WakeCommand, a.Roots.Config, a.Roots.Data, a.Roots.Runtime}, Environ: os.Environ()}
}

// WakeCommand is the argument that makes the program do VaultNeed for the roots that follow, and
// nothing else.
const WakeCommand = "keyholder-wake"

// VaultLock locks the vault: the keyholder forgets everything and ends, running tasks get 503
// with the cure in words. Nothing but an unlock by a person opens it again. Locking a locked vault
// is no error.
func (a *App) VaultLock(ctx context.Context) error {
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return errors.Join(err, a.noVault())
	}
	if err := state.WriteFile(a.Roots.VaultLocked(), nil); err != nil {
		return err
	}
	if err := a.endKeyholder(ctx); err != nil {
		return err
	}
	a.note("vault_lock", nil)
	return nil
}

// VaultNeed makes sure that the vault is unlocked, by what opens it without a person if there is
// something and nobody has locked the vault. Otherwise it is the Problem vault_missing or
// vault_locked (exit 8) with the reason, which a face with a terminal may cure and try again.
func (a *App) VaultNeed(ctx context.Context) error {
	if c, err := a.dial(ctx); err == nil {
		st, err := c.Status(ctx)
		c.Close()
		if err == nil && st.Unlocked {
			return nil
		}
	}
	if err := a.notPanicked(); err != nil {
		return err
	}
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return errors.Join(err, a.noVault())
	}
	if _, err := os.Lstat(a.Roots.VaultLocked()); err == nil {
		return a.lockedProblem(LockUser)
	}
	return a.wake(ctx, false)
}

// dial connects to the keyholder. One that runs another program than the one installed in its
// place, which is ours, becomes that one first.
func (a *App) dial(ctx context.Context) (*keyholder.Client, error) {
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil || !st.Outdated || !sameProgram(a.Self, st.Program) {
		return c, nil // what is wrong shows in what comes next
	}
	err = c.Upgrade(ctx)
	c.Close()
	if err != nil && !errors.Is(err, keyholder.ErrLocked) && !errors.Is(err, keyholder.ErrRefused) {
		return nil, err
	}
	a.note("keyholder_upgraded", nil)
	if err := holder.Start(ctx, a.Self, a.Roots, a.guard()); err != nil {
		return nil, err
	}
	return keyholder.Dial(ctx, a.Roots.KeyholderSocket())
}

func sameProgram(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func (a *App) operator(ctx context.Context) (*keyholder.Client, error) {
	if err := a.VaultNeed(ctx); err != nil {
		return nil, err
	}
	c, err := a.dial(ctx)
	return c, a.vaultProblem(err)
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

// authStored describes what is stored, and which project uses what.
func (a *App) authStored(ctx context.Context) ([]Credential, []keyholder.Binding, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil {
		return nil, nil, a.vaultProblem(err)
	}
	bound, err := c.Bindings(ctx)
	return list, bound, a.vaultProblem(err)
}

// AuthHas reports whether a credential is stored that a task of a project may use for provider.
// scope is the project's: one that keeps to itself never uses the shared one.
func (a *App) AuthHas(ctx context.Context, provider, project, scope string) (bool, error) {
	list, bound, err := a.authStored(ctx)
	if err != nil {
		return false, err
	}
	return chosen(list, bound, project, scope, provider) != nil, nil
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

func (a *App) lockedProblem(reason string) error {
	return problem.New(keyholder.CodeLocked, problem.Locked, "the vault is locked").WithHint("terok vault unlock").With("lock_reason", reason)
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
		return a.lockedProblem(LockNoSource)
	}
	return err
}
