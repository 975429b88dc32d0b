package front

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/text"
	"terok/internal/vault/usage"
)

// Bounds of a WebSocket.
const (
	wsMessage  = 16 << 20         // bytes of a message, either way
	wsPiece    = 32 << 10         // bytes relayed at a time
	wsIdle     = 20 * time.Minute // without a frame of either side
	wsFarewell = time.Second      // how long the end may take, and whoever is cut hears why
)

// upgrade reports whether r asks for a WebSocket. Any other upgrade is ignored, which is what
// HTTP lets a server do (RFC 9110 §7.8).
func upgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Method == http.MethodGet && hasToken(r.Header["Connection"], "upgrade") &&
		len(r.Header["Upgrade"]) == 1 && strings.EqualFold(r.Header["Upgrade"][0], "websocket")
}

func hasToken(values []string, want string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), want) {
				return true
			}
		}
	}
	return false
}

// protocols are the subprotocols that h offers, without the phantom, which was judged. Anything
// that looks like a credential is refused here: some servers take one there.
func protocols(h http.Header) (list []string, ref *refusal) {
	for _, v := range h["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(v, ",") {
			switch p = strings.TrimSpace(p); {
			case p == "" || strings.HasPrefix(p, subprotocolKey):
			case len(p) > 64, credentialHeader(p):
				return nil, refuse(http.StatusForbidden, "foreign_credential", "a WebSocket protocol carries a credential of its own")
			default:
				list = append(list, p)
			}
		}
	}
	return list, nil
}

