package terok

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/text"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/keyring"
	"terok/internal/vault/legacy"
	"terok/internal/vault/legacy/sqlite"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// OldVault says which store of terok's predecessor to take over, and how.
type OldVault struct {
	Path string // its directory, or the database in it
	// Passphrase opens it. nil: what the predecessor kept it in, then Ask.
	Passphrase []byte
	Ask        func() ([]byte, error) // asks the person; nil when nobody can be asked
	Replace    bool                   // what is stored here under the same name
	DryRun     bool
	// IgnoreUnfinished leaves out what follows the last whole transaction of its log.
	IgnoreUnfinished bool
}

// What VaultImport did with a record.
const (
	ImportAdded    = "added"
	ImportReplaced = "replaced"
	ImportSame     = "same"     // it is here already
	ImportKept     = "kept"     // another one is here under that name, and stays
	ImportLeftOut  = "left_out" // it cannot be used here
)

// Imported is one record of the old store.
type Imported struct {
	What string `json:"what"` // credential or ssh_key
	Name string `json:"name"` // SCOPE/PROVIDER/ACCOUNT or a fingerprint
	Kind string `json:"kind,omitempty"`
	Did  string `json:"did"`
	Why  string `json:"why,omitempty"`
	// Projects may use an SSH key.
	Projects []string `json:"projects,omitempty"`
}

// ImportResult is what VaultImport did, or with DryRun would do.
type ImportResult struct {
	Source    string     `json:"source"`    // path of the old database
	Encrypted bool       `json:"encrypted"` // a plain one lay readable on the disk
	OpenedBy  string     `json:"opened_by,omitempty"`
	DryRun    bool       `json:"dry_run"`
	Records   []Imported `json:"records"`
	// Shared lists sign-ins that both programs would renew from now on, and so end for one another.
	Shared []string `json:"shared_sign_ins,omitempty"`
	Shred  string   `json:"shred"` // command that destroys the old store
}

// Count is the number of records with which that was done.
func (r *ImportResult) Count(did string) (n int) {
	for _, i := range r.Records {
		if i.Did == did {
			n++
		}
	}
	return n
}

