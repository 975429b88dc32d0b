package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"terok/internal/shield/policy"
)

// upstreamDialer connects the vault's front to a provider. The name comes from the roster or from
// a provider file of the operator, never from the container; what it resolves to is judged like
// any other address.
type upstreamDialer struct {
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	rules  *rules
}

const dialTimeout = 10 * time.Second

func (d *upstreamDialer) dial(ctx context.Context, host string, port uint16, allowPrivate bool) (net.Conn, error) {
	var addrs []netip.Addr
	if a, ok := literal(host); ok {
		addrs = []netip.Addr{a}
	} else {
		var err error
		if addrs, err = d.lookup(ctx, host); err != nil {
			return nil, err
		}
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	dialer.SetMultipathTCP(false)
	var errs []error
	for _, a := range addrs {
		if err := d.judge(a, port, allowPrivate); err != nil {
			errs = append(errs, err)
			continue
		}
		c, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String())
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	return nil, errors.Join(errs...)
}

// judge refuses the floor always, and private addresses and the host's own unless the operator's
// route says that its upstream is private.
func (d *upstreamDialer) judge(a netip.Addr, port uint16, allowPrivate bool) error {
	p := d.rules.policy()
	if p.Options().Posture == policy.Quarantine {
		return errors.New("the container is in quarantine")
	}
	tier := policy.Agent
	if allowPrivate {
		if a.IsLoopback() {
			return nil
		}
		tier = policy.Override
	}
	text := fmt.Sprintf("+%s:%d", a, port)
	if a.Is6() {
		text = fmt.Sprintf("+[%s]:%d", a, port)
	}
	if tier == policy.Override {
		text += ` %reason="the operator's provider file allows a private upstream"`
	}
	rule, err := policy.ParseRule(text, tier, "vault route")
	if err != nil {
		return err
	}
	one := policy.New([]policy.Rule{rule}, policy.Options{Posture: policy.Up, HostAddrs: p.Options().HostAddrs})
	decision := one.Decide(policy.Request{Addr: a, Port: port, Proto: "tcp", Now: time.Now()})
	return one.CheckDial(decision, "", a, port)
}
