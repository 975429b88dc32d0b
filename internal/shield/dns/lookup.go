package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds of the lookup's cache.
const (
	maxCache     = 1024
	maxCacheTime = 60 * time.Second
	noSOATime    = 5 * time.Second // negative answers without an SOA record
	maxChain     = 8               // CNAME records in one answer
	maxAddrs     = 32
	// lateFamily is how long the slower of A and AAAA may hold up the faster one that has
	// addresses (as the resolution delay of RFC 8305, but for servers that drop AAAA).
	lateFamily = 300 * time.Millisecond
)

// LookupError is a name that has no address. Rcode is NXDOMAIN, NOERROR (the name exists, without
// addresses) or SERVFAIL (nobody could tell).
type LookupError struct {
	Name  string
	Rcode int
	Err   error // why SERVFAIL, may be nil
}

func (e *LookupError) Error() string {
	switch e.Rcode {
	case mdns.RcodeNameError:
		return fmt.Sprintf("%s does not exist", e.Name)
	case mdns.RcodeSuccess:
		return fmt.Sprintf("%s has no address", e.Name)
	}
	if e.Err != nil {
		return fmt.Sprintf("%s cannot be resolved: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s cannot be resolved", e.Name)
}

func (e *LookupError) Unwrap() error { return e.Err }

// Lookup finds the real addresses of names on the host's side, for the proxy to dial. It asks
// whatever it is asked: callers judge the name first and every address afterwards
// (policy.CheckDial). It is safe for concurrent use.
type Lookup struct {
	up    Upstream
	hosts hostsFile
	now   func() time.Time

	mu      sync.Mutex
	cache   map[string]cached
	flights map[string]*flight
}

type cached struct {
	addrs []netip.Addr
	err   error
	until time.Time
}

// flight is a lookup under way, shared by everybody who asks for the same name.
type flight struct {
	done   chan struct{}
	result cached
}

// NewLookup makes a Lookup over an upstream and the host's hosts file ("" for none).
func NewLookup(up Upstream, hosts string) *Lookup {
	return &Lookup{
		up: up, hosts: hostsFile{path: hosts}, now: time.Now,
		cache: map[string]cached{}, flights: map[string]*flight{},
	}
}

// LookupHost returns the addresses of a lower-case name without trailing dot, IPv4 first. The
// hosts file goes before DNS. Answers are kept for their TTL, at most 60 s. The error is a
// *LookupError, or the context's.
func (l *Lookup) LookupHost(ctx context.Context, name string) ([]netip.Addr, error) {
	if a := l.hosts.lookup(name); len(a) > 0 {
		return a, nil
	}
	l.mu.Lock()
	if c, ok := l.cache[name]; ok && l.now().Before(c.until) {
		l.mu.Unlock()
		return c.addrs, c.err
	}
	f := l.flight(ctx, name)
	l.mu.Unlock()
	select {
	case <-f.done:
		return f.result.addrs, f.result.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// flight returns the flight for a name, a new one if there is none. The caller holds the lock. A
// flight outlives a caller that gives up, as others may wait for it; it ends after upstreamTotal.
func (l *Lookup) flight(ctx context.Context, name string) *flight {
	f := l.flights[name]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		l.flights[name] = f
		go l.fly(context.WithoutCancel(ctx), name, f)
	}
	return f
}

// begin starts the question for a name, so that the next peek sees it.
func (l *Lookup) begin(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight(context.Background(), name)
}

// knowledge is what a Lookup has about a name.
type knowledge uint8

const (
	unknown knowledge = iota
	asked             // a question is under way
	known
)

// peek returns what LookupHost would return as its error without asking, where that is known.
func (l *Lookup) peek(name string) (knowledge, error) {
	if len(l.hosts.lookup(name)) > 0 {
		return known, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.cache[name]; ok && l.now().Before(c.until) {
		return known, c.err
	}
	if l.flights[name] != nil {
		return asked, nil
	}
	return unknown, nil
}

func (l *Lookup) fly(ctx context.Context, name string, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTotal+time.Second)
	defer cancel()
	var ttl time.Duration
	f.result.addrs, ttl, f.result.err = l.ask(ctx, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flights, name)
	if ttl > 0 {
		f.result.until = l.now().Add(min(ttl, maxCacheTime))
		l.store(name, f.result)
	}
	close(f.done)
}

// store keeps a result; a full cache loses what has expired, or else any one entry.
func (l *Lookup) store(name string, c cached) {
	if len(l.cache) >= maxCache {
		now := l.now()
		for k, old := range l.cache {
			if !now.Before(old.until) {
				delete(l.cache, k)
			}
		}
		for k := range l.cache {
			if len(l.cache) < maxCache {
				break
			}
			delete(l.cache, k)
		}
	}
	l.cache[name] = c
}

// half is the outcome of one address family.
type half struct {
	v6    bool
	addrs []netip.Addr
	ttl   time.Duration
	rcode int
	err   error
}

// ask asks for A and AAAA at once and joins the two.
func (l *Lookup) ask(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan half, 2)
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		go func() { results <- l.askOne(ctx, name, qtype) }()
	}
	var got []half
	var late <-chan time.Time
	for len(got) < 2 {
		select {
		case h := <-results:
			got = append(got, h)
			if len(got) == 1 && len(h.addrs) > 0 {
				timer := time.NewTimer(lateFamily)
				defer timer.Stop()
				late = timer.C
			}
			continue
		case <-late:
		}
		break
	}
	return join(name, got)
}

