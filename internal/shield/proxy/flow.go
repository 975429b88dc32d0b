package proxy

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

const (
	httpPort  = 80
	tlsPort   = 443
	maxClaims = 32 // distinct hosts on one kept-alive connection
)

// flow is one connection of the container from accept to its end, or the datagrams of one of its
// sockets to one destination.
type flow struct {
	proto   string         // tcp or udp
	client  *stream        // nil for udp
	name    string         // "" for a literal address
	dst     netip.AddrPort // literal destination; synthetic when name is set
	port    uint16
	started time.Time
	held    bool // it has waited for an answer
	service bool // one of ours: only quarantine closes it

	// idle: nothing passes and nothing will before policy is asked anew. It is held, or it is being
	// refused in its own protocol, which a reset by Recheck would spoil.
	idle atomic.Bool

	budgets []*spending
	broke   bool          // refused because a budget is used up
	gone    chan struct{} // closed when it is cut

	up, down atomic.Uint64

	mu       sync.Mutex
	claims   []policy.Request // what it was allowed under: its own name, then second names
	front    bool
	dialled  netip.AddrPort
	upstream *stream
	release  func() // closes what a udp flow holds
	dead     bool
	why      string // reason of the cut
}

// key is what counters and events call the flow: its name, or the literal address.
func (f *flow) key() string {
	if f.name != "" {
		return f.name
	}
	return f.dst.Addr().String()
}

func (f *flow) hostport() string { return net.JoinHostPort(f.key(), strconv.Itoa(int(f.port))) }

func (f *flow) request() policy.Request {
	r := policy.Request{Name: f.name, Port: f.port, Proto: f.proto}
	if f.name == "" {
		r.Addr = f.dst.Addr()
	}
	return r
}

// event starts an event about the flow.
func (f *flow) event(ev string) audit.Event {
	e := audit.Event{Ev: ev, Actor: "workload", Name: f.name, Port: f.port, Proto: f.proto, NameSource: "dns"}
	f.mu.Lock()
	if f.dialled.IsValid() {
		e.IP = f.dialled.Addr().String()
	}
	f.mu.Unlock()
	if f.name == "" {
		e.NameSource, e.IP = "none", f.dst.Addr().String()
	}
	return e
}

// cut resets both halves; what is still queued is thrown away, so that no byte follows a refusal.
func (f *flow) cut(why string) {
	f.mu.Lock()
	if !f.dead {
		f.dead, f.why = true, why
		close(f.gone)
	}
	up, release := f.upstream, f.release
	f.mu.Unlock()
	if f.client != nil {
		f.client.reset()
	}
	if release != nil {
		release()
	}
	if up != nil {
		up.reset()
	}
}

// join ties the upstream half to the flow; false when the flow was cut meanwhile.
func (f *flow) join(up *stream, a netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return false
	}
	f.upstream, f.dialled = up, a
	return true
}

// judge asks the policy about r for f. The claim is noted before the policy is read, so that a
// Recheck that runs meanwhile sees it: either this call or the Recheck uses the new policy.
func (p *Proxy) judge(f *flow, r policy.Request) policy.Decision {
	f.mu.Lock()
	known := false
	for _, c := range f.claims {
		known = known || c == r
	}
	if !known && len(f.claims) >= maxClaims {
		f.mu.Unlock()
		return policy.Decision{Reason: "too many hosts on one connection"}
	}
	if !known {
		f.claims = append(f.claims, r)
	}
	f.mu.Unlock()
	return p.decide(r)
}

func (p *Proxy) decide(r policy.Request) policy.Decision {
	pol := p.cfg.Policy()
	if pol == nil {
		return policy.Decision{Reason: "no policy"}
	}
	r.Now = time.Now()
	return pol.Decide(r)
}

// fronted reports whether the flow goes to a host that the vault relays, and whether it may:
// quarantine and an operator's deny close that way too.
func (p *Proxy) fronted(f *flow) (policy.Decision, bool) {
	if p.cfg.Front == nil || f.name == "" || !p.cfg.Front.Routed(f.name, f.port) {
		return policy.Decision{}, false
	}
	pol := p.cfg.Policy()
	if pol == nil {
		return policy.Decision{Reason: "no policy"}, true
	}
	r := f.request()
	r.Now = time.Now()
	return pol.DecideRelay(r), true
}

