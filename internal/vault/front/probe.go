package front

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"terok/internal/audit"
	"terok/internal/sandbox"
)

// maxProbe bounds what is read of the answer to a probe, in bytes.
const maxProbe = 64 << 10

// ProbeAnswer is what a provider says to a probe.
type ProbeAnswer struct {
	Status int
	Header http.Header
	Body   []byte // at most 64 KiB, plain; in the provider's words, which nobody has judged
}

// Probe asks a provider whether it takes a credential: the request p, made by the rules by which
// tasks' requests go out, with the secret where kind has it. No redirect is followed. It fails
// when there is no answer that the rules let through; what the status means is the caller's to say.
func Probe(ctx context.Context, g sandbox.Grant, secret Secret, p sandbox.Probe,
	dial func(ctx context.Context, host string, port uint16, allowPrivate bool) (net.Conn, error)) (*ProbeAnswer, error) {
	hosts := make([]string, len(g.Routes))
	for i, r := range g.Routes {
		hosts[i] = r.Host
	}
	authority, err := NewAuthority(hosts, time.Now())
	if err != nil {
		return nil, err
	}
	f, err := New(Config{Grants: []Grant{{Grant: g, Phantom: NewPhantom()}}, Authority: authority, Dial: dial, Record: audit.Discard,
		Credentials: func(context.Context, string) (Secret, error) { return secret, nil }})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, s := range f.sites {
		for _, rt := range s.routes {
			if p.Host != "" && rt.Host != p.Host || p.Host == "" && rt.Host != g.Routes[0].Host {
				continue
			}
			return rt.probe(ctx, secret, p)
		}
	}
	return nil, fmt.Errorf("%s is no host of %s", p.Host, g.Provider)
}

func (rt *route) probe(ctx context.Context, secret Secret, p sandbox.Probe) (*ProbeAnswer, error) {
	key, err := rt.arm(secret)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{Method: p.Method, URL: rt.target(p.Path, rt.outQuery("", key)), Host: rt.upstream.Host,
		Header: rt.outHeader(http.Header{"User-Agent": {"terok"}, "Accept": {"application/json"}}, key)}).WithContext(ctx)
	resp, err := rt.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s", upstreamRefusal(err).message)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	if err != nil {
		return nil, fmt.Errorf("the provider's answer broke off")
	}
	return &ProbeAnswer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}
