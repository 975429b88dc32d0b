package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/shield/policy"
)

// UDP has no connection to accept. For every allowed (name, port) there is a relay: a socket in
// the container's namespace where datagrams for the name's address arrive. It is opened when the
// name is resolved, before the answer, so that the first datagram finds it, and closed when policy
// no longer allows it; where there is none, the kernel refuses at once. Each socket of the
// container that sends to a relay becomes a flow with a socket of its own on the host's side.
// Nothing in a datagram is looked at.

const (
	maxDatagram  = 64 << 10
	datagramIdle = 2 * time.Minute // RFC 4787 §4.3: not less
	maxUDPPorts  = 16              // of one name
	earlyBytes   = 16 << 10        // of one flow, or one datagram, that wait for its name to be resolved
)

// datagrams are the relays of a Proxy.
type datagrams struct {
	mu      sync.Mutex
	relays  map[netip.AddrPort]*relay
	stopped bool
	buffers sync.Pool // *[maxDatagram]byte
}

func (d *datagrams) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.relays)
}

func (d *datagrams) get() *[maxDatagram]byte {
	if b, ok := d.buffers.Get().(*[maxDatagram]byte); ok {
		return b
	}
	return new([maxDatagram]byte)
}

// relay is one name and port whose datagrams are relayed.
type relay struct {
	p      *Proxy
	name   string
	dst    netip.AddrPort // synthetic
	inside *net.UDPConn
	raw    syscall.RawConn

	mu    sync.Mutex
	flows map[netip.AddrPort]*datagramFlow // by the container's socket
	used  time.Time
}

// datagramFlow is the host's side of one socket of the container.
type datagramFlow struct {
	*flow
	mu    sync.Mutex
	up    *net.UDPConn // nil until the name is resolved
	early [][]byte     // what came before
	bytes int
	last  atomic.Int64 // of a datagram either way, nanoseconds since 1970
}

// Resolved opens the relays of a name that policy allows by UDP, as far as they are not open. a is
// the name's synthetic address. It returns when they are open.
func (p *Proxy) Resolved(name string, a netip.Addr) {
	pol := p.cfg.Policy()
	if p.cfg.Datagrams == nil || pol == nil || !pol.Datagrams() {
		return
	}
	for _, port := range pol.UDPPorts(name, time.Now(), maxUDPPorts) {
		p.openRelay(name, netip.AddrPortFrom(a, port))
	}
}

func (p *Proxy) openRelay(name string, dst netip.AddrPort) {
	d := &p.datagrams
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.relays[dst]; d.stopped || old != nil && old.name == name {
		return
	} else if old != nil { // the address was forgotten and given to another name
		old.close()
		delete(d.relays, dst)
	}
	if len(d.relays) >= p.limits.Relays && !d.evict() {
		p.overLimit(&flow{proto: "udp", name: name, dst: dst, port: dst.Port()}, "names with relayed UDP")
		return
	}
	r := &relay{p: p, name: name, dst: dst, flows: map[netip.AddrPort]*datagramFlow{}, used: time.Now()}
	var err error
	if r.inside, err = p.cfg.Datagrams(dst); err == nil {
		r.raw, err = r.inside.SyscallConn()
	}
	if err != nil {
		p.failed(&flow{proto: "udp", name: name, dst: dst, port: dst.Port()}, err)
		return
	}
	d.relays[dst] = r
	p.wg.Go(r.serve)
}

// evict closes the relay that was quiet longest, if all answers with its address have expired.
// Called with the lock held.
func (d *datagrams) evict() bool {
	var oldest *relay
	var at time.Time
	for _, r := range d.relays {
		r.mu.Lock()
		quiet := len(r.flows) == 0 && time.Since(r.used) > datagramIdle
		if quiet && (oldest == nil || r.used.Before(at)) {
			oldest, at = r, r.used
		}
		r.mu.Unlock()
	}
	if oldest == nil {
		return false
	}
	oldest.close()
	delete(d.relays, oldest.dst)
	return true
}

// closeRelays closes what policy no longer allows.
func (p *Proxy) closeRelays() {
	d := &p.datagrams
	d.mu.Lock()
	defer d.mu.Unlock()
	for dst, r := range d.relays {
		if p.decide(policy.Request{Name: r.name, Port: dst.Port(), Proto: "udp"}).Verdict != policy.Allow {
			r.close()
			delete(d.relays, dst)
		}
	}
}

// openRelays opens what policy allows by now for names that the container knows already.
func (p *Proxy) openRelays() {
	pol := p.cfg.Policy()
	if p.cfg.Known == nil || pol == nil || !pol.Datagrams() {
		return
	}
	for name, a := range p.cfg.Known {
		p.Resolved(name, a)
	}
}

func (p *Proxy) stopRelays() {
	d := &p.datagrams
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for dst, r := range d.relays {
		r.close()
		delete(d.relays, dst)
	}
}

func (r *relay) close() { r.inside.Close() }

