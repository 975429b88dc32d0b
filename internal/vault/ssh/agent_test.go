package ssh

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// ring is a backend with one key.
type ring struct {
	key   *Key
	rules Rules
	err   error
}

func (r *ring) Keys(context.Context) ([]Identity, error) {
	return []Identity{{r.key.Public, "tk-main:shop"}}, nil
}

func (r *ring) Sign(_ context.Context, public, data []byte, binds []Bind) ([]byte, error) {
	if !bytes.Equal(public, r.key.Public) {
		return nil, errors.New("no such key")
	}
	use, err := r.rules.Judge(data, binds)
	if r.err = err; err != nil {
		return nil, err
	}
	return Sign(r.key.Private, use.Algorithm, data)
}

func connect(t testing.TB, b Backend) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); ServeAgent(context.Background(), far, b) }()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

// TestAgent: Go's own client lists, binds and signs, with every kind of key.
func TestAgent(t *testing.T) {
	forge := newServer(t)
	for _, kind := range []string{Ed25519, RSA} {
		key := newKey(t, kind)
		b := &ring{key: key, rules: Rules{Key: key.Public, Servers: []Server{{"forge.test", 22}}, Users: []string{"git"},
			Pins: func(Server) [][]byte { return [][]byte{forge.key()} }}}
		c := agent.NewClient(connect(t, b))
		list, err := c.List()
		if err != nil || len(list) != 1 || !bytes.Equal(list[0].Blob, key.Public) || list[0].Comment != "tk-main:shop" {
			t.Fatalf("%s: %v, %v", kind, list, err)
		}
		bind := forge.bind(t)
		contents := appendBytes(appendBytes(appendBytes(nil, bind.HostKey), bind.Session), bind.Signature)
		if _, err := c.Extension(sessionBind, append(contents, 0)); err != nil {
			t.Fatalf("%s: bind: %v", kind, err)
		}
		public, err := ssh.ParsePublicKey(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		alg := algorithms(key.Public)[0]
		data := login(forge.session, "git", serviceConnection, methodPlain, alg, key.Public, nil)
		sig, err := c.SignWithFlags(public, data, agent.SignatureFlagRsaSha512)
		if err != nil {
			t.Fatalf("%s: %v, %v", kind, err, b.err)
		}
		if err := public.Verify(data, sig); err != nil || sig.Format != alg {
			t.Errorf("%s: %s: %v", kind, sig.Format, err)
		}
		if _, err := c.Sign(public, []byte("anything else")); err == nil {
			t.Errorf("%s: anything is signed", kind)
		}
		for what, err := range map[string]error{
			"add": c.Add(agent.AddedKey{PrivateKey: newRaw(t)}), "remove": c.RemoveAll(), "lock": c.Lock([]byte("x")), "unlock": c.Unlock([]byte("x")),
		} {
			if err == nil {
				t.Errorf("%s: %s is answered", kind, what)
			}
		}
		if _, err := c.Extension("query", nil); err == nil {
			t.Errorf("%s: another extension is answered", kind)
		}
	}
}

func newRaw(t *testing.T) any {
	t.Helper()
	raw, err := ssh.ParseRawPrivateKey(mustExport(t, newKey(t, Ed25519)))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustExport(t *testing.T, k *Key) []byte {
	t.Helper()
	file, err := ExportPrivate(k.Private, "comment")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSpoiled: after a bad bind nothing is signed on that connection, even with a good one behind.
func TestSpoiled(t *testing.T) {
	forge, key := newServer(t), newKey(t, Ed25519)
	b := &ring{key: key, rules: Rules{Key: key.Public, Servers: []Server{{"forge.test", 22}}, Users: []string{"git"},
		Pins: func(Server) [][]byte { return [][]byte{forge.key()} }}}
	c := agent.NewClient(connect(t, b))
	good := forge.bind(t)
	frame := func(bind Bind, forwarding byte) []byte {
		return append(appendBytes(appendBytes(appendBytes(nil, bind.HostKey), bind.Session), bind.Signature), forwarding)
	}
	if _, err := c.Extension(sessionBind, frame(good, 1)); err == nil {
		t.Error("a forwarded bind is taken")
	}
	if _, err := c.Extension(sessionBind, frame(good, 0)); err != nil {
		t.Error(err)
	}
	public, _ := ssh.ParsePublicKey(key.Public)
	if _, err := c.Sign(public, login(forge.session, "git", serviceConnection, methodPlain, ssh.KeyAlgoED25519, key.Public, nil)); err == nil {
		t.Error("signed on a spoiled connection")
	}
}

// TestBrokenMessages: spec/vault.md §10: 77.
func TestBrokenMessages(t *testing.T) {
	frame := func(msg ...byte) []byte { return appendBytes(nil, msg) }
	for name, c := range map[string]struct {
		send   []byte
		closed bool
	}{
		"length 0":               {[]byte{0, 0, 0, 0}, true},
		"300 KiB":                {append(binary.BigEndian.AppendUint32(nil, 300<<10), make([]byte, 300<<10)...), true},
		"half a list":            {frame(agentIdentities, 0), false},
		"a signature of nothing": {frame(agentSign), false},
		"an unknown message":     {frame(200, 1, 2, 3), false},
		"an extension cut short": {frame(agentExtension, 0, 0, 0, 9), false},
	} {
		conn := connect(t, &ring{key: newKey(t, Ed25519)})
		go func() { _, _ = conn.Write(c.send) }() // a refused one is not read to its end
		answer := make([]byte, 5)
		_, err := io.ReadFull(conn, answer)
		switch {
		case c.closed && err == nil:
			t.Errorf("%s: answered %x", name, answer)
		case !c.closed && (err != nil || !bytes.Equal(answer, []byte{0, 0, 0, 1, agentFailure})):
			t.Errorf("%s: %x, %v", name, answer, err)
		}
	}
}

// TestKeyFiles: what is exported is what ssh-keygen wrote, and odd files are refused.
func TestKeyFiles(t *testing.T) {
	for _, kind := range []string{Ed25519, RSA} {
		k := newKey(t, kind)
		back, err := ParsePrivate(mustExport(t, k), nil)
		if err != nil || back.Fingerprint != k.Fingerprint || back.Type != kind {
			t.Errorf("%s: %+v, %v", kind, back, err)
		}
		public, comment, err := ParsePublicLine([]byte(PublicLine(k.Public, "a b")))
		if err != nil || !bytes.Equal(public, k.Public) || comment != "a b" {
			t.Errorf("%s: %q, %v", kind, comment, err)
		}
	}
	k := newKey(t, Ed25519)
	raw, err := ssh.ParseRawPrivateKey(mustExport(t, k))
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(raw, "c", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	protected := pemOf(block.Type, block.Bytes)
	if _, err := ParsePrivate(protected, nil); !errors.Is(err, ErrEncrypted) {
		t.Errorf("a protected key: %v", err)
	}
	if _, err := ParsePrivate(protected, []byte("wrong")); err == nil {
		t.Error("a wrong passphrase opens")
	}
	if back, err := ParsePrivate(protected, []byte("secret")); err != nil || back.Fingerprint != k.Fingerprint {
		t.Errorf("its passphrase: %v", err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "a certificate": pemOf("CERTIFICATE", []byte{1, 2}),
		"two keys": append(mustExport(t, k), mustExport(t, k)...), "too long": make([]byte, 65<<10),
	} {
		if _, err := ParsePrivate(data, nil); err == nil {
			t.Errorf("%s is a key", name)
		}
	}
}

func FuzzAgent(f *testing.F) {
	forge, key := newServer(f), newKey(f, Ed25519)
	b := &ring{key: key, rules: Rules{Key: key.Public, Servers: []Server{{"forge.test", 22}}, Users: []string{"git"},
		Pins: func(Server) [][]byte { return [][]byte{forge.key()} }}}
	data := login(forge.session, "git", serviceConnection, methodPlain, ssh.KeyAlgoED25519, key.Public, nil)
	sign := append(appendBytes(appendBytes([]byte{agentSign}, key.Public), data), 0, 0, 0, 0)
	bind := forge.bind(f)
	ext := append(appendBytes(appendBytes(appendBytes(appendBytes([]byte{agentExtension}, []byte(sessionBind)), bind.HostKey), bind.Session), bind.Signature), 0)
	f.Add(appendBytes(appendBytes(nil, ext), sign))
	f.Add(appendBytes(nil, []byte{agentIdentities}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		near, far := net.Pipe()
		go func() {
			_, _ = near.Write(stream)
			near.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ServeAgent(ctx, far, b)
	})
}

func FuzzParsePrivate(f *testing.F) {
	k := newKey(f, Ed25519)
	file, err := ExportPrivate(k.Private, "c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, []byte(nil))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, data, passphrase []byte) {
		if len(passphrase) > 0 && bytes.Contains(data, []byte("OPENSSH")) {
			return // bcrypt with the file's own number of rounds: an operator's file, not a container's
		}
		k, err := ParsePrivate(data, passphrase)
		if err != nil {
			return
		}
		if _, err := Sign(k.Private, algorithms(k.Public)[0], []byte("x")); err != nil {
			t.Fatalf("a key that does not sign: %v", err)
		}
	})
}

func pemOf(kind string, data []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
}
