package holder

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"

	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
)

// forge is an SSH server in the middle of a login.
type forge struct {
	signer  xssh.Signer
	session []byte
}

func newForge(t *testing.T) *forge {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{signer, make([]byte, 32)}
	rand.Read(f.session)
	return f
}

func (f *forge) binds(t *testing.T) []ssh.Bind {
	t.Helper()
	sig, err := f.signer.Sign(rand.Reader, f.session)
	if err != nil {
		t.Fatal(err)
	}
	return []ssh.Bind{{HostKey: f.signer.PublicKey().Marshal(), Session: f.session, Signature: xssh.Marshal(sig)}}
}

func (f *forge) login(user string, key []byte) []byte {
	return xssh.Marshal(struct {
		Session               []byte
		Kind                  byte
		User, Service, Method string
		Signed                bool
		Algorithm             string
		Key                   []byte
	}{f.session, 50, user, "ssh-connection", "publickey", true, "ssh-ed25519", key})
}

func (r *rig) sshKey(c *keyholder.Client, scope string, limits keyholder.SSHKey) *ssh.Key {
	r.t.Helper()
	k, err := ssh.NewKey(ssh.Ed25519)
	if err != nil {
		r.t.Fatal(err)
	}
	limits.ID, limits.Type, limits.Public, limits.Fingerprint = idOf(k), k.Type, k.Public, k.Fingerprint
	if _, err := c.SSH(r.ctx, keyholder.SSHRequest{Do: keyholder.SSHPut, Scope: scope, Role: "main", Key: &limits, Private: append([]byte(nil), k.Private...)}); err != nil {
		r.t.Fatal(err)
	}
	return k
}

func idOf(k *ssh.Key) string { return fmt.Sprintf("k%x", k.Public[len(k.Public)-8:]) }

// sshContainer is a running container of project p whose tasks may use SSH keys, or not.
func (r *rig) sshContainer(key string, grant *sandbox.SSH) *keyholder.Session {
	r.t.Helper()
	path, _ := r.container(key)
	var f sandbox.File
	if err := state.ReadJSON(path, &f); err != nil {
		r.t.Fatal(err)
	}
	f.SSH = grant
	if err := state.WriteJSON(path, f); err != nil {
		r.t.Fatal(err)
	}
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		r.t.Fatal(err)
	}
	s := keyholder.NewSession(conn)
	r.t.Cleanup(func() { s.Close() })
	return s
}

