package store

import (
	"cmp"
	"slices"
	"time"

	"terok/internal/problem"
)

const maxCredentials = 1000

// document is the plain text of vault.age.
type document struct {
	Schema          int             `json:"schema"`
	FromSchema      int             `json:"from_schema,omitempty"` // in memory only: the disk has an older form
	VaultID         string          `json:"vault_id"`
	Generation      uint64          `json:"generation"`                 // grows with every write
	SlotsGeneration uint64          `json:"slots_generation,omitempty"` // of the slots.json written last
	CreatedAt       time.Time       `json:"created_at"`
	Generated       []byte          `json:"generated_passphrase,omitempty"` // a passphrase that terok minted
	Credentials     []Credential    `json:"credentials"`
	Bindings        []Binding       `json:"bindings,omitempty"`
	RefreshJournal  []Journal       `json:"refresh_journal,omitempty"`
	SSHKeys         []SSHKey        `json:"ssh_keys,omitempty"`
	SSHAssignments  []SSHAssignment `json:"ssh_assignments,omitempty"`
	HostKeys        []HostKey       `json:"host_keys,omitempty"`
}

// Binding gives a project a credential by name, whatever its scope.
type Binding struct {
	Project  string `json:"project"`
	Provider string `json:"provider"`
	Scope    string `json:"scope"`
	Account  string `json:"account"`
}

// Phases of a refresh.
const (
	PhaseIntent = "intent" // the old refresh token may have been used up
	PhaseStored = "stored"
)

// Journal is the record of a refresh on its way, so that a crash between the provider's answer and
// our write is seen afterwards.
type Journal struct {
	Key
	StartedAt time.Time `json:"started_at"`
	Phase     string    `json:"phase"`
	OldDigest string    `json:"old_digest"` // hex SHA-256 of the refresh token that was sent
	Attempts  int       `json:"attempts"`
	NextTryAt time.Time `json:"next_try_at,omitzero"`
}

func (d *document) wipe() {
	clear(d.Generated)
	for i := range d.Credentials {
		d.Credentials[i].wipe()
	}
	for i := range d.SSHKeys {
		clear(d.SSHKeys[i].Private)
	}
}

func (d *document) find(k Key) int {
	k = k.norm()
	return slices.IndexFunc(d.Credentials, func(c Credential) bool { return c.Key() == k })
}

// Tx is the document during one View or Update; it is not usable afterwards.
type Tx struct {
	doc   *document
	now   time.Time
	purge bool // something was deleted that no generation may keep
}

func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// Get returns a credential with its secrets, which the caller should clear after use.
func (t *Tx) Get(k Key) (Credential, bool) {
	i := t.doc.find(k)
	if i < 0 {
		return Credential{}, false
	}
	return t.doc.Credentials[i].clone(), true
}

// List returns every credential without its secrets, by scope, provider and account.
func (t *Tx) List() []Credential {
	out := make([]Credential, len(t.doc.Credentials))
	for i, c := range t.doc.Credentials {
		out[i] = c.bare().clone()
	}
	slices.SortFunc(out, func(a, b Credential) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Account, b.Account))
	})
	return out
}

// Put stores a credential and reports whether it replaced one. It sets Hint, CreatedAt, UpdatedAt
// and Revision; an empty State is "ok" and an empty Account "default".
func (t *Tx) Put(c Credential) (replaced bool, err error) {
	c.Account, c.State = cmp.Or(c.Account, DefaultAccount), cmp.Or(c.State, StateOK)
	if err := c.check(); err != nil {
		return false, err
	}
	c = c.clone()
	c.Hint = string(c.Secret[len(c.Secret)-4:])
	c.CreatedAt, c.UpdatedAt, c.Revision = stamp(t.now), stamp(t.now), t.doc.Generation
	c.ExpiresAt, c.RefreshAt, c.VerifiedAt = stamp(c.ExpiresAt), stamp(c.RefreshAt), stamp(c.VerifiedAt)
	if i := t.doc.find(c.Key()); i >= 0 {
		c.CreatedAt = t.doc.Credentials[i].CreatedAt
		t.doc.Credentials[i].wipe()
		t.doc.Credentials[i] = c
		return true, nil
	}
	if len(t.doc.Credentials) >= maxCredentials {
		return false, problem.New("vault_full", problem.Failed, "the vault holds %d credentials already", maxCredentials).WithHint("terok auth --list")
	}
	t.doc.Credentials = append(t.doc.Credentials, c)
	return false, nil
}

