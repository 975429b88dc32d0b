// Package ssh says what an SSH key of the vault may sign, and speaks the agent protocol that asks
// for it.
//
// A private key never leaves the keyholder. A client (ssh inside a container, or git's ssh on the
// host) talks the protocol of ssh-agent(1) to ServeAgent, which knows two questions and refuses
// the rest: which keys are there, and sign this. What is to be signed is judged by Rules.Judge in
// the keyholder, not where the question came in, because that process read the container's bytes:
//
//   - only a request for user authentication (RFC 4252 §7, also OpenSSH's hostbound form) that
//     names the very key, an allowed user and the connection service, with nothing behind it;
//   - only for a server that the key is meant for: the client has bound its session to a host key
//     (session-bind@openssh.com), the server's signature over the session id verifies, and the
//     host key is pinned for an allowed host;
//   - signatures of files (SSHSIG) only for namespaces that the operator listed, else never.
//
// So whoever controls the container can push where the operator said, while the container lives,
// and can sign nothing that is worth anything elsewhere.
//
//	rules := ssh.Rules{Key: public, Hosts: hosts, Users: []string{"git"}, Pins: pins}
//	use, err := rules.Judge(data, binds)
//	signature, err := ssh.Sign(pkcs8, use.Algorithm, data)
package ssh

import (
	"encoding/binary"
	"errors"
)

// Bounds of what a client may send, in bytes.
const (
	maxMessage = 256 << 10 // one message of the agent protocol, as in OpenSSH
	MaxData    = 16 << 10  // what is to be signed
	maxBinds   = 16
)

var errShort = errors.New("not the SSH wire format")

// reader reads the SSH wire format (RFC 4251 §5). After the first error everything is empty.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n uint32) []byte {
	if r.err != nil || uint64(n) > uint64(len(r.rest)) {
		r.err = errShort
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// bool accepts 0 and 1 only, so that a value has one reading.
func (r *reader) bool() bool {
	b := r.byte()
	if b > 1 {
		r.err = errShort
	}
	return b == 1
}

func (r *reader) bytes() []byte  { return r.take(r.uint32()) }
func (r *reader) string() string { return string(r.bytes()) }

// end reports whether everything was read, exactly.
func (r *reader) end() bool { return r.err == nil && len(r.rest) == 0 }

func appendBytes(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
