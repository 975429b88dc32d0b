package ssh

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// Messages of the agent protocol (draft-ietf-sshm-ssh-agent §5, OpenSSH PROTOCOL.agent).
const (
	agentFailure    = 5
	agentSuccess    = 6
	agentIdentities = 11 // request; answered by 12
	agentAnswer     = 12
	agentSign       = 13 // request; answered by 14
	agentSignature  = 14
	agentExtension  = 27

	flagSHA256 = 2
	flagSHA512 = 4
)

const sessionBind = "session-bind@openssh.com"

// How long a client may take for a message that it has begun, and how long it may say nothing.
// ssh keeps its connection while it logs in; nobody needs one for ten minutes.
const (
	messageWithin = 5 * time.Second
	idleFor       = 10 * time.Minute
)

// Identity is a public key that an agent offers.
type Identity struct {
	Public  []byte // wire format
	Comment string
}

// Backend has the keys. Its methods are called from one goroutine per connection.
type Backend interface {
	Keys(ctx context.Context) ([]Identity, error)
	// Sign returns a signature in wire format. An error is a refusal; the client learns no reason.
	Sign(ctx context.Context, public, data []byte, binds []Bind) ([]byte, error)
}

// ServeAgent answers one client until it closes, breaks the protocol, is silent for too long, or
// ctx ends. Everything but the list of keys, signatures and session binds is refused.
func ServeAgent(ctx context.Context, conn net.Conn, b Backend) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := client{backend: b}
	for {
		msg, err := readMessage(conn)
		if err != nil {
			return
		}
		answer := c.handle(ctx, msg)
		_ = conn.SetWriteDeadline(time.Now().Add(messageWithin))
		if _, err := conn.Write(appendBytes(nil, answer)); err != nil {
			return
		}
	}
}

func readMessage(conn net.Conn) ([]byte, error) {
	var head [4]byte
	_ = conn.SetReadDeadline(time.Now().Add(idleFor))
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(messageWithin))
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxMessage {
		return nil, errors.New("no message has that length")
	}
	msg := make([]byte, 0, min(n, 4<<10)) // grows as bytes come, not as they are announced
	for len(msg) < int(n) {
		at := len(msg)
		msg = append(msg, make([]byte, min(int(n)-at, 4<<10))...)
		if _, err := io.ReadFull(conn, msg[at:]); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// client is one connection: what it bound itself to.
type client struct {
	backend Backend
	binds   []Bind
	spoiled bool // a bind was bad: nothing is signed any more
}

func (c *client) handle(ctx context.Context, msg []byte) []byte {
	in := reader{rest: msg[1:]}
	switch msg[0] {
	case agentIdentities:
		if in.end() {
			return c.identities(ctx)
		}
	case agentSign:
		public, data, flags := in.bytes(), in.bytes(), in.uint32()
		if in.end() && flags&^(flagSHA256|flagSHA512) == 0 && len(data) <= MaxData {
			return c.sign(ctx, public, data)
		}
	case agentExtension:
		if in.string() == sessionBind {
			return c.bind(&in)
		}
	}
	return []byte{agentFailure}
}

func (c *client) identities(ctx context.Context) []byte {
	keys, err := c.backend.Keys(ctx)
	if err != nil {
		return []byte{agentFailure}
	}
	out := binary.BigEndian.AppendUint32([]byte{agentAnswer}, uint32(len(keys)))
	for _, k := range keys {
		out = appendBytes(appendBytes(out, k.Public), []byte(k.Comment))
	}
	return out
}

func (c *client) sign(ctx context.Context, public, data []byte) []byte {
	if c.spoiled {
		return []byte{agentFailure}
	}
	sig, err := c.backend.Sign(ctx, public, data, c.binds)
	if err != nil {
		return []byte{agentFailure}
	}
	return appendBytes([]byte{agentSignature}, sig)
}

// bind remembers a session. A bad one spoils the connection, because OpenSSH goes on after a
// refused bind.
func (c *client) bind(in *reader) []byte {
	b := Bind{HostKey: in.bytes(), Session: in.bytes(), Signature: in.bytes(), Forwarded: in.bool()}
	if !in.end() || len(c.binds) == maxBinds || b.Forwarded || b.verify() != nil {
		c.spoiled = true
		return []byte{agentFailure}
	}
	c.binds = append(c.binds, b)
	return []byte{agentSuccess}
}
