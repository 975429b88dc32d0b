package store

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"terok/internal/problem"
)

const (
	maxSSHKeys  = 200
	maxPrivate  = 16 << 10 // bytes of a private key in PKCS#8
	maxComment  = 200      // bytes
	maxHostKeys = 1000
)

// Roles of an assignment.
const (
	RoleMain = "main"
	RoleSide = "side"
)

// SSHKey is one SSH key pair of the vault.
type SSHKey struct {
	ID          string    `json:"id"`                // chosen by the caller, lower-case letters and digits
	Type        string    `json:"type"`              // ed25519, rsa, ecdsa
	Private     []byte    `json:"private,omitempty"` // PKCS#8, DER; nil in lists
	Public      []byte    `json:"public"`            // SSH wire format
	Fingerprint string    `json:"fingerprint"`       // "SHA256:…", unique
	Comment     string    `json:"comment"`
	CreatedAt   time.Time `json:"created_at"`
	AllowHosts  []string  `json:"allow_hosts,omitempty"` // "host" or "host:port"; none: the project's upstream
	AllowUsers  []string  `json:"allow_users,omitempty"` // none: "git"
	AllowSSHSIG []string  `json:"allow_sshsig,omitempty"`
}

// SSHAssignment says that a scope's containers and gate may use a key.
type SSHAssignment struct {
	Scope      string    `json:"scope"` // a project's name, or "%…" for terok's own
	KeyID      string    `json:"key_id"`
	Role       string    `json:"role"` // main or side
	AssignedAt time.Time `json:"assigned_at"`
}

// HostKey is a pinned key of an SSH server.
type HostKey struct {
	Host    string    `json:"host"` // lower case, no brackets
	Port    int       `json:"port"`
	Type    string    `json:"type"`   // ssh-ed25519, …
	Blob    []byte    `json:"blob"`   // SSH wire format
	Source  string    `json:"source"` // builtin, user or tofu
	AddedAt time.Time `json:"added_at"`
}

// CheckComment judges the comment of an SSH key: printable, at most 200 bytes.
func CheckComment(s string) error {
	if len(s) > maxComment || strings.ContainsFunc(s, notPrintable) {
		return problem.New("invalid_comment", problem.Usage, "a key's comment is printable and at most %d bytes", maxComment)
	}
	return nil
}

func (k *SSHKey) clone() SSHKey {
	c := *k
	c.Private = bytes.Clone(k.Private)
	c.Public = bytes.Clone(k.Public)
	return c
}

func (k *SSHKey) check() error {
	switch {
	case !isKeyID(k.ID), !isKeyType(k.Type), !isFingerprint(k.Fingerprint),
		len(k.Private) == 0 || len(k.Private) > maxPrivate, len(k.Public) == 0 || len(k.Public) > maxPrivate:
		return problem.New("usage", problem.Usage, "not an SSH key that this version stores")
	}
	return CheckComment(k.Comment)
}

// PutSSHKey stores a key or replaces the one with its ID. A fingerprint that another ID has is a
// Problem ssh_key_exists.
func (t *Tx) PutSSHKey(k SSHKey) error {
	if err := k.check(); err != nil {
		return err
	}
	k = k.clone()
	k.CreatedAt = stamp(cmp.Or(k.CreatedAt, t.now))
	at := -1
	for i := range t.doc.SSHKeys {
		switch other := &t.doc.SSHKeys[i]; {
		case other.ID == k.ID:
			at = i
		case other.Fingerprint == k.Fingerprint:
			return problem.New("ssh_key_exists", problem.Conflict, "the vault has this SSH key already").With("id", other.ID)
		}
	}
	switch {
	case at >= 0:
		clear(t.doc.SSHKeys[at].Private)
		t.doc.SSHKeys[at] = k
	case len(t.doc.SSHKeys) >= maxSSHKeys:
		return problem.New("vault_full", problem.Failed, "the vault holds %d SSH keys already", maxSSHKeys).WithHint("terok ssh list")
	default:
		t.doc.SSHKeys = append(t.doc.SSHKeys, k)
	}
	return nil
}

// SSHKey returns a key with its private half, which the caller should clear after use.
func (t *Tx) SSHKey(id string) (SSHKey, bool) {
	for i := range t.doc.SSHKeys {
		if t.doc.SSHKeys[i].ID == id {
			return t.doc.SSHKeys[i].clone(), true
		}
	}
	return SSHKey{}, false
}

