package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A request head is read strictly (RFC 9112): whatever two parsers could understand differently is
// refused, since the next server on the way may be the other parser. Response heads come from a
// host that policy allows; there only the length of the body must be certain.

// body says how long a message body is.
type body struct {
	chunked bool
	length  int64 // when not chunked; -1: until the connection closes
}

// request is a judged request head.
type request struct {
	method    string
	host      string // name or address, lower-case, without port and trailing dot; "" in HTTP/1.0
	body      body
	last      bool // no further request follows on this connection
	websocket bool // asks for an upgrade that may become opaque
	hint      requestHint
	wire      []byte // what is sent on
}

var errHead = errors.New("malformed request")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errHead}, args...)...)
}

// headEnd returns the length of the head in b including its blank line, 0 when it is not complete.
func headEnd(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// headHopeless reports early that b cannot become a valid request head, so that a client that does
// not speak HTTP is refused at once and not after the timeout.
func headHopeless(b []byte) error {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	for i, c := range line {
		if c == ' ' {
			if i == 0 {
				return bad("request line")
			}
			break
		}
		if !tokenByte(c) {
			return bad("method")
		}
	}
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') {
			return bad("bare line feed")
		}
	}
	return nil
}

type field struct{ name, value, line string } // name in lower case; line as it came, with CRLF

// parseRequest reads a complete head that ends with a blank line. port is the connection's.
func parseRequest(b []byte, port uint16) (request, error) {
	var r request
	lines, err := headLines(b)
	if err != nil {
		return r, err
	}
	method, target, minor, err := requestLine(lines[0])
	if err != nil {
		return r, err
	}
	fields, err := parseFields(lines[1:])
	if err != nil {
		return r, err
	}
	r.method, r.hint.method, r.last = method, method, minor == 0
	var hosts, lengths, codings, connection, upgrades []string
	for _, f := range fields {
		switch f.name {
		case "host":
			hosts = append(hosts, f.value)
		case "content-length":
			lengths = append(lengths, f.value)
		case "transfer-encoding":
			codings = append(codings, f.value)
		case "connection", "proxy-connection":
			connection = append(connection, tokens(f.value)...)
		case "upgrade":
			upgrades = append(upgrades, tokens(f.value)...)
		case "accept":
			r.hint.json = prefersJSON(f.value)
		}
	}
	if r.host, err = requestHost(hosts, target, minor, port); err != nil {
		return r, err
	}
	if r.body, err = requestBody(lengths, codings, minor); err != nil {
		return r, err
	}
	drop := map[string]bool{}
	for _, t := range connection {
		switch t {
		case "close":
			r.last = true
		case "keep-alive":
			r.last = r.last && minor != 0
		case "host", "content-length", "transfer-encoding":
			return r, bad("Connection names %s", t) // would make a server drop what we judged
		}
	}
	if len(upgrades) == 1 && upgrades[0] == "websocket" && minor == 1 && contains(connection, "upgrade") &&
		r.body == (body{}) {
		r.websocket = true
	} else if len(upgrades) > 0 || contains(connection, "http2-settings") {
		// Other protocols would leave our sight (h2c can name any host in any stream). A server may
		// ignore Upgrade (RFC 9110 §7.8), so it is taken out instead of refusing the client.
		drop = map[string]bool{"upgrade": true, "http2-settings": true}
	}
	r.wire = wire(lines[0], fields, drop)
	return r, nil
}

// headLines splits a head into lines without CRLF, and refuses every byte that is not allowed
// anywhere in one: bare CR and LF, NUL and other controls.
func headLines(b []byte) ([]string, error) {
	s, ok := strings.CutSuffix(string(b), "\r\n\r\n")
	if !ok {
		return nil, bad("no end")
	}
	lines := strings.Split(s, "\r\n")
	for _, l := range lines {
		for i := range len(l) {
			if c := l[i]; c < 0x20 && c != '\t' || c == 0x7f {
				return nil, bad("control byte 0x%02x", c)
			}
		}
	}
	return lines, nil
}

