package ssh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// server is an SSH server that took part in a key exchange.
type server struct {
	signer  ssh.Signer
	session []byte
}

func newServer(t testing.TB) *server {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	session := make([]byte, 32)
	rand.Read(session)
	return &server{signer, session}
}

func (s *server) key() []byte { return s.signer.PublicKey().Marshal() }

func (s *server) bind(t testing.TB) Bind {
	t.Helper()
	sig, err := s.signer.Sign(rand.Reader, s.session)
	if err != nil {
		t.Fatal(err)
	}
	return Bind{HostKey: s.key(), Session: s.session, Signature: ssh.Marshal(sig)}
}

// login is what a client signs to log in.
func login(session []byte, user, service, method, algorithm string, key, hostKey []byte) []byte {
	b := appendBytes(nil, session)
	b = append(b, msgUserauthRequest)
	b = appendBytes(b, []byte(user))
	b = appendBytes(b, []byte(service))
	b = appendBytes(b, []byte(method))
	b = append(b, 1)
	b = appendBytes(b, []byte(algorithm))
	b = appendBytes(b, key)
	if hostKey != nil {
		b = appendBytes(b, hostKey)
	}
	return b
}

func newKey(t testing.TB, kind string) *Key {
	t.Helper()
	k, err := NewKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestJudge: spec/vault.md §10: 75, 76. Only a login with this key, as an allowed user, at an
// allowed server, is signed.
func TestJudge(t *testing.T) {
	key, other := newKey(t, Ed25519), newKey(t, Ed25519)
	forge, evil := newServer(t), newServer(t)
	rules := Rules{Key: key.Public, Servers: []Server{{"forge.test", 22}}, Users: []string{"git"},
		Pins: func(s Server) [][]byte {
			if s == (Server{"forge.test", 22}) {
				return [][]byte{forge.key()}
			}
			return nil
		}}
	const alg = ssh.KeyAlgoED25519
	good := login(forge.session, "git", serviceConnection, methodPlain, alg, key.Public, nil)
	bound := login(forge.session, "git", serviceConnection, methodHostbound, alg, key.Public, forge.key())
	forged := forge.bind(t)
	forged.Signature = evil.bind(t).Signature
	moved := evil.bind(t) // a real bind of another server's session, presented for the forge's session
	forward := forge.bind(t)
	forward.Forwarded = true

	for name, c := range map[string]struct {
		data  []byte
		binds []Bind
	}{
		"a login":                       {good, []Bind{forge.bind(t)}},
		"a host-bound login":            {bound, []Bind{forge.bind(t)}},
		"a second session on one agent": {good, []Bind{evil.bind(t), forge.bind(t)}},
	} {
		use, err := rules.Judge(c.data, c.binds)
		if err != nil || use.User != "git" || use.Server != "forge.test" || use.Algorithm != alg {
			t.Errorf("%s: %+v, %v", name, use, err)
		}
	}
	for name, c := range map[string]struct {
		data  []byte
		binds []Bind
	}{
		"random bytes":                   {bytes.Repeat([]byte{7}, 64), []Bind{forge.bind(t)}},
		"nothing":                        {nil, []Bind{forge.bind(t)}},
		"a login with bytes behind":      {append(slices.Clone(good), 0), []Bind{forge.bind(t)}},
		"a truncated login":              {good[:len(good)-1], []Bind{forge.bind(t)}},
		"another user":                   {login(forge.session, "root", serviceConnection, methodPlain, alg, key.Public, nil), []Bind{forge.bind(t)}},
		"another service":                {login(forge.session, "git", "ssh-userauth", methodPlain, alg, key.Public, nil), []Bind{forge.bind(t)}},
		"another method":                 {login(forge.session, "git", serviceConnection, "hostbased", alg, key.Public, nil), []Bind{forge.bind(t)}},
		"another key":                    {login(forge.session, "git", serviceConnection, methodPlain, alg, other.Public, nil), []Bind{forge.bind(t)}},
		"a weak algorithm":               {login(forge.session, "git", serviceConnection, methodPlain, "ssh-rsa", key.Public, nil), []Bind{forge.bind(t)}},
		"an unbound client":              {good, nil},
		"another session":                {login(evil.session, "git", serviceConnection, methodPlain, alg, key.Public, nil), []Bind{forge.bind(t)}},
		"a server that nobody allowed":   {login(evil.session, "git", serviceConnection, methodPlain, alg, key.Public, nil), []Bind{evil.bind(t)}},
		"a forged bind":                  {good, []Bind{forged}},
		"a forged bind beside a good":    {good, []Bind{forged, forge.bind(t)}},
		"a forwarded agent":              {good, []Bind{forward}},
		"another server's bind":          {good, []Bind{moved}},
		"host-bound to another host key": {login(forge.session, "git", serviceConnection, methodHostbound, alg, key.Public, evil.key()), []Bind{forge.bind(t)}},
		"host-bound without a bind":      {bound, nil},
		"a signature of a file":          {sshsig("git"), []Bind{forge.bind(t)}},
		"too long":                       {make([]byte, MaxData+1), []Bind{forge.bind(t)}},
		"too many binds":                 {good, slices.Repeat([]Bind{forge.bind(t)}, maxBinds+1)},
	} {
		if use, err := rules.Judge(c.data, c.binds); err == nil {
			t.Errorf("%s: signed (%+v)", name, use)
		}
	}

	rules.Unbound = true
	if use, err := rules.Judge(good, nil); err != nil || use.Server != "" {
		t.Errorf("an unbound client where the operator allows it: %+v, %v", use, err)
	}
	if _, err := rules.Judge(bound, nil); err == nil {
		t.Error("an unbound client's host-bound request is signed")
	}
	rules.Namespaces = []string{"git"}
	if use, err := rules.Judge(sshsig("git"), nil); err != nil || use.Kind != "sshsig" || use.Namespace != "git" {
		t.Errorf("an allowed namespace: %+v, %v", use, err)
	}
	if _, err := rules.Judge(sshsig("file"), nil); err == nil {
		t.Error("a namespace that nobody allowed is signed")
	}
	rules.Servers = nil
	if _, err := rules.Judge(good, []Bind{forge.bind(t)}); err == nil {
		t.Error("a key for no server signs")
	}
}

func sshsig(namespace string) []byte {
	b := appendBytes([]byte(sshsigMagic), []byte(namespace))
	b = appendBytes(b, nil)
	b = appendBytes(b, []byte("sha512"))
	return appendBytes(b, make([]byte, 64))
}

// TestForgeKeys: the shipped host keys are those whose fingerprints the forges publish.
func TestForgeKeys(t *testing.T) {
	for host, want := range map[string]string{
		"github.com":    "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
		"gitlab.com":    "SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8",
		"bitbucket.org": "SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM",
		"codeberg.org":  "SHA256:mIlxA9k46MmM6qdJOdMnAQpzGxF4WIVVL+fj+wZbw0g",
	} {
		pins := BuiltinPins(Server{host, 22})
		if len(pins) != 1 || FingerprintOf(pins[0].Key) != want || pins[0].Type != "ssh-ed25519" {
			t.Errorf("%s: %+v", host, pins)
		}
	}
	if BuiltinPins(Server{"github.com", 2222}) != nil || BuiltinPins(Server{"evil.test", 22}) != nil {
		t.Error("a pin for a server that has none")
	}
}

func TestServerOfURL(t *testing.T) {
	for text, want := range map[string]string{
		"git@github.com:a/b":           "git github.com",
		"github.com:a/b":               " github.com",
		"ssh://git@forge.test:2222/r":  "git forge.test:2222",
		"ssh://Forge.Test/r":           " forge.test",
		"ssh://git@[fd00::1]:2222/r":   "git [fd00::1]:2222",
		"/srv/repo.git":                "-",
		"https://github.com/a/b":       "-",
		"ssh://git@-oProxyCommand=x/r": "-",
	} {
		s, user, ok := ServerOfURL(text)
		got := user + " " + s.String()
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, bad := range []string{"", "-x", "a b", "a:0", "a:70000", "a/b", "a\n"} {
		if s, err := ParseServer(bad); err == nil {
			t.Errorf("%q is a server: %v", bad, s)
		}
	}
}

func FuzzJudge(f *testing.F) {
	key, forge := newKey(f, Ed25519), newServer(f)
	rules := Rules{Key: key.Public, Servers: []Server{{"forge.test", 22}}, Users: []string{"git"}, Unbound: true,
		Namespaces: []string{"git"}, Pins: func(Server) [][]byte { return [][]byte{forge.key()} }}
	good := login(forge.session, "git", serviceConnection, methodPlain, ssh.KeyAlgoED25519, key.Public, nil)
	f.Add(good, []byte(nil), []byte(nil))
	f.Add(login(forge.session, "git", serviceConnection, methodHostbound, ssh.KeyAlgoED25519, key.Public, forge.key()), forge.session, forge.bind(f).Signature)
	f.Add(sshsig("git"), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, data, session, signature []byte) {
		var binds []Bind
		if session != nil {
			binds = []Bind{{HostKey: forge.key(), Session: session, Signature: signature}}
		}
		use, err := rules.Judge(data, binds)
		if err != nil {
			if s := err.Error(); len(s) > 400 || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Fatalf("unprintable or long: %q", s)
			}
			return
		}
		// Whatever is signed has exactly one of two shapes, and says all that the rules ask for.
		switch use.Kind {
		case "sshsig":
			if !bytes.HasPrefix(data, []byte(sshsigMagic)) || use.Namespace != "git" {
				t.Fatalf("signed as a file: %q", data)
			}
		case "userauth":
			req, err := parseUserauth(data)
			if err != nil || req.user != "git" || !bytes.Equal(req.key, key.Public) {
				t.Fatalf("signed: %q, %v", data, err)
			}
			again := login(req.session, req.user, serviceConnection, methodPlain, req.algorithm, req.key, nil)
			if req.hostKey != nil {
				again = login(req.session, req.user, serviceConnection, methodHostbound, req.algorithm, req.key, req.hostKey)
			}
			if !bytes.Equal(again, data) {
				t.Fatalf("two readings: %q and %q", data, again)
			}
		default:
			t.Fatalf("signed for %q", use.Kind)
		}
	})
}