// SSHKeys returns every key without its private half, oldest first.
func (t *Tx) SSHKeys() []SSHKey {
	out := make([]SSHKey, len(t.doc.SSHKeys))
	for i := range t.doc.SSHKeys {
		k := t.doc.SSHKeys[i]
		k.Private = nil
		out[i] = k.clone()
	}
	slices.SortFunc(out, func(a, b SSHKey) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// DeleteSSHKey removes a key and its assignments, also from the generation before.
func (t *Tx) DeleteSSHKey(id string) (found bool) {
	for i := range t.doc.SSHKeys {
		if t.doc.SSHKeys[i].ID == id {
			clear(t.doc.SSHKeys[i].Private)
			t.doc.SSHKeys = slices.Delete(t.doc.SSHKeys, i, i+1)
			t.doc.SSHAssignments = slices.DeleteFunc(t.doc.SSHAssignments, func(a SSHAssignment) bool { return a.KeyID == id })
			t.purge = true
			return true
		}
	}
	return false
}

// AssignSSHKey lets scope use a key, or changes its role there. The scope has one main key: the
// one before becomes a side key.
func (t *Tx) AssignSSHKey(scope, id, role string) error {
	switch {
	case !isSSHScope(scope):
		return problem.New("invalid_scope", problem.Usage, "not a project's name")
	case role != RoleMain && role != RoleSide:
		return problem.New("usage", problem.Usage, "an SSH key's role is main or side")
	case !slices.ContainsFunc(t.doc.SSHKeys, func(k SSHKey) bool { return k.ID == id }):
		return problem.New("ssh_key_missing", problem.NotFound, "no such SSH key is stored").WithHint("terok ssh list")
	}
	found := false
	for i := range t.doc.SSHAssignments {
		switch a := &t.doc.SSHAssignments[i]; {
		case a.Scope == scope && a.KeyID == id:
			a.Role, found = role, true
		case a.Scope == scope && role == RoleMain:
			a.Role = RoleSide
		}
	}
	if !found {
		t.doc.SSHAssignments = append(t.doc.SSHAssignments, SSHAssignment{scope, id, role, stamp(t.now)})
	}
	return nil
}

// UnassignSSHKey takes a key from a scope and reports whether it was there. The key stays.
func (t *Tx) UnassignSSHKey(scope, id string) (found bool) {
	n := len(t.doc.SSHAssignments)
	t.doc.SSHAssignments = slices.DeleteFunc(t.doc.SSHAssignments, func(a SSHAssignment) bool { return a.Scope == scope && a.KeyID == id })
	return len(t.doc.SSHAssignments) < n
}

// SSHAssignments returns every assignment, by scope, main keys first, newest first.
func (t *Tx) SSHAssignments() []SSHAssignment {
	out := slices.Clone(t.doc.SSHAssignments)
	slices.SortStableFunc(out, func(a, b SSHAssignment) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Role, b.Role), b.AssignedAt.Compare(a.AssignedAt))
	})
	return out
}

// PutHostKey pins a server's key; one of the same host, port and type is replaced.
func (t *Tx) PutHostKey(k HostKey) error {
	if !isHost(k.Host) || k.Port < 1 || k.Port > 65535 || !isKeyType(k.Type) ||
		len(k.Blob) == 0 || len(k.Blob) > maxPrivate || !slices.Contains([]string{"builtin", "user", "tofu"}, k.Source) {
		return problem.New("usage", problem.Usage, "not a host key that this version stores")
	}
	k.AddedAt = stamp(cmp.Or(k.AddedAt, t.now))
	k.Blob = bytes.Clone(k.Blob)
	for i := range t.doc.HostKeys {
		if o := &t.doc.HostKeys[i]; o.Host == k.Host && o.Port == k.Port && o.Type == k.Type {
			*o = k
			return nil
		}
	}
	if len(t.doc.HostKeys) >= maxHostKeys {
		return problem.New("vault_full", problem.Failed, "the vault holds %d host keys already", maxHostKeys).WithHint("terok ssh hosts")
	}
	t.doc.HostKeys = append(t.doc.HostKeys, k)
	return nil
}

// HostKeys returns every pinned host key, by host and port.
func (t *Tx) HostKeys() []HostKey {
	out := slices.Clone(t.doc.HostKeys)
	slices.SortStableFunc(out, func(a, b HostKey) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Type, b.Type))
	})
	return out
}

// DeleteHostKeys forgets every key of host:port and reports how many there were.
func (t *Tx) DeleteHostKeys(host string, port int) int {
	n := len(t.doc.HostKeys)
	t.doc.HostKeys = slices.DeleteFunc(t.doc.HostKeys, func(k HostKey) bool { return k.Host == host && k.Port == port })
	return n - len(t.doc.HostKeys)
}
