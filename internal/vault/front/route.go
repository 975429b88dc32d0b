package front

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// route is a Route made ready to serve.
type route struct {
	Route
	upstream  *url.URL // scheme, host:port and path prefix without trailing slash
	tls       *tls.Config
	transport *http.Transport
	accepted  []string // canonical header names in which the phantom may stand
	allow     []pathRule
	deny      []pathRule
	armed     atomic.Pointer[armed] // the last secret, ready to use
}

// armed is a secret with what is derived from it once.
type armed struct {
	secret Secret
	header []string // value of the credential header
	scrub  *scrubber
}

func (f *Front) newRoute(r Route) (*route, error) {
	rt := &route{Route: r}
	if !validHost(r.Host) || r.Port == 0 {
		return nil, fmt.Errorf("%q, port %d is not a host to route", r.Host, r.Port)
	}
	if len(r.Phantom) < 16 {
		return nil, errors.New("phantom token missing")
	}
	if !httpguts.ValidHeaderFieldName(r.Header) || !httpguts.ValidHeaderFieldValue(r.Prefix) {
		return nil, fmt.Errorf("%q is not a header", r.Header)
	}
	rt.accepted = []string{http.CanonicalHeaderKey(r.Header)}
	for _, h := range r.AltHeaders {
		rt.accepted = append(rt.accepted, http.CanonicalHeaderKey(h))
	}
	var err error
	if rt.upstream, err = upstreamURL(r); err != nil {
		return nil, err
	}
	if rt.allow, err = parsePathRules(r.AllowPaths); err != nil {
		return nil, err
	}
	if rt.deny, err = parsePathRules(r.DenyPaths); err != nil {
		return nil, err
	}
	if rt.tls, err = f.serverTLS(r.Host); err != nil {
		return nil, err
	}
	rt.transport, err = f.newTransport(rt)
	return rt, err
}

// upstreamURL decides where requests go. Plain http is for a loopback upstream that the operator
// wrote down as private, and nothing else: a credential never travels unprotected.
func upstreamURL(r Route) (*url.URL, error) {
	if r.Upstream == "" {
		u := &url.URL{Scheme: "https", Host: r.Host}
		if r.Port != 443 {
			u.Host = net.JoinHostPort(r.Host, portString(r.Port))
		}
		return u, nil
	}
	u, err := url.Parse(r.Upstream)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.RawPath != "" {
		return nil, fmt.Errorf("upstream %q is not https://host[:port][/path]", r.Upstream)
	}
	switch u.Scheme {
	case "https":
	case "http":
		ip, err := netip.ParseAddr(u.Hostname())
		loopback := err == nil && ip.IsLoopback() || u.Hostname() == "localhost"
		if !loopback || !r.AllowPrivate {
			return nil, fmt.Errorf("upstream %q: http is only for loopback with allow_private", r.Upstream)
		}
	default:
		return nil, fmt.Errorf("upstream %q is neither https nor http", r.Upstream)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

func (f *Front) newTransport(rt *route) (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("system certificates: %w", err)
	}
	if rt.CAFile != "" {
		data, err := os.ReadFile(rt.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !roots.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", rt.CAFile)
		}
	}
	return &http.Transport{
		// No proxy from the environment: the operator's dialler decides where bytes go.
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return f.cfg.Dial(ctx, host, uint16(n), rt.AllowPrivate)
		},
		TLSClientConfig: &tls.Config{
			RootCAs:            roots,
			MinVersion:         tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(16),
		},
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // what the provider sends is what we judge
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    128,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  10 * time.Minute,
		MaxResponseHeaderBytes: 256 << 10,
	}, nil
}