// VaultImport takes over what a store of terok's predecessor holds: API keys, sign-ins and SSH keys,
// not its phantom tokens. The old store is read into memory only and stays as it is. It can be run
// again: what is here already stays. Problems: old_store_missing (6), old_store_busy,
// old_store_unfinished (7), old_store_foreign (2), old_store_damaged, wrong_passphrase (1),
// passphrase_needed (9).
func (a *App) VaultImport(ctx context.Context, o OldVault) (*ImportResult, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	src, err := legacy.Read(o.Path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	res := &ImportResult{Source: src.Path, Encrypted: src.Encrypted, DryRun: o.DryRun, Records: []Imported{}}
	if src.Encrypted {
		if res.OpenedBy, err = a.openOld(ctx, src, o); err != nil {
			return nil, err
		}
	}
	old, err := src.Store(o.IgnoreUnfinished)
	if err != nil {
		return nil, oldProblem(src.Path, err)
	}
	defer old.Close()
	for i := range old.Credentials {
		if err := a.importCredential(ctx, c, set, &old.Credentials[i], o, res); err != nil {
			return res, err
		}
	}
	if err := a.importKeys(ctx, c, old.Keys, o, res); err != nil {
		return res, err
	}
	for _, b := range old.Bad {
		res.Records = append(res.Records, Imported{What: "record", Name: text.Line(b.Name, 200), Did: ImportLeftOut, Why: b.Why})
	}
	res.Shred = "shred -uz --"
	for _, f := range src.Files {
		res.Shred += " '" + strings.ReplaceAll(f, "'", `'\''`) + "'"
	}
	if same, err := src.Unchanged(); err == nil && !same {
		a.say("warning: the old store was written to meanwhile; import it again when the old program has stopped")
	}
	if !o.DryRun {
		a.note("vault_imported", map[string]string{"from": src.Path, "sha256": src.SHA256})
	}
	return res, nil
}

// openOld finds the passphrase of an old store and says where.
func (a *App) openOld(ctx context.Context, src *legacy.Source, o OldVault) (by string, err error) {
	if o.Passphrase != nil {
		return "passphrase", oldProblem(src.Path, src.Unlock(o.Passphrase))
	}
	for _, tier := range []struct {
		name string
		get  func() []byte
	}{
		{"systemd-creds", func() []byte { return a.oldSealed(ctx, src) }},
		{"keyring", func() []byte {
			p, err := a.ring(false).Load(ctx, legacy.KeyringItem())
			if errors.Is(err, keyring.ErrLocked) {
				a.say("the keyring is locked, so the old passphrase is not looked for in it")
			}
			return p
		}},
		{"kernel-keyring", src.KernelKey},
		{"session-file", func() []byte { return src.SessionFile(a.Environ("XDG_RUNTIME_DIR")) }},
	} {
		p := tier.get()
		if len(p) == 0 {
			continue
		}
		err := src.Unlock(p)
		clear(p)
		if !errors.Is(err, legacy.ErrWrong) {
			return tier.name, oldProblem(src.Path, err)
		}
		a.say("what %s has does not open the old store", tier.name)
	}
	if o.Ask == nil {
		return "", problem.New("passphrase_needed", problem.Declined, "the passphrase of the old store is needed and nobody can be asked").
			WithHint("terok vault import --from-reference DIR --passphrase-file FILE")
	}
	const tries = 3
	for range tries {
		p, err := o.Ask()
		if err != nil {
			return "", err
		}
		err = src.Unlock(p)
		clear(p)
		if !errors.Is(err, legacy.ErrWrong) {
			return "passphrase", oldProblem(src.Path, err)
		}
		a.say("that does not open it")
	}
	return "", oldProblem(src.Path, legacy.ErrWrong)
}

// oldSealed is the passphrase that systemd-creds sealed for the predecessor.
func (a *App) oldSealed(ctx context.Context, src *legacy.Source) []byte {
	blob, err := src.Sealed()
	if err == nil && blob == nil {
		return nil
	}
	var p []byte
	if err == nil {
		creds := a.creds()
		creds.Name = legacy.SealedCredential
		p, err = creds.Unseal(ctx, blob)
	}
	if err != nil {
		a.say("the sealed passphrase of the old store cannot be opened: %v", err)
	}
	return p
}

// oldProblem says what is wrong with an old store, and what to do about it.
func oldProblem(path string, err error) error {
	damage, isDamage := errors.AsType[*sqlite.Damage](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, legacy.ErrWrong):
		return problem.New("wrong_passphrase", problem.Failed, "that passphrase does not open %s, or its first bytes are damaged", path)
	case isDamage:
		return problem.New("old_store_damaged", problem.Failed, "%s: %w; nothing was imported", path, damage).WithHint("import another copy of it, from a backup")
	case errors.Is(err, sqlite.ErrUnfinished):
		return problem.New("old_store_unfinished", problem.Conflict, "%s: %w; nothing was imported", path, err).
			WithHint("start the old program once, which repairs that, and stop it; or leave that write out: --ignore-unfinished")
	case errors.Is(err, sqlite.ErrNotDatabase), errors.Is(err, sqlite.ErrUnsupported), errors.Is(err, legacy.ErrForeign):
		return problem.New("old_store_foreign", problem.Usage, "%s: %w", path, err).WithHint("terok vault import --from-reference DIR, where DIR is the vault directory of the old program")
	}
	return err
}

