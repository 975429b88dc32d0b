package proxy

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"terok/internal/shield/policy"
)

// serveTLS relays port 443: nothing is dialled before the ClientHello was judged.
func (p *Proxy) serveTLS(ctx context.Context, f *flow, d policy.Decision) {
	second, err := p.peekHello(f.client)
	if err != nil {
		if errors.Is(err, io.EOF) { // a probe that never spoke
			return
		}
		p.malformed(f, "sni", describe(err, "ClientHello"))
		if errors.Is(err, errNotTLS) {
			f.client.reset()
			return
		}
		p.alert(f, alertDecodeError)
		return
	}
	if _, ok := p.second(f, second, "sni"); !ok {
		p.alert(f, alertAccessDenied)
		return
	}
	up, err := p.connect(ctx, f, d)
	if err != nil {
		p.unreachable(f, err)
		return
	}
	p.relay(f, up, nil)
}

// serveOpaque relays every other port. The upstream is dialled at once and may speak first; with
// verify, a client that begins with a ClientHello has its SNI judged before a byte of it leaves.
func (p *Proxy) serveOpaque(ctx context.Context, f *flow, d policy.Decision, verify bool) {
	up, err := p.connect(ctx, f, d)
	if err != nil {
		p.unreachable(f, err)
		return
	}
	if !verify {
		p.relay(f, up, nil)
		return
	}
	p.relay(f, up, func() func() {
		first := byte(0)
		err := p.peek(f.client, time.Time{}, func(w []byte) bool { first = w[0]; return true })
		if err != nil && !errors.Is(err, io.EOF) {
			f.cut("") // a reset is reported only once: the relay would see an orderly end
			return nil
		}
		if err != nil || first != recordHandshake {
			return nil
		}
		second, err := p.peekHello(f.client)
		switch {
		case errors.Is(err, errNotTLS): // some other protocol that begins with the byte 22
			return nil
		case err != nil:
			p.malformed(f, "sni", describe(err, "ClientHello"))
			return func() { p.alert(f, alertDecodeError) }
		}
		if _, ok := p.second(f, second, "sni"); !ok {
			return func() { p.alert(f, alertAccessDenied) }
		}
		return nil
	})
}

// second judges a name that the client claims inside its protocol: the same name is fine, no name
// claims nothing, another name must be allowed itself on the same port.
func (p *Proxy) second(f *flow, name, source string) (policy.Decision, bool) {
	if name == "" || name == f.name {
		return policy.Decision{}, true
	}
	r := policy.Request{Name: name, Port: f.port, Proto: "tcp"}
	if a, err := netip.ParseAddr(name); err == nil {
		if f.name == "" && a == f.dst.Addr() {
			return policy.Decision{}, true
		}
		r.Name, r.Addr = "", a
	}
	if p.cfg.Verify == LogOnly {
		if d := p.decide(r); d.Verdict != policy.Allow {
			p.mismatch(f, name, source, r, d)
		}
		return policy.Decision{}, true
	}
	// Ask does not hold here: the request to answer is the connection's own, and a second name
	// that nobody allowed yet is what this check is about.
	d := p.judge(f, r)
	if d.Verdict == policy.Allow {
		return d, true
	}
	p.mismatch(f, name, source, r, d)
	return d, false
}

// describe says why a start was refused, without quoting it.
func describe(err error, what string) error {
	switch {
	case errors.Is(err, errOversized):
		return errors.New(what + " is longer than 16 KiB")
	case errors.Is(err, errTruncated), errors.Is(err, io.EOF):
		return errors.New(what + " ended early")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New(what + " took longer than 5 s")
	case errors.Is(err, errNotTLS):
		return errors.New("not a " + what)
	case errors.Is(err, errHelloBad):
		return errors.New("unreadable " + what)
	}
	return err
}
