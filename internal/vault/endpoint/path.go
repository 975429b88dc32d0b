package endpoint

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxSegments bounds a path; the longest of the providers has a dozen.
const maxSegments = 64

// Path is a request's path as every server reads it, decoded once.
type Path struct {
	Segments []string // split at the slashes that were written as such
	Flat     []string // split at encoded slashes as well; nil without any
}

// String is the path for people and for the ledger.
func (p Path) String() string { return "/" + strings.Join(p.Segments, "/") }

// Readings are the path's segments in each way in which it can be read.
func (p Path) Readings() [][]string {
	if p.Flat == nil {
		return [][]string{p.Segments}
	}
	return [][]string{p.Segments, p.Flat}
}

// Parse decodes the path of a request. It is false when two servers could read it differently: dot
// and empty segments, backslashes, parameters, control characters, and encodings of what would
// change its meaning when decoded once more. An encoded slash is one of those unless slashes, for
// the forges, where a branch or a file is one segment.
func Parse(u *url.URL, slashes bool) (Path, bool) {
	raw := u.EscapedPath()
	if !strings.HasPrefix(raw, "/") {
		return Path{}, false
	}
	raw = strings.TrimSuffix(raw[1:], "/")
	if raw == "" {
		return Path{}, u.Path == "/"
	}
	parts := strings.Split(raw, "/")
	if len(parts) > maxSegments {
		return Path{}, false
	}
	var p Path
	flat := false
	for _, part := range parts {
		seg, err := url.PathUnescape(part)
		if err != nil || !plain(seg) {
			return Path{}, false
		}
		if strings.Contains(seg, "/") {
			if !slashes {
				return Path{}, false
			}
			flat = true
		}
		p.Segments = append(p.Segments, seg)
	}
	if flat {
		p.Flat = strings.Split(strings.Join(p.Segments, "/"), "/")
	}
	for _, reading := range p.Readings() {
		for _, seg := range reading {
			if seg == "" || seg == "." || seg == ".." {
				return Path{}, false
			}
		}
	}
	return p, true
}

// plain reports whether decoding seg again, or cutting it where some servers cut, changes nothing.
func plain(seg string) bool {
	if !utf8.ValidString(seg) {
		return false
	}
	for _, c := range []byte(seg) {
		if c < 0x20 || c == 0x7f || c == '\\' || c == ';' || c == '%' || c == '?' || c == '#' {
			return false
		}
	}
	return true
}

// ParseString is Parse of a path as it is written.
func ParseString(raw string, slashes bool) (Path, bool) {
	u, err := url.ParseRequestURI(raw)
	if err != nil || u.Host != "" || u.Opaque != "" || u.RawQuery != "" {
		return Path{}, false
	}
	return Parse(u, slashes)
}
