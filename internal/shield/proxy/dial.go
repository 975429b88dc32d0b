package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"terok/internal/shield/policy"
)

const (
	dialTimeout  = 10 * time.Second       // resolving and all attempts
	dialStagger  = 250 * time.Millisecond // between attempts (RFC 8305 §5)
	maxAddresses = 16                     // of one name
)

// errPrivate says that policy refuses every address that a name has.
var errPrivate = errors.New("no address that policy permits")

// connect resolves the flow's destination, judges every address and dials those that policy
// permits. The upstream half is joined to the flow when it returns.
func (p *Proxy) connect(ctx context.Context, f *flow, d policy.Decision) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := p.candidates(ctx, f, d)
	if err != nil {
		return nil, err
	}
	c, a, err := race(ctx, addrs, p.cfg.Dial)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("dial %s: not a TCP connection", a)
	}
	up, err := newStream(tcp)
	if err != nil {
		c.Close()
		return nil, err
	}
	if !f.join(up, a) {
		up.reset()
		return nil, net.ErrClosed
	}
	// A Recheck between the decision and the join saw no address: judge once more.
	if why := p.rejudge(f); why != "" {
		f.cut(why)
		return nil, net.ErrClosed
	}
	p.allowed(f, d)
	return up, nil
}

// candidates returns the addresses that may be dialled, in the resolver's order with families
// alternating. What is dropped is recorded: it defends against names that resolve into the host's
// networks (DNS rebinding).
func (p *Proxy) candidates(ctx context.Context, f *flow, d policy.Decision) ([]netip.AddrPort, error) {
	var found []netip.Addr
	switch f.name {
	case "":
		found = []netip.Addr{f.dst.Addr()}
	case policy.HostName:
		found = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	default:
		var err error
		if found, err = p.cfg.Lookup(ctx, f.name); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", f.name, err)
		}
	}
	pol := p.cfg.Policy()
	if pol == nil {
		return nil, errPrivate
	}
	var first, second []netip.AddrPort // families
	seen := map[netip.Addr]bool{}
	var refused error
	for _, a := range found {
		a = a.WithZone("") // not unmapped: CheckDial must see a mapped address as what it is
		if !a.IsValid() || seen[a] || len(seen) >= maxAddresses {
			continue
		}
		seen[a] = true
		if err := pol.CheckDial(d, f.name, a, f.port); err != nil {
			refused = err
			p.private(f, a, err)
			continue
		}
		ap := netip.AddrPortFrom(a, f.port)
		if len(first) == 0 || a.Is4() == first[0].Addr().Is4() {
			first = append(first, ap)
		} else {
			second = append(second, ap)
		}
	}
	out := make([]netip.AddrPort, 0, len(first)+len(second))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	if len(out) == 0 {
		if refused != nil {
			return nil, fmt.Errorf("%w: %w", errPrivate, refused)
		}
		return nil, fmt.Errorf("resolve %s: no address", f.name)
	}
	return out, nil
}

// race dials addresses one after the other, the next as soon as one fails or dialStagger passed,
// and returns the first connection (happy eyeballs, RFC 8305). It leaves no connection open but
// that one, and no goroutine once the pending attempts noticed the cancellation.
func race(ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, netip.AddrPort, error) {
	if len(addrs) == 1 {
		c, err := dial(ctx, addrs[0])
		return c, addrs[0], err
	}
	type result struct {
		c   net.Conn
		a   netip.AddrPort
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(addrs))
	pending := 0
	defer func() {
		n := pending
		go func() { // ends when the cancelled attempts have returned
			for range n {
				if r := <-results; r.c != nil {
					r.c.Close()
				}
			}
		}()
	}()
	var errs []error
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := 0; next < len(addrs) || pending > 0; {
		var tick <-chan time.Time
		if next < len(addrs) {
			tick = timer.C
		}
		select {
		case <-tick:
			a := addrs[next]
			next++
			pending++
			go func() {
				c, err := dial(ctx, a)
				results <- result{c, a, err}
			}()
			timer.Reset(dialStagger)
		case r := <-results:
			pending--
			if r.err == nil {
				return r.c, r.a, nil
			}
			errs = append(errs, r.err)
			timer.Reset(0)
		}
	}
	return nil, netip.AddrPort{}, errors.Join(errs...)
}