// carriesPhantom reports whether a credential header's value is this route's phantom, bare or
// after the scheme word. The comparison takes the same time wherever they differ.
func (rt *route) carriesPhantom(value string) bool {
	value = strings.TrimSpace(value)
	if scheme, rest, ok := strings.Cut(value, " "); ok &&
		(strings.EqualFold(scheme, "bearer") || strings.EqualFold(scheme, "token") || strings.EqualFold(scheme, strings.TrimSpace(rt.Prefix))) {
		value = strings.TrimSpace(rest)
	}
	return subtle.ConstantTimeCompare([]byte(value), []byte(rt.Phantom)) == 1
}

// arm makes a secret ready to use; the same secret is made ready once.
func (rt *route) arm(s Secret) (*armed, error) {
	if a := rt.armed.Load(); a != nil && len(a.secret.Value) == len(s.Value) && subtle.ConstantTimeCompare(a.secret.Value, s.Value) == 1 {
		return a, nil
	}
	if len(s.Value) < minSecret || len(s.Value) > maxSecret {
		return nil, errors.New("credential has an impossible length")
	}
	for _, c := range s.Value {
		if c <= 0x20 || c >= 0x7f {
			return nil, errors.New("credential is not visible ASCII")
		}
	}
	a := &armed{secret: s, header: []string{rt.Prefix + string(s.Value)}, scrub: newScrubber(s.Value)}
	rt.armed.Store(a)
	return a, nil
}

// disarm forgets what was derived from the last secret.
func (rt *route) disarm() { rt.armed.Store(nil) }

// pathRule is one "[METHOD ]/prefix" of a route.
type pathRule struct {
	method string // "" is any
	prefix string // "/a/b": that path and everything below; a trailing "*" is a plain prefix
	glob   bool
}

func parsePathRules(list []string) ([]pathRule, error) {
	var out []pathRule
	for _, s := range list {
		r := pathRule{prefix: s}
		if method, rest, ok := strings.Cut(s, " "); ok {
			r.method, r.prefix = method, strings.TrimSpace(rest)
		}
		r.prefix, r.glob = strings.CutSuffix(r.prefix, "*")
		if !r.glob && len(r.prefix) > 1 {
			r.prefix = strings.TrimSuffix(r.prefix, "/")
		}
		if !strings.HasPrefix(r.prefix, "/") || r.method != strings.ToUpper(r.method) {
			return nil, fmt.Errorf("path rule %q is not [METHOD ]/prefix", s)
		}
		out = append(out, r)
	}
	return out, nil
}

func (p pathRule) matches(method, path string, fold bool) bool {
	if p.method != "" && p.method != method {
		return false
	}
	prefix := p.prefix
	if fold {
		prefix, path = strings.ToLower(prefix), strings.ToLower(path)
	}
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (p.glob || rest == "" || rest[0] == '/' || prefix == "/")
}

// reachable applies the path policy to a normalised path: deny rules first and without regard to
// case, then allow rules where there are any.
func (rt *route) reachable(method, path string) bool {
	for _, r := range rt.deny {
		if r.matches(method, path, true) {
			return false
		}
	}
	if len(rt.allow) == 0 {
		return true
	}
	for _, r := range rt.allow {
		if r.matches(method, path, false) {
			return true
		}
	}
	return false
}

// plainPath returns the decoded path when every reader reads it alike; otherwise false: dot
// segments, empty segments, encoded slashes, backslashes, dots and percent signs, parameters and
// control characters are read differently by different servers, and a policy judged on one
// reading would be stepped around by another.
func plainPath(u *url.URL) (string, bool) {
	raw, path := u.EscapedPath(), u.Path
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] != '%' {
			continue
		}
		switch strings.ToLower(raw[i+1 : i+3]) {
		case "2f", "5c", "2e", "25", "3b", "3f", "23":
			return "", false
		}
	}
	for _, c := range []byte(path) {
		if c < 0x20 || c == 0x7f || c == '\\' || c == ';' {
			return "", false
		}
	}
	for _, seg := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if seg == "." || seg == ".." || seg == "" && path != "/" {
			return "", false
		}
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path, true
}
