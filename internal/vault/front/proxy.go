package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"terok/internal/vault/endpoint"
	"terok/internal/vault/usage"
)

// maxHeaders bounds the header lines of a request.
const maxHeaders = 100

// exchange is one request and what became of it, for the ledger.
type exchange struct {
	route     *route // the first of the site until the phantom is known
	status    int
	reason    string // code of a refusal or failure, "" when relayed in full
	up        int64
	down      int64
	scrubbed  bool
	retries   int
	first     time.Duration // until the provider's answer began
	generates bool          // it is paid for by tokens
	close     int           // code of a WebSocket's end

	model    string
	tokens   usage.Tokens
	microUSD int64
}

// ServeHTTP answers one request on a connection given to ServeConn.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := r.Context().Value(siteKey{}).(*site)
	started := f.cfg.Now()
	x := exchange{route: s.routes[0]}
	defer func() { f.record(r, &x, started) }()
	if f.requests.Add(1) > int64(f.cfg.Limits.Concurrent) {
		f.requests.Add(-1)
		w.Header().Set("Retry-After", "1")
		f.answer(w, r, &x, refuse(http.StatusTooManyRequests, "rate_limited", "too many requests at a time"))
		return
	}
	defer f.requests.Add(-1)
	if f.tokenRequest(w, r, s, &x) {
		return
	}
	v, ref := f.judge(r, s)
	if v.route != nil {
		x.route = v.route
	}
	switch {
	case ref != nil:
		s.asksLogin(w.Header(), r, ref)
		f.answer(w, r, &x, ref)
	case v.action == endpoint.Local:
		x.status, x.reason = http.StatusNoContent, "local"
		w.WriteHeader(http.StatusNoContent)
	case v.action != endpoint.Allow && v.action != endpoint.Upload && (v.action != endpoint.Substitute || v.route.Exchange == nil):
		f.answer(w, r, &x, refuse(http.StatusForbidden, "path_denied", "the vault does not relay "+r.Method+" requests to this path"))
	default:
		// A WebSocket at such an endpoint carries what a POST would.
		x.generates = usage.Generates(r.Method, r.URL.Path) || upgrade(r) && usage.Generates("POST", r.URL.Path)
		ref := f.admit(r.Context(), v.route, x.generates)
		if ref == nil && f.cfg.NoBatches && usage.Batches(r.Method, r.URL.Path) {
			ref = refuse(http.StatusForbidden, "path_denied", "what a batch costs is not known before it is done, so none is relayed while vault.budget is set")
		}
		if ref != nil {
			f.answer(w, r, &x, ref)
			return
		}
		f.relay(w, r, v, &x)
	}
}

