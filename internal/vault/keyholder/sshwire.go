package keyholder

import (
	"context"
	"errors"
	"time"

	"terok/internal/vault/ssh"
)

// OpSSH is every operation on SSH keys; SSHRequest.Do says which.
const OpSSH = "ssh"

// What OpSSH does. A supervisor may ask for SSHKeys and SSHSign, for its own task's project.
const (
	SSHKeys     = "keys"     // the public keys that Scope may use, main first
	SSHSign     = "sign"     // a signature, as far as ssh.Rules allow it
	SSHList     = "list"     // every key with its assignments and limits
	SSHPut      = "put"      // store Key and Private, assign it to Scope
	SSHAssign   = "assign"   // let Scope use KeyID in Role
	SSHUnassign = "unassign" // take KeyID from Scope; a key without a scope is deleted
	SSHChange   = "change"   // comment and limits of KeyID
	SSHDelete   = "delete"   // KeyID, everywhere
	SSHExport   = "export"   // the private half of KeyID
	SSHHosts    = "hosts"    // pinned host keys
	SSHPin      = "pin"      // pin Host
	SSHUnpin    = "unpin"    // forget the pins of Host.Host and Host.Port
)

// SSHKey describes a stored SSH key without its private half.
type SSHKey struct {
	ID          string          `json:"id"`
	Type        string          `json:"type"`   // ed25519, rsa or ecdsa
	Public      []byte          `json:"public"` // wire format
	Fingerprint string          `json:"fingerprint"`
	Comment     string          `json:"comment"`
	CreatedAt   time.Time       `json:"created_at"`
	Hosts       []string        `json:"hosts,omitempty"`  // it signs for; none: the project's upstream
	Users       []string        `json:"users,omitempty"`  // login names; none: that of the upstream, else git
	SSHSIG      []string        `json:"sshsig,omitempty"` // namespaces of file signatures
	Scopes      []SSHAssignment `json:"scopes,omitempty"`
}

// SSHAssignment says that a project may use a key.
type SSHAssignment struct {
	Scope string `json:"scope"`
	Role  string `json:"role"` // main or side
}

// SSHHost is a pinned host key.
type SSHHost struct {
	Host    string    `json:"host"`
	Port    int       `json:"port"`
	Type    string    `json:"type"`
	Key     []byte    `json:"key"`    // wire format
	Source  string    `json:"source"` // builtin, user or tofu
	AddedAt time.Time `json:"added_at"`
}

// SSHRequest is the body of OpSSH.
type SSHRequest struct {
	Do      string     `json:"do"`
	Scope   string     `json:"scope,omitempty"` // a project's name; a supervisor's own is taken
	KeyID   string     `json:"key_id,omitempty"`
	Role    string     `json:"role,omitempty"`
	Key     *SSHKey    `json:"key,omitempty"`
	Private []byte     `json:"private,omitempty"` // PKCS #8
	Host    *SSHHost   `json:"host,omitempty"`
	Public  []byte     `json:"public,omitempty"` // SSHSign: the key
	Data    []byte     `json:"data,omitempty"`
	Binds   []ssh.Bind `json:"binds,omitempty"`
	Servers []string   `json:"servers,omitempty"` // SSHSign of an operator: the upstream, for keys without hosts
	Users   []string   `json:"users,omitempty"`   // and its login name
	After   int        `json:"after,omitempty"`
}

// SSHReply is the body of its answer.
type SSHReply struct {
	Keys      []SSHKey  `json:"keys,omitempty"`
	Hosts     []SSHHost `json:"hosts,omitempty"`
	More      bool      `json:"more,omitempty"`
	Signature []byte    `json:"signature,omitempty"` // wire format
	Use       *ssh.Use  `json:"use,omitempty"`       // what was signed
	Private   []byte    `json:"private,omitempty"`
	Deleted   bool      `json:"deleted,omitempty"` // SSHUnassign: no scope is left
}

