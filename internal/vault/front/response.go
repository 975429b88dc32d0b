package front

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"terok/internal/text"
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