// TestSSHKeysOfTheProjectOnly: spec/vault.md §10: 71, 75, 76, 78.
func TestSSHKeysOfTheProjectOnly(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	own := r.sshKey(c, "p", keyholder.SSHKey{})
	other := r.sshKey(c, "q", keyholder.SSHKey{})
	hidden := r.sshKey(c, "%host", keyholder.SSHKey{})
	f, evil := newForge(t), newForge(t)
	pin := func(f *forge) {
		if _, err := c.SSH(r.ctx, keyholder.SSHRequest{Do: keyholder.SSHPin, Host: &keyholder.SSHHost{Host: "forge.test", Port: 22,
			Type: "ssh-ed25519", Key: f.signer.PublicKey().Marshal(), Source: "user"}}); err != nil {
			t.Fatal(err)
		}
	}
	pin(f)
	s := r.sshContainer("t1", &sandbox.SSH{Servers: []string{"forge.test"}})
	keys, err := s.SSHKeys(r.ctx)
	if err != nil || len(keys) != 1 || string(keys[0].Public) != string(own.Public) {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	sig, use, err := s.SSHSign(r.ctx, own.Public, f.login("git", own.Public), f.binds(t))
	if err != nil || use.Server != "forge.test" || use.User != "git" {
		t.Fatalf("%+v, %v", use, err)
	}
	public, err := xssh.ParsePublicKey(own.Public)
	if err != nil {
		t.Fatal(err)
	}
	var parsed xssh.Signature
	if err := xssh.Unmarshal(sig, &parsed); err != nil || public.Verify(f.login("git", own.Public), &parsed) != nil {
		t.Errorf("the signature does not verify: %v", err)
	}
	var refusal *keyholder.Refusal
	for name, sign := range map[string]func() error{
		"another project's key": func() error {
			_, _, err := s.SSHSign(r.ctx, other.Public, f.login("git", other.Public), f.binds(t))
			return err
		},
		"terok's own key": func() error {
			_, _, err := s.SSHSign(r.ctx, hidden.Public, f.login("git", hidden.Public), f.binds(t))
			return err
		},
		"another server": func() error {
			_, _, err := s.SSHSign(r.ctx, own.Public, evil.login("git", own.Public), evil.binds(t))
			return err
		},
		"another user": func() error {
			_, _, err := s.SSHSign(r.ctx, own.Public, f.login("root", own.Public), f.binds(t))
			return err
		},
		"an unbound session": func() error {
			_, _, err := s.SSHSign(r.ctx, own.Public, f.login("git", own.Public), nil)
			return err
		},
	} {
		if err := sign(); !errors.As(err, &refusal) || refusal.Code != keyholder.CodeSSHRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A supervisor neither exports nor changes anything, and a task without the grant signs nothing.
	none := r.sshContainer("t2", nil)
	if keys, err := none.SSHKeys(r.ctx); !errors.Is(err, keyholder.ErrNotGranted) {
		t.Errorf("without a grant: %v, %v", keys, err)
	}
	if _, _, err := none.SSHSign(r.ctx, own.Public, f.login("git", own.Public), f.binds(t)); !errors.Is(err, keyholder.ErrNotGranted) {
		t.Errorf("without a grant: %v", err)
	}
	// The host key changed: nothing is signed for the new one until the operator pins it.
	if _, err := c.SSH(r.ctx, keyholder.SSHRequest{Do: keyholder.SSHUnpin, Host: &keyholder.SSHHost{Host: "forge.test", Port: 22}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.SSHSign(r.ctx, own.Public, f.login("git", own.Public), f.binds(t)); err == nil {
		t.Error("signed for a server without a pin")
	}
}

// TestSSHSignatureRate: a container cannot have signatures without end.
func TestSSHSignatureRate(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	own := r.sshKey(c, "p", keyholder.SSHKey{Hosts: []string{"forge.test"}, SSHSIG: []string{"git"}})
	s := r.sshContainer("t1", &sandbox.SSH{})
	sshsig := append([]byte("SSHSIG"), xssh.Marshal(struct {
		Namespace string
		Reserved  []byte
		Hash      string
		Digest    []byte
	}{"git", nil, "sha512", make([]byte, 64)})...)
	signed := 0
	for range 3 * signBurst {
		if _, _, err := s.SSHSign(r.ctx, own.Public, sshsig, nil); err == nil {
			signed++
		}
	}
	if signed < signBurst || signed > 2*signBurst {
		t.Errorf("%d of %d were signed", signed, 3*signBurst)
	}
}

// TestSSHOperator: the operator's side: list, limits, assignments, export, removal.
func TestSSHOperator(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	k := r.sshKey(c, "p", keyholder.SSHKey{Comment: "tk-main:p"})
	do := func(req keyholder.SSHRequest) *keyholder.SSHReply {
		t.Helper()
		reply, err := c.SSH(r.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	do(keyholder.SSHRequest{Do: keyholder.SSHAssign, Scope: "q", KeyID: idOf(k), Role: "side"})
	do(keyholder.SSHRequest{Do: keyholder.SSHChange, KeyID: idOf(k), Key: &keyholder.SSHKey{Comment: "new", Hosts: []string{"a.test"}, Users: []string{"me"}}})
	list, err := c.SSHList(r.ctx)
	if err != nil || len(list) != 1 || list[0].Comment != "new" || len(list[0].Scopes) != 2 || list[0].Hosts[0] != "a.test" || list[0].Fingerprint != k.Fingerprint {
		t.Fatalf("%+v, %v", list, err)
	}
	if reply := do(keyholder.SSHRequest{Do: keyholder.SSHExport, KeyID: idOf(k)}); string(reply.Private) != string(k.Private) {
		t.Error("another key came back")
	}
	if do(keyholder.SSHRequest{Do: keyholder.SSHUnassign, Scope: "p", KeyID: idOf(k)}).Deleted {
		t.Error("deleted while project q uses it")
	}
	if !do(keyholder.SSHRequest{Do: keyholder.SSHUnassign, Scope: "q", KeyID: idOf(k)}).Deleted {
		t.Error("kept although nobody uses it")
	}
	for _, req := range []keyholder.SSHRequest{
		{Do: keyholder.SSHDelete, KeyID: idOf(k)}, {Do: keyholder.SSHExport, KeyID: idOf(k)}, {Do: keyholder.SSHChange, KeyID: idOf(k), Key: &keyholder.SSHKey{}},
		{Do: keyholder.SSHUnassign, Scope: "p", KeyID: idOf(k)}, {Do: keyholder.SSHUnpin, Host: &keyholder.SSHHost{Host: "x.test", Port: 22}},
		{Do: "format"}, {Do: keyholder.SSHPut, Scope: "p"}, {Do: keyholder.SSHPin},
	} {
		if _, err := c.SSH(r.ctx, req); err == nil {
			t.Errorf("%s: no error", req.Do)
		}
	}
	// More keys than one message holds.
	for i := range 120 {
		r.sshKey(c, "many-"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+strings.Repeat("y", i/26), keyholder.SSHKey{Comment: strings.Repeat("c", 200)})
	}
	if list, err := c.SSHList(r.ctx); err != nil || len(list) != 120 {
		t.Errorf("%d keys, %v", len(list), err)
	}
	if _, err := c.SSH(r.ctx, keyholder.SSHRequest{Do: keyholder.SSHKeys, Scope: "%host"}); err != nil {
		t.Error(err)
	}
}
