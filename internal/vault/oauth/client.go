package oauth

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
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"terok/internal/shield/policy"
)

// maxAnswer bounds an answer in bytes.
const maxAnswer = 64 << 10

// Client talks to token endpoints. The zero value works.
type Client struct {
	// Timeout bounds one request; 0 is 60 s. It is long, since giving up on an answer that is on
	// its way may lose a token that rotates.
	Timeout time.Duration
	Now     func() time.Time // nil: time.Now
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// reply is an answer.
type reply struct {
	host       string
	status     int
	body       []byte // one JSON object, or nil; the caller clears it
	skew       time.Duration
	retryAfter time.Duration
}

// post sends parameters to one URL of an endpoint. It fails with *Unavailable; status and absence
// of a body are the caller's to judge.
func (c *Client) post(ctx context.Context, ep *Endpoint, target string, form bool, params url.Values) (*reply, error) {
	body, kind := encode(params, form)
	defer clear(body)
	return c.send(ctx, ep, http.MethodPost, target, http.Header{"Content-Type": {kind}}, body)
}

// send makes one request. The status is the caller's to judge.
func (c *Client) send(ctx context.Context, ep *Endpoint, method, target string, header http.Header, body []byte) (*reply, error) {
	u, err := checkURL("the endpoint", target)
	if err != nil {
		return nil, err
	}
	transport, err := ep.transport()
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var sent atomic.Bool
	req, err := http.NewRequestWithContext(ctx, method, u.String(), &noted{bytes.NewReader(body), &sent})
	if err != nil {
		return nil, err
	}
	if req.ContentLength = int64(len(body)); len(body) == 0 {
		req.Body = http.NoBody
	}
	req.Header = header
	req.Header["Accept"], req.Header["User-Agent"] = []string{"application/json"}, []string{"terok"}
	resp, err := transport.RoundTrip(req) // not a Client: nothing is followed
	if err != nil {
		return nil, &Unavailable{Reason: failure(u.Hostname(), err), Sent: sent.Load(), err: err}
	}
	defer resp.Body.Close()
	r := &reply{host: u.Hostname(), status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"), c.now())}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		r.skew = date.Sub(c.now())
	}
	if r.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		clear(r.body)
		return nil, &Unavailable{Reason: "the answer of " + r.host + " broke off", Sent: true, err: err}
	}
	if len(r.body) > maxAnswer {
		clear(r.body)
		return nil, &Unavailable{Reason: r.host + " answers with more than 64 KiB", Sent: true}
	}
	if body := bytes.TrimSpace(r.body); len(body) == 0 || body[0] != '{' || !json.Valid(body) {
		clear(r.body)
		r.body = nil
	}
	return r, nil
}

// strange is the error of an answer that is no answer: whoever gave it is not the token endpoint
// at work, but may stand before it.
func (r *reply) strange() error {
	what := fmt.Sprintf("answers HTTP %d without JSON", r.status)
	if r.status >= 300 && r.status < 400 {
		what = "answers with a redirect, which is not followed"
	}
	return &Unavailable{Reason: r.host + " " + what, RetryAfter: r.retryAfter, Sent: r.status < 300}
}

// noted notes that bytes of the body went out. The transport reads on a goroutine of its own, which
// may outlive the request.
type noted struct {
	*bytes.Reader
	sent *atomic.Bool
}

func (n *noted) Read(p []byte) (int, error) { n.sent.Store(true); return n.Reader.Read(p) }
func (n *noted) Close() error               { return nil }

func encode(params url.Values, form bool) (body []byte, kind string) {
	if form {
		return []byte(params.Encode()), "application/x-www-form-urlencoded"
	}
	m := make(map[string]string, len(params))
	for k, v := range params {
		m[k] = v[0]
	}
	body, err := json.Marshal(m)
	if err != nil { // strings always encode
		return nil, ""
	}
	return body, "application/json"
}

// retryAfter reads both forms of the header (RFC 9110 §10.2.3), at most an hour.
func retryAfter(v string, now time.Time) time.Duration {
	d := time.Duration(0)
	if n, err := strconv.Atoi(v); err == nil && n < 1<<20 {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

// failure says what went wrong on the way, without addresses.
func failure(host string, err error) string {
	var verify *tls.CertificateVerificationError
	var private *privateError
	switch {
	case errors.As(err, &verify):
		return "the certificate of " + host + " is not trusted"
	case errors.As(err, &private):
		return host + " leads to an address that is not public"
	case errors.Is(err, context.DeadlineExceeded):
		return host + " does not answer in time"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return host + " cannot be reached"
}

// transport makes connections for one request.
func (ep *Endpoint) transport() (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("system certificates: %w", err)
	}
	if ep.CAFile != "" {
		data, err := os.ReadFile(ep.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !roots.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", ep.CAFile)
		}
	}
	return &http.Transport{
		// No proxy from the environment: nobody but the endpoint sees the request.
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return Dial(ctx, addr, ep.AllowPrivate)
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		DisableCompression:     true,
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

type privateError struct{ addr netip.Addr }

func (e *privateError) Error() string { return e.addr.String() + " is not a public address" }

// Dial connects to addr ("host:port") by the host's resolver. Every address it resolves to is
// judged by itself: metadata services and the like never, private ranges and this host only with
// allowPrivate, so that a name which changes its mind between two look-ups reaches neither.
func Dial(ctx context.Context, addr string, allowPrivate bool) (net.Conn, error) {
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
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		addrs = []netip.Addr{a}
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	var errs []error
	for _, a := range addrs {
		a = a.Unmap()
		if policy.FloorAddr(a) || policy.PrivateAddr(a) && !allowPrivate {
			errs = append(errs, &privateError{a})
			continue
		}
		conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, uint16(n)).String())
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	return nil, errors.Join(errs...)
}
