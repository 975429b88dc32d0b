package supervisor

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"terok/internal/sandbox"
)

// door turns connections that the proxy hands over into a listener, so that servers which want
// one (HTTP, DNS streams) can be the container's services.
type door struct {
	addr  netip.AddrPort
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newDoor(host string, port uint16) *door {
	return &door{addr: netip.AddrPortFrom(netip.MustParseAddr(host), port),
		conns: make(chan net.Conn), done: make(chan struct{})}
}

// ServeConn gives the connection to whoever accepts and returns when it is closed.
func (d *door) ServeConn(ctx context.Context, c net.Conn) {
	g := &guarded{Conn: c, closed: make(chan struct{})}
	select {
	case d.conns <- g:
	case <-ctx.Done():
		c.Close()
		return
	case <-d.done:
		c.Close()
		return
	}
	select {
	case <-g.closed:
	case <-ctx.Done():
		g.Close()
	}
}

// Accept is net.Listener's.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (d *door) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}

// Addr is net.Listener's.
func (d *door) Addr() net.Addr { return net.TCPAddrFromAddrPort(d.addr) }

// guarded tells when a connection is closed.
type guarded struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (g *guarded) Close() error {
	err := g.Conn.Close()
	g.once.Do(func() { close(g.closed) })
	return err
}

// service addresses of the supervisor.
func serviceNet() netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(sandbox.ServiceHost), 24).Masked()
}