// importCredential takes one credential over.
func (a *App) importCredential(ctx context.Context, c *keyholder.Client, set *roster.Roster, old *legacy.Credential, o OldVault, res *ImportResult) error {
	scope := "shared"
	if old.Set != "default" {
		scope = "project:" + old.Set
	}
	rec := Imported{What: "credential", Name: text.Line(scope+"/"+old.Provider+"/"+store.DefaultAccount, 200)}
	defer func() { res.Records = append(res.Records, rec) }()
	p, err := set.Credential(old.Provider)
	if err != nil || p.Name != old.Provider {
		p = nil
		rec.Why = "no provider of that name is known here; tasks can use it once there is providers/" + text.Line(old.Provider, 64) + ".yml"
	}
	if why := elsewhere(p, old.Host); why != "" {
		rec.Did, rec.Why = ImportLeftOut, why
		return nil
	}
	cred := Credential{Scope: scope, Provider: old.Provider, Account: store.DefaultAccount, State: store.StateUnverified, ExpiresAt: old.Token.ExpiresAt, Public: oldFacts(old)}
	cred.Kind = oldKind(set, p, old)
	if cred.Kind == sandbox.OAuth && p != nil && p.Refresh != nil && old.Token.Refresh != nil {
		cred.Endpoint = p.Refresh
	}
	if cred.ExpiresAt.IsZero() && old.Type == "oauth" {
		cred.ExpiresAt = oauth.Expiry(old.Token.Access)
	}
	rec.Kind = cred.Kind
	secrets := keyholder.Secrets{Secret: old.Token.Access, Refresh: old.Token.Refresh, IDToken: old.Token.ID}
	had, err := c.Offer(ctx, cred, secrets, o.DryRun)
	if r, ok := errors.AsType[*keyholder.Refusal](err); ok && r.Exit == problem.Usage {
		rec.Did, rec.Why = ImportLeftOut, r.Message
		return nil
	}
	if err == nil && had == keyholder.HadOther && o.Replace && !o.DryRun {
		_, err = c.Put(ctx, cred, secrets)
	}
	if err != nil {
		rec.Did = ImportLeftOut
		return a.vaultProblem(err)
	}
	switch {
	case had == "":
		rec.Did = ImportAdded
	case had == keyholder.HadSame:
		rec.Did = ImportSame
	case o.Replace:
		rec.Did = ImportReplaced
	default:
		rec.Did, rec.Why = ImportKept, "another one is stored here; --replace takes the old store's"
	}
	if cred.Endpoint != nil && rec.Did != ImportKept {
		res.Shared = append(res.Shared, rec.Name)
	}
	return nil
}

// elsewhere says why a forge's token cannot be used here: it is for another host than the one that
// the provider leads to, which must never see it.
func elsewhere(p *roster.Provider, host string) string {
	if p == nil || p.Forge == "" || host == "" {
		return ""
	}
	ours := p.Hosts()
	for _, r := range p.Routes {
		if u, err := url.Parse(r.Upstream); err == nil && u.Hostname() != "" {
			ours = []string{u.Hostname()}
			break
		}
	}
	if slices.Contains(ours, host) || slices.Contains(ours, "api."+host) {
		return ""
	}
	return "it is for " + text.Line(host, 100) + ", and the provider " + p.Name + " leads to " + ours[0] + " here; its upstream is set in providers/" + p.Name + ".yml"
}

// oldFacts is what the old store tells about a credential, as far as it may be shown.
func oldFacts(old *legacy.Credential) map[string]string {
	facts := map[string]string{}
	if old.Token.ID != nil {
		maps.Copy(facts, oauth.ChatGPT(old.Token.ID))
	}
	for name, value := range old.Public {
		if value != "" {
			facts[name] = value
		}
	}
	if old.Host != "" {
		facts["host"] = old.Host
	}
	maps.DeleteFunc(facts, func(_, value string) bool {
		shows := strings.Contains(value, string(old.Token.Access)) || old.Token.Refresh != nil && strings.Contains(value, string(old.Token.Refresh))
		return value == "" || shows || text.Line(value, 256) != value
	})
	return facts
}

