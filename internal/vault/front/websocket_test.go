package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"terok/internal/vault/usage"
)

// dialWS opens a WebSocket through the front as a program in the container does.
func (r *rig) dialWS(ctx context.Context, change func(*websocket.DialOptions)) (*websocket.Conn, *http.Response, error) {
	o := &websocket.DialOptions{HTTPClient: r.client(false), HTTPHeader: http.Header{"X-Api-Key": {r.phantom}},
		Subprotocols: []string{"realtime"}, CompressionMode: websocket.CompressionContextTakeover}
	if change != nil {
		change(o)
	}
	c, resp, err := websocket.Dial(ctx, "wss://"+testHost+"/v1/responses", o)
	if c != nil {
		c.SetReadLimit(20 << 20)
		r.t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, err
}

// wsProvider is an upstream that hands each message to answer.
func wsProvider(t *testing.T, answer func(ctx context.Context, c *websocket.Conn, kind websocket.MessageType, msg []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("X-Api-Key") != realKey || strings.Contains(fmt.Sprint(req.Header), PhantomPrefix) {
			t.Errorf("headers %v", req.Header)
		}
		if req.Header.Get("Sec-Websocket-Extensions") != "" {
			t.Error("an extension was offered")
		}
		c, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: []string{"realtime"}, InsecureSkipVerify: true,
			CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(20 << 20)
		for {
			kind, msg, err := c.Read(req.Context())
			if err != nil {
				return
			}
			answer(req.Context(), c, kind, msg)
		}
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// spec/vault.md §10: 36, and 28 for WebSocket text.
func TestWebSocket(t *testing.T) {
	ctx := timeout(t)
	var tokens atomic.Int64
	r := newRig(t, wsProvider(t, func(ctx context.Context, c *websocket.Conn, _ websocket.MessageType, msg []byte) {
		if bytes.Contains(msg, []byte("usage")) {
			msg = []byte(`{"type":"response.completed","response":{"model":"m","usage":{"input_tokens":5,"output_tokens":7}}}`)
		}
		c.Write(ctx, websocket.MessageText, msg)
	}), func(c *Config, _ *httptestServer) {
		c.Used = func(_, _ string, u usage.Tokens, _ bool) int64 { tokens.Add(u.Sum()); return 0 }
	})
	c, resp, err := r.dialWS(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subprotocol() != "realtime" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
		t.Errorf("%q %v", c.Subprotocol(), resp.Header)
	}
	var sent int
	for _, size := range []int{0, 10, 125, 126, 70_000, 1 << 20} {
		msg := []byte(`{"text":"` + strings.Repeat("a", size) + `"}`)
		sent += len(msg)
		if err := c.Write(ctx, websocket.MessageText, msg); err != nil {
			t.Fatal(err)
		}
		kind, got, err := c.Read(ctx)
		if err != nil || kind != websocket.MessageText || !bytes.Equal(got, msg) {
			t.Fatalf("%d: %v %v, %d bytes", size, kind, err, len(got))
		}
	}
	// A message in frames of its own comes together as one.
	w, err := c.Writer(ctx, websocket.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`{"text":"`, realKey[:20], realKey[20:], `"}`} {
		io.WriteString(w, part)
		sent += len(part)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != `{"text":"`+strings.Repeat("x", len(realKey))+`"}` {
		t.Fatalf("%q %v", got, err)
	}
	if err := c.Ping(contextReading(ctx, c)); err != nil {
		t.Errorf("ping: %v", err)
	}
	c.CloseNow()
	r.front.Close()
	if tokens.Load() == 0 {
		t.Error("answers that never said what they used were not estimated")
	}
	var open, closed bool
	for _, e := range r.events {
		open = open || e.Ev == "vault_ws_open"
		if e.Ev == "vault_request" && e.Status == 101 {
			closed = int(e.BytesUp) == sent && int(e.BytesDown) == sent
		}
	}
	if !open || !closed {
		t.Errorf("events %+v, %d bytes were sent", r.events, sent)
	}
}

// contextReading reads on, so that pongs are seen.
func contextReading(ctx context.Context, c *websocket.Conn) context.Context {
	c.CloseRead(ctx)
	return ctx
}

func TestWebSocketUsage(t *testing.T) {
	ctx := timeout(t)
	got := make(chan usage.Tokens, 10)
	r := newRig(t, wsProvider(t, func(ctx context.Context, c *websocket.Conn, _ websocket.MessageType, msg []byte) {
		c.Write(ctx, websocket.MessageText, []byte(`{"type":"response.created","response":{"model":"gpt-5","usage":null}}`))
		c.Write(ctx, websocket.MessageText, []byte(`{"type":"response.completed","response":{"model":"gpt-5","usage":{"input_tokens":5,"output_tokens":7}}}`))
	}), func(c *Config, _ *httptestServer) {
		c.Used = func(_, model string, u usage.Tokens, estimated bool) int64 {
			if model != "gpt-5" || estimated {
				t.Errorf("%q %v", model, estimated)
			}
			got <- u
			return 0
		}
	})
	c, _, err := r.dialWS(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Write(ctx, websocket.MessageText, []byte(`{"type":"response.create"}`)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, _, err := c.Read(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if u := <-got; u != (usage.Tokens{Input: 5, Output: 7}) {
			t.Errorf("%+v", u)
		}
	}
}

// What must not reach the provider closes the WebSocket, and no complete message gets there.
func TestWebSocketRefusals(t *testing.T) {
	r := newRig(t, wsProvider(t, func(_ context.Context, _ *websocket.Conn, _ websocket.MessageType, msg []byte) {
		t.Errorf("reached the provider: %.100q", msg)
	}))
	for name, tt := range map[string]struct {
		kind websocket.MessageType
		msg  string
		code websocket.StatusCode
	}{
		"a foreign key":                     {websocket.MessageText, `{"session":{"api_key":"sk-attacker-0123456789"}}`, websocket.StatusPolicyViolation},
		"a late foreign key":                {websocket.MessageText, `{"a":"` + strings.Repeat("b", 200_000) + `","api_key":"sk-attacker"}`, websocket.StatusPolicyViolation},
		"a remote server":                   {websocket.MessageText, `{"mcp_servers":[{"url":"https://evil.example"}]}`, websocket.StatusPolicyViolation},
		"no JSON":                           {websocket.MessageText, `sk-attacker-0123456789`, websocket.StatusPolicyViolation},
		"JSON that is cut":                  {websocket.MessageText, `{"a":"b`, websocket.StatusPolicyViolation},
		"bytes":                             {websocket.MessageBinary, `{}`, websocket.StatusUnsupportedData},
		"more than 16 MiB":                  {websocket.MessageText, `"` + strings.Repeat("b", 17<<20) + `"`, websocket.StatusMessageTooBig},
		"nothing where a message should be": {websocket.MessageText, ``, websocket.StatusPolicyViolation},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := timeout(t)
			c, _, err := r.dialWS(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Write(ctx, tt.kind, []byte(tt.msg))
			if _, _, err = c.Read(ctx); websocket.CloseStatus(err) != tt.code {
				t.Errorf("%v, want %d", err, tt.code)
			}
		})
	}
}

func TestWebSocketHandshake(t *testing.T) {
	var header http.Header
	status := http.StatusSwitchingProtocols
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		h := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {acceptOf(req.Header.Get("Sec-Websocket-Key"))}}
		for k, v := range header {
			h[k] = v
		}
		fmt.Fprintf(rw, "HTTP/1.1 %d X\r\n", status)
		h.Write(rw)
		io.WriteString(rw, "\r\n")
		rw.Flush()
		io.Copy(io.Discard, c)
	})
	for name, tt := range map[string]struct {
		upstream http.Header
		client   http.Header
		code     string
	}{
		"an extension nobody asked for":  {upstream: http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}}, code: "encoding_denied"},
		"the answer to another question": {upstream: http.Header{"Sec-Websocket-Accept": {"AAAA"}}, code: "upstream_unreachable"},
		"a protocol nobody asked for":    {upstream: http.Header{"Sec-Websocket-Protocol": {"x"}}, code: "upstream_unreachable"},
		"another protocol":               {upstream: http.Header{"Upgrade": {"h2c"}}, code: "upstream_unreachable"},
		"a foreign key as a protocol":    {client: http.Header{"Sec-Websocket-Protocol": {"realtime, " + subprotocolKey + "sk-attacker"}}, code: "foreign_credential"},
		"a token as a protocol":          {client: http.Header{"Sec-Websocket-Protocol": {"access-token." + strings.Repeat("a", 30)}}, code: "foreign_credential"},
		"no phantom":                     {client: http.Header{"X-Api-Key": nil}, code: "missing_token"},
		"another version":                {client: http.Header{"Sec-Websocket-Version": {"12"}}, code: "bad_request"},
		"a short nonce":                  {client: http.Header{"Sec-Websocket-Key": {"AAAA"}}, code: "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			header = tt.upstream
			req := r.request("GET", "/v1/realtime", "")
			for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
				req.Header.Set(k, v)
			}
			for k, v := range tt.client {
				req.Header[k] = v
			}
			resp, _ := r.do(req)
			if resp.Header.Get("X-Terok-Broker") != tt.code {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
		})
	}
}

