// Package proxy decides what happens to one TCP connection of a container, and relays it.
//
// The kernel redirects every TCP connection that leaves the container to one listener; the proxy
// learns the original destination from SO_ORIGINAL_DST, turns a synthetic address back into the
// name it was handed out for, and asks the policy. What it guarantees:
//
//   - Nothing is dialled that the policy did not allow under the connection's exact name and port,
//     and the address that is dialled is judged again (rebinding, private ranges, metadata).
//   - On port 80 every request of a kept-alive connection is judged under its own Host; on port
//     443, and on every other port where the client speaks TLS first, the SNI is judged as well. A
//     second name must be allowed itself. A head or ClientHello that two parsers could read
//     differently is refused, not repaired. Rules with the option raw skip this.
//   - A refusal is quick (below 1 s) and speaks the client's protocol: 403 for HTTP, the alert
//     access_denied for TLS, RST for everything else.
//   - [Proxy.Recheck] judges live connections again and resets those that are refused now.
//   - An unknown original destination (an error, loopback, an address of ours without a service, a
//     synthetic address that was never handed out) is reset whatever the policy says.
//   - Datagrams are relayed only for a name and port that a udp rule allows, and not verified.
//   - What leaves the container is counted; a budget that is used up stops it (meter.go).
//   - Memory and kernel pipes are bounded ([Limits]); waiting connections hold neither buffers nor
//     pipes.
//
// What it does not do, by design: look inside TLS (the Host inside an allowed TLS connection, or
// an encrypted ClientHello whose outer name is allowed, is not seen), limit data inside allowed
// services. A TLS connection without SNI claims no second name and is judged by its own
// alone.
//
//	p := proxy.New(proxy.Config{Policy: current, Names: table.Name, Range: table.Range(), …})
//	go p.Serve(ctx, listener) // several listeners may be served
//	…
//	current.Store(stricter)
//	p.Recheck() // returns when what it refuses is cut
//	p.Close()
//
// Listeners must be plain TCP (net.ListenConfig.SetMultipathTCP(false)): SO_ORIGINAL_DST fails on
// MPTCP sockets, so every connection of an MPTCP listener would be reset.
package proxy

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// Verify says what happens when SNI or Host names something else than the connection's own name
// and policy does not allow it.
type Verify uint8

// Degrees of verification. The zero value enforces.
const (
	Enforce Verify = iota // refuse and record
	LogOnly               // record
	Off                   // do not look
)

// Config is everything a Proxy depends on. Policy, Lookup and Record are required.
type Config struct {
	// Policy returns the policy of this moment; it is asked anew for every decision.
	Policy func() *policy.Policy
	// Names maps a synthetic address back to the name it was handed out for, lower-case without
	// trailing dot. An address inside Range that it does not know is refused.
	Names func(netip.Addr) (string, bool)
	// Range is where synthetic addresses come from; invalid means there are none.
	Range netip.Prefix
	// Range6 is the same for IPv6; invalid means that names have no IPv6 addresses.
	Range6 netip.Prefix
	// Own are further networks whose addresses are the supervisor's (10.0.2.0/24): a destination
	// there that is no service is reset.
	Own []netip.Prefix
	// Lookup resolves a name on the host. It is called only for names that policy allows.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Dial connects to an address on the host's side; nil: a plain dialer without MPTCP.
	Dial func(ctx context.Context, a netip.AddrPort) (net.Conn, error)
	// OriginalDst returns the destination before the redirect; nil: SO_ORIGINAL_DST.
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error)
	// Services are the supervisor's own, by original destination. No rule is asked, but quarantine
	// closes them, live connections too.
	Services map[netip.AddrPort]Service
	// Vital are the Services that quarantine leaves open: those that lead to nothing but the
	// supervisor's own answers (resolver, guest protocol).
	Vital map[netip.AddrPort]bool
	// Front is the vault's; nil: none.
	Front Front
	// Ask holds a connection whose decision is [policy.Ask] until it is time to judge it again:
	// somebody answered, or nobody will. It changes nothing itself: an answer is a rule, and what
	// policy still does not allow is refused. It returns soon after ctx ends, which it does when
	// the client hangs up. nil: Ask denies at once.
	Ask func(ctx context.Context, q Question)
	// Refused is told of every connection that was refused because no rule allows it, without
	// having been held. It must not block. nil: nobody wants to know.
	Refused func(q Question)
	// Datagrams opens the socket that receives what the container sends by UDP to a synthetic
	// address and port. nil: UDP is not relayed.
	Datagrams func(dst netip.AddrPort) (*net.UDPConn, error)
	// Known yields the names that have a synthetic address, with it: their relays are opened when
	// policy changes. nil: only answers open relays.
	Known iter.Seq2[string, netip.Addr]
	// DialUDP connects a UDP socket on the host's side; nil: a plain one.
	DialUDP func(a netip.AddrPort) (*net.UDPConn, error)
	// Budgets bound what leaves the container; Spent is what a Proxy before this one has counted.
	Budgets []policy.Budget
	Spent   []Spent
	// OverBudget is asked once when a budget is used up, while connections wait; true grants its
	// bytes once more. It returns soon after ctx ends. nil: nothing is granted.
	OverBudget func(ctx context.Context, b Breach) bool
	// Verify is what happens on a name mismatch.
	Verify Verify
	// Subject names the task in hints, e.g. "webshop/k3v9p".
	Subject string
	// Record receives the events of this package (events.go).
	Record audit.Recorder
	// Limits bound what one container can hold.
	Limits Limits
}