// serve relays what the container sends, until close. It holds no buffer while it waits.
func (r *relay) serve() {
	for {
		var buf *[maxDatagram]byte
		var n int
		var from unix.Sockaddr
		var rerr error
		err := r.raw.Read(func(fd uintptr) bool {
			buf = r.p.datagrams.get()
			n, from, rerr = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
			if rerr == unix.EAGAIN {
				r.p.datagrams.buffers.Put(buf)
				return false
			}
			return true
		})
		if err != nil {
			break
		}
		if sa, ok := from.(*unix.SockaddrInet4); ok && rerr == nil {
			r.out(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), buf[:n])
		}
		r.p.datagrams.buffers.Put(buf)
	}
	r.mu.Lock()
	flows := make([]*datagramFlow, 0, len(r.flows))
	for _, f := range r.flows {
		flows = append(flows, f)
	}
	r.mu.Unlock()
	for _, f := range flows {
		f.cut("")
	}
}

// out sends one datagram on.
func (r *relay) out(client netip.AddrPort, b []byte) {
	r.mu.Lock()
	r.used = time.Now()
	f := r.flows[client]
	r.mu.Unlock()
	if f == nil {
		if f = r.begin(client); f == nil {
			return
		}
	}
	if !r.p.affordNow(f.flow) {
		return // dropped, as a full line would
	}
	f.last.Store(time.Now().UnixNano())
	f.mu.Lock()
	up := f.up
	if up == nil {
		if f.bytes += len(b); f.bytes <= earlyBytes || f.early == nil {
			f.early = append(f.early, append([]byte(nil), b...))
		}
	}
	f.mu.Unlock()
	if up != nil {
		r.send(f, up, b)
	}
}

func (r *relay) send(f *datagramFlow, up *net.UDPConn, b []byte) {
	if n, err := up.Write(b); err == nil {
		r.p.countUp(f.flow, n)
	}
}

// begin makes the flow of a socket of the container; nil when it is refused.
func (r *relay) begin(client netip.AddrPort) *datagramFlow {
	p := r.p
	f := &datagramFlow{flow: &flow{proto: "udp", name: r.name, dst: r.dst, port: r.dst.Port(), started: time.Now(), gone: make(chan struct{})}}
	f.last.Store(time.Now().UnixNano())
	f.budgets = p.budgetsOf(f.flow)
	d := p.judge(f.flow, f.request())
	if d.Verdict != policy.Allow {
		p.denied(f.flow, d)
		return nil
	}
	if !p.slots.datagrams.take() {
		p.overLimit(f.flow, "relayed UDP sockets")
		return nil
	}
	if !p.add(f.flow) {
		p.slots.datagrams.give()
		return nil
	}
	r.mu.Lock()
	r.flows[client] = f
	r.mu.Unlock()
	p.wg.Go(func() {
		defer p.slots.datagrams.give()
		defer func() {
			r.mu.Lock()
			delete(r.flows, client)
			r.mu.Unlock()
		}()
		defer p.ended(f.flow)
		up, err := r.connect(f, d)
		if err != nil {
			if !errors.Is(err, errPrivate) && !errors.Is(err, net.ErrClosed) {
				p.failed(f.flow, err)
			}
			return
		}
		defer up.Close()
		r.back(f, up, client)
	})
	return f
}

// connect resolves and judges as for TCP, and takes the first address that policy permits: UDP
// does not tell which of them answers.
func (r *relay) connect(f *datagramFlow, d policy.Decision) (*net.UDPConn, error) {
	p := r.p
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	addrs, err := p.candidates(ctx, f.flow, d)
	if err != nil {
		return nil, err
	}
	up, err := p.cfg.DialUDP(addrs[0])
	if err != nil {
		return nil, err
	}
	f.flow.mu.Lock()
	dead := f.dead
	f.dialled, f.release = addrs[0], func() { up.Close() }
	f.flow.mu.Unlock()
	if dead {
		up.Close()
		return nil, net.ErrClosed
	}
	if why := p.rejudge(f.flow); why != "" { // a Recheck meanwhile saw no address
		f.cut(why)
		return nil, net.ErrClosed
	}
	p.allowed(f.flow, d)
	for { // in the order in which they came; what comes meanwhile waits behind them
		f.mu.Lock()
		early := f.early
		if f.early = nil; len(early) == 0 {
			f.up = up
			f.mu.Unlock()
			return up, nil
		}
		f.mu.Unlock()
		for _, b := range early {
			r.send(f, up, b)
		}
	}
}

// back relays what the other side sends, until the flow is cut or quiet.
func (r *relay) back(f *datagramFlow, up *net.UDPConn, client netip.AddrPort) {
	raw, err := up.SyscallConn()
	if err != nil {
		return
	}
	for {
		quiet := time.Since(time.Unix(0, f.last.Load()))
		if quiet >= datagramIdle {
			return
		}
		if up.SetReadDeadline(time.Now().Add(datagramIdle-quiet)) != nil {
			return
		}
		var buf *[maxDatagram]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf = r.p.datagrams.get()
			n, _, rerr = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
			if rerr == unix.EAGAIN {
				r.p.datagrams.buffers.Put(buf)
				return false
			}
			return true
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return
		}
		if rerr == nil { // else an answer that says that nobody listens there
			f.last.Store(time.Now().UnixNano())
			if m, err := r.inside.WriteToUDPAddrPort(buf[:n], client); err == nil {
				r.p.countDown(f.flow, m)
			}
		}
		r.p.datagrams.buffers.Put(buf)
	}
}

// plainDialUDP is the default of Config.DialUDP.
func plainDialUDP(a netip.AddrPort) (*net.UDPConn, error) {
	return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a))
}