// relay sends a judged request upstream and streams the answer back.
func (f *Front) relay(w http.ResponseWriter, r *http.Request, v verdict, x *exchange) {
	ctx, rt := r.Context(), v.route
	key, ref := f.key(ctx, v)
	if ref != nil {
		f.answer(w, r, x, ref)
		return
	}
	url := rt.target(r.URL.EscapedPath(), rt.outQuery(r.URL.RawQuery, key))
	if upgrade(r) && !v.git {
		f.tunnel(w, r, rt, (&http.Request{Method: r.Method, URL: url, Host: rt.upstream.Host, Header: rt.outHeader(r.Header, key)}), key, x)
		return
	}
	rules := bodyRules{fetch: rt.ServerFetch || rt.Forge != "", upload: v.action == endpoint.Upload}
	if rt.Forge != "" && !v.git {
		check, ref := rt.confine(r, v, &lookup{ctx: ctx, route: rt, key: key, path: r.URL.EscapedPath(), now: f.cfg.Now()})
		if ref != nil {
			f.answer(w, r, x, ref)
			return
		}
		rules.forgeCheck = check
	}
	var body io.ReadCloser
	var length int64
	var again func() (io.ReadCloser, error)
	var err error
	if v.git {
		body, length, err = f.gitBody(r)
	} else {
		body, length, again, err = f.prepareBody(r, rules)
	}
	if err != nil {
		f.answer(w, r, x, refusalOf(err))
		return
	}
	counted := &countedBody{ReadCloser: body}
	out := (&http.Request{
		Method:        r.Method,
		URL:           url,
		Host:          rt.upstream.Host,
		Header:        v.header(r.Header, key),
		ContentLength: length,
		GetBody:       again,
	}).WithContext(ctx)
	if body != nil {
		out.Body = counted
	}
	started := f.cfg.Now()
	resp, err := rt.send(out, x)
	x.first = f.cfg.Now().Sub(started)
	x.up = counted.n.Load()
	if err != nil {
		ref := upstreamRefusal(err)
		if berr := counted.failure(); berr != nil { // the transport does not always pass it on
			if ref = refusalOf(berr); ref == nil {
				ref = refuse(http.StatusBadRequest, "bad_body", "the request body ended early")
			}
		}
		f.answer(w, r, x, ref)
		return
	}
	if resp, key, ref = f.renewed(r, v, key, out, resp, x); ref != nil {
		f.answer(w, r, x, ref)
		return
	}
	defer resp.Body.Close()
	ref = rt.judgeResponse(resp)
	if ref == nil && v.action == endpoint.Substitute {
		ref = f.substitute(rt, key, resp)
	}
	if ref != nil {
		f.answer(w, r, x, ref)
		return
	}
	// Counted also when the client goes away before the end: it was made and will be billed.
	var meter *usage.Meter
	if x.generates && resp.StatusCode < 300 {
		if meter = f.meterFor(resp.Header.Get("Content-Type")); meter != nil {
			defer func() { f.used(rt, x, meter, counted.n.Load()) }()
		}
	}
	f.respond(w, resp, key, meter, x)
	x.up = counted.n.Load()
}

// key is the secret that takes the phantom's place.
func (f *Front) key(ctx context.Context, v verdict) (*armed, *refusal) {
	if v.child != nil {
		return v.child.key, nil
	}
	secret, err := f.cfg.Credentials(ctx, v.route.Provider)
	if err != nil {
		v.route.disarm()
		return nil, credentialRefusal(v.route, err)
	}
	key, err := v.route.arm(secret)
	if err != nil {
		return nil, refuse(http.StatusBadGateway, "credential_misconfigured", "the stored credential cannot be used: "+err.Error())
	}
	return key, nil
}

// send makes the upstream request, and once more when the connection ended before any of the
// answer came and nobody can have acted on the first: a method that only reads, or a key by which
// the provider knows the same request again.
func (rt *route) send(out *http.Request, x *exchange) (*http.Response, error) {
	resp, err := rt.transport.RoundTrip(out)
	if err == nil || !repeatable(out) || !cutOff(err) || out.Context().Err() != nil {
		return resp, err
	}
	again := out.Clone(out.Context())
	if out.Body != nil {
		if again.Body, err = out.GetBody(); err != nil {
			return nil, err
		}
	}
	x.retries++
	return rt.transport.RoundTrip(again)
}

func repeatable(r *http.Request) bool {
	if r.Body != nil && r.GetBody == nil {
		return false
	}
	switch r.Method {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return len(r.Header["Idempotency-Key"]) > 0
}

// cutOff reports whether err is the end of a connection, and not a refusal to open one or a
// certificate that is not trusted.
func cutOff(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || strings.Contains(err.Error(), "server closed idle connection")
}

// target is the upstream URL of a judged path; the path goes out as it came in.
func (rt *route) target(path, query string) *url.URL {
	u := *rt.upstream
	decoded, err := url.PathUnescape(path)
	if err != nil { // cannot happen: judge saw it decoded
		decoded = path
	}
	u.Path, u.RawQuery = rt.upstream.Path+decoded, query
	if decoded != path {
		u.RawPath = (&url.URL{Path: rt.upstream.Path}).EscapedPath() + path
	}
	return &u
}

// outQuery is the query to send upstream, with the credential where it goes there.
func (rt *route) outQuery(raw string, key *armed) string {
	raw = rt.withoutPhantom(raw)
	if key.auth.Query == "" {
		return raw
	}
	if raw != "" {
		raw += "&"
	}
	return raw + url.QueryEscape(key.auth.Query) + "=" + url.QueryEscape(string(key.secret.Value))
}
