package usage

import (
	"bytes"
	"mime"
	"strings"
)

// Meter finds the usage fields in one answer as it streams by.
type Meter struct {
	stream bool // server-sent events
	scan   scanner
	line   uint8 // of an event stream
	match  int   // bytes of "data:" seen at the start of a line
	events int64 // data lines that hold an object
	bytes  int64 // of the answer
	seen   bool  // this event's document has begun
}

const (
	lineStart uint8 = iota
	lineSpace       // after "data:", where one space may stand
	lineData
	lineOther
)

// NewMeter makes a meter for an answer with this Content-Type; nil when it is neither JSON nor an
// event stream. Methods of a nil Meter do nothing.
func NewMeter(contentType string) *Meter {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil
	}
	m := &Meter{stream: t == "text/event-stream"}
	if !m.stream && t != "application/json" && !strings.HasSuffix(t, "+json") {
		return nil
	}
	return m
}

// NewMessageMeter makes a meter for the messages of a WebSocket; they go to Message, not to Write.
func NewMessageMeter() *Meter { return &Meter{stream: true} }

// Message takes the next bytes of a message. It is true at the end of one that says what an
// answer used: then it is time for Tokens and Reset.
func (m *Meter) Message(p []byte, last bool) bool {
	m.bytes += int64(len(p))
	m.scan.write(p)
	if !last {
		return false
	}
	m.events++
	m.scan.next()
	return m.scan.final
}

// Generates reports whether answers to this request are paid for by tokens: a POST to an endpoint
// of one of the protocols. It decides by the end of the path, since gateways put things before it.
func Generates(method, path string) bool {
	if method != "POST" {
		return false
	}
	for _, end := range []string{"/messages", "/responses", "/completions", "/embeddings", "/responses/compact"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// Batches reports whether a request begins work whose cost no answer to it says.
func Batches(method, path string) bool {
	return method == "POST" && (strings.HasSuffix(path, "/batches") || strings.HasSuffix(path, "/batch/jobs"))
}

// Reset begins another answer.
func (m *Meter) Reset() {
	if m != nil {
		*m = Meter{stream: m.stream}
	}
}

// Write takes the next bytes of the answer. It never fails.
func (m *Meter) Write(p []byte) {
	if m == nil {
		return
	}
	m.bytes += int64(len(p))
	if !m.stream {
		m.scan.write(p)
		return
	}
	for len(p) > 0 {
		if m.line == lineData || m.line == lineOther {
			n := bytes.IndexByte(p, '\n')
			end := n >= 0
			if !end {
				n = len(p)
			}
			if m.line == lineData && n > 0 {
				if !m.seen {
					m.seen = true
					if p[0] == '{' {
						m.events++
					}
				}
				m.scan.write(p[:n])
			}
			if end {
				m.line, m.match = lineStart, 0
				n++
			}
			p = p[n:]
			continue
		}
		m.begin(p[0])
		p = p[1:]
	}
}

const dataField = "data:"

// begin takes one byte of the part of a line before its value.
func (m *Meter) begin(c byte) {
	switch {
	case m.line == lineSpace:
		m.line = lineData
		if c == ' ' {
			return
		}
		if c == '\n' {
			m.line, m.match = lineStart, 0
			return
		}
		if !m.seen {
			m.seen = true
			if c == '{' {
				m.events++
			}
		}
		m.scan.write([]byte{c})
	case m.match < len(dataField) && c == dataField[m.match]:
		if m.match++; m.match == len(dataField) {
			m.line = lineSpace
		}
	case c == '\r': // before the end of an empty line
	case c == '\n': // an empty line ends the event
		if m.match == 0 {
			m.scan.next()
			m.seen = false
		}
		m.match = 0
	default:
		m.line, m.match = lineOther, 0
	}
}

// Model is the name that the provider gives the model, "" if it gave none.
func (m *Meter) Model() string {
	if m == nil {
		return ""
	}
	return m.scan.model
}

// Tokens is what the answer says it used. estimated is true when it ended before it said so: then
// a token is counted for each event, or for four bytes, and for four bytes of the request.
func (m *Meter) Tokens(requestBytes int64) (t Tokens, estimated bool) {
	if m == nil {
		return Tokens{}, false
	}
	t = m.scan.tokens
	if m.scan.cachedInInput {
		t.Input -= t.CacheRead
	}
	t.max0()
	if m.scan.final || m.bytes == 0 {
		return t, false
	}
	guess := m.events
	if !m.stream {
		guess = m.bytes / 4
	}
	t.Output = max(t.Output, guess)
	if t.Input+t.CacheRead+t.CacheWrite == 0 {
		t.Input = requestBytes / 4
	}
	return t, true
}
