package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	msgUserauthRequest = 50 // SSH_MSG_USERAUTH_REQUEST, RFC 4252 §6
	methodPlain        = "publickey"
	methodHostbound    = "publickey-hostbound-v00@openssh.com"
	serviceConnection  = "ssh-connection"
	sshsigMagic        = "SSHSIG" // OpenSSH PROTOCOL.sshsig
)

// Bind ties a client's connection to one SSH session, as the client said it and the server signed
// it (session-bind@openssh.com, OpenSSH PROTOCOL.agent).
type Bind struct {
	HostKey   []byte `json:"host_key"`   // the server's, wire format
	Session   []byte `json:"session"`    // the session id: the hash of the key exchange
	Signature []byte `json:"signature"`  // of the session id by the host key, wire format
	Forwarded bool   `json:"forwarding"` // the session forwards the agent to that server
}

// Server is a host and port that a key is meant for.
type Server struct {
	Host string // lower case
	Port int
}

func (s Server) String() string {
	if s.Port == 22 {
		return s.Host
	}
	return net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
}

// ParseServer reads "host" or "host:port".
func ParseServer(text string) (Server, error) {
	s := Server{Host: strings.ToLower(text), Port: 22}
	if host, port, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Server{}, fmt.Errorf("%q is not a port", port)
		}
		s = Server{strings.ToLower(host), int(n)}
	}
	if !plainHost(s.Host) {
		return Server{}, fmt.Errorf("%q is not host or host:port", text)
	}
	return s, nil
}

// plainHost accepts names and addresses that mean one thing in known_hosts and in ssh's arguments.
func plainHost(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' || r == ':')
	})
}

// Rules say what one key may sign.
type Rules struct {
	Key        []byte                // the public key, wire format
	Servers    []Server              // it is meant for; none: no server at all
	Users      []string              // login names; none: no user at all
	Namespaces []string              // of SSHSIG signatures ("git" for commits); none: never
	Pins       func(Server) [][]byte // host keys that are known for a server, wire format
	Unbound    bool                  // also sign for clients that do not bind their session
}

// Use is what a signature is for.
type Use struct {
	Kind      string // userauth or sshsig
	Algorithm string // of the signature
	User      string
	Server    string // host or host:port; "" for an unbound session
	Namespace string
}

// Judge decides whether data may be signed with the key, by what the client bound its session to.
// The error says why not; it holds nothing of data but what is printable and short.
func (r Rules) Judge(data []byte, binds []Bind) (Use, error) {
	if len(data) > MaxData || len(binds) > maxBinds {
		return Use{}, errors.New("more than a signature request holds")
	}
	if bytes.HasPrefix(data, []byte(sshsigMagic)) {
		return r.judgeSig(data)
	}
	req, err := parseUserauth(data)
	if err != nil {
		return Use{}, err
	}
	if !bytes.Equal(req.key, r.Key) {
		return Use{}, errors.New("the request names another key than the one it shall be signed with")
	}
	if !slices.Contains(algorithms(r.Key), req.algorithm) {
		return Use{}, fmt.Errorf("the signature algorithm %.40q is not for this key", req.algorithm)
	}
	if !slices.Contains(r.Users, req.user) {
		return Use{}, fmt.Errorf("this key is not for the user %.40q", req.user)
	}
	use := Use{Kind: "userauth", Algorithm: req.algorithm, User: req.user}
	bound, err := bindOf(req, binds)
	if err != nil {
		return Use{}, err
	}
	if bound == nil {
		if !r.Unbound {
			return Use{}, errors.New("the client does not say which server it talks to (OpenSSH before 8.9)")
		}
		return use, nil
	}
	server, err := r.serverOf(bound.HostKey)
	if err != nil {
		return Use{}, err
	}
	use.Server = server.String()
	return use, nil
}