// tunnel relays a WebSocket: the handshake as any request, then message by message. What the
// container says is judged like a request's body, what the provider says is scrubbed.
func (f *Front) tunnel(w http.ResponseWriter, r *http.Request, rt *route, out *http.Request, key *armed, x *exchange) {
	f.tunnels.Add(1)
	defer f.tunnels.Done()
	nonce := r.Header.Get("Sec-Websocket-Key")
	if raw, err := base64.StdEncoding.DecodeString(nonce); err != nil || len(raw) != 16 ||
		r.Header.Get("Sec-Websocket-Version") != "13" || len(r.Header["Sec-Websocket-Key"]) != 1 {
		f.answer(w, r, x, refuse(http.StatusBadRequest, "bad_request", "not the handshake of a WebSocket"))
		return
	}
	offered, ref := protocols(r.Header)
	if ref != nil {
		f.answer(w, r, x, ref)
		return
	}
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	delete(out.Header, "Sec-Websocket-Extensions") // frames must stay readable
	delete(out.Header, "Sec-Websocket-Protocol")
	if len(offered) > 0 {
		out.Header["Sec-Websocket-Protocol"] = []string{strings.Join(offered, ", ")}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	resp, err := rt.transport.RoundTrip(out.WithContext(ctx))
	if err != nil {
		f.answer(w, r, x, upstreamRefusal(err))
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if ref := rt.judgeResponse(resp); ref != nil {
			f.answer(w, r, x, ref)
			return
		}
		f.respond(w, resp, key, nil, x)
		return
	}
	upstream, ok := resp.Body.(io.ReadWriteCloser)
	if ref := judgeSwitch(resp, nonce, offered); ref != nil || !ok {
		if ref == nil {
			ref = refuse(http.StatusBadGateway, "upstream_unreachable", "the provider's WebSocket cannot be used")
		}
		f.answer(w, r, x, ref)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.answer(w, r, x, refuse(http.StatusBadGateway, "upstream_unreachable", "the connection cannot become a WebSocket"))
		return
	}
	x.status = resp.StatusCode
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	for _, name := range withheld {
		if name != "Connection" && name != "Upgrade" {
			delete(resp.Header, name)
		}
	}
	x.scrubbed = key.scrub.header(resp.Header)
	t := &wsTunnel{front: f, route: rt, key: key, x: x, ctx: r.Context(), conn: conn, upstream: upstream,
		down: frameWriter{w: conn}, up: frameWriter{w: upstream, client: true}}
	if x.generates = x.generates && f.cfg.Used != nil; x.generates {
		t.meter = usage.NewMessageMeter()
	}
	if !t.open(resp.Header) {
		x.reason = "client_gone"
		return
	}
	f.cfg.Record.Record(audit.Event{Ev: "vault_ws_open", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider})
	t.run(rw.Reader)
}

// judgeSwitch refuses an answer that does not belong to the handshake, or that would make the
// frames unreadable.
func judgeSwitch(resp *http.Response, nonce string, offered []string) *refusal {
	chosen := resp.Header["Sec-Websocket-Protocol"]
	switch {
	case !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket"),
		resp.Header.Get("Sec-Websocket-Accept") != acceptOf(nonce),
		len(chosen) > 1, len(chosen) == 1 && !slices.Contains(offered, chosen[0]):
		return refuse(http.StatusBadGateway, "upstream_unreachable", "the provider's answer does not belong to this WebSocket")
	case len(resp.Header["Sec-Websocket-Extensions"]) > 0:
		return refuse(http.StatusBadGateway, "encoding_denied", "the provider insists on an extension that cannot be scrubbed")
	}
	return nil
}

// acceptOf is the answer to a handshake's nonce (RFC 6455 §4.2.2).
func acceptOf(nonce string) string {
	sum := sha1.Sum([]byte(nonce + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsTunnel is one open WebSocket.
type wsTunnel struct {
	front    *Front
	route    *route
	key      *armed
	x        *exchange
	ctx      context.Context
	conn     net.Conn           // the container's side
	upstream io.ReadWriteCloser // the provider's side
	down, up frameWriter
	once     sync.Once
	why      closing
	idle     *time.Timer
	meter    *usage.Meter // nil: nothing is counted
}

// open sends the answer to the handshake. From then on whoever cuts the connection says why first.
func (t *wsTunnel) open(h http.Header) bool {
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&head)
	head.WriteString("\r\n")
	t.down.mu.Lock() // nothing may come before it
	defer t.down.mu.Unlock()
	if cc := clientOf(t.conn); cc != nil {
		end := t.end
		cc.farewell.Store(&end)
	}
	_, err := io.WriteString(t.conn, head.String())
	return err == nil
}

func (t *wsTunnel) run(client *bufio.Reader) {
	t.idle = time.AfterFunc(wsIdle, func() { t.end(&closing{closeGoingAway, "nothing was said for long"}) })
	defer t.idle.Stop()
	var wg sync.WaitGroup
	wg.Go(func() { t.done(t.toProvider(client)) })
	wg.Go(func() { t.done(t.toClient(bufio.NewReaderSize(t.upstream, wsPiece))) })
	wg.Wait()
	if t.x.generates { // an answer that was cut off before it said what it used
		t.front.used(t.route, t.x, t.meter, t.x.up)
	}
	t.x.close = t.why.code
}

// done ends the tunnel when one of its directions has ended.
func (t *wsTunnel) done(err error) {
	c, ok := errors.AsType[*closing](err)
	switch {
	case ok:
		t.end(c)
	case err == nil: // a close frame passed; the other side answers it
		t.once.Do(func() { t.hangUp() })
	default:
		t.end(&closing{closeInternal, "the other side is gone"})
	}
}

// end tells both sides why, once, and closes them.
func (t *wsTunnel) end(c *closing) {
	t.once.Do(func() {
		t.why = *c
		_ = t.conn.SetWriteDeadline(time.Now().Add(wsFarewell))
		_ = t.down.close(c)
		t.hangUp()
	})
}

// hangUp gives the provider the time to read, or to send, a close frame.
func (t *wsTunnel) hangUp() {
	_ = t.conn.SetDeadline(time.Now().Add(wsFarewell))
	time.AfterFunc(wsFarewell, func() { t.upstream.Close() })
	go func() { _ = t.up.close(&closing{closeGoingAway, ""}) }()
}

// toProvider relays what the container says. A message is judged like the body of a request; its
// last frame goes out when all of it was found good, so the provider never has a complete message
// that was refused.
func (t *wsTunnel) toProvider(r *bufio.Reader) error {
	in := inspectors.Get().(*jsonInspector)
	defer inspectors.Put(in)
	reader := frameReader{r: r, masked: true, limit: wsMessage}
	buf := make([]byte, wsPiece)
	for {
		p, err := reader.next(buf)
		if err != nil {
			return err
		}
		t.idle.Reset(wsIdle)
		if p.op&0x8 == 0 {
			t.x.up += int64(len(p.data))
		}
		switch p.op {
		case opText:
			if p.first {
				in.reset(bodyRules{fetch: t.route.ServerFetch})
				if ref := t.front.admit(t.ctx, t.route, t.x.generates); ref != nil {
					return t.refused(ref)
				}
			}
			err := in.write(p.data)
			if err == nil && p.last {
				err = in.close()
			}
			if err != nil {
				return t.refused(refusalOf(err))
			}
		case opBinary:
			return &closing{closeUnsupported, "terok: the vault reads what is sent: text messages only"}
		case opClose:
			return t.up.write(true, opClose, p.data)
		}
		if err := t.up.write(p.last, p.opcode(), p.data); err != nil {
			return err
		}
	}
}

// refused writes the ledger's line of a message that does not reach the provider.
func (t *wsTunnel) refused(ref *refusal) error {
	rt := t.route
	t.front.cfg.Record.Record(audit.Event{Ev: "vault_ws_refused", Actor: "workload", Name: rt.Host, Port: rt.Port,
		Provider: rt.Provider, Verdict: "deny", Reason: ref.code})
	return &closing{closePolicy, text.Line("terok: "+ref.message, maxControl-2)}
}

// opcode is the operation of the frame that carries the piece on.
func (p *piece) opcode() byte {
	if p.first {
		return p.op
	}
	return opContinuation
}

// toClient relays what the provider says, scrubbed.
func (t *wsTunnel) toClient(r *bufio.Reader) error {
	reader := frameReader{r: r, limit: wsMessage}
	st := scrubStream{scrubber: t.key.scrub, buf: make([]byte, max(wsPiece, 4*t.key.scrub.longest)+maxControl)}
	control := make([]byte, maxControl)
	first, out := true, 0
	for {
		room := st.room(out)
		out = 0
		p, err := reader.next(room)
		if err != nil {
			return err
		}
		t.idle.Reset(wsIdle)
		if p.op&0x8 != 0 {
			// A control frame may stand between the parts of a message.
			data := append(control[:0], p.data...)
			if t.key.scrub.mask(data) {
				t.x.scrubbed = true
			}
			if err := t.down.write(true, p.op, data); err != nil || p.op == opClose {
				return err
			}
			continue
		}
		chunk := st.next(len(p.data), p.last)
		out = len(chunk)
		t.x.scrubbed = t.x.scrubbed || st.found
		t.x.down += int64(len(p.data))
		if t.meter != nil && t.meter.Message(chunk, p.last) {
			t.front.used(t.route, t.x, t.meter, 0)
			t.meter.Reset()
		}
		if len(chunk) == 0 && !p.last {
			continue
		}
		op := byte(opContinuation)
		if first {
			op = p.op
		}
		first = p.last
		if err := t.down.write(p.last, op, chunk); err != nil {
			return err
		}
	}
}
