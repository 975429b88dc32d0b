package endpoint

import (
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxSegments bounds a path; the longest of the providers has a dozen.
const maxSegments = 64

// Path is a request's path as every server reads it, decoded once.
type Path struct {
	Segments []string // split at the slashes that were written as such
	Flat     []string // split at encoded slashes as well; nil without any

	format bool // the last segment ends in what some servers take for the format of the answer
}

// String is the path for people and for the ledger.
func (p Path) String() string { return "/" + strings.Join(p.Segments, "/") }

// Readings are the path's segments in each way in which it can be read, the plain one first.
func (p Path) Readings() [][]string {
	list := [][]string{p.Segments}
	if p.Flat != nil {
		list = append(list, p.Flat)
	}
	if p.format {
		for _, reading := range list {
			bare := slices.Clone(reading)
			last := &bare[len(bare)-1]
			*last = (*last)[:strings.LastIndexByte(*last, '.')]
			list = append(list, bare)
		}
	}
	return list
}

// hasFormat reports whether a segment ends in a suffix such as ".json".
func hasFormat(seg string) bool {
	i := strings.LastIndexByte(seg, '.')
	return i > 0 && i < len(seg)-1 && strings.Trim(strings.ToLower(seg[i+1:]), "abcdefghijklmnopqrstuvwxyz") == ""
}

// Parse decodes the path of a request. It is false when two servers could read it differently: dot
// and empty segments, backslashes, parameters, control characters, and encodings of what would
// change its meaning when decoded once more. An encoded slash is one of those unless forge: there a
// branch or a file is one segment, and Rails takes "/keys.json" for "/keys".
func Parse(u *url.URL, forge bool) (Path, bool) {
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
			if !forge {
				return Path{}, false
			}
			flat = true
		}
		p.Segments = append(p.Segments, seg)
	}
	p.format = forge && hasFormat(p.Segments[len(p.Segments)-1])
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
func ParseString(raw string, forge bool) (Path, bool) {
	u, err := url.ParseRequestURI(raw)
	if err != nil || u.Host != "" || u.Opaque != "" || u.RawQuery != "" {
		return Path{}, false
	}
	return Parse(u, forge)
}
