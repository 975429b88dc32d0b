package front

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// maxDepth bounds the nesting of a JSON body; providers themselves stop at less.
const maxDepth = 128

// captured is how many bytes of a key or string value are kept to be looked at.
const captured = 64

// finding is why a body is refused.
type finding struct {
	code    string // foreign_credential or server_fetch
	message string
}

func (f *finding) Error() string { return f.message }

var errJSON = errors.New("the body is not JSON that can be inspected")

// jsonInspector reads a JSON document as it streams by, in any chunks, without keeping it, and
// reports what must not reach a provider: credentials in members whose names say so, and
// constructs that make the provider itself fetch a URL.
//
// It must see what the provider's parser sees. So it unescapes names, looks at every duplicate of
// a member, and refuses what is not plain JSON in UTF-8 (byte order marks, UTF-16, comments, text
// after the document). What a tool call's input or a tool's schema holds is the model's and the
// agent's own data, which no provider acts on; there, nothing is judged.
type jsonInspector struct {
	fetch   bool                     // server fetch is allowed
	project func(id string) *refusal // judges members that name another project of a forge; nil: none
	watched bool                     // the value that comes is of such a member

	state  uint8
	stack  []frame
	str    []byte // captured start of the current string, unescaped
	strLen int    // its length in bytes; may be more than was captured
	isKey  bool
	esc    uint8 // 0, 1 after a backslash, 2..5 hex digits wanted
	hex    uint32
	key    string // name of the member whose value is next, folded
}

type frame struct {
	object bool
	opaque bool
	note   bool   // addresses are not followed
	name   string // folded name of the member it is the value of; elements of an array inherit it
}

const (
	wantValue uint8 = iota
	wantFirstValue
	wantFirstKey
	wantKey
	wantColon
	wantComma
	inString
	inScalar
	wantEnd
)

// write judges the next bytes of the document. It fails with a *finding or errJSON.
func (in *jsonInspector) write(p []byte) error {
	for i := 0; i < len(p); {
		if in.state == inString {
			n, err := in.string(p[i:])
			if err != nil {
				return err
			}
			i += n
			continue
		}
		c := p[i]
		if in.state == inScalar {
			if isScalar(c) {
				in.add(c)
				i++
				continue
			}
			if err := in.scalarEnded(); err != nil {
				return err
			}
		}
		i++
		if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
			continue
		}
		if err := in.token(c); err != nil {
			return err
		}
	}
	return nil
}

// close fails unless the document is complete.
func (in *jsonInspector) close() error {
	if in.state == inScalar {
		if err := in.scalarEnded(); err != nil {
			return err
		}
	}
	if in.state != wantEnd {
		return errJSON
	}
	return nil
}

// scalarEnded judges a number, true, false or null that is complete.
func (in *jsonInspector) scalarEnded() error {
	in.state = in.after()
	if in.watched && string(in.str) != "null" {
		return in.named()
	}
	return nil
}

func isScalar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' || c == '+'
}

// after is the state when a value is complete.
func (in *jsonInspector) after() uint8 {
	if len(in.stack) == 0 {
		return wantEnd
	}
	return wantComma
}

func (in *jsonInspector) top() *frame { return &in.stack[len(in.stack)-1] }

func (in *jsonInspector) token(c byte) error {
	switch in.state {
	case wantFirstKey, wantKey:
		switch {
		case c == '"':
			in.begin(true)
			return nil
		case c == '}' && in.state == wantFirstKey:
			in.pop()
			return nil
		}
	case wantColon:
		if c == ':' {
			in.state = wantValue
			return nil
		}
	case wantComma:
		f := in.top()
		switch {
		case c == ',' && f.object:
			in.state = wantKey
			return nil
		case c == ',':
			in.state = wantValue
			return nil
		case c == '}' && f.object, c == ']' && !f.object:
			in.pop()
			return nil
		}
	case wantFirstValue, wantValue:
		if c == ']' && in.state == wantFirstValue {
			in.pop()
			return nil
		}
		return in.value(c)
	}
	return errJSON
}

