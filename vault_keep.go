package terok

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// VaultFinding is something that is wrong with the vault on disk.
type VaultFinding = keyholder.Finding

// VaultVerify reads everything of the vault again from disk. While it is locked only what needs no
// key is checked, and full is false.
func (a *App) VaultVerify(ctx context.Context) (found []VaultFinding, full bool, err error) {
	st, err := a.VaultStatus(ctx)
	if err != nil {
		return nil, false, err
	}
	switch st.State {
	case VaultUnprovisioned:
		return nil, false, a.noVault()
	case VaultUnlocked:
		c, err := a.operator(ctx)
		if err != nil {
			return nil, false, err
		}
		defer c.Close()
		found, err = c.Verify(ctx)
		return found, true, a.vaultProblem(err)
	}
	if err := store.Look(a.Roots.VaultDir()); err != nil {
		found = append(found, VaultFinding{Message: problem.Of(err).Message})
	}
	return found, false, nil
}

// VaultBackup writes a new file with the vault and the ways in that a person has, encrypted once
// more to an age recipient unless that is "", and returns its absolute path.
func (a *App) VaultBackup(ctx context.Context, path, recipient string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.Backup(ctx, path, recipient); err != nil {
		return "", a.vaultProblem(err)
	}
	a.note("vault_backup", nil)
	return path, nil
}

// VaultMerged counts what VaultMerge did.
type VaultMerged = keyholder.Merged

// VaultMerge adds what a backup has and the vault has not; secret opens the backup.
func (a *App) VaultMerge(ctx context.Context, path string, secret []byte) (VaultMerged, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return VaultMerged{}, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return VaultMerged{}, err
	}
	defer c.Close()
	m, err := c.Merge(ctx, path, secret)
	if err == nil {
		a.note("vault_merged", nil)
	}
	return m, a.vaultProblem(err)
}