// oldKind is the kind of a credential here: what it looks like, or else what the old store calls it.
func oldKind(set *roster.Roster, p *roster.Provider, old *legacy.Credential) string {
	kind := map[string]string{"api_key": sandbox.APIKey, "oauth": sandbox.OAuth, "oauth_token": sandbox.OAuth, "pat": sandbox.PAT}[old.Type]
	if p == nil {
		return kind
	}
	if looks, _ := set.Recognise(p, string(old.Token.Access)); looks != "" && old.Type != "oauth" {
		kind = looks
	}
	if _, ok := p.Auth[kind]; !ok {
		kind = p.Kinds[0]
	}
	return kind
}

// importKeys takes the SSH keys over, those first that were a scope's main key.
func (a *App) importKeys(ctx context.Context, c *keyholder.Client, keys []legacy.SSHKey, o OldVault, res *ImportResult) error {
	slices.SortStableFunc(keys, func(x, y legacy.SSHKey) int {
		mainFirst := func(k legacy.SSHKey) int {
			if strings.HasPrefix(k.Comment, "tk-main:") {
				return 0
			}
			return 1
		}
		return mainFirst(x) - mainFirst(y)
	})
	have, err := c.SSHList(ctx)
	if err != nil {
		return a.vaultProblem(err)
	}
	main := map[string]bool{} // scopes that have a key
	known := map[string]SSHKey{}
	for _, k := range have {
		known[k.Fingerprint] = k
		for _, s := range k.Scopes {
			main[s.Scope] = true
		}
	}
	for i := range keys {
		k := &keys[i]
		rec := Imported{What: "ssh_key", Name: k.Fingerprint, Kind: k.Type, Did: ImportAdded, Projects: k.Scopes, Why: k.Weak}
		if old, ok := known[k.Fingerprint]; ok {
			rec.Did = ImportSame
			k.Scopes = slices.DeleteFunc(slices.Clone(k.Scopes), func(s string) bool {
				return slices.ContainsFunc(old.Scopes, func(a keyholder.SSHAssignment) bool { return a.Scope == s })
			})
			if len(k.Scopes) > 0 {
				rec.Did = ImportAdded // for projects that do not have it
			}
		} else if len(k.Scopes) == 0 {
			rec.Did, rec.Why = ImportLeftOut, "no project uses it"
		}
		if !o.DryRun && rec.Did == ImportAdded {
			why, err := a.importKey(ctx, c, k, known[k.Fingerprint].ID, main)
			if err != nil {
				return err
			}
			if why != "" {
				rec.Did, rec.Why = ImportLeftOut, why
			}
		}
		res.Records = append(res.Records, rec)
	}
	return nil
}

// importKey stores a key, unless it is there under an id, and gives it to its scopes. why is what the
// vault has against it.
func (a *App) importKey(ctx context.Context, c *keyholder.Client, k *legacy.SSHKey, id string, main map[string]bool) (why string, err error) {
	for _, scope := range k.Scopes {
		role := store.RoleMain
		if main[scope] {
			role = store.RoleSide
		}
		req := keyholder.SSHRequest{Do: keyholder.SSHAssign, Scope: scope, KeyID: id, Role: role}
		if id == "" {
			var random [8]byte
			_, _ = rand.Read(random[:]) // never fails
			id = hex.EncodeToString(random[:])
			key := SSHKey{ID: id, Type: k.Type, Public: k.Public, Fingerprint: k.Fingerprint, Comment: k.Comment, CreatedAt: a.Now().UTC()}
			if store.CheckComment(key.Comment) != nil {
				key.Comment = ""
			}
			req.Do, req.Key, req.Private = keyholder.SSHPut, &key, slices.Clone(k.Private)
		}
		_, err := c.SSH(ctx, req)
		clear(req.Private)
		if r, ok := errors.AsType[*keyholder.Refusal](err); ok && r.Exit == problem.Usage {
			return r.Message, nil
		}
		if err != nil {
			return "", a.vaultProblem(err)
		}
		main[scope] = true
	}
	return "", nil
}