// The phantom may stand where browsers' clients put a key.
func TestWebSocketKeyAsProtocol(t *testing.T) {
	ctx := timeout(t)
	r := newRig(t, wsProvider(t, func(ctx context.Context, c *websocket.Conn, kind websocket.MessageType, msg []byte) {
		c.Write(ctx, kind, msg)
	}))
	c, _, err := r.dialWS(ctx, func(o *websocket.DialOptions) {
		o.HTTPHeader = nil
		o.Subprotocols = []string{"realtime", subprotocolKey + r.phantom}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != "{}" {
		t.Errorf("%q %v", got, err)
	}
}

// Revocation tells a WebSocket why it ends; spec/vault.md §5.9.
func TestWebSocketRevoked(t *testing.T) {
	ctx := timeout(t)
	gone := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, nil)
		if err != nil {
			return
		}
		c.Read(req.Context())
		close(gone)
	})
	c, _, err := r.dialWS(ctx, func(o *websocket.DialOptions) { o.Subprotocols = nil })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := c.Read(ctx); done <- err }()
	if got := r.front.Revoke("", "user", true); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if err := <-done; websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("%v", err)
	}
	select {
	case <-gone:
	case <-ctx.Done():
		t.Error("the provider's side stays open")
	}
	if _, resp, err := r.dialWS(ctx, nil); err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a revoked phantom still opens: %v %v", resp, err)
	}
}

