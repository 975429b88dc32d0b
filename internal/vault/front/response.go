package front

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"terok/internal/text"
	"terok/internal/vault/usage"
)

// judgeResponse refuses answers that must not reach the container and rewrites redirects: within
// the upstream they are shown under the routed name, elsewhere they are refused. None is followed.
func (rt *route) judgeResponse(resp *http.Response) *refusal {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return refuse(http.StatusBadGateway, "upstream_unreachable", "the provider switched protocols without being asked")
	}
	switch enc := strings.ToLower(strings.Join(resp.Header["Content-Encoding"], ",")); {
	case enc == "" || enc == "identity", resp.Body == http.NoBody:
	case enc == "gzip" || enc == "x-gzip":
		resp.Body = &gunzipped{under: resp.Body, length: resp.ContentLength}
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
	if u.Scheme == "https" && u.User == nil && slices.Contains(rt.RedirectHosts, strings.ToLower(u.Host)) {
		return nil // the container goes there by itself, under its own rules and without the credential
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

// gunzipped is a body that is unpacked as it is read. The packer's header is read with the first
// bytes, so that nobody waits for it before the answer's own header goes out.
type gunzipped struct {
	under  io.ReadCloser
	length int64 // of the packed body, -1 when it is not known
	zip    *gzip.Reader
	err    error
}

func (g *gunzipped) Read(p []byte) (int, error) {
	if g.zip == nil && g.err == nil {
		g.zip, g.err = gzip.NewReader(g.under)
	}
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.zip.Read(p)
	g.err = err
	return n, err
}

func (g *gunzipped) Close() error { return g.under.Close() }

// Bounds of packed bodies that go on as they came.
const (
	wholePacked   = 256 << 10 // bytes, packed
	wholeUnpacked = 4 << 20   // bytes, unpacked
)

// unpack decides how a packed answer goes on: as it came when it is short and holds nothing to be
// masked, otherwise unpacked. meter reads what it says either way.
func unpack(resp *http.Response, scrub *scrubber, meter *usage.Meter) {
	g, ok := resp.Body.(*gunzipped)
	if !ok {
		return
	}
	length := resp.Header.Get("Content-Length")
	resp.Header.Del("Content-Length")
	encoding := resp.Header["Content-Encoding"]
	delete(resp.Header, "Content-Encoding")
	if g.length < 0 || g.length > wholePacked {
		return
	}
	packed, err := io.ReadAll(g.under)
	if err != nil {
		g.err = err
		return
	}
	plain, err := inflate(packed)
	if err != nil { // too much at once, or broken: the reader says where
		resp.Body = &gunzipped{under: io.NopCloser(bytes.NewReader(packed)), length: -1}
		return
	}
	if found := scrub.mask(bytes.Clone(plain)) || scrub.mask(bytes.Clone(packed)); found {
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(plain)), int64(len(plain))
		return
	}
	meter.Write(plain)
	resp.Body, resp.ContentLength = &wholeBody{bytes.NewReader(packed)}, int64(len(packed))
	resp.Header["Content-Encoding"], resp.Header["Content-Length"] = encoding, []string{length}
}

func inflate(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, wholeUnpacked+1))
	if err == nil && len(plain) > wholeUnpacked {
		err = errors.New("too much to look at as a whole")
	}
	return plain, err
}

// wholeBody is a packed body that was looked at and metered.
type wholeBody struct{ *bytes.Reader }

func (*wholeBody) Close() error { return nil }

// withheld are the response headers that do not reach the container: hop by hop, and those that
// would leave state behind in a client.
var withheld = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te",
	"Transfer-Encoding", "Upgrade", "Set-Cookie", "Set-Cookie2", "Alt-Svc",
	"Strict-Transport-Security", "Clear-Site-Data", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Trailer",
	"Sec-Websocket-Extensions"}

// bodyBuffers holds the buffers of responses in flight.
var bodyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// respond streams resp to the client, scrubbed, and flushes whatever upstream sent as it comes.
func (f *Front) respond(w http.ResponseWriter, resp *http.Response, key *armed, meter *usage.Meter, x *exchange) {
	h, scrub := w.Header(), key.scrub
	unpack(resp, scrub, meter)
	if _, whole := resp.Body.(*wholeBody); whole {
		meter = nil
	}
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
	if announced != nil { // HTTP/1 has trailers after chunks only
		delete(h, "Content-Length")
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
			meter.Write(chunk)
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
			if announced[name] {
				h[name] = values
			}
		}
	}
}