func join(name string, got []half) ([]netip.Addr, time.Duration, error) {
	var v4, v6 []netip.Addr
	ttl := maxCacheTime
	for _, h := range got {
		if len(h.addrs) > 0 {
			ttl = min(ttl, h.ttl)
		}
		if h.v6 {
			v6 = append(v6, h.addrs...)
		} else {
			v4 = append(v4, h.addrs...)
		}
	}
	if addrs := append(v4, v6...); len(addrs) > 0 {
		return addrs, ttl, nil
	}
	// No addresses: a failure of either family hides whether there are any; NXDOMAIN is about the
	// name, whatever the type.
	e := &LookupError{Name: name, Rcode: mdns.RcodeSuccess}
	for _, h := range got {
		if h.rcode == mdns.RcodeNameError {
			return nil, min(ttl, h.ttl), &LookupError{Name: name, Rcode: h.rcode}
		}
		if h.rcode != mdns.RcodeSuccess {
			e.Rcode, e.Err = mdns.RcodeServerFailure, h.err
		}
		ttl = min(ttl, h.ttl)
	}
	if e.Rcode != mdns.RcodeSuccess {
		ttl = 0
	}
	return nil, ttl, e
}

func (l *Lookup) askOne(ctx context.Context, name string, qtype uint16) half {
	h := half{v6: qtype == mdns.TypeAAAA, rcode: mdns.RcodeServerFailure}
	m, err := l.up.Exchange(ctx, freshQuery(mdns.Question{Name: mdns.Fqdn(name), Qtype: qtype, Qclass: mdns.ClassINET}))
	if err != nil {
		h.err = err
		return h
	}
	if m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError {
		h.err = errors.New("upstream says " + mdns.RcodeToString[m.Rcode])
		return h
	}
	h.rcode = m.Rcode
	h.ttl = noSOATime
	rrs := chain(m, name, qtype)
	for _, rr := range rrs {
		var a netip.Addr
		var ok bool
		switch rr := rr.(type) {
		case *mdns.A:
			a, ok = netip.AddrFromSlice(rr.A.To4())
		case *mdns.AAAA:
			// Kept as the 16 bytes that they are: a mapped address must meet the floor, not be
			// taken for the IPv4 address inside.
			a, ok = netip.AddrFromSlice(rr.AAAA.To16())
		}
		if ok && len(h.addrs) < maxAddrs {
			h.addrs = append(h.addrs, a)
		}
	}
	if len(h.addrs) > 0 {
		h.ttl = minTTL(rrs)
		return h
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*mdns.SOA); ok {
			h.ttl = time.Duration(min(soa.Minttl, soa.Hdr.Ttl)) * time.Second
		}
	}
	return h
}

func minTTL(rrs []mdns.RR) time.Duration {
	ttl := maxCacheTime
	for _, rr := range rrs {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return ttl
}

// chain returns the records of an answer that are about name: its CNAME chain and the records of
// qtype at its end. Everything else that the server put in is ignored.
func chain(m *mdns.Msg, name string, qtype uint16) []mdns.RR {
	var out []mdns.RR
	at := mdns.Fqdn(name)
	for range maxChain {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != mdns.ClassINET || !strings.EqualFold(h.Name, at) {
				continue
			}
			if h.Rrtype == qtype {
				out = append(out, rr)
			} else if c, ok := rr.(*mdns.CNAME); ok && next == "" {
				out, next = append(out, rr), c.Target
			}
		}
		if next == "" {
			break
		}
		at = next
	}
	return out
}
