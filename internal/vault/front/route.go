package front

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"terok/internal/sandbox"
	"terok/internal/vault/endpoint"
)

// site is one routed host and port. It can belong to several providers: the phantom of a request
// says which of the routes is meant.
type site struct {
	host   string
	port   uint16
	tls    *tls.Config
	routes []*route
	conns  connections
}

// grant is a Grant made ready to serve; its routes share it.
type grant struct {
	Grant
	auths   map[string]*auth // by kind of credential
	headers []string         // canonical names of headers in which the phantom may stand
	project *endpoint.Policy // nil without rules of the project
	armed   atomic.Pointer[armed]
	account *account
}

// auth is a sandbox.Auth made ready.
type auth struct {
	sandbox.Auth
	header string            // canonical; "" with Query
	set    map[string]string // canonical
	add    map[string]string
}

// route is one host of a grant.
type route struct {
	*grant
	sandbox.Route
	upstream  *url.URL // scheme, host:port and path prefix without trailing slash
	transport *http.Transport
	policy    *endpoint.Policy
	names     names // of repositories of a forge
}

// armed is a secret with what is derived from it once.
type armed struct {
	secret Secret
	auth   *auth
	header []string // value of the credential header
	scrub  *scrubber
}

// usualHeaders are where clients of one API or another put a key. The phantom is accepted in all
// of them, from every client: what counts is that nothing else stands there.
var usualHeaders = []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Private-Token", "Job-Token"}

// addGrant makes a grant's routes ready and adds them to their sites.
func (f *Front) addGrant(g Grant) error {
	if len(g.Phantom) < 16 {
		return errors.New("phantom token missing")
	}
	gr := &grant{Grant: g, auths: map[string]*auth{}, headers: slices.Clone(usualHeaders)}
	for kind, a := range g.Auth {
		ready, err := newAuth(a)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		gr.auths[kind] = ready
		if ready.header != "" {
			gr.headers = append(gr.headers, ready.header)
		}
	}
	if len(gr.auths) == 0 {
		return errors.New("no kind of credential")
	}
	for _, h := range g.AltHeaders {
		if !httpguts.ValidHeaderFieldName(h) {
			return fmt.Errorf("%q is not a header", h)
		}
		gr.headers = append(gr.headers, http.CanonicalHeaderKey(h))
	}
	slices.Sort(gr.headers)
	gr.headers = slices.Compact(gr.headers)
	if len(g.Project) > 0 {
		var err error
		if gr.project, err = endpoint.New(g.Project, "allow"); err != nil {
			return err
		}
	}
	if f.accounts[g.Provider] == nil {
		f.accounts[g.Provider] = &account{provider: g.Provider, rate: newBucket(f.cfg.Limits.PerMinute, f.cfg.Limits.Burst)}
	}
	gr.account = f.accounts[g.Provider]
	f.grants = append(f.grants, gr)
	for _, r := range g.Routes {
		if err := f.addRoute(gr, r); err != nil {
			return fmt.Errorf("%s: %w", r.Host, err)
		}
	}
	return nil
}

func (f *Front) addRoute(gr *grant, r sandbox.Route) error {
	if !validHost(r.Host) || r.Port == 0 {
		return fmt.Errorf("%q, port %d is not a host to route", r.Host, r.Port)
	}
	rt := &route{grant: gr, Route: r}
	var err error
	if rt.upstream, err = upstreamURL(r); err != nil {
		return err
	}
	if rt.policy, err = endpoint.New(r.Policy, r.Default); err != nil {
		return err
	}
	if rt.transport, err = f.newTransport(rt); err != nil {
		return err
	}
	key := target{r.Host, r.Port}
	s := f.sites[key]
	if s == nil {
		s = &site{host: r.Host, port: r.Port, tls: f.serverTLS(r.Host)}
		f.sites[key] = s
	}
	for _, other := range s.routes {
		if other.Provider == gr.Provider || other.Phantom == gr.Phantom {
			return fmt.Errorf("two routes for port %d", r.Port)
		}
	}
	s.routes = append(s.routes, rt)
	return nil
}

func newAuth(a sandbox.Auth) (*auth, error) {
	ready := &auth{Auth: a, set: map[string]string{}, add: map[string]string{}}
	if a.Query == "" {
		if !httpguts.ValidHeaderFieldName(a.Header) || !httpguts.ValidHeaderFieldValue(a.Prefix) {
			return nil, fmt.Errorf("%q is not a header", a.Header)
		}
		ready.header = http.CanonicalHeaderKey(a.Header)
	}
	for from, to := range map[*map[string]string]map[string]string{&a.Set: ready.set, &a.Add: ready.add} {
		for h, v := range *from {
			if !httpguts.ValidHeaderFieldName(h) || !httpguts.ValidHeaderFieldValue(v) {
				return nil, fmt.Errorf("%q is not a header", h)
			}
			to[http.CanonicalHeaderKey(h)] = v
		}
	}
	return ready, nil
}

// upstreamURL decides where requests go. Plain http is for a loopback upstream that the operator
// wrote down as private, and nothing else: a credential never travels unprotected.
func upstreamURL(r sandbox.Route) (*url.URL, error) {
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
	roots := f.roots
	if rt.CAFile != "" {
		roots = roots.Clone()
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

// arm makes a secret ready to use; the same secret is made ready once.
func (g *grant) arm(s Secret) (*armed, error) {
	if a := g.armed.Load(); a != nil && a.secret.Kind == s.Kind && maps.Equal(a.secret.Public, s.Public) && len(a.secret.Value) == len(s.Value) &&
		subtle.ConstantTimeCompare(a.secret.Value, s.Value) == 1 {
		return a, nil
	}
	a, err := g.newArmed(s, s.Kind)
	if err == nil {
		g.armed.Store(a)
	}
	return a, err
}

// newArmed makes a secret ready that is carried like one of this kind.
func (g *grant) newArmed(s Secret, kind string) (*armed, error) {
	if len(s.Value) < minSecret || len(s.Value) > maxSecret {
		return nil, errors.New("credential has an impossible length")
	}
	for _, c := range s.Value {
		if c <= 0x20 || c >= 0x7f {
			return nil, errors.New("credential is not visible ASCII")
		}
	}
	au := g.auths[kind]
	if au == nil && kind == sandbox.APIKey { // a person pasted it; forges call that a token
		au = g.auths[sandbox.PAT]
	}
	if au == nil {
		return nil, fmt.Errorf("%s takes no credential of the kind %s", g.Provider, kind)
	}
	a := &armed{secret: s, auth: au, scrub: newScrubber(s.Value)}
	switch {
	case au.Query != "":
	case au.User != "":
		a.header = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(au.User+":"+string(s.Value)))}
	default:
		a.header = []string{au.Prefix + string(s.Value)}
	}
	return a, nil
}

// disarm forgets what was derived from the last secret.
func (g *grant) disarm() { g.armed.Store(nil) }

// decide applies the policies to a path: the project's can only take away, unless it may widen.
func (rt *route) decide(method string, path endpoint.Path) endpoint.Action {
	a, _, _ := endpoint.Layers{Base: rt.policy, Project: rt.project, Widen: rt.Widen}.Decide(method, path)
	return a
}
