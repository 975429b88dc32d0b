package keyholder

import (
	"context"
	"errors"
	"time"
)

// Slot describes one way into the vault.
type Slot struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // passphrase, recovery, command, systemd-creds or secret-service
	CreatedAt time.Time `json:"created_at"`
	Generated bool      `json:"generated,omitempty"` // a passphrase that terok minted
}

// Ways are the ways into an open vault, proven with its key.
type Ways struct {
	Slots        []Slot    `json:"slots"`
	Acknowledged time.Time `json:"acknowledged_at,omitzero"` // of the recovery code
	RolledBack   bool      `json:"rolled_back,omitempty"`    // slots.json was put back from an older copy
}

// NewSlot is a way in to be made.
type NewSlot struct {
	Kind      string `json:"kind"`
	ID        string `json:"id,omitempty"`     // of a minted secret
	Sealed    []byte `json:"sealed,omitempty"` // systemd-creds
	Generated bool   `json:"generated,omitempty"`
	Replace   bool   `json:"replace,omitempty"` // take the others of this kind away
}

// Finding is something that is wrong with the vault on disk.
type Finding struct {
	File    string `json:"file"`
	Message string `json:"message"`
}

// Merged counts what a merge did.
type Merged struct {
	Added int `json:"added"`
	Kept  int `json:"kept"`
}

// Step is one place where a project's credential was looked for; the last one decided.
type Step struct {
	Rule     string `json:"rule"` // binding, project or shared
	Scope    string `json:"scope"`
	Provider string `json:"provider"`
	Account  string `json:"account"`
	Found    bool   `json:"found"`
}

// Binding says which credential a project uses for a provider, whatever its own scope.
type Binding struct {
	Project  string `json:"project"`
	Provider string `json:"provider"`
	Scope    string `json:"scope"`
	Account  string `json:"account"`
}

// Operations on the vault itself.
const (
	OpWays        = "ways"
	OpAddSlot     = "add_slot"    // Slot, Passphrase: its secret
	OpRemoveSlot  = "remove_slot" // Name
	OpAcknowledge = "acknowledge"
	OpReveal      = "reveal"
	OpRotate      = "rotate" // Secrets
	OpVerify      = "verify"
	OpBackup      = "backup"  // Path, Name: an age recipient or ""
	OpMerge       = "merge"   // Path, Passphrase: what opens the backup
	OpExplain     = "explain" // Scope: the project's grant, Name: the project, Provider
	OpBindings    = "bindings"
	OpUpgrade     = "upgrade"
)

// Ways asks for the ways into the vault.
func (c *Client) Ways(ctx context.Context) (Ways, error) {
	resp, err := c.call(ctx, Request{Op: OpWays})
	if err != nil {
		return Ways{}, err
	}
	if resp.Ways == nil {
		return Ways{}, errors.New("the keyholder described no slots")
	}
	return *resp.Ways, nil
}

// AddSlot makes a way in that secret opens. Of passphrase, recovery and command there is one each.
func (c *Client) AddSlot(ctx context.Context, s NewSlot, secret []byte) (Slot, error) {
	resp, err := c.call(ctx, Request{Op: OpAddSlot, Slot: &s, Passphrase: secret})
	return firstSlot(resp, err)
}

// RemoveSlot takes a way in away, by id, the beginning of one, or kind.
func (c *Client) RemoveSlot(ctx context.Context, name string) (Slot, error) {
	resp, err := c.call(ctx, Request{Op: OpRemoveSlot, Name: name})
	return firstSlot(resp, err)
}

func firstSlot(resp Response, err error) (Slot, error) {
	switch {
	case err != nil:
		return Slot{}, err
	case resp.Ways == nil || len(resp.Ways.Slots) != 1:
		return Slot{}, errors.New("the keyholder described no slot")
	}
	return resp.Ways.Slots[0], nil
}

// Acknowledge records that somebody has the recovery code and reports whether that was known.
func (c *Client) Acknowledge(ctx context.Context) (before bool, err error) {
	resp, err := c.call(ctx, Request{Op: OpAcknowledge})
	return resp.Replaced, err
}

// Reveal returns the passphrase if terok minted it; the caller clears it.
func (c *Client) Reveal(ctx context.Context) ([]byte, error) {
	resp, err := c.call(ctx, Request{Op: OpReveal})
	return resp.Secret, err
}

// Rotate gives the vault a new key. Slots whose secret is among secrets stay; the others are
// dropped and returned.
func (c *Client) Rotate(ctx context.Context, secrets [][]byte) (dropped []Slot, err error) {
	resp, err := c.call(ctx, Request{Op: OpRotate, Secrets: secrets})
	if err != nil || resp.Ways == nil {
		return nil, err
	}
	return resp.Ways.Slots, nil
}

// Verify reads the vault again from disk and returns what is wrong with it.
func (c *Client) Verify(ctx context.Context) ([]Finding, error) {
	resp, err := c.call(ctx, Request{Op: OpVerify})
	return resp.Findings, err
}

// Backup writes a backup to an absolute path that does not exist, encrypted once more to an age
// recipient unless that is "".
func (c *Client) Backup(ctx context.Context, path, recipient string) error {
	_, err := c.call(ctx, Request{Op: OpBackup, Path: path, Name: recipient})
	return err
}

// Merge adds what the backup at path, opened by secret, has and the vault has not.
func (c *Client) Merge(ctx context.Context, path string, secret []byte) (Merged, error) {
	resp, err := c.call(ctx, Request{Op: OpMerge, Path: path, Passphrase: secret})
	if err != nil || resp.Merged == nil {
		return Merged{}, err
	}
	return *resp.Merged, nil
}

// Explain says where a project's credential for a provider is looked for and what decides. scope
// is the project's own choice, "shared" or "project:NAME".
func (c *Client) Explain(ctx context.Context, project, provider, scope string) ([]Step, error) {
	resp, err := c.call(ctx, Request{Op: OpExplain, Name: project, Provider: provider, Scope: scope})
	return resp.Steps, err
}

// Bindings returns every binding, by project and provider.
func (c *Client) Bindings(ctx context.Context) ([]Binding, error) {
	resp, err := c.call(ctx, Request{Op: OpBindings})
	return resp.Bindings, err
}

// Upgrade makes a keyholder whose program was replaced on disk start the new one, with the vault
// open as it was. Connections end; it listens again within a moment.
func (c *Client) Upgrade(ctx context.Context) error {
	if _, err := c.call(ctx, Request{Op: OpUpgrade}); err != nil {
		return err
	}
	return c.hangUp(ctx)
}
