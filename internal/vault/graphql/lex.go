package graphql

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type kind uint8

const (
	end kind = iota
	punct
	name
	number
	text
)

type token struct {
	kind kind
	text string
	at   int // byte
}

// lexer cuts a document into words. Commas are white space there, as the grammar says.
type lexer struct {
	src string
	pos int
}

func isName(c byte, first bool) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || !first && c >= '0' && c <= '9'
}

func (l *lexer) scan() (token, error) {
	l.skip()
	at := l.pos
	if at == len(l.src) {
		return token{kind: end, at: at}, nil
	}
	switch c := l.src[at]; {
	case strings.IndexByte("!$&()=@:[]{}|", c) >= 0:
		l.pos++
		return token{punct, l.src[at:l.pos], at}, nil
	case c == '.':
		if strings.HasPrefix(l.src[at:], "...") {
			l.pos += 3
			return token{punct, "...", at}, nil
		}
	case isName(c, true):
		for l.pos < len(l.src) && isName(l.src[l.pos], false) {
			l.pos++
		}
		return token{name, l.src[at:l.pos], at}, nil
	case c == '-' || c >= '0' && c <= '9':
		l.pos++
		for l.pos < len(l.src) && (isName(l.src[l.pos], false) || strings.IndexByte("+-.", l.src[l.pos]) >= 0) {
			l.pos++
		}
		s := l.src[at:l.pos]
		if _, err := strconv.ParseFloat(s, 64); err != nil && !isRange(err) || strings.ContainsAny(s, "xX_pPnN") {
			return token{}, fmt.Errorf("byte %d of the document: not a number", at)
		}
		return token{number, s, at}, nil
	case c == '"':
		if strings.HasPrefix(l.src[at:], `"""`) {
			return l.block()
		}
		return l.quoted()
	}
	return token{}, fmt.Errorf("byte %d of the document: not a word of GraphQL", at)
}

func isRange(err error) bool { return strings.Contains(err.Error(), strconv.ErrRange.Error()) }

// skip passes over what means nothing.
func (l *lexer) skip() {
	for l.pos < len(l.src) {
		switch c := l.src[l.pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',':
			l.pos++
		case strings.HasPrefix(l.src[l.pos:], "\ufeff"):
			l.pos += 3
		case c == '#':
			if n := strings.IndexAny(l.src[l.pos:], "\n\r"); n >= 0 {
				l.pos += n
			} else {
				l.pos = len(l.src)
			}
		default:
			return
		}
	}
}

func (l *lexer) quoted() (token, error) {
	at := l.pos
	var b strings.Builder
	for l.pos++; l.pos < len(l.src); {
		c := l.src[l.pos]
		switch {
		case c == '"':
			l.pos++
			if !utf8.ValidString(b.String()) {
				return token{}, l.badString(at)
			}
			return token{text, b.String(), at}, nil
		case c == '\n' || c == '\r':
			return token{}, l.badString(at)
		case c != '\\':
			b.WriteByte(c)
			l.pos++
		default:
			if !l.escape(&b) {
				return token{}, l.badString(at)
			}
		}
	}
	return token{}, l.badString(at)
}

func (l *lexer) badString(at int) error {
	return fmt.Errorf("byte %d of the document: the string does not end, or has an escape that is none", at)
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (l *lexer) escape(b *strings.Builder) bool {
	rest := l.src[l.pos+1:]
	if rest == "" {
		return false
	}
	if c, ok := escapes[rest[0]]; ok {
		b.WriteByte(c)
		l.pos += 2
		return true
	}
	if rest[0] != 'u' {
		return false
	}
	hex := rest[1:]
	if braced, ok := strings.CutPrefix(hex, "{"); ok {
		digits, _, closed := strings.Cut(braced, "}")
		r, err := strconv.ParseUint(digits, 16, 32)
		if !closed || err != nil || len(digits) > 8 || r > utf8.MaxRune {
			return false
		}
		b.WriteRune(rune(r))
		l.pos += len(digits) + 4
		return true
	}
	if len(hex) < 4 {
		return false
	}
	r, err := strconv.ParseUint(hex[:4], 16, 32)
	if err != nil {
		return false
	}
	b.WriteRune(rune(r)) // half of a surrogate pair becomes U+FFFD, which is in no name that counts
	l.pos += 6
	return true
}

// block reads a string in triple quotes. Its indentation is kept: what is looked for in strings
// are single lines.
func (l *lexer) block() (token, error) {
	at := l.pos
	var b strings.Builder
	for l.pos += 3; l.pos < len(l.src); {
		rest := l.src[l.pos:]
		switch {
		case strings.HasPrefix(rest, `\"""`):
			b.WriteString(`"""`)
			l.pos += 4
		case strings.HasPrefix(rest, `"""`):
			l.pos += 3
			if !utf8.ValidString(b.String()) {
				return token{}, l.badString(at)
			}
			return token{text, strings.TrimSpace(b.String()), at}, nil
		default:
			b.WriteByte(rest[0])
			l.pos++
		}
	}
	return token{}, l.badString(at)
}