// WebSocket over HTTP/2 (RFC 8441) is not offered, and a client that tries is refused.
func TestWebSocketOverHTTP2(t *testing.T) {
	r := newRig(t, mustNotReach(t))
	c, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: testHost, RootCAs: r.ca, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	h2frame(c, 4, 0, 0, nil)
	in := bufio.NewReader(c)
	for {
		typ, _, payload := readH2(t, in)
		if typ != 4 {
			continue
		}
		for i := 0; i+6 <= len(payload); i += 6 {
			if binary.BigEndian.Uint16(payload[i:]) == 8 && binary.BigEndian.Uint32(payload[i+2:]) != 0 {
				t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is offered")
			}
		}
		break
	}
	// HEADERS: :method CONNECT, :protocol websocket, :scheme https, :path /, :authority, literal without indexing.
	var block []byte
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", "/v1/realtime"}, {":authority", testHost}, {"x-api-key", r.phantom}} {
		block = append(block, 0, byte(len(f[0])))
		block = append(block, f[0]...)
		block = append(block, byte(len(f[1])))
		block = append(block, f[1]...)
	}
	h2frame(c, 1, 0x4, 1, block)
	for {
		typ, stream, _ := readH2(t, in)
		if typ == 3 && stream == 1 || typ == 1 && stream == 1 || typ == 7 { // RST_STREAM, an answer, GOAWAY
			return
		}
	}
}

