package front

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

// field is the name of a form's field, taken apart: frameworks read "a[b][0]" as the member b of a
// member a, so it is judged like one.
type field struct {
	parent, key string // folded; "" when none that we look for
	credential  bool   // its value is a credential
	calls       bool   // whatever its value, it makes a provider call out
	note        bool   // addresses are not followed
	text        bool   // its value is words for people or models
}

func fieldOf(name string) field {
	whole := foldName(name)
	f := field{credential: credentialNames[whole] || whole == "method" && strings.HasPrefix(name, "_")}
	depth := 0
	for word := range strings.FieldsFuncSeq(name, func(c rune) bool { return c == '[' || c == ']' || c == '.' }) {
		if strings.Trim(word, "0123456789 ") == "" { // a position
			continue
		}
		n := foldName(word)
		if depth == 0 && noteMember("", n) {
			f.note = true
		}
		f.parent, f.key = f.key, n
		f.text = textFields[strings.ToLower(word)]
		f.credential = f.credential || credentialNames[n]
		f.calls = f.calls || callingMembers[n]
		depth++
	}
	f.credential = f.credential || depth <= 1 && weakNames[whole]
	return f
}

// textFields are names of fields that hold words for people and models: "[1] is a link"
// and "{braces}" there are not JSON.
var textFields = set("prompt text input content description title body message note instructions commit_message")

// value judges a field by its name and the first bytes of its value of n bytes.
func (b bodyRules) value(f field, start []byte, n int64) error {
	if !b.fetch && !f.note && n > 0 && (f.calls || callsOut(f.parent, f.key, start, int(n))) {
		return errServerFetch
	}
	if b.project != nil && projectMembers[f.key] {
		if n > int64(len(start)) {
			return badBody("a field that names a project is longer than any name")
		}
		if ref := b.project(string(start)); ref != nil {
			return ref
		}
	}
	return nil
}

// looksLikeJSON reports whether a server could take a value that starts so for JSON: an object or
// array, also after a byte order mark. start has no leading space.
func looksLikeJSON(start []byte) bool {
	return start[0] == '{' || start[0] == '[' || start[0] == 0xef
}

// fieldJSON is the inspector of a field whose value may be JSON. strict says that it must be,
// if it looks like it.
func (b bodyRules) fieldJSON(f field) (in *jsonInspector, strict bool) {
	in = &jsonInspector{}
	in.reset(b)
	in.key = f.key // elements of an array inherit it
	return in, !b.fetch && !f.text
}

// inspectForm refuses a form that carries a credential, that makes the provider call out, or that
// names another project.
func (b bodyRules) inspectForm(body string) error {
	values, err := url.ParseQuery(body)
	if err != nil { // a semicolon, say, which some servers take for a separator
		return badBody("the form cannot be read")
	}
	for name, list := range values {
		f := fieldOf(name)
		if f.credential {
			return errCredential
		}
		for _, v := range list {
			if err := b.value(f, []byte(v[:min(captured, len(v))]), int64(len(v))); err != nil {
				return err
			}
			text := bytes.TrimLeft([]byte(v), spaces)
			if len(text) == 0 || !looksLikeJSON(text) {
				continue
			}
			in, strict := b.fieldJSON(f)
			err := in.write(text)
			if err == nil {
				err = in.close()
			}
			if err != nil && (strict || err != errJSON) {
				return err
			}
		}
	}
	return nil
}

// spaces are what somebody might skip before JSON; JSON itself allows four of them.
const spaces = " \t\r\n\v\f"

var errCredential = &finding{"foreign_credential", "the form carries a credential of its own"}

func badBody(message string) *refusal { return refuse(http.StatusBadRequest, "bad_body", message) }