// Delete removes a credential with its journal, from the generation before as well, and reports
// whether there was one. Bindings to it stay, and lead to nothing until it is stored anew or they are
// taken back: without them its projects would use an account that nobody chose for them.
func (t *Tx) Delete(k Key) (found bool) {
	k = k.norm()
	i := t.doc.find(k)
	if i < 0 {
		return false
	}
	t.doc.Credentials[i].wipe()
	t.doc.Credentials = slices.Delete(t.doc.Credentials, i, i+1)
	t.ClearJournal(k)
	t.purge = true
	return true
}

func (b Binding) key() Key { return Key{b.Scope, b.Provider, b.Account}.norm() }

// Bind makes project use a stored credential of b.Provider, whatever the project's own scope says.
func (t *Tx) Bind(b Binding) error {
	b.Account = cmp.Or(b.Account, DefaultAccount)
	if !isProject(b.Project) {
		return problem.New("usage", problem.Usage, "not a project's name")
	}
	if err := b.key().check(); err != nil {
		return err
	}
	if t.doc.find(b.key()) < 0 {
		return problem.New("credential_missing", problem.NotFound, "no such credential is stored").WithHint("terok vault list")
	}
	t.Unbind(b.Project, b.Provider)
	t.doc.Bindings = append(t.doc.Bindings, b)
	return nil
}

// Unbind takes a project's binding away and reports whether there was one.
func (t *Tx) Unbind(project, provider string) (found bool) {
	n := len(t.doc.Bindings)
	t.doc.Bindings = slices.DeleteFunc(t.doc.Bindings, func(b Binding) bool { return b.Project == project && b.Provider == provider })
	return len(t.doc.Bindings) < n
}

// Bindings returns every binding, by project and provider.
func (t *Tx) Bindings() []Binding {
	out := slices.Clone(t.doc.Bindings)
	slices.SortFunc(out, func(a, b Binding) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Provider, b.Provider))
	})
	return out
}

// Step is one place where a credential was looked for.
type Step struct {
	Rule  string `json:"rule"` // binding, project or shared
	Key   Key    `json:"key"`
	Found bool   `json:"found"`
}

// Resolve finds the credential that a project uses for a provider: its binding, else its own
// scope, else, unless own is set, the shared one. The steps say where it looked; the last one
// decided when ok is true. A binding whose credential is gone ends the search: falling back would
// use an account that nobody chose.
func (t *Tx) Resolve(project, provider string, own bool) (k Key, steps []Step, ok bool) {
	for _, b := range t.doc.Bindings {
		if project != "" && b.Project == project && b.Provider == provider {
			found := t.doc.find(b.key()) >= 0
			return b.key(), append(steps, Step{"binding", b.key(), found}), found
		}
	}
	try := func(rule, scope string) bool {
		k = Key{scope, provider, DefaultAccount}
		ok = t.doc.find(k) >= 0
		steps = append(steps, Step{rule, k, ok})
		return ok
	}
	if project != "" && try("project", "project:"+project) || !own && try("shared", "shared") {
		return k, steps, true
	}
	return Key{}, steps, false
}

// Journal returns the record of a credential's refresh.
func (t *Tx) Journal(k Key) (Journal, bool) {
	k = k.norm()
	for _, j := range t.doc.RefreshJournal {
		if j.Key == k {
			return j, true
		}
	}
	return Journal{}, false
}

// Journals returns the records of all refreshes.
func (t *Tx) Journals() []Journal { return slices.Clone(t.doc.RefreshJournal) }

// SetJournal writes the record of a stored credential's refresh, replacing the one before.
func (t *Tx) SetJournal(j Journal) error {
	j.Key = j.norm()
	if t.doc.find(j.Key) < 0 {
		return problem.New("credential_missing", problem.NotFound, "no such credential is stored").WithHint("terok vault list")
	}
	if j.Phase != PhaseIntent && j.Phase != PhaseStored || len(j.OldDigest) > 64 {
		return problem.New("usage", problem.Usage, "not a record of a refresh")
	}
	j.StartedAt, j.NextTryAt = stamp(j.StartedAt), stamp(j.NextTryAt)
	t.ClearJournal(j.Key)
	t.doc.RefreshJournal = append(t.doc.RefreshJournal, j)
	return nil
}

// ClearJournal removes the record of a credential's refresh.
func (t *Tx) ClearJournal(k Key) {
	k = k.norm()
	t.doc.RefreshJournal = slices.DeleteFunc(t.doc.RefreshJournal, func(j Journal) bool { return j.Key == k })
}