// withheld returns the decision about a connection to a service of ours: quarantine closes every one
// that is not in Config.Vital.
func (p *Proxy) withheld(f *flow) (policy.Decision, bool) {
	if p.cfg.Vital[f.dst] {
		return policy.Decision{}, false
	}
	pol := p.cfg.Policy()
	return policy.Decision{Reason: "the container is in quarantine"}, pol == nil || pol.Posture() == policy.Quarantine
}

// rejudge returns why a live flow is refused by the policy of this moment, or "".
func (p *Proxy) rejudge(f *flow) string {
	f.mu.Lock()
	claims, dialled, front := f.claims, f.dialled, f.front
	f.mu.Unlock()
	if f.idle.Load() {
		return ""
	}
	if f.service {
		if d, no := p.withheld(f); no {
			return "policy: " + d.Reason
		}
		return ""
	}
	if front {
		switch d, routed := p.fronted(f); {
		case !routed:
			return "the vault no longer relays it"
		case d.Verdict != policy.Allow:
			return "policy: " + d.Reason
		}
		return ""
	}
	for i, r := range claims {
		d := p.decide(r)
		if d.Verdict != policy.Allow {
			return "policy: " + d.Reason
		}
		if i == 0 && dialled.IsValid() {
			if err := p.cfg.Policy().CheckDial(d, f.name, dialled.Addr(), f.port); err != nil {
				return err.Error()
			}
		}
	}
	return ""
}

// add registers f, so that Recheck and Close reach it.
func (p *Proxy) add(f *flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.flows[f] = struct{}{}
	return true
}

func (p *Proxy) remove(f *flow) {
	p.mu.Lock()
	delete(p.flows, f)
	p.mu.Unlock()
}

// handle owns c from accept to close.
func (p *Proxy) handle(ctx context.Context, c *net.TCPConn) {
	client, err := newStream(c)
	if err != nil {
		c.Close()
		return
	}
	f := &flow{proto: "tcp", client: client, started: time.Now(), gone: make(chan struct{})}
	dst, err := p.cfg.OriginalDst(c)
	if err != nil || !dst.IsValid() {
		p.unknown(f, "no original destination")
		return
	}
	// A mapped address stays what it is, so that policy's floor sees it.
	addr := dst.Addr().WithZone("")
	f.dst, f.port = netip.AddrPortFrom(addr, dst.Port()), dst.Port()
	service := p.cfg.Services[f.dst]
	switch {
	case service != nil:
		f.service = true
	case addr.IsLoopback(), addr.IsUnspecified(), f.port == 0, p.ours(addr):
		p.unknown(f, "destination is ours, loopback or zero")
		return
	case p.cfg.Range.Contains(addr), p.cfg.Range6.Contains(addr):
		name, ok := p.cfg.Names(addr)
		if !ok || name == "" {
			p.unknown(f, "synthetic address that was never handed out")
			return
		}
		f.name = name
	}
	f.budgets = p.budgetsOf(f)
	if !p.add(f) { // from here on Recheck, Counters and Close see it
		client.reset()
		return
	}
	defer p.remove(f)
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { f.cut("shutdown") })
	defer stop()
	if service != nil {
		if d, no := p.withheld(f); no {
			p.deny(f, d)
			return
		}
		if !p.slots.services.take() {
			p.overLimit(f, "service connections")
			return
		}
		defer p.slots.services.give()
		service.ServeConn(ctx, c)
		return
	}
	p.proceed(ctx, f)
}

