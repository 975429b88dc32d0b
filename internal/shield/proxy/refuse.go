package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/text"
)

const (
	sniffTimeout = 400 * time.Millisecond // for the client's first bytes when it is refused
	heldTimeout  = 5 * time.Millisecond   // the same after a hold
	lingerTime   = 300 * time.Millisecond // for the client to take the answer
	lingerBytes  = 64 << 10

	// Alert descriptions (RFC 8446 §6).
	alertAccessDenied = 49
	alertDecodeError  = 50
)

// protocol is what a client turned out to speak.
type protocol uint8

const (
	protoOther protocol = iota
	protoHTTP
	protoTLS
)

// deny refuses a flow that policy does not allow, in the client's protocol if it speaks at once.
func (p *Proxy) deny(f *flow, d policy.Decision) {
	f.idle.Store(true)
	p.denied(f, d)
	if !p.slots.refusing.take() {
		f.client.reset()
		return
	}
	defer p.slots.refusing.give()
	patience := sniffTimeout
	if f.held { // what it had to say first it has said while it waited
		patience = heldTimeout
	}
	proto, head := p.sniff(f.client, patience)
	switch proto {
	case protoHTTP:
		p.forbid(f, d, f.key(), head)
	case protoTLS:
		p.alert(f, alertAccessDenied)
	default:
		f.client.reset()
	}
}

// sniff waits briefly for the client's first bytes. It never decides anything but the form of a
// refusal.
func (p *Proxy) sniff(s *stream, patience time.Duration) (protocol, requestHint) {
	proto := protoOther
	var hint requestHint
	p.peek(s, time.Now().Add(patience), func(w []byte) bool {
		switch {
		case w[0] == recordHandshake:
			if len(w) < 3 {
				return false
			}
			if w[1] == 3 {
				proto = protoTLS
			}
			return true
		case !looksLikeHTTP(w):
			return true
		}
		proto, hint = protoHTTP, hintOf(w)
		return bytes.Contains(w, []byte("\r\n\r\n"))
	})
	if proto == protoHTTP && hint.method == "" {
		proto = protoOther // not even a request line came
	}
	return proto, hint
}

// looksLikeHTTP reports whether w can be the start of a request line: a method in capitals and a
// space.
func looksLikeHTTP(w []byte) bool {
	for i, c := range w {
		if c == ' ' {
			return i >= 3
		}
		if c < 'A' || c > 'Z' || i >= 16 {
			return false
		}
	}
	return true
}

// requestHint is what the form of a refusal depends on.
type requestHint struct {
	method string
	json   bool // the client prefers JSON
}

func hintOf(w []byte) requestHint {
	line, rest, ok := bytes.Cut(w, []byte("\r\n"))
	if !ok || !bytes.Contains(line, []byte(" HTTP/1.")) {
		return requestHint{}
	}
	method, _, _ := bytes.Cut(line, []byte(" "))
	h := requestHint{method: string(method)}
	for _, l := range bytes.Split(rest, []byte("\r\n")) {
		name, value, _ := bytes.Cut(l, []byte(":"))
		if strings.EqualFold(string(name), "Accept") {
			h.json = prefersJSON(string(value))
		}
	}
	return h
}

func prefersJSON(accept string) bool {
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/")
}

// refusal is the JSON form of a 403, for the model that reads it.
type refusal struct {
	Error    string `json:"error"` // refused_by_shield
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Tier     string `json:"tier"`
	Rule     string `json:"rule,omitempty"`
	Reason   string `json:"reason"`
	Operator string `json:"operator_command"` // what a person on the host can run
	Explain  string `json:"explain"`          // what works inside the container
	Ask      string `json:"ask,omitempty"`    // what asks the operator, from inside
}

// forbid answers a request to host with 403 and ends the connection.
func (p *Proxy) forbid(f *flow, d policy.Decision, host string, hint requestHint) {
	r := refusal{
		Error: "refused_by_shield", Host: text.Line(host, 253), Port: f.port, Tier: d.Tier.String(),
		Reason:  text.Line(d.Said(), text.MaxLine),
		Explain: sandbox.GuestProgram + " guest why " + text.Line(host, 253),
	}
	if d.Rule != nil {
		r.Rule = text.Line(d.Rule.Text, text.MaxLine)
	}
	if r.Reason == "" {
		r.Reason = "no rule allows it"
	}
	target := net.JoinHostPort(r.Host, strconv.Itoa(int(f.port)))
	r.Operator = strings.Join(strings.Fields("terok shield allow "+text.Line(p.cfg.Subject, 128)+" "+target), " ")
	next := "If the task needs it, say so; an operator on the host can run: " + r.Operator
	if d.Rule == nil && d.Tier == policy.Default && p.cfg.Ask != nil {
		r.Ask = sandbox.GuestProgram + " guest ask " + target + ` --reason "what it is needed for"`
		next = "If the task needs it, ask: " + r.Ask + " (it waits for the answer); or an operator on the host can run: " + r.Operator
	}
	js, err := json.Marshal(r)
	if err != nil {
		f.client.reset()
		return
	}
	body, kind := append(js, '\n'), "application/json"
	if !hint.json {
		kind = "text/plain; charset=utf-8"
		body = fmt.Appendf(nil, "terok refused this request: this container may not reach %s (%s). Trying again or "+
			"another way does not help. %s\n\n%s\n", target, r.Reason, next, js)
	}
	p.respond(f, http.StatusForbidden, kind, body, hint)
}

// explainFailure answers with 502 when an allowed destination cannot be reached, or 400 for a
// request that was not understood.
func (p *Proxy) explainFailure(f *flow, status int, why string, hint requestHint) {
	body := fmt.Appendf(nil, "terok: %s (%s)\n", text.Line(why, text.MaxLine), text.Line(f.hostport(), 300))
	p.respond(f, status, "text/plain; charset=utf-8", body, hint)
}

func (p *Proxy) respond(f *flow, status int, kind string, body []byte, hint requestHint) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nServer: terok\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
		status, http.StatusText(status), kind, len(body))
	if hint.method != http.MethodHead {
		b.Write(body)
	}
	p.lastWords(f.client, b.Bytes())
}

// alert ends a TLS handshake with a fatal alert in the clear.
func (p *Proxy) alert(f *flow, description byte) {
	p.lastWords(f.client, []byte{21, 3, 3, 0, 2, 2, description})
}

// lastWords sends b and closes. It reads a little first: closing with unread bytes sends RST, which
// can overtake the answer.
func (p *Proxy) lastWords(s *stream, b []byte) {
	s.SetDeadline(time.Now().Add(lingerTime))
	if _, err := s.Write(b); err != nil || s.CloseWrite() != nil {
		s.reset()
		return
	}
	io.CopyN(io.Discard, s.TCPConn, lingerBytes)
	s.Close()
}

// unreachable ends a flow that policy allowed but that could not be connected.
func (p *Proxy) unreachable(f *flow, err error) {
	if !errors.Is(err, errPrivate) && !errors.Is(err, net.ErrClosed) {
		p.failed(f, err)
	}
	f.client.reset()
}
