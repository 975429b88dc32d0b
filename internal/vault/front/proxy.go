package front

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/text"
	"terok/internal/vault/keyholder"
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

// dropped are the request headers that end here: hop by hop, forwarding claims, and those that
// would make a response that cannot be scrubbed.
var dropped = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true,
	"Expect": true, "Accept-Encoding": true, "Range": true, "If-Range": true, "Forwarded": true,
	"Via": true, "X-Real-Ip": true, "Http2-Settings": true, "Alt-Used": true, "Cookie": true,
}

// outHeader copies what may go upstream and adds the credential last, so that nothing the client
// names in Connection can take it away again.
func (rt *route) outHeader(in http.Header, key *armed) http.Header {
	out := make(http.Header, len(in)+2)
	for name, values := range in {
		if !dropped[name] && !strings.HasPrefix(name, "X-Forwarded-") {
			out[name] = values
		}
	}
	for _, v := range in["Connection"] {
		for _, name := range strings.Split(v, ",") {
			delete(out, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, name := range rt.accepted {
		delete(out, name)
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = noUserAgent // net/http would add its own
	}
	out["Accept-Encoding"] = identityEncoding
	out[rt.accepted[0]] = key.header
	return out
}

var (
	noUserAgent      = []string{""}
	identityEncoding = []string{"identity"}
)

// judgeResponse refuses answers that must not reach the container and rewrites redirects: within
// the upstream they are shown under the routed name, elsewhere they are refused. None is followed.
func (rt *route) judgeResponse(resp *http.Response) *refusal {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return refuse(http.StatusBadGateway, "upstream_unreachable", "the provider switched protocols without being asked")
	}
	switch enc := strings.ToLower(resp.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(resp.Body)
		if err != nil && err != io.EOF {
			return refuse(http.StatusBadGateway, "encoding_denied", "the provider's answer cannot be unpacked")
		}
		if err == nil {
			resp.Body = &gunzipped{z, resp.Body}
		}
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		resp.ContentLength = -1
	default:
		return refuse(http.StatusBadGateway, "encoding_denied", "the provider answered in an encoding that cannot be scrubbed")
	}
	loc := resp.Header.Get("Location")
	if loc == "" {
		return nil
	}
	u, err := url.Parse(loc)
	if err != nil {
		return refuse(http.StatusBadGateway, "redirect_denied", "the provider redirected to something unreadable")
	}
	if u.Host == "" && u.Scheme == "" {
		return nil
	}
	if u.Scheme != rt.upstream.Scheme || !strings.EqualFold(u.Host, rt.upstream.Host) || u.User != nil {
		return refuse(http.StatusBadGateway, "redirect_denied", "the provider redirected to "+text.Line(u.Host, 100)+", which is not followed")
	}
	u.Scheme, u.Host = "https", rt.Host
	if rt.Port != 443 {
		u.Host += ":" + portString(rt.Port)
	}
	resp.Header["Location"] = []string{u.String()}
	return nil
}

type gunzipped struct {
	*gzip.Reader
	under io.Closer
}

func (g *gunzipped) Close() error { return g.under.Close() }

// withheld are the response headers that do not reach the container: hop by hop, and those that
// would leave state behind in a client.
var withheld = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te",
	"Transfer-Encoding", "Upgrade", "Set-Cookie", "Set-Cookie2", "Alt-Svc",
	"Strict-Transport-Security", "Clear-Site-Data", "Public-Key-Pins", "Trailer"}

// bodyBuffers holds the buffers of responses in flight.
var bodyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// respond streams resp to the client, scrubbed, and flushes whatever upstream sent as it comes.
func (f *Front) respond(w http.ResponseWriter, resp *http.Response, scrub *scrubber, x *exchange) {
	h := w.Header()
	for _, v := range resp.Header["Connection"] {
		for _, name := range strings.Split(v, ",") {
			resp.Header.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range withheld {
		delete(resp.Header, name)
	}
	x.scrubbed = scrub.header(resp.Header)
	for name, values := range resp.Header {
		h[name] = values
	}
	announced := map[string]bool(nil)
	for name := range resp.Trailer {
		if !credentialHeader(name) {
			h.Add("Trailer", name)
			if announced == nil {
				announced = map[string]bool{}
			}
			announced[name] = true
		}
	}
	x.status = resp.StatusCode
	w.WriteHeader(resp.StatusCode)

	buf := bodyBuffers.Get().(*[]byte)
	defer bodyBuffers.Put(buf)
	st := scrubStream{scrubber: scrub, buf: *buf}
	if 2*scrub.longest > len(st.buf) {
		st.buf = make([]byte, 4*scrub.longest)
	}
	flush := http.NewResponseController(w)
	stream := resp.ContentLength < 0 || resp.ContentLength > int64(len(st.buf))
	if stream {
		_ = flush.Flush() // headers at once: the client of a stream waits for them
	}
	for out := 0; ; {
		n, err := resp.Body.Read(st.room(out))
		chunk := st.next(n, err != nil)
		out = len(chunk)
		if out > 0 {
			if _, werr := w.Write(chunk); werr != nil {
				x.reason = "client_gone"
				break
			}
			x.down += int64(out)
			if stream && err == nil {
				_ = flush.Flush()
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.scrubbed = x.scrubbed || st.found
			x.reason = "upstream_truncated"
			panic(http.ErrAbortHandler) // the client must see that the end is missing
		}
	}
	x.scrubbed = x.scrubbed || st.found
	if len(resp.Trailer) > 0 {
		x.scrubbed = scrub.header(resp.Trailer) || x.scrubbed
		for name, values := range resp.Trailer {
			switch {
			case announced[name]:
				h[name] = values
			case !credentialHeader(name):
				h[http.TrailerPrefix+name] = values
			}
		}
	}
}

// answer writes a refusal in the shape that the provider's own clients understand.
func (f *Front) answer(w http.ResponseWriter, r *http.Request, rt *route, x *exchange, ref *refusal) {
	x.status, x.reason = ref.status, ref.code
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Terok-Broker", ref.code)
	if ref.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "15")
	}
	body := errorBody(rt.Provider == "anthropic" || r.Header.Get("Anthropic-Version") != "", ref)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(ref.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func errorBody(anthropic bool, ref *refusal) []byte {
	kind := "invalid_request_error"
	switch ref.status {
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case http.StatusServiceUnavailable:
		kind = "overloaded_error"
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		kind = "api_error"
	}
	message := "terok: " + ref.message
	var v any = map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": ref.code}}
	if anthropic {
		v = map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
	}
	body, err := json.Marshal(v)
	if err != nil { // strings always encode
		return []byte("{}")
	}
	return body
}

func credentialRefusal(rt *route, err error) *refusal {
	switch {
	case errors.Is(err, keyholder.ErrLocked):
		return refuse(http.StatusServiceUnavailable, "vault_locked", "the vault is locked; a person must run on the host: terok vault unlock")
	case errors.Is(err, keyholder.ErrNoCredential), errors.Is(err, keyholder.ErrNotGranted):
		return refuse(http.StatusForbidden, "credential_missing", "no credential is stored for "+rt.Provider+"; a person must run on the host: terok auth "+rt.Provider)
	}
	return refuse(http.StatusServiceUnavailable, "vault_unavailable", "the vault does not answer; a person can look on the host: terok vault status")
}

// upstreamRefusal says what went wrong between the host and the provider, without addresses.
func upstreamRefusal(err error) *refusal {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		return refuse(http.StatusBadGateway, "upstream_tls", "the provider's certificate is not trusted")
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(http.StatusGatewayTimeout, "upstream_timeout", "the provider did not answer in time")
	}
	return refuse(http.StatusBadGateway, "upstream_unreachable", "the provider cannot be reached from the host")
}

// record writes the ledger's line: who, how much and how long, never a path or a header.
func (f *Front) record(r *http.Request, rt *route, x *exchange, started time.Time) {
	method := r.Method
	if len(method) > 8 {
		method = "OTHER"
	}
	ev := audit.Event{Ev: "vault_request", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider,
		Method: text.Line(method, 8), Status: x.status, Reason: x.reason, BytesUp: uint64(x.up), BytesDown: uint64(x.down),
		Detail: map[string]string{"duration_ms": strconv.FormatInt(f.cfg.Now().Sub(started).Milliseconds(), 10)}}
	if x.status >= 400 && x.reason != "" {
		ev.Verdict = "deny"
	}
	f.cfg.Record.Record(ev)
	if x.scrubbed {
		f.cfg.Record.Record(audit.Event{Ev: "vault_secret_echoed", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider})
	}
}