func (p *Proxy) ours(a netip.Addr) bool {
	if p.own[a] {
		return true
	}
	for _, n := range p.cfg.Own {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// proceed decides about a flow whose destination is known, and serves it.
func (p *Proxy) proceed(ctx context.Context, f *flow) {
	if d, routed := p.fronted(f); routed {
		if d.Verdict != policy.Allow {
			p.deny(f, d)
			return
		}
		f.mu.Lock()
		f.front = true
		f.mu.Unlock()
		if why := p.rejudge(f); why != "" { // withdrawn while the flow was not marked yet
			f.cut(why)
			return
		}
		if !p.slots.open.take() {
			p.overLimit(f, "open connections")
			return
		}
		defer p.slots.open.give()
		if !p.payFirst(f, d) {
			return
		}
		p.allowed(f, d)
		defer p.ended(f)
		p.cfg.Front.ServeConn(ctx, &counted{Conn: f.client.TCPConn, p: p, f: f}, f.name, f.port)
		return
	}
	d := p.judge(f, f.request())
	if d.Verdict == policy.Ask && p.cfg.Ask != nil {
		if !p.slots.held.take() {
			p.overLimit(f, "held connections")
			p.refused(p.question(f))
			return
		}
		d = p.hold(ctx, f)
		p.slots.held.give()
	}
	if d.Verdict != policy.Allow {
		p.deny(f, d)
		return
	}
	if !p.slots.open.take() {
		p.overLimit(f, "open connections")
		return
	}
	defer p.slots.open.give()
	if !p.payFirst(f, d) {
		return
	}
	defer p.ended(f)
	switch {
	case d.Raw || p.cfg.Verify == Off:
		p.serveOpaque(ctx, f, d, false)
	case f.port == httpPort:
		p.serveHTTP(ctx, f, d)
	case f.port == tlsPort:
		p.serveTLS(ctx, f, d)
	default:
		p.serveOpaque(ctx, f, d, true)
	}
}

// hold waits for an answer and judges the flow anew: only a rule opens it. The wait ends as well
// when the client hangs up, so that those who gave up leave their place to others.
func (p *Proxy) hold(ctx context.Context, f *flow) policy.Decision {
	f.idle.Store(true)
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	var gone atomic.Bool
	done := make(chan struct{})
	f.client.SetReadDeadline(time.Time{})
	go func() {
		defer close(done)
		if f.client.awaitHangUp() {
			gone.Store(true)
			cancel()
		}
	}()
	p.cfg.Ask(wait, p.question(f))
	f.client.SetReadDeadline(time.Unix(1, 0)) // ends awaitHangUp
	<-done
	f.client.SetReadDeadline(time.Time{})
	d := p.decide(f.request())
	switch {
	case d.Verdict == policy.Allow:
		f.idle.Store(false) // connect judges once more, after this
	case gone.Load():
		d.Reason = "no rule allows it; the client gave up waiting for an answer"
	case d.Verdict == policy.Ask:
		d.Reason = "no rule allows it, and nobody has said yes in time"
	}
	f.held = true
	return d
}

// question is what somebody would have to allow for f.
func (p *Proxy) question(f *flow) Question {
	q := Question{Request: f.request(), Source: "dns"}
	if f.name == "" {
		q.Source = "none"
	}
	if f.client == nil {
		return q
	}
	if a, ok := f.client.RemoteAddr().(*net.TCPAddr); ok {
		q.Client, q.Server = a.AddrPort(), f.dst
	}
	return q
}

func (p *Proxy) refused(q Question) {
	if p.cfg.Refused != nil {
		p.cfg.Refused(q)
	}
}

// counted counts the bytes of a connection that the front serves. It hides ReadFrom and WriteTo of
// the TCP connection, which would pass the counters.
type counted struct {
	net.Conn
	p *Proxy
	f *flow
}

func (c *counted) Read(b []byte) (int, error) {
	if err := c.p.pay(c.f); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.p.countUp(c.f, n)
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.p.countDown(c.f, n)
	return n, err
}

// CloseWrite sends the end of our side and keeps reading.
func (c *counted) CloseWrite() error { return c.f.client.CloseWrite() }

func (p *Proxy) countUp(f *flow, n int) {
	f.up.Add(uint64(n))
	p.tally.up.Add(uint64(n))
	for _, s := range f.budgets {
		s.add(uint64(n))
	}
}

func (p *Proxy) countDown(f *flow, n int) {
	f.down.Add(uint64(n))
	p.tally.down.Add(uint64(n))
}