// VaultRestore puts the vault of a backup in place of the one that is there, which is moved aside;
// old is where. The vault is locked afterwards, and tasks have no keys until it is unlocked.
func (a *App) VaultRestore(ctx context.Context, path string) (old string, err error) {
	if err := a.notPanicked(); err != nil {
		return "", err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := store.CheckBackup(path); err != nil { // before tasks lose their keys for nothing
		return "", err
	}
	if err := a.endKeyholder(ctx); err != nil {
		return "", err
	}
	old, err = store.Restore(a.Roots.VaultDir(), path, a.Now())
	if err == nil {
		a.note("vault_restored", nil)
	}
	return old, err
}

// VaultWipe destroys the vault, the ones that restores moved aside, and what the keyring keeps for
// them. It returns the pages where keys must be revoked, since nothing here reaches them there.
func (a *App) VaultWipe(ctx context.Context) (revoke []string, err error) {
	if ok, err := store.Exists(a.Roots.VaultDir()); err != nil || !ok {
		return nil, errors.Join(err, a.noVault())
	}
	revoke = a.revokePages(ctx)
	ways, _ := store.ReadWays(a.Roots.VaultDir()) // one that cannot be read is wiped as well
	if err := a.endKeyholder(ctx); err != nil {
		return nil, err
	}
	kept := a.forgetRing(ctx, ways.Slots...)
	if err := errors.Join(store.Wipe(a.Roots.VaultDir()), kept); err != nil {
		return revoke, problem.New("wipe_incomplete", problem.Failed, "not everything could be destroyed: %w", err).WithHint("terok vault wipe")
	}
	a.note("vault_wiped", nil)
	return revoke, nil
}

// revokePages are the pages of the providers whose keys are stored, as far as that can be seen now.
func (a *App) revokePages(ctx context.Context) (pages []string) {
	r, err := roster.Load(a.Roots)
	if err != nil {
		return nil
	}
	list, err := a.AuthList(ctx)
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, c := range list {
		p, err := r.Credential(c.Provider)
		if err != nil || seen[c.Provider] {
			continue
		}
		seen[c.Provider] = true
		pages = append(pages, strings.TrimSpace(p.Title+" "+p.KeyURL))
	}
	return pages
}

// endKeyholder locks the vault without remembering that somebody wanted it locked.
func (a *App) endKeyholder(ctx context.Context) error {
	c, err := keyholder.Dial(ctx, a.Roots.KeyholderSocket())
	if errors.Is(err, keyholder.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Lock(ctx)
	if errors.Is(err, keyholder.ErrLocked) {
		err = nil // it ended just now
	}
	return err
}

// VaultDestroyCopies locks the vault and takes away everything on this machine that opens it
// without a person: sealed copies and keyring items. It refuses while nobody has confirmed to have
// another way in, unless sure.
func (a *App) VaultDestroyCopies(ctx context.Context, sure bool) ([]VaultSlot, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	w, err := c.Ways(ctx)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	person := !w.Acknowledged.IsZero()
	for _, s := range w.Slots {
		person = person || s.Kind == store.SlotPassphrase
	}
	if !person && !sure {
		return nil, problem.New("recovery_unconfirmed", problem.Declined, "nobody has confirmed to have the recovery code, and without these copies only it opens the vault").
			WithHint("terok vault recovery rotate")
	}
	var gone []VaultSlot
	for _, s := range w.Slots {
		if s.Kind != store.SlotSystemdCreds && s.Kind != store.SlotSecretService && s.Kind != store.SlotCommand {
			continue
		}
		if _, err := c.RemoveSlot(ctx, s.ID); err != nil {
			return gone, a.vaultProblem(err)
		}
		gone = append(gone, s)
		a.note("vault_slot_removed", map[string]string{"slot": s.ID, "kind": s.Kind})
		if err := a.forgetRing(ctx, store.Slot{ID: s.ID, Kind: s.Kind}); err != nil {
			return gone, err
		}
	}
	return gone, a.VaultLock(ctx)
}

// VaultEntry is a stored credential with the projects that are bound to it.
type VaultEntry struct {
	Credential
	BoundTo []string `json:"bound_to"`
}

// VaultShow describes one stored credential, named SCOPE/PROVIDER/ACCOUNT or by any part of that
// which is unambiguous.
func (a *App) VaultShow(ctx context.Context, name string) (VaultEntry, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return VaultEntry{}, err
	}
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil {
		return VaultEntry{}, a.vaultProblem(err)
	}
	var found []Credential
	for _, cr := range list {
		full := cr.Scope + "/" + cr.Provider + "/" + cr.Account
		if full == name {
			found = []Credential{cr}
			break
		}
		if strings.Contains("/"+full+"/", "/"+name+"/") {
			found = append(found, cr)
		}
	}
	switch {
	case len(found) == 0:
		return VaultEntry{}, problem.New("credential_missing", problem.NotFound, "no stored credential is called %q", name).WithHint("terok vault list")
	case len(found) > 1:
		return VaultEntry{}, problem.New("credential_ambiguous", problem.Conflict, "%q means %d credentials", name, len(found)).WithHint("terok vault list")
	}
	e := VaultEntry{Credential: found[0], BoundTo: []string{}}
	bindings, err := c.Bindings(ctx)
	if err != nil {
		return VaultEntry{}, a.vaultProblem(err)
	}
	for _, b := range bindings {
		if b.Provider == e.Provider && b.Scope == e.Scope && b.Account == e.Account {
			e.BoundTo = append(e.BoundTo, b.Project)
		}
	}
	return e, nil
}

// VaultStep is one place where a project's credential was looked for; the last one decided.
type VaultStep = keyholder.Step

// VaultExplain says which credential a project's tasks use for a provider, and why.
func (a *App) VaultExplain(ctx context.Context, projectName, providerName string) ([]VaultStep, error) {
	pr, err := a.projects().Get(projectName)
	if err != nil {
		return nil, err
	}
	p, err := a.provider(providerName)
	if err != nil {
		return nil, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	steps, err := c.Explain(ctx, pr.Name, p.Name, pr.Scope())
	return steps, a.vaultProblem(err)
}
