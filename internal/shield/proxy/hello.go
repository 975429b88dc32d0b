package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

const (
	maxHead      = 16 << 10        // bytes of a ClientHello or HTTP head
	startTimeout = 5 * time.Second // for the whole of either

	recordHandshake = 22
	clientHelloType = 1
)

var (
	errNotTLS   = errors.New("not a TLS ClientHello")
	errSeen     = errors.New("seen") // ends the handshake once the hello is read
	errHelloBad = errors.New("unreadable ClientHello")
)

// helloComplete walks TLS records (RFC 8446 §5.1) and reports whether b holds a whole first
// handshake message. It only decides when to parse; crypto/tls judges the content.
func helloComplete(b []byte) (bool, error) {
	var msg []byte // first 4 bytes of the handshake message
	have := 0
	switch {
	case len(b) > 0 && b[0] != recordHandshake:
		return false, errNotTLS
	case len(b) > 1 && b[1] != 3:
		// No client of ours writes another major version, but some servers take it, those that are
		// written in Go among them: what reads as a ClientHello must not pass as something else.
		if len(b) > 5 && b[5] == clientHelloType {
			return false, errHelloBad
		}
		if len(b) > 5 {
			return false, errNotTLS
		}
		return false, nil
	}
	for len(b) > 0 {
		// From here on it is TLS, and never "something else": a later oddity that a lenient server
		// would skip must not turn a ClientHello into opaque bytes.
		if b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
			return false, errHelloBad
		}
		if len(b) < 5 {
			return false, nil
		}
		n := int(b[3])<<8 | int(b[4])
		if n == 0 || n > 16<<10 {
			return false, errHelloBad
		}
		body := b[5:min(len(b), 5+n)]
		msg = append(msg, body[:min(len(body), 4-len(msg))]...)
		have += len(body)
		if len(msg) > 0 && msg[0] != clientHelloType {
			return false, errHelloBad
		}
		if len(msg) == 4 {
			want := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
			if want > maxHead {
				return false, errOversized
			}
			if have >= want {
				return true, nil
			}
		}
		b = b[5+len(body):]
	}
	return false, nil
}

// helloName returns the SNI of a complete ClientHello, "" when it has none.
func helloName(b []byte) (string, error) {
	name, ok := "", false
	conn := tls.Server(&replay{b: b}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = h.ServerName, true
			return nil, errSeen
		},
	})
	err := conn.HandshakeContext(context.Background())
	if !ok {
		if err == nil {
			err = errHelloBad
		}
		return "", errors.Join(errHelloBad, err)
	}
	if name == "" {
		return "", nil
	}
	if name, ok = hostName(name); !ok {
		return "", errHelloBad
	}
	return name, nil
}

// replay is a connection that has sent b and hears nothing.
type replay struct{ b []byte }

func (r *replay) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func (*replay) Write(p []byte) (int, error)      { return len(p), nil }
func (*replay) Close() error                     { return nil }
func (*replay) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*replay) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*replay) SetDeadline(time.Time) error      { return nil }
func (*replay) SetReadDeadline(time.Time) error  { return nil }
func (*replay) SetWriteDeadline(time.Time) error { return nil }

// peekHello waits for the client's ClientHello and returns its SNI; the bytes stay unread. Any
// error means that the connection is to be refused, except errNotTLS where TLS is not required.
func (p *Proxy) peekHello(s *stream) (string, error) {
	var name string
	var bad error
	err := p.peek(s, time.Now().Add(startTimeout), func(w []byte) bool {
		var whole bool
		if whole, bad = helloComplete(w); !whole {
			return bad != nil
		}
		name, bad = helloName(w)
		return true
	})
	if err != nil {
		return "", err
	}
	return name, bad
}

// hostName returns a name as policy wants it: lower-case, without the trailing dot. It refuses
// everything that is not letters, digits, "-", "_" and dots, or longer than DNS allows.
func hostName(s string) (string, bool) {
	if n := len(s); n > 0 && s[n-1] == '.' {
		s = s[:n-1]
	}
	if len(s) == 0 || len(s) > 253 {
		return "", false
	}
	out := make([]byte, len(s))
	label := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		out[i] = c
		if label++; label > 63 {
			return "", false
		}
	}
	return string(out), label > 0
}
