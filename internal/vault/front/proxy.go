package front

import (
	"net/http"
	"net/url"

	"terok/internal/vault/endpoint"
)

// maxHeaders bounds the header lines of a request.
const maxHeaders = 100

// exchange is one request and what became of it, for the ledger.
type exchange struct {
	route    *route // the first of the site until the phantom is known
	status   int
	reason   string // code of a refusal or failure, "" when relayed in full
	up       int64
	down     int64
	scrubbed bool
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
	v, ref := f.judge(r, s)
	if v.route != nil {
		x.route = v.route
	}
	switch {
	case ref != nil:
		f.answer(w, r, &x, ref)
	case v.action == endpoint.Local:
		x.status, x.reason = http.StatusNoContent, "local"
		w.WriteHeader(http.StatusNoContent)
	case v.action != endpoint.Allow:
		f.answer(w, r, &x, refuse(http.StatusForbidden, "path_denied", "the vault does not relay "+r.Method+" requests to this path"))
	default:
		f.relay(w, r, v, &x)
	}
}

// relay sends a judged request upstream and streams the answer back.
func (f *Front) relay(w http.ResponseWriter, r *http.Request, v verdict, x *exchange) {
	ctx, rt := r.Context(), v.route
	secret, err := f.cfg.Credentials(ctx, rt.Provider)
	if err != nil {
		rt.disarm()
		f.answer(w, r, x, credentialRefusal(rt, err))
		return
	}
	key, err := rt.arm(secret)
	if err != nil {
		f.answer(w, r, x, refuse(http.StatusBadGateway, "credential_misconfigured", "the stored credential cannot be used: "+err.Error()))
		return
	}
	body, length, again, err := f.prepareBody(r, rt)
	if err != nil {
		f.answer(w, r, x, refusalOf(err))
		return
	}
	counted := &countedBody{ReadCloser: body}
	out := (&http.Request{
		Method:        r.Method,
		URL:           rt.target(r.URL.EscapedPath(), rt.outQuery(r.URL.RawQuery, key)),
		Host:          rt.upstream.Host,
		Header:        rt.outHeader(r.Header, key),
		ContentLength: length,
		GetBody:       again,
	}).WithContext(ctx)
	if body != nil {
		out.Body = counted
	}
	resp, err := rt.transport.RoundTrip(out)
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
	defer resp.Body.Close()
	if ref := rt.judgeResponse(resp); ref != nil {
		f.answer(w, r, x, ref)
		return
	}
	f.respond(w, resp, key.scrub, x)
	x.up = counted.n.Load()
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