func (in *jsonInspector) value(c byte) error {
	name, opaque, note := in.key, false, false
	if n := len(in.stack); n > 0 {
		f := in.top()
		opaque, note = f.opaque, f.note
		if !f.object {
			name = f.name
		} else if opaqueMember(f.name, name) {
			opaque = true
		} else if noteMember(f.name, name) {
			note = true
		}
		if !opaque && !note && !in.fetch && callingMembers[name] && c != '[' && c != '"' && c != 'n' && c != 'f' {
			return errServerFetch // an object, even an empty one, a number, or true; strings are judged when they end
		}
		in.watched = in.project != nil && projectMembers[name]
		if in.watched && (c == '{' || c == '[') {
			return errJSON
		}
	}
	switch {
	case c == '{' || c == '[':
		if len(in.stack) == maxDepth {
			return errJSON
		}
		in.stack = append(in.stack, frame{object: c == '{', opaque: opaque, note: note, name: name})
		in.state = wantFirstValue
		if c == '{' {
			in.state = wantFirstKey
		}
	case c == '"':
		in.begin(false)
	case c == '-' || c >= '0' && c <= '9' || c == 't' || c == 'f' || c == 'n':
		in.state, in.str, in.strLen = inScalar, append(in.str[:0], c), 1
	default:
		return errJSON
	}
	return nil
}

func (in *jsonInspector) pop() {
	in.stack = in.stack[:len(in.stack)-1]
	in.state = in.after()
}

func (in *jsonInspector) begin(key bool) {
	in.state, in.isKey, in.str, in.strLen, in.esc = inString, key, in.str[:0], 0, 0
}

// string reads on inside a string and returns how many bytes it took.
func (in *jsonInspector) string(p []byte) (int, error) {
	for i := 0; i < len(p); i++ {
		if in.esc > 0 {
			if err := in.escape(p[i]); err != nil {
				return 0, err
			}
			continue
		}
		run := i
		i += plainRun(p[i:])
		in.strLen += i - run
		if n := captured - len(in.str); n > 0 {
			in.str = append(in.str, p[run:min(i, run+n)]...)
		}
		switch {
		case i == len(p):
		case p[i] == '"':
			return i + 1, in.ended()
		case p[i] == '\\':
			in.esc = 1
		default:
			return 0, errJSON
		}
	}
	return len(p), nil
}

// plainRun is how many bytes at the start of p are neither a quote nor a backslash nor a control
// character. Bodies are nearly all such bytes, so it looks at eight at a time: for each byte of x,
// x-n borrows into the high bit where the byte is less than n (and below 0x80, hence &^x). A borrow
// can only be wrong above the first byte that it is right for.
func plainRun(p []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(p)-i >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		quote, slash := x^'"'*ones, x^'\\'*ones
		if hit := ((x-0x20*ones)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for i < len(p) && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' {
		i++
	}
	return i
}

// escape takes one byte after a backslash.
func (in *jsonInspector) escape(c byte) error {
	if in.esc > 1 {
		d, ok := unhex(c)
		if !ok {
			return errJSON
		}
		in.hex = in.hex<<4 | d
		if in.esc++; in.esc < 6 {
			return nil
		}
		in.esc = 0
		if in.hex < 0x80 {
			in.add(byte(in.hex))
		} else {
			in.add(0xff) // in no name that we look for
		}
		return nil
	}
	in.esc = 0
	switch c {
	case '"', '\\', '/':
		in.add(c)
	case 'b', 'f', 'n', 'r', 't':
		in.add(' ')
	case 'u':
		in.esc, in.hex = 2, 0
	default:
		return errJSON
	}
	return nil
}

func (in *jsonInspector) add(c byte) {
	in.strLen++
	if len(in.str) < captured {
		in.str = append(in.str, c)
	}
}

func unhex(c byte) (uint32, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint32(c - '0'), true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return uint32(c|0x20-'a') + 10, true
	}
	return 0, false
}

// ended judges a string that is complete.
func (in *jsonInspector) ended() error {
	if in.isKey {
		in.state = wantColon
		in.key = ""
		if in.strLen <= captured {
			in.key = foldName(in.str)
		}
		return nil
	}
	in.state = in.after()
	if len(in.stack) == 0 {
		return nil
	}
	f := in.top()
	key := in.key
	if !f.object {
		key = f.name
	}
	if f.opaque || opaqueMember(f.name, key) && f.object {
		return nil
	}
	if in.strLen > 0 && (credentialNames[key] || len(in.stack) == 1 && f.object && weakNames[key]) {
		return &finding{"foreign_credential", "the body carries a credential of its own"}
	}
	if !in.fetch && !f.note && callsOut(f.name, key, in.str, in.strLen) {
		return errServerFetch
	}
	if in.project != nil && projectMembers[key] {
		return in.named()
	}
	return nil
}

// named judges a value that names another project of a forge.
func (in *jsonInspector) named() error {
	if in.strLen > captured {
		return errJSON
	}
	if ref := in.project(string(in.str)); ref != nil {
		return ref
	}
	return nil
}
