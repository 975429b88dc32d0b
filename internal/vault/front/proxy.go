package front

import (
	"net/http"
	"net/url"
	"strings"

	"terok/internal/text"
)

// maxHeaders bounds the header lines of a request.
const maxHeaders = 100

// exchange is one request and what became of it, for the ledger.
type exchange struct {
	status   int
	reason   string // code of a refusal or failure, "" when relayed in full
	up       int64
	down     int64
	scrubbed bool
}

// ServeHTTP answers one request on a connection given to ServeConn.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := r.Context().Value(routeKey{}).(*route)
	started := f.cfg.Now()
	var x exchange
	defer func() { f.record(r, rt, &x, started) }()
	if f.requests.Add(1) > int64(f.cfg.Limits.Concurrent) {
		f.requests.Add(-1)
		w.Header().Set("Retry-After", "1")
		f.answer(w, r, rt, &x, refuse(http.StatusTooManyRequests, "rate_limited", "too many requests at a time"))
		return
	}
	defer f.requests.Add(-1)
	path, err := f.judge(r, rt)
	if err != nil {
		f.answer(w, r, rt, &x, err)
		return
	}
	f.relay(w, r, rt, path, &x)
}

// judge applies every rule that needs no body and returns the path to send upstream.
func (f *Front) judge(r *http.Request, rt *route) (string, *refusal) {
	if !sameHost(r.Host, rt) || len(r.Header["Host"]) > 0 {
		return "", refuse(http.StatusMisdirectedRequest, "misdirected", "this connection is for "+rt.Host+" only")
	}
	switch r.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	default:
		return "", refuse(http.StatusMethodNotAllowed, "method_denied", "the vault does not relay this method")
	}
	if r.URL.Scheme != "" || r.URL.Host != "" || r.URL.Opaque != "" {
		return "", refuse(http.StatusBadRequest, "bad_target", "the request target must be a path")
	}
	path, ok := plainPath(r.URL)
	if !ok {
		return "", refuse(http.StatusBadRequest, "bad_target", "the path can be read in more than one way")
	}
	if err := rt.judgeHeaders(r.Header); err != nil {
		return "", err
	}
	if hasCredentialParam(r.URL.RawQuery) {
		return "", refuse(http.StatusForbidden, "foreign_credential", "the query carries a credential of its own")
	}
	if !rt.reachable(r.Method, path) {
		return "", refuse(http.StatusForbidden, "path_denied", "the vault does not relay "+r.Method+" requests to this path")
	}
	return r.URL.EscapedPath(), nil
}

// sameHost reports whether Host or :authority is exactly the connection's name, with or without
// its port.
func sameHost(host string, rt *route) bool {
	if strings.EqualFold(host, rt.Host) {
		return true
	}
	name, port, ok := strings.Cut(host, ":")
	return ok && strings.EqualFold(name, rt.Host) && port == portString(rt.Port)
}

// judgeHeaders demands the phantom, and no other credential anywhere.
func (rt *route) judgeHeaders(h http.Header) *refusal {
	lines := 0
	phantom := false
	for name, values := range h {
		lines += len(values)
		own := false
		for _, a := range rt.accepted {
			own = own || a == name
		}
		switch {
		case own:
			for _, v := range values {
				if !rt.carriesPhantom(v) {
					return refuse(http.StatusForbidden, "invalid_token", "the "+name+" header does not carry this task's token; real keys do not belong in a task")
				}
				phantom = true
			}
		case credentialHeader(name):
			return refuse(http.StatusForbidden, "foreign_credential", "the "+text.Line(name, 64)+" header carries a credential of its own")
		case strings.HasSuffix(name, "Method-Override") || name == "X-Http-Method":
			return refuse(http.StatusBadRequest, "bad_target", "method overrides are not relayed")
		}
	}
	if lines > maxHeaders {
		return refuse(http.StatusRequestHeaderFieldsTooLarge, "bad_request", "too many headers")
	}
	if !phantom {
		return refuse(http.StatusForbidden, "missing_token", "the request carries no token of this task in "+rt.accepted[0])
	}
	return nil
}

// relay sends a judged request upstream and streams the answer back.
func (f *Front) relay(w http.ResponseWriter, r *http.Request, rt *route, path string, x *exchange) {
	ctx := r.Context()
	secret, err := f.cfg.Credentials(ctx, rt.Provider)
	if err != nil {
		rt.disarm()
		f.answer(w, r, rt, x, credentialRefusal(rt, err))
		return
	}
	key, err := rt.arm(secret)
	if err != nil {
		f.answer(w, r, rt, x, refuse(http.StatusBadGateway, "credential_misconfigured", "the stored credential cannot be used: "+err.Error()))
		return
	}
	body, length, again, err := f.prepareBody(r, rt)
	if err != nil {
		f.answer(w, r, rt, x, refusalOf(err))
		return
	}
	counted := &countedBody{ReadCloser: body}
	out := (&http.Request{
		Method:        r.Method,
		URL:           rt.target(path, r.URL.RawQuery),
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
		f.answer(w, r, rt, x, ref)
		return
	}
	defer resp.Body.Close()
	if ref := rt.judgeResponse(resp); ref != nil {
		f.answer(w, r, rt, x, ref)
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
