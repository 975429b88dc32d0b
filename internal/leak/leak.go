// Package leak finds credentials in bytes that are about to leave or to be kept: what terok itself
// hands out (phantom and gate tokens) and the shapes that vendors give their keys.
//
// A finding names the kind, where it begins and a fingerprint, and never repeats the value. A
// vendor's shape counts only when what follows looks random: "ghp_xxxxxxxx" in a manual is none.
// The scanner reads a stream once in constant memory and never fails on strange input.
package leak

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// Finding is one credential.
type Finding struct {
	Kind        string `json:"kind"`        // e.g. "GitHub token"
	Own         bool   `json:"own"`         // handed out by terok
	Offset      int64  `json:"offset"`      // of its first byte
	Fingerprint string `json:"fingerprint"` // first 12 hexadecimal digits of its SHA-256

	phantom string
}

// Phantom is the token itself where it is a whole phantom, "" for everything else: its owner is found
// by it, so that it can be revoked. It is not part of any encoding of a Finding and is not to be shown.
func (f Finding) Phantom() string { return f.phantom }

// shape is one form of credentials: a prefix and the characters that follow it.
type shape struct {
	prefix string
	kind   string
	min    int // characters after the prefix
	own    bool
	check  func(token string) bool // further proof; nil: the rest must look random
}

// shapes are sorted so that a longer prefix comes before one that it begins with. Prefixes and
// lengths are those of the vendors' own secret-scanning pages.
var shapes = []shape{
	{prefix: phantomPrefix, kind: "phantom token of terok", min: 49, own: true, check: phantom},
	{prefix: "terok-g-", kind: "gate token of terok", min: 32, own: true},
	{prefix: "sk-ant-", kind: "Anthropic key", min: 40},
	{prefix: "sk-proj-", kind: "OpenAI key", min: 40},
	{prefix: "sk-svcacct-", kind: "OpenAI key", min: 40},
	{prefix: "sk-admin-", kind: "OpenAI key", min: 40},
	{prefix: "sk-or-v1-", kind: "OpenRouter key", min: 40},
	{prefix: "sk-", kind: "OpenAI key", min: 48, check: openai},
	{prefix: "github_pat_", kind: "GitHub token", min: 40},
	{prefix: "ghp_", kind: "GitHub token", min: 36},
	{prefix: "gho_", kind: "GitHub token", min: 36},
	{prefix: "ghu_", kind: "GitHub token", min: 36},
	{prefix: "ghs_", kind: "GitHub token", min: 36},
	{prefix: "ghr_", kind: "GitHub token", min: 36},
	{prefix: "glpat-", kind: "GitLab token", min: 20},
	{prefix: "glptt-", kind: "GitLab token", min: 40},
	{prefix: "gldt-", kind: "GitLab token", min: 20},
	{prefix: "glrt-", kind: "GitLab token", min: 20},
	{prefix: "glcbt-", kind: "GitLab token", min: 20},
	{prefix: "AKIA", kind: "AWS access key", min: 16},
	{prefix: "ASIA", kind: "AWS access key", min: 16},
	{prefix: "AIza", kind: "Google API key", min: 35},
	{prefix: "xoxb-", kind: "Slack token", min: 30},
	{prefix: "xoxp-", kind: "Slack token", min: 30},
	{prefix: "npm_", kind: "npm token", min: 36},
	{prefix: "hf_", kind: "Hugging Face token", min: 34},
	{prefix: "AGE-SECRET-KEY-1", kind: "age secret key", min: 50},
}

const (
	phantomPrefix = "terok-p-"
	maxToken      = 256 // longest token that is looked at, in bytes
	window        = 64 << 10
	// maxFindings of one stream, of terok's own and of others each: more say nothing new, and many
	// of the one must not hide one of the other.
	maxFindings = 100
)

// Scan reads r to its end and returns what it found. The error is the reader's.
func Scan(r io.Reader) ([]Finding, error) {
	var found []Finding
	buf := make([]byte, 0, window+maxToken)
	var base int64 // offset of buf[0]
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		// A token that begins in the last bytes is judged with the next ones behind it.
		limit := len(buf) - maxToken
		if end || err != nil {
			limit = len(buf)
		}
		if limit > 0 {
			found = enough(append(found, in(buf, limit, base)...))
			// One byte of context stays, for what stands before a token.
			keep := max(limit-1, 0)
			base += int64(keep)
			rest := copy(buf, buf[keep:])
			buf = buf[:rest]
		}
		switch {
		case end:
			return dedupe(found), nil
		case err != nil:
			return dedupe(found), err
		}
	}
}

// enough keeps the first findings of each sort.
func enough(found []Finding) []Finding {
	n := map[bool]int{}
	return slices.DeleteFunc(found, func(f Finding) bool { n[f.Own]++; return n[f.Own] > maxFindings })
}

// dedupe drops what was seen twice at the seam of two windows.
func dedupe(found []Finding) []Finding {
	var out []Finding
	seen := map[int64]bool{}
	for _, f := range found {
		if !seen[f.Offset] {
			seen[f.Offset] = true
			out = append(out, f)
		}
	}
	return out
}

// Bytes is Scan of data that is in memory.
func Bytes(data []byte) []Finding { return in(data, len(data), 0) }

// in finds tokens that begin before limit.
func in(buf []byte, limit int, base int64) []Finding {
	var found []Finding
	for _, s := range shapes {
		for from := 0; len(found) < maxFindings; {
			i := bytes.Index(buf[from:], []byte(s.prefix))
			if i < 0 || from+i >= limit {
				break
			}
			at := from + i
			from = at + len(s.prefix)
			if at > 0 && tokenByte(buf[at-1]) && !s.own {
				continue // the middle of a longer word
			}
			if token, ok := s.match(buf[at:]); ok {
				sum := sha256.Sum256(token)
				f := Finding{Kind: s.kind, Own: s.own, Offset: base + int64(at), Fingerprint: hex.EncodeToString(sum[:6])}
				if s.prefix == phantomPrefix {
					f.phantom = string(token)
				}
				found = append(found, f)
			}
		}
	}
	return found
}

// match returns the token at the beginning of b.
func (s shape) match(b []byte) ([]byte, bool) {
	n := len(s.prefix)
	for n < len(b) && n < maxToken && tokenByte(b[n]) {
		n++
	}
	if n-len(s.prefix) < s.min {
		return nil, false
	}
	if s.check != nil {
		n = len(s.prefix) + s.min
		return b[:n], s.check(string(b[:n]))
	}
	return b[:n], random(b[len(s.prefix):n])
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// random reports whether b has the variety of a generated secret: 3 bits per character, which
// every base32 or base64 secret of 20 characters exceeds and words and fillers do not.
func random(b []byte) bool {
	var count [256]int
	for _, c := range b {
		count[c]++
	}
	bits := 0.0
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(b))
			bits -= p * math.Log2(p)
		}
	}
	return bits >= 3
}

// openai is the mark that OpenAI puts into its keys without a longer prefix.
func openai(t string) bool { return len(t) == 51 && t[23:31] == "T3BlbkFJ" }

// phantom is the shape and checksum of vault/front's phantom tokens: 10 symbols, a dash, 32
// symbols and 6 of the CRC-32 of everything before them.
func phantom(t string) bool {
	const body, whole = 51, 57
	if len(t) != whole || t[18] != '-' {
		return false
	}
	sum := crc32.ChecksumIEEE([]byte(t[:body]))
	enc := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	return t[body:] == enc.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})[:6]
}