// Question is a connection that waits, or was refused, because no rule allows it.
type Question struct {
	Request policy.Request // what would have to be allowed
	Source  string         // where the name comes from: dns, sni, host or none
	// Own is the connection's own name or address when Request is about a second name that the
	// client claims in SNI or Host; else "".
	Own    string
	Client netip.AddrPort // the container's end
	Server netip.AddrPort // the other end as the container's program gave it; the two tell its process
}

// Service answers connections to one of the supervisor's own addresses. ServeConn owns c, and
// returns soon after ctx ends or c is closed.
type Service interface {
	ServeConn(ctx context.Context, c net.Conn)
}

// Front ends connections to the hosts that the vault relays. A routed host is denied by policy
// except through the front, which policy.DecideRelay opens: an operator's deny and quarantine close
// it and cut what is open. ServeConn owns c, and returns soon after ctx ends or c is closed.
type Front interface {
	Routed(name string, port uint16) bool
	ServeConn(ctx context.Context, c net.Conn, name string, port uint16)
}

// Proxy relays the TCP connections of one container.
type Proxy struct {
	cfg    Config
	limits Limits
	own    map[netip.Addr]bool // addresses of services
	ctx    context.Context     // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept loops, connections, the sweeper

	hellos  chan []byte // the whole peek memory: buffers of maxHead bytes
	slots   slots
	pipes   pipes
	buffers bufferPool
	tally   tally
	ledger  ledger

	spendings []*spending
	datagrams datagrams

	mu        sync.Mutex
	closed    bool
	flows     map[*flow]struct{}
	listeners map[*net.TCPListener]struct{}
}

// New returns a Proxy that is ready to serve. Close it to release its goroutine.
func New(cfg Config) *Proxy {
	if cfg.Dial == nil {
		cfg.Dial = plainDial
	}
	if cfg.DialUDP == nil {
		cfg.DialUDP = plainDialUDP
	}
	if cfg.OriginalDst == nil {
		cfg.OriginalDst = originalDst
	}
	if cfg.Names == nil {
		cfg.Names = func(netip.Addr) (string, bool) { return "", false }
	}
	if cfg.Record == nil {
		cfg.Record = audit.Discard
	}
	l := cfg.Limits.withDefaults()
	p := &Proxy{
		cfg:       cfg,
		limits:    l,
		own:       map[netip.Addr]bool{},
		hellos:    make(chan []byte, max(1, l.PeekBytes/maxHead)),
		slots:     newSlots(l),
		pipes:     newPipes(l.Spliced),
		ledger:    newLedger(cfg.Record, time.Now),
		flows:     map[*flow]struct{}{},
		listeners: map[*net.TCPListener]struct{}{},
	}
	p.tally.names = map[string]*Traffic{}
	p.spendings = newSpendings(cfg.Budgets, cfg.Spent, time.Now)
	p.datagrams.relays = map[netip.AddrPort]*relay{}
	for a := range cfg.Services {
		p.own[a.Addr().Unmap()] = true
	}
	for range cap(p.hellos) {
		p.hellos <- nil // made on first use
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.sweep)
	return p
}

// Serve accepts connections from l until ctx ends, l is closed or the Proxy is closed; then it
// returns nil. It closes l. When ctx ends, the connections that came from l are cut.
func (p *Proxy) Serve(ctx context.Context, l *net.TCPListener) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.Close()
		return net.ErrClosed
	}
	p.listeners[l] = struct{}{}
	p.wg.Add(1)
	p.mu.Unlock()
	defer p.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer func() {
		l.Close()
		p.mu.Lock()
		delete(p.listeners, l)
		p.mu.Unlock()
	}()
	var conns sync.WaitGroup
	defer conns.Wait()
	for pause := time.Duration(0); ; {
		c, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				cancel()
				return nil
			}
			// Out of descriptors or memory: connections wait in the backlog meanwhile.
			pause = min(max(2*pause, 5*time.Millisecond), 200*time.Millisecond)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		conns.Go(func() { p.handle(ctx, c) })
	}
}

// Recheck judges every live connection with the policy of this moment and resets, on both sides,
// those that it refuses. When it returns they are closed, and relays of UDP are as policy says.
func (p *Proxy) Recheck() {
	p.closeRelays()
	p.openRelays()
	for _, f := range p.live() {
		if why := p.rejudge(f); why != "" {
			f.cut(why)
		}
	}
}

// Close stops accepting, cuts every connection, waits for all goroutines and records what was
// folded.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for l := range p.listeners {
		l.Close()
	}
	p.mu.Unlock()
	p.cancel()
	p.stopRelays()
	for _, f := range p.live() {
		f.cut("shutdown")
	}
	p.wg.Wait()
	p.ledger.flush()
}

func (p *Proxy) live() []*flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*flow, 0, len(p.flows))
	for f := range p.flows {
		out = append(out, f)
	}
	return out
}