// SSH does one operation as the operator. The caller clears Private of request and reply.
func (c *Client) SSH(ctx context.Context, r SSHRequest) (*SSHReply, error) {
	resp, err := c.call(ctx, Request{Op: OpSSH, SSH: &r})
	if err != nil {
		return nil, err
	}
	if resp.SSH == nil {
		return &SSHReply{}, nil
	}
	return resp.SSH, nil
}

// SSHList describes every stored key, and SSHHosts every pinned host key.
func (c *Client) SSHList(ctx context.Context) ([]SSHKey, error) {
	var list []SSHKey
	for {
		r, err := c.SSH(ctx, SSHRequest{Do: SSHList, After: len(list)})
		if err != nil {
			return nil, err
		}
		list = append(list, r.Keys...)
		if !r.More || len(r.Keys) == 0 {
			return list, nil
		}
	}
}

// SSHHosts describes every pinned host key.
func (c *Client) SSHHosts(ctx context.Context) ([]SSHHost, error) {
	var list []SSHHost
	for {
		r, err := c.SSH(ctx, SSHRequest{Do: SSHHosts, After: len(list)})
		if err != nil {
			return nil, err
		}
		list = append(list, r.Hosts...)
		if !r.More || len(r.Hosts) == 0 {
			return list, nil
		}
	}
}

// Ring is an operator's connection as the agent of one project: what git's ssh on the host asks.
type Ring struct {
	Client  *Client
	Project string
	Servers []string // of the upstream, "host" or "host:port"
	Users   []string // its login name
}

// Keys implements ssh.Backend.
func (r *Ring) Keys(ctx context.Context) ([]ssh.Identity, error) {
	reply, err := r.Client.SSH(ctx, SSHRequest{Do: SSHKeys, Scope: r.Project})
	return identities(reply, err)
}

// Sign implements ssh.Backend.
func (r *Ring) Sign(ctx context.Context, public, data []byte, binds []ssh.Bind) ([]byte, error) {
	reply, err := r.Client.SSH(ctx, SSHRequest{Do: SSHSign, Scope: r.Project, Public: public, Data: data, Binds: binds,
		Servers: r.Servers, Users: r.Users})
	if err != nil {
		return nil, err
	}
	return reply.Signature, nil
}

func identities(r *SSHReply, err error) ([]ssh.Identity, error) {
	if err != nil {
		return nil, err
	}
	var list []ssh.Identity
	for _, k := range r.Keys {
		list = append(list, ssh.Identity{Public: k.Public, Comment: k.Comment})
	}
	return list, nil
}

// SSHKeys returns the public keys that this task may use.
func (s *Session) SSHKeys(ctx context.Context) ([]ssh.Identity, error) {
	resp, _, err := s.ask(ctx, Request{Op: OpSSH, SSH: &SSHRequest{Do: SSHKeys}})
	if err == nil && resp.SSH == nil {
		err = errors.New("the keyholder sent no keys")
	}
	return identities(resp.SSH, err)
}

// SSHSign returns a signature by one of the task's keys and what it is for. A refusal by the
// rules is a *Refusal with CodeSSHRefused.
func (s *Session) SSHSign(ctx context.Context, public, data []byte, binds []ssh.Bind) ([]byte, ssh.Use, error) {
	resp, _, err := s.ask(ctx, Request{Op: OpSSH, SSH: &SSHRequest{Do: SSHSign, Public: public, Data: data, Binds: binds}})
	if err != nil {
		return nil, ssh.Use{}, err
	}
	if resp.SSH == nil || resp.SSH.Use == nil {
		return nil, ssh.Use{}, errors.New("the keyholder sent no signature")
	}
	return resp.SSH.Signature, *resp.SSH.Use, nil
}

// CodeSSHRefused says that the rules of a key do not allow the signature.
const CodeSSHRefused = "sign_denied"
