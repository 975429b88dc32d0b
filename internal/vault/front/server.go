package front

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Front relays connections to routed hosts. Make it with New, end it with Close.
type Front struct {
	cfg      Config
	sites    map[target]*site
	grants   []*grant
	accounts map[string]*account // by provider
	canary   *canary
	roots    *x509.CertPool // of the system
	server   *http.Server
	conns    *handover
	serving  sync.WaitGroup
	tunnels  sync.WaitGroup // WebSockets
	requests atomic.Int64   // being served

	unpacking chan struct{} // a place for each packed body at a time
}

type target struct {
	name string
	port uint16
}

// New checks cfg and starts the front's server; connections come through ServeConn.
func New(cfg Config) (*Front, error) {
	switch {
	case cfg.Authority == nil, cfg.Credentials == nil, cfg.Dial == nil, cfg.Record == nil:
		return nil, errors.New("front: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	setDefault(&cfg.Limits.Concurrent, 64)
	setDefault(&cfg.Limits.Body, 128<<20)
	setDefault(&cfg.Limits.Inspect, 1<<20)
	setDefault(&cfg.Limits.Connection, 256)
	setDefault(&cfg.Limits.Burst, 60)
	setDefault(&cfg.Limits.WrongDelay, time.Second)
	f := &Front{cfg: cfg, sites: map[target]*site{}, accounts: map[string]*account{}, conns: newHandover(),
		unpacking: make(chan struct{}, maxUnpacking),
		canary:    newCanary(cfg.Limits.WrongDelay)}
	var err error
	if f.roots, err = x509.SystemCertPool(); err != nil {
		return nil, fmt.Errorf("front: system certificates: %w", err)
	}
	for _, g := range cfg.Grants {
		if err := f.addGrant(g); err != nil {
			f.closeRoutes()
			return nil, fmt.Errorf("provider %s: %w", g.Provider, err)
		}
	}
	f.server = &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines quote what the container sent
		// OPTIONS * is judged like everything else.
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, siteKey{}, clientOf(c).site)
		},
	}
	f.serving.Add(1)
	go func() {
		defer f.serving.Done()
		_ = f.server.Serve(f.conns) // ends with Close
	}()
	return f, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Close ends every connection and the server.
func (f *Front) Close() error {
	f.conns.Close()
	err := f.server.Close()
	f.Cut(func(string, uint16) bool { return true }, "the connection was closed")
	f.tunnels.Wait() // the server does not know of them
	f.serving.Wait()
	f.closeRoutes()
	return err
}

func (f *Front) closeRoutes() {
	for _, s := range f.sites {
		for _, r := range s.routes {
			r.transport.CloseIdleConnections()
		}
	}
}

// Routed reports whether connections to name and port belong to the front. Name is a lower-case
// A-label name without trailing dot.
func (f *Front) Routed(name string, port uint16) bool { return f.sites[target{name, port}] != nil }

// ServeConn serves a connection that the container opened to name and port, and returns when it
// has ended; c is closed then. When ctx ends the connection is cut. A connection that is not
// routed, or is one too many, is closed at once.
func (f *Front) ServeConn(ctx context.Context, c net.Conn, name string, port uint16) {
	s := f.sites[target{name, port}]
	if s == nil {
		c.Close()
		return
	}
	cc := &clientConn{Conn: c, site: s, ended: make(chan struct{})}
	defer cc.Close()
	s.conns.add(cc)
	defer s.conns.remove(cc)
	stop := context.AfterFunc(ctx, func() { cc.cut(&closing{closeGoingAway, "terok: the connection was closed"}) })
	defer stop()
	if !f.conns.give(ctx, tls.Server(cc, s.tls), f.cfg.Limits.Connection) {
		return
	}
	<-cc.ended
	f.conns.done()
}

type siteKey struct{}

// clientConn is a connection whose end ServeConn can wait for.
type clientConn struct {
	net.Conn
	site  *site
	once  sync.Once
	ended chan struct{}

	farewell atomic.Pointer[func(*closing)] // tells a WebSocket's client why it ends
}

// clientOf is the connection under the TLS of a server's connection.
func clientOf(c net.Conn) *clientConn {
	if t, ok := c.(*tls.Conn); ok {
		if cc, ok := t.NetConn().(*clientConn); ok {
			return cc
		}
	}
	return nil
}

// cut ends the connection from outside. An answer that streams ends without its last chunk.
func (c *clientConn) cut(why *closing) {
	if say := c.farewell.Load(); say != nil {
		(*say)(why)
	}
	c.Close()
}

func (c *clientConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		close(c.ended)
	})
	return err
}

// handover is the listener through which ServeConn gives connections to http.Server.
type handover struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	open   atomic.Int64
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handover) give(ctx context.Context, c net.Conn, limit int) bool {
	if h.open.Add(1) > int64(limit) {
		h.open.Add(-1)
		return false
	}
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
	case <-ctx.Done():
	}
	h.open.Add(-1)
	return false
}

func (h *handover) done() { h.open.Add(-1) }

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handover) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "front" }
func (addr) String() string  { return "front" }

// serverTLS is the configuration for exactly one name. Each name has its own, so a session ticket
// of one host resumes nothing at another, and GetConfigForClient, unlike GetCertificate, is asked
// for resumed sessions too. The leaf is made for the first connection: most hosts of a task see none.
func (f *Front) serverTLS(host string) *tls.Config {
	leaf := sync.OnceValues(func() (*tls.Certificate, error) { return f.cfg.Authority.leaf(host, f.cfg.Now()) })
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return leaf() },
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName != host {
				return nil, errors.New("SNI is not the name of the connection")
			}
			return nil, nil
		},
	}
}

func portString(p uint16) string { return strconv.Itoa(int(p)) }