func h2frame(w io.Writer, typ, flags byte, stream uint32, payload []byte) {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), typ, flags}
	w.Write(append(binary.BigEndian.AppendUint32(b, stream), payload...))
}

func readH2(t *testing.T, r io.Reader) (typ byte, stream uint32, payload []byte) {
	t.Helper()
	var h [9]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		t.Fatal(err)
	}
	payload = make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return h[3], binary.BigEndian.Uint32(h[5:]), payload
}

// Frames that break the protocol end a connection and crash nothing.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x81\x05hello"), false, 4)
	f.Add([]byte("\x01\x03abc\x89\x01p\x80\x02de"), false, 100)
	f.Add([]byte("\x81\x85\x01\x02\x03\x04iiiii"), true, 3)
	f.Add([]byte("\x81\x7e\x00\x7e"+strings.Repeat("a", 126)), false, 50)
	f.Add([]byte("\x88\x02\x03\xe8"), false, 10)
	f.Fuzz(func(t *testing.T, in []byte, masked bool, size int) {
		size = maxControl + max(size%1000, 0)
		read := func(r io.Reader, masked bool) (msgs []string, err error) {
			fr := frameReader{r: bufio.NewReader(r), masked: masked, limit: 1 << 16}
			var msg strings.Builder
			buf := make([]byte, size)
			for {
				p, err := fr.next(buf)
				if err != nil {
					return msgs, err
				}
				if p.op&8 != 0 {
					msgs = append(msgs, fmt.Sprintf("control %d %q", p.op, p.data))
					continue
				}
				if p.first != (msg.Len() == 0) {
					t.Fatal("first is not the first")
				}
				fmt.Fprintf(&msg, "%d", p.op)
				msg.Write(p.data)
				if p.last {
					msgs = append(msgs, strings.ReplaceAll(msg.String(), fmt.Sprint(p.op), ""))
					msg.Reset()
				}
			}
		}
		msgs, err := read(bytes.NewReader(in), masked)
		// What was understood can be said again, and is understood alike.
		var out bytes.Buffer
		w := frameWriter{w: &out, client: !masked}
		fr := frameReader{r: bufio.NewReader(bytes.NewReader(in)), masked: masked, limit: 1 << 16}
		buf := make([]byte, size)
		for {
			p, err := fr.next(buf)
			if err != nil {
				break
			}
			if p.op == opClose {
				break // nothing may follow
			}
			if err := w.write(p.last, p.opcode(), p.data); err != nil {
				t.Fatal(err)
			}
		}
		again, _ := read(&out, !masked)
		for i := range again {
			if i < len(msgs) && again[i] != msgs[i] {
				t.Fatalf("%q became %q (%v)", msgs[i], again[i], err)
			}
		}
	})
}

// What only one of two readers might understand is refused.
func TestFrameRules(t *testing.T) {
	for name, frame := range map[string]string{
		"a reserved bit": "\xc1\x80\x00\x00\x00\x00", "an unknown operation": "\x83\x80\x00\x00\x00\x00", "no mask": "\x81\x01a",
		"a long ping": "\x89\xfe\x00\x7e", "a ping in parts": "\x09\x80\x00\x00\x00\x00", "a length that is too long by itself": "\x81\xfe\x00\x05\x00\x00\x00\x00aaaaa",
		"a length with 65 bits": "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", "the middle of nothing": "\x80\x80\x00\x00\x00\x00",
		"a message in a message": "\x01\x80\x00\x00\x00\x00\x01\x80\x00\x00\x00\x00",
	} {
		r := frameReader{r: bufio.NewReader(strings.NewReader(frame)), masked: true, limit: 1 << 20}
		var err error
		for range 3 {
			if _, err = r.next(make([]byte, maxControl)); err != nil {
				break
			}
		}
		if err != errFrame {
			t.Errorf("%s: %v", name, err)
		}
	}
}
