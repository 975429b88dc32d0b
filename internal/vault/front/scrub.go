package front

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Bounds of a secret in bytes. A shorter one would be found in ordinary text by the scrubber.
const (
	minSecret = 12
	maxSecret = 8 << 10
)

// scrubber finds a secret in what a provider sends, raw or in the encodings in which servers echo
// things, and overwrites it with as many "x". It is immutable; scrubStream is its state for one
// body.
//
// Masking looks at a window as long as the shortest needle, and at its last two bytes: they say
// how far the window can move without missing a needle (the multi-pattern search of Wu and
// Manber). In ordinary text that is nearly the whole window, so most bytes are never looked at.
type scrubber struct {
	needles  [][]byte
	raw      []string  // the secrets themselves, in lower case
	first    [256]bool // bytes that start a needle
	longest  int
	shortest int
	skip     [4096]uint8 // by pair hash: how far the window may move
}

func pair(a, b byte) int { return (int(a)<<5 ^ int(b)) & 4095 }

func newScrubber(secrets ...[]byte) *scrubber {
	s := &scrubber{}
	add := func(n []byte) {
		for _, have := range s.needles {
			if bytes.Equal(have, n) {
				return
			}
		}
		s.needles = append(s.needles, n)
		s.first[n[0]] = true
		s.longest = max(s.longest, len(n))
	}
	for _, secret := range secrets {
		s.raw = append(s.raw, strings.ToLower(string(secret)))
		for _, n := range formsOf(secret) {
			add(n)
		}
	}
	s.shortest = 255
	for _, n := range s.needles {
		s.shortest = min(s.shortest, len(n))
	}
	for i := range s.skip {
		s.skip[i] = uint8(s.shortest - 1)
	}
	for _, n := range s.needles {
		for i := 1; i < s.shortest; i++ {
			h := pair(n[i-1], n[i])
			s.skip[h] = min(s.skip[h], uint8(s.shortest-1-i))
		}
	}
	return s
}

// formsOf is a secret as it is and in the encodings in which servers echo things.
func formsOf(secret []byte) [][]byte {
	out := [][]byte{bytes.Clone(secret)}
	for shift := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			out = append(out, base64Core(enc, secret, shift))
		}
	}
	h := hex.EncodeToString(secret)
	out = append(out, []byte(h), []byte(strings.ToUpper(h)))
	for _, q := range []string{url.QueryEscape(string(secret)), url.PathEscape(string(secret))} {
		out = append(out, []byte(q), []byte(lowerEscapes(q)))
	}
	for _, escape := range []bool{true, false} {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(escape)
		if err := enc.Encode(string(secret)); err == nil { // strings always encode
			j := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
			j = j[1 : len(j)-1]
			out = append(out, j, bytes.ReplaceAll(j, []byte("/"), []byte(`\/`)))
		}
	}
	return out
}

// base64Core returns the characters of a base64 text that depend on secret alone when shift bytes
// of something else stand before it in the encoded bytes.
func base64Core(enc *base64.Encoding, secret []byte, shift int) []byte {
	text := enc.EncodeToString(append(make([]byte, shift), secret...))
	from := (shift*8 + 5) / 6
	to := (shift + len(secret)) * 8 / 6
	return []byte(text[from:to])
}

// lowerEscapes writes %2B as %2b.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// mask overwrites every needle in b and reports whether there was one.
func (s *scrubber) mask(b []byte) bool {
	found := false
	for end := s.shortest - 1; end < len(b); {
		if skip := int(s.skip[pair(b[end-1], b[end])]); skip > 0 {
			end += skip
			continue
		}
		start := end - s.shortest + 1
		longest := 0
		for _, n := range s.needles {
			if len(n) > longest && bytes.HasPrefix(b[start:], n) {
				longest = len(n)
			}
		}
		for i := range longest {
			b[start+i] = 'x'
		}
		found = found || longest > 0
		end += max(longest, 1)
	}
	return found
}

// pending is the length of the longest end of b that could become a needle with more bytes.
func (s *scrubber) pending(b []byte) int {
	start := max(0, len(b)-s.longest+1)
	for i := start; i < len(b); i++ {
		if !s.first[b[i]] {
			continue
		}
		tail := b[i:]
		for _, n := range s.needles {
			if len(tail) < len(n) && bytes.HasPrefix(n, tail) {
				return len(tail)
			}
		}
	}
	return 0
}

// header masks every value of h in place.
func (s *scrubber) header(h http.Header) bool {
	found := false
	for key, values := range h {
		name := []byte(key)
		if s.mask(name) || containsFold(s, key) {
			delete(h, key) // a secret as the name of a header
			found = true
			continue
		}
		for i, v := range values {
			if len(v) < minSecret {
				continue
			}
			b := []byte(v)
			if s.mask(b) {
				values[i] = string(b)
				found = true
			}
		}
	}
	return found
}

// containsFold looks for the raw secret in a header name, whose case HTTP libraries change.
func containsFold(s *scrubber, key string) bool {
	if len(key) < minSecret {
		return false
	}
	lower := strings.ToLower(key)
	return slices.ContainsFunc(s.raw, func(raw string) bool { return strings.Contains(lower, raw) })
}

// scrubStream is a scrubber on one body. Bytes are held back only while they could be the start
// of a needle, so an event stream passes without delay.
type scrubStream struct {
	*scrubber
	buf   []byte // held back bytes, then what was just read
	held  int
	found bool
}

// next takes n bytes that were read into room() and returns what may go out; the result is valid
// until the next call of room. At the end of the body last is true and nothing is held back.
func (st *scrubStream) next(n int, last bool) []byte {
	b := st.buf[:st.held+n]
	if st.mask(b) {
		st.found = true
	}
	keep := 0
	if !last {
		keep = st.pending(b)
	}
	st.held = keep
	return b[:len(b)-keep]
}

// room returns where to read the next bytes of the body. It moves what is held back to the start.
func (st *scrubStream) room(out int) []byte {
	if out > 0 {
		copy(st.buf, st.buf[out:out+st.held])
	}
	return st.buf[st.held:]
}
