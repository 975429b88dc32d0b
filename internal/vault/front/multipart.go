package front

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// Bounds of a form in parts.
const (
	maxParts      = 256
	maxPartHeader = 8 << 10 // bytes
	maxBoundary   = 70      // bytes (RFC 2046 §5.1.1)
)

// multipartInspector reads a multipart/form-data body (RFC 7578) as it streams by, in any chunks,
// and judges it part by part: names of fields like those of a form, values that are JSON as JSON,
// other values by their first bytes. What a file holds is content, which no provider acts on.
//
// Servers read such bodies with parsers of their own that differ in nearly everything. So this one
// takes only what all of them read alike: lines end in CRLF; nothing stands before the first
// boundary or after the last; the boundary appears nowhere else; a part has a name, three known
// headers at most, no continued lines and no escapes in a quoted word; and a file is what has a file name
// that no server could take for none.
type multipartInspector struct {
	rules bodyRules
	dash  []byte // "--" and the boundary
	buf   []byte // not judged yet
	state uint8
	parts int
	part  part
}

// part is what is known of the part that is being read.
type part struct {
	field  field
	file   bool
	start  []byte // of the value
	size   int64
	json   *jsonInspector // nil: not JSON, or a file's
	strict bool           // it must be JSON
	looked bool           // its first byte was seen
}

const (
	beforeParts uint8 = iota
	inPartHeader
	inPart
	afterParts
)

func newMultipart(rules bodyRules, boundary string) *multipartInspector {
	return &multipartInspector{rules: rules, dash: []byte("--" + boundary)}
}