func requestLine(l string) (method, target string, minor int, err error) {
	parts := strings.Split(l, " ")
	if len(parts) != 3 || !isToken(parts[0]) {
		return "", "", 0, bad("request line")
	}
	method, target = parts[0], parts[1]
	switch parts[2] {
	case "HTTP/1.1":
		minor = 1
	case "HTTP/1.0":
	default:
		return "", "", 0, bad("version")
	}
	for i := range len(target) {
		if c := target[i]; c <= 0x20 || c >= 0x7f {
			return "", "", 0, bad("request target")
		}
	}
	switch {
	case method == "CONNECT":
		return "", "", 0, bad("CONNECT is not relayed")
	case method == "PRI":
		return "", "", 0, bad("HTTP/2 in the clear is not relayed")
	case target == "*" && method == "OPTIONS":
	case strings.HasPrefix(target, "/"):
	case len(target) > 7 && strings.EqualFold(target[:7], "http://"):
	default:
		return "", "", 0, bad("request target")
	}
	return method, target, minor, nil
}

func parseFields(lines []string) ([]field, error) {
	fields := make([]field, 0, len(lines))
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		// No obs-fold, no space before the colon, no empty name: a token has none of these.
		if !ok || !isToken(name) {
			return nil, bad("header line")
		}
		fields = append(fields, field{strings.ToLower(name), strings.Trim(value, " \t"), l + "\r\n"})
	}
	return fields, nil
}

// requestHost returns the one host that a request names.
func requestHost(hosts []string, target string, minor int, port uint16) (string, error) {
	if len(hosts) > 1 || len(hosts) == 0 && minor == 1 {
		return "", bad("%d Host headers", len(hosts))
	}
	host := ""
	if len(hosts) == 1 {
		h, ok := splitHost(hosts[0], port)
		if !ok {
			return "", bad("Host")
		}
		host = h
	}
	if strings.HasPrefix(target, "/") || target == "*" {
		return host, nil
	}
	authority := target[7:]
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority = authority[:i]
	}
	h, ok := splitHost(authority, port)
	if !ok || len(hosts) == 1 && h != host {
		return "", bad("request target and Host differ")
	}
	return h, nil
}

// splitHost reads "host", "host:port" or "[v6]:port"; the port must be the connection's.
func splitHost(s string, port uint16) (string, bool) {
	host, suffix := s, ""
	if strings.HasPrefix(s, "[") {
		i := strings.IndexByte(s, ']')
		if i < 0 {
			return "", false
		}
		host, suffix = s[1:i], s[i+1:]
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", false
		}
		host = a.Unmap().String()
	} else {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			host, suffix = s[:i], s[i:]
		}
		if a, err := netip.ParseAddr(host); err == nil {
			host = a.String()
		} else {
			var ok bool
			if host, ok = hostName(host); !ok {
				return "", false
			}
		}
	}
	return host, suffix == "" || suffix == ":"+strconv.Itoa(int(port))
}

// requestBody refuses every combination on which servers disagree.
func requestBody(lengths, codings []string, minor int) (body, error) {
	switch {
	case len(lengths)+len(codings) == 0:
		return body{}, nil
	case len(lengths)+len(codings) > 1:
		return body{}, bad("more than one body length")
	case len(codings) == 1:
		if minor == 0 || !strings.EqualFold(codings[0], "chunked") {
			return body{}, bad("Transfer-Encoding")
		}
		return body{chunked: true}, nil
	}
	n, ok := decimal(lengths[0])
	if !ok {
		return body{}, bad("Content-Length")
	}
	return body{length: n}, nil
}

// wire writes the head again without the dropped fields; Connection loses their names as well.
func wire(first string, fields []field, drop map[string]bool) []byte {
	out := []byte(first + "\r\n")
	for _, f := range fields {
		if drop[f.name] {
			continue
		}
		if f.name == "connection" && len(drop) > 0 {
			var keep []string
			for _, t := range tokens(f.value) {
				if !drop[t] {
					keep = append(keep, t)
				}
			}
			if len(keep) == 0 {
				continue
			}
			f.line = "Connection: " + strings.Join(keep, ", ") + "\r\n"
		}
		out = append(out, f.line...)
	}
	return append(out, "\r\n"...)
}

// tokens splits a comma-separated list into lower-case members.
func tokens(s string) []string {
	var out []string
	for t := range strings.SplitSeq(s, ",") {
		if t = strings.ToLower(strings.Trim(t, " \t")); t != "" {
			out = append(out, t)
		}
	}
	return out
}

func contains(list []string, s string) bool {
	for _, t := range list {
		if t == s {
			return true
		}
	}
	return false
}

// decimal reads digits only: no sign, no space, at most 18 of them.
func decimal(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// tokenByte is tchar of RFC 9110 §5.6.2.
func tokenByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