// bindOf finds the bind of a request's session and verifies it. Every bind counts: one that is
// forged or forwards the agent spoils the connection, since what comes over it may be another's.
func bindOf(req *userauth, binds []Bind) (*Bind, error) {
	var found *Bind
	for i := range binds {
		b := &binds[i]
		if b.Forwarded {
			return nil, errors.New("the agent was forwarded to a server")
		}
		if err := b.verify(); err != nil {
			return nil, err
		}
		if bytes.Equal(b.Session, req.session) {
			found = b
		}
	}
	switch {
	case len(binds) > 0 && found == nil:
		return nil, errors.New("the request is for another session than the client bound")
	case req.hostKey != nil && found == nil:
		return nil, errors.New("the request names a host key that the client did not bind")
	case req.hostKey != nil && !bytes.Equal(req.hostKey, found.HostKey):
		return nil, errors.New("the request names another host key than the client bound")
	}
	return found, nil
}

// verify checks the server's signature over the session id: only a server that has the host key
// and took part in this key exchange could make it (RFC 4253 §8).
func (b *Bind) verify() error {
	key, err := ssh.ParsePublicKey(b.HostKey)
	if err != nil {
		return errors.New("the bound host key cannot be read")
	}
	if _, cert := key.(*ssh.Certificate); cert {
		return errors.New("host certificates are not supported: pin the host key")
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(b.Signature, &sig); err != nil || len(sig.Rest) > 0 {
		return errors.New("the server's signature cannot be read")
	}
	if err := key.Verify(b.Session, &sig); err != nil {
		return errors.New("the server's signature does not verify")
	}
	return nil
}

// serverOf finds the allowed server whose pinned host key this is.
func (r Rules) serverOf(hostKey []byte) (Server, error) {
	for _, s := range r.Servers {
		for _, pin := range r.Pins(s) {
			if bytes.Equal(pin, hostKey) {
				return s, nil
			}
		}
	}
	names := make([]string, len(r.Servers))
	for i, s := range r.Servers {
		names[i] = s.String()
	}
	return Server{}, fmt.Errorf("the server with host key %s is none that this key is meant for (%s)",
		FingerprintOf(hostKey), strings.Join(names, ", "))
}

func (r Rules) judgeSig(data []byte) (Use, error) {
	in := reader{rest: data[len(sshsigMagic):]}
	namespace, reserved, hash, digest := in.string(), in.bytes(), in.string(), in.bytes()
	if !in.end() || len(reserved) > 0 || (hash != "sha256" || len(digest) != 32) && (hash != "sha512" || len(digest) != 64) {
		return Use{}, errors.New("not a signature request of ssh-keygen -Y sign")
	}
	if !slices.Contains(r.Namespaces, namespace) {
		return Use{}, fmt.Errorf("this key does not sign for the namespace %.40q", namespace)
	}
	algorithm := algorithms(r.Key)
	if len(algorithm) == 0 {
		return Use{}, errors.New("this kind of key signs nothing")
	}
	return Use{Kind: "sshsig", Algorithm: algorithm[0], Namespace: namespace}, nil
}

// userauth is a request for user authentication by public key.
type userauth struct {
	session   []byte
	user      string
	algorithm string
	key       []byte
	hostKey   []byte // hostbound form only
}

// parseUserauth reads exactly what a client signs to log in (RFC 4252 §7), and nothing else.
func parseUserauth(data []byte) (*userauth, error) {
	in := reader{rest: data}
	req := &userauth{session: in.bytes()}
	kind := in.byte()
	req.user = in.string()
	service, method, signed := in.string(), in.string(), in.bool()
	req.algorithm, req.key = in.string(), in.bytes()
	if method == methodHostbound {
		req.hostKey = in.bytes()
	}
	if !in.end() || kind != msgUserauthRequest || service != serviceConnection || !signed ||
		method != methodPlain && method != methodHostbound || len(req.session) < 16 || len(req.session) > 64 ||
		method == methodHostbound && len(req.hostKey) == 0 {
		return nil, errors.New("not a login with a public key; nothing else is signed")
	}
	return req, nil
}
