package front

import (
	"net/http"
	"strings"
)

// dropped are the request headers that end here: hop by hop, forwarding claims, and those that
// would make a response that cannot be scrubbed.
var dropped = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true,
	"Expect": true, "Accept-Encoding": true, "Range": true, "If-Range": true, "Forwarded": true,
	"Via": true, "X-Real-Ip": true, "Sec-Websocket-Protocol": true, "Http2-Settings": true, "Alt-Used": true, "Cookie": true,
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
	for _, name := range rt.headers {
		delete(out, name)
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = noUserAgent // net/http would add its own
	}
	out["Accept-Encoding"] = identityEncoding
	if takesGzip(in) {
		out["Accept-Encoding"] = gzipEncoding
	}
	key.auth.extra(out, key.secret.Public)
	if key.auth.header != "" {
		out[key.auth.header] = key.header
	}
	return out
}

var (
	noUserAgent      = []string{""}
	identityEncoding = []string{"identity"}
	gzipEncoding     = []string{"gzip"}
)

// takesGzip reports whether the client takes answers in gzip. One that waits for events gets them
// plain: they are small, and nothing may sit in a compressor's buffer.
func takesGzip(h http.Header) bool {
	if hasToken(h["Accept"], "text/event-stream") {
		return false
	}
	for _, v := range h["Accept-Encoding"] {
		for c := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(c, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				q := strings.TrimSpace(params)
				return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
			}
		}
	}
	return false
}
