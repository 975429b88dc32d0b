package lfs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"terok/internal/shield/policy"
	"terok/internal/text"
)

// Server is an LFS server of upstream. Close it when nothing is asked any more.
type Server struct {
	URL      string            // https://HOST/PATH, to which /objects/batch is added
	User     string            // with Password, for scheme, host and port of URL and nothing else
	Password []byte            // empty: none
	Header   map[string]string // further headers of the batch request (git-lfs-authenticate)
	Roots    *x509.CertPool    // nil: those of the system
	Stall    time.Duration     // how long nothing may come; 0 is a minute
	Beside   string            // the host that named URL; URL is in no network that this one is not in. "": the operator named it

	base   *url.URL
	client *http.Client
	level  atomic.Int32 // how near the server's own address is: public, private, this machine
}

// Limits of a server's answer.
const (
	maxHref    = 16 << 10 // bytes
	maxHeaders = 32       // of an action
	maxHops    = 4        // redirects of one download
	slowest    = 16 << 10 // bytes a second, below which a transfer is given up in the end
)

// open makes the client.
func (s *Server) open() error {
	if s.client != nil {
		return nil
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("the address of the LFS server is not https://HOST/PATH")
	}
	if s.Stall <= 0 {
		s.Stall = time.Minute
	}
	s.base = u
	s.client = &http.Client{
		// No proxy of the environment: git is started without one as well.
		Transport: &http.Transport{DialContext: s.dial, TLSClientConfig: &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: s.Stall, MaxResponseHeaderBytes: 64 << 10,
			DisableCompression: true, MaxIdleConnsPerHost: parallel, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// Close lets idle connections go.
func (s *Server) Close() {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	clear(s.Password)
}

// nearness of an address: how much of the operator's own network it gives away.
func nearness(a netip.Addr) int32 {
	switch {
	case a.IsLoopback():
		return 2
	case policy.PrivateAddr(a):
		return 1
	}
	return 0
}

// dial connects, to nothing nearer than the LFS server itself: its answers name addresses, and must not
// make the host ask a service of its own network for a server on the internet. Link-local and metadata
// addresses are never reached. The address is judged that is connected to, so a name cannot change
// its meaning in between.
func (s *Server) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	own := origin(&url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}) == origin(s.base)
	var list []netip.Addr
	if host == policy.HostName { // as containers call this machine, and git's connection to it
		list = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	} else if list, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	most := s.level.Load()
	if own {
		most = s.nearest(ctx, host)
	}
	err = fmt.Errorf("%s has no address", host)
	for _, a := range list {
		a = a.Unmap()
		if policy.FloorAddr(a) || nearness(a) > most {
			err = fmt.Errorf("%s is at %s, where the LFS server itself is not", host, a)
			continue
		}
		d := net.Dialer{Timeout: 15 * time.Second}
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			if own {
				s.level.Store(nearness(a))
			}
			return conn, nil
		}
	}
	return nil, err
}

// nearest is how near the LFS server itself may be: as near as it is, where the operator named it.
func (s *Server) nearest(ctx context.Context, host string) (level int32) {
	if s.Beside == "" || strings.EqualFold(s.Beside, host) {
		return 2
	}
	list, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", s.Beside) // unknown: as far as can be
	for _, a := range list {
		level = max(level, nearness(a.Unmap()))
	}
	return level
}

// origin is scheme, host and port of a URL.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// target judges an address that a server named.
func target(href string, from *url.URL) (*url.URL, error) {
	if len(href) > maxHref {
		return nil, errors.New("the LFS server names an address that is too long")
	}
	u, err := url.Parse(href)
	if err != nil {
		return nil, errors.New("the LFS server names an address that is none")
	}
	if from != nil {
		u = from.ResolveReference(u)
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("the LFS server names an address that is not https: %s", text.Line(u.Scheme+"://"+u.Host, 80))
	}
	return u, nil
}

// ours are headers that belong to the connection and are never taken from an answer.
var ours = map[string]bool{"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Upgrade": true,
	"Trailer": true, "Te": true, "Keep-Alive": true, "Proxy-Authorization": true, "Proxy-Connection": true, "Accept-Encoding": true, "Expect": true}

// request is one request to an address of an answer, with the answer's headers for it.
func (s *Server) request(ctx context.Context, method string, u *url.URL, a Answer, header map[string]string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if len(header) > maxHeaders {
		return nil, errors.New("the LFS server asks for too many headers")
	}
	for k, v := range header {
		if k = http.CanonicalHeaderKey(k); !ours[k] {
			r.Header.Set(k, v)
		}
	}
	if r.Header.Get("Authorization") == "" && !a.Authenticated {
		s.login(r)
	}
	r.Header.Set("User-Agent", "terok")
	return r, nil
}

// login adds the credentials where the request goes to the server that they are for.
func (s *Server) login(r *http.Request) {
	if len(s.Password) > 0 && origin(r.URL) == origin(s.base) {
		r.SetBasicAuth(s.User, string(s.Password))
	}
}

// batch asks what can be done with objects.
func (s *Server) batch(ctx context.Context, operation string, objects []Object) (map[string]Answer, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	ctx, alive, stop := s.watched(ctx, 0)
	defer stop()
	body, err := json.Marshal(Request{Operation: operation, Transfers: []string{"basic"}, Objects: objects, HashAlgo: "sha256"})
	if err != nil {
		return nil, err
	}
	u := s.base.JoinPath("objects", "batch")
	r, err := s.request(ctx, http.MethodPost, u, Answer{}, s.Header, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", Media)
	r.Header.Set("Content-Type", Media)
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("the LFS server at %s does not let us in (%d)", s.base.Host, resp.StatusCode)
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return nil, fmt.Errorf("there is no LFS server at %s (%d)", text.Line(s.URL, 120), resp.StatusCode)
	default:
		return nil, fmt.Errorf("the LFS server at %s answers %d", s.base.Host, resp.StatusCode)
	}
	answers, err := ReadResponse(alive(resp.Body), objects)
	if err != nil {
		return nil, cause(ctx, err)
	}
	return answers, nil
}

// errStalled ends a transfer in which nothing happens.
var errStalled = errors.New("nothing came for too long")

// watched is a context that ends when nothing has been read through alive for the stall time, and in
// any case when a transfer of size bytes would have gone slower than anybody waits for.
func (s *Server) watched(ctx context.Context, size int64) (_ context.Context, alive func(io.Reader) io.Reader, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx, end := context.WithTimeoutCause(ctx, 2*s.Stall+time.Duration(size/slowest)*time.Second, errStalled)
	timer := time.AfterFunc(s.Stall, func() { cancel(errStalled) })
	alive = func(r io.Reader) io.Reader { return &watchedReader{r, timer, s.Stall} }
	return ctx, alive, func() { timer.Stop(); end(); cancel(nil) }
}

type watchedReader struct {
	r     io.Reader
	timer *time.Timer
	stall time.Duration
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, err
}

// cause is why a request ended: the stall, where it was that.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err // without the address, which may be signed
	}
	return err
}