// validBoundary reports whether a boundary is one that needs no care: RFC 2046's characters
// without space.
func validBoundary(b string) bool {
	return b != "" && len(b) <= maxBoundary && strings.Trim(b, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=?") == ""
}

// write judges the next bytes of the body.
func (m *multipartInspector) write(p []byte) error {
	m.buf = append(m.buf, p...)
	rest := m.buf
	for {
		n, err := m.step(rest)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		rest = rest[n:]
	}
	m.buf = append(m.buf[:0], rest...)
	return nil
}

// close fails unless the last boundary was seen.
func (m *multipartInspector) close() error {
	if m.state != afterParts || len(m.buf) == 1 { // half a line break
		return badBody("the form ends before its last boundary")
	}
	return nil
}

// step judges the start of b and returns how much of it that was; 0: more is needed.
func (m *multipartInspector) step(b []byte) (int, error) {
	switch m.state {
	case beforeParts:
		n := len(m.dash) + 2
		if len(b) < n {
			return 0, nil
		}
		if !bytes.HasPrefix(b, m.dash) || string(b[n-2:n]) != "\r\n" {
			return 0, badBody("the form does not begin with its boundary")
		}
		m.state = inPartHeader
		return n, nil
	case inPartHeader:
		i := bytes.Index(b[:min(len(b), maxPartHeader)], []byte("\r\n\r\n"))
		if i < 0 {
			if len(b) >= maxPartHeader {
				return 0, badBody("the header of a part is too long")
			}
			return 0, nil
		}
		m.state = inPart
		return i + 4, m.begin(string(b[:i]))
	case inPart:
		return m.stepValue(b)
	}
	if len(b) > 2 || string(b) != "\r\n"[:len(b)] {
		return 0, badBody("something follows the last boundary")
	}
	return 0, nil
}

// stepValue judges a part's value up to the next boundary.
func (m *multipartInspector) stepValue(b []byte) (int, error) {
	i := bytes.Index(b, m.dash)
	if i < 0 {
		n := len(b) - len(m.dash) - 1 // what could begin a line break and the boundary waits
		if n <= 0 {
			return 0, nil
		}
		return n, m.part.write(b[:n])
	}
	n := i + len(m.dash) + 2
	if len(b) < n {
		if i > 2 {
			return i - 2, m.part.write(b[:i-2])
		}
		return 0, nil
	}
	if i < 2 || string(b[i-2:i]) != "\r\n" {
		return 0, badBody("the boundary stands within a part")
	}
	switch string(b[n-2 : n]) {
	case "\r\n":
		m.state = inPartHeader
	case "--":
		m.state = afterParts
	default:
		return 0, badBody("the boundary stands within a part")
	}
	if err := m.part.write(b[:i-2]); err != nil {
		return 0, err
	}
	return n, m.part.end(m.rules)
}

// begin judges the header of a part.
func (m *multipartInspector) begin(header string) error {
	if m.parts++; m.parts > maxParts {
		return badBody("the form has too many parts")
	}
	values := map[string]string{}
	for line := range strings.SplitSeq(header, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		name = strings.ToLower(name)
		if _, twice := values[name]; !ok || twice || !plainText(value) {
			return badBody("the header of a part cannot be read")
		}
		switch name {
		case "content-disposition", "content-type", "content-length":
		case "content-transfer-encoding":
			switch strings.ToLower(strings.TrimSpace(value)) {
			case "7bit", "8bit", "binary":
			default:
				return badBody("a part is encoded; send it as it is")
			}
		default:
			return badBody("a part has a header besides Content-Disposition, Content-Type, Content-Length and Content-Transfer-Encoding")
		}
		values[name] = strings.TrimSpace(value)
	}
	name, file, ok := disposition(values["content-disposition"])
	if !ok {
		return badBody("the name of a part cannot be read")
	}
	f := fieldOf(name)
	if f.credential {
		return errCredential
	}
	typed, hasType := values["content-type"]
	kind := bodyKind{}
	if hasType {
		var err error
		if kind, err = m.rules.partKind(typed, file); err != nil {
			return err
		}
	}
	m.part = part{field: f, start: m.part.start[:0]}
	// Browsers' clients send JSON as a file of no particular name; only what is called a file is one.
	m.part.file = file && (kind.form != bodyJSON || !hasType || fileFields[strings.TrimSuffix(name, "[]")])
	if m.part.file {
		if !m.rules.fetch && (f.calls || f.key == anyURL) || projectMembers[f.key] {
			return badBody("a file stands where an address or a name belongs")
		}
		return nil
	}
	m.part.json, m.part.strict = m.rules.fieldJSON(f)
	if hasType && kind.form == bodyJSON {
		m.part.strict, m.part.looked = true, true
	}
	return nil
}

// fileFields are the names under which files are sent, JSON ones too.
var fileFields = set("file files")

// write judges the next bytes of a value.
func (p *part) write(b []byte) error {
	p.size += int64(len(b))
	if n := captured - len(p.start); n > 0 && !p.file {
		p.start = append(p.start, b[:min(n, len(b))]...)
	}
	if p.json == nil {
		return nil
	}
	if !p.looked {
		if b = bytes.TrimLeft(b, spaces); len(b) == 0 {
			return nil
		}
		p.looked = true
		if !looksLikeJSON(b) {
			p.json = nil
			return nil
		}
	}
	err := p.json.write(b)
	if err == errJSON && !p.strict {
		p.json, err = nil, nil
	}
	return err
}

// end judges a value that is complete.
func (p *part) end(rules bodyRules) error {
	if p.file {
		return nil
	}
	if p.json != nil && p.looked && p.strict {
		if err := p.json.close(); err != nil {
			return err
		}
	}
	return rules.value(p.field, p.start, p.size)
}

// disposition reads a Content-Disposition: a name, and whether there is a file.
func disposition(v string) (name string, file, ok bool) {
	kind, rest, _ := strings.Cut(v, ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "form-data") {
		return "", false, false
	}
	words := map[string]string{}
	for param := range strings.SplitSeq(rest, ";") { // none may stand in a value: some readers split like this
		key, value, ok := strings.Cut(strings.TrimSpace(param), "=")
		key = strings.ToLower(key)
		if _, twice := words[key]; !ok || twice {
			return "", false, false
		}
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted {
				return "", false, false
			}
		} else if !httpguts.ValidHeaderFieldName(value) { // a token
			return "", false, false
		}
		if strings.ContainsAny(value, `"\`) {
			return "", false, false
		}
		words[key] = value
	}
	name, named := words["name"]
	filename, file := words["filename"]
	wide, both := words["filename*"]
	for key := range words {
		if key != "name" && key != "filename" && key != "filename*" {
			return "", false, false
		}
	}
	switch {
	case !named, strings.Trim(name, fieldSymbols) != "" || strings.Trim(name, "[]. ") == "" || strings.EqualFold(name, "_charset_"):
		return "", false, false
	case both && (!file || !isFileName(wide) || filename == ""):
		return "", false, false
	}
	return name, file && isFileName(filename), true
}

// fieldSymbols are the characters of a field's name; none means anything to a decoder.
const fieldSymbols = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.[]:$ "

// isFileName reports whether every server takes this for the name of a file: its last element has
// more than dots and blanks.
func isFileName(name string) bool {
	name = name[strings.LastIndexAny(name, `/:`)+1:]
	return strings.IndexFunc(name, func(c rune) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c > 0xff
	}) >= 0
}

// plainText reports whether a header's value is one line of UTF-8.
func plainText(v string) bool {
	return utf8.ValidString(v) && strings.IndexFunc(v, func(c rune) bool { return c < 0x20 && c != '\t' || c == 0x7f || c == utf8.RuneError }) < 0
}
