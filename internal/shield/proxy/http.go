package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"terok/internal/shield/policy"
)

const pipelined = 16 // requests on the way before the next is read

// exchange is a request that was sent on and whose response is not finished.
type exchange struct {
	method string
	last   bool
	result chan bool // for an upgrade: whether it became opaque; buffered
}

// webRelay relays one HTTP/1 connection: requests in the caller's goroutine, responses in another.
type webRelay struct {
	p  *Proxy
	f  *flow
	d  policy.Decision
	up *stream // nil before the first allowed request

	mu    sync.Mutex
	cond  *sync.Cond
	queue []exchange
	ended bool // no more responses will be relayed
	wg    sync.WaitGroup
}

// serveHTTP relays port 80: every request is read strictly and judged under its Host; nothing is
// dialled before the first is allowed.
func (p *Proxy) serveHTTP(ctx context.Context, f *flow, d policy.Decision) {
	h := &webRelay{p: p, f: f, d: d}
	h.cond = sync.NewCond(&h.mu)
	defer h.wg.Wait()
	for {
		req, err := h.next()
		switch {
		case errors.Is(err, io.EOF): // between requests: the client is done
			if h.up != nil {
				h.up.CloseWrite()
			}
			return
		case err != nil:
			h.refuseStart(err)
			return
		}
		if d2, ok := p.second(f, req.host, "host"); !ok {
			if h.drain() {
				p.forbid(f, d2, req.host, req.hint)
			}
			h.hangUp()
			return
		}
		if h.up == nil && !h.dial(ctx, req.hint) {
			return
		}
		if more, err := h.forward(req); err != nil {
			f.cut("")
			return
		} else if !more {
			return
		}
	}
}

// next waits for a request head, judges its form and takes it from the connection.
func (h *webRelay) next() (request, error) {
	var deadline time.Time // none between requests
	if h.up == nil {
		deadline = time.Now().Add(startTimeout)
	}
	s := h.f.client
	if err := h.p.peek(s, deadline, func([]byte) bool { return true }); err != nil {
		return request{}, err
	}
	var req request
	var bad error
	size := 0
	err := h.p.peek(s, time.Now().Add(startTimeout), func(w []byte) bool {
		if size = headEnd(w); size == 0 {
			bad = headHopeless(w)
			return bad != nil
		}
		req, bad = parseRequest(w[:size], h.f.port)
		return true
	})
	if err == nil {
		err = bad
	}
	if errors.Is(err, io.EOF) {
		err = errTruncated
	}
	if err != nil {
		return request{}, err
	}
	return req, h.take(s, size)
}

// take removes n bytes that were peeked before.
func (h *webRelay) take(s *stream, n int) error {
	buf := h.p.buffers.get()
	defer h.p.buffers.Put(buf)
	_, err := io.ReadFull(s.TCPConn, buf[:n])
	return err
}

// refuseStart ends a connection whose next request was not understood.
func (h *webRelay) refuseStart(err error) {
	h.mu.Lock()
	ended := h.ended
	h.mu.Unlock()
	if ended { // our own end of the connection
		return
	}
	h.p.malformed(h.f, "host", describe(err, "request head"))
	if !h.drain() {
		return
	}
	if errors.Is(err, errHead) && h.speaksHTTP() {
		h.p.explainFailure(h.f, http.StatusBadRequest, err.Error(), requestHint{})
	} else {
		h.f.client.reset()
	}
	h.hangUp()
}

func (h *webRelay) speaksHTTP() bool {
	ok := false
	h.p.peek(h.f.client, time.Now().Add(time.Millisecond), func(w []byte) bool {
		ok = looksLikeHTTP(w)
		return true
	})
	return ok
}

// hangUp ends the upstream half after a refusal.
func (h *webRelay) hangUp() {
	if h.up != nil {
		h.up.reset()
	}
}

func (h *webRelay) dial(ctx context.Context, hint requestHint) bool {
	up, err := h.p.connect(ctx, h.f, h.d)
	switch {
	case err == nil:
		h.up = up
		h.wg.Go(h.responses)
		return true
	case errors.Is(err, errPrivate):
		h.p.forbid(h.f, policy.Decision{Tier: h.d.Tier, Reason: "its address is not one this container may reach"}, h.f.key(), hint)
	case h.f.isDead():
	default:
		h.p.failed(h.f, err)
		h.p.explainFailure(h.f, http.StatusBadGateway, "the host cannot be reached", hint)
	}
	return false
}

func (f *flow) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// forward sends one request on; false when no further request follows.
func (h *webRelay) forward(req request) (bool, error) {
	x := exchange{method: req.method, last: req.last}
	if req.websocket {
		x.result = make(chan bool, 1)
	}
	if !h.push(x) {
		return false, nil
	}
	if err := h.p.pay(h.f); err != nil {
		return false, err
	}
	tell := func(n int) { h.p.countUp(h.f, n) }
	n, err := h.up.Write(req.wire)
	tell(n)
	if err != nil {
		return false, h.uploadFailed(err)
	}
	m := pump{h.p, h.up, h.f.client, tell, h.f}
	if req.body.chunked {
		err = m.chunks(&chunkScanner{strict: true})
		if errors.Is(err, errChunk) {
			h.p.malformed(h.f, "host", err)
			return false, err
		}
	} else {
		err = m.run(req.body.length)
	}
	if err != nil {
		return false, h.uploadFailed(err)
	}
	if x.result != nil && <-x.result {
		finish(h.f, h.up, m.run(-1))
		return false, nil
	}
	return !req.last, nil
}

// uploadFailed is nil when the server has answered without wanting the rest of the request.
func (h *webRelay) uploadFailed(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil
	}
	return err
}

// push notes a request that is about to be sent; false when no response can come any more.
func (h *webRelay) push(x exchange) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.queue) >= pipelined && !h.ended {
		h.cond.Wait()
	}
	if !h.ended {
		h.queue = append(h.queue, x)
	}
	return !h.ended
}

// drain waits until every response has been relayed, so that an answer of ours comes in order;
// false when the connection ended before.
func (h *webRelay) drain() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.queue) > 0 && !h.ended {
		h.cond.Wait()
	}
	return !h.ended
}

// responses relays what the upstream answers until the connection ends.
func (h *webRelay) responses() {
	err := h.answerAll()
	h.mu.Lock()
	h.ended = true
	for _, x := range h.queue {
		if x.result != nil {
			x.result <- false
		}
	}
	h.queue = nil
	h.cond.Broadcast()
	h.mu.Unlock()
	if err != nil {
		h.f.cut("")
		return
	}
	h.f.client.CloseWrite()
	h.f.client.CloseRead() // wakes the goroutine that waits for the next request
}

var errUnsolicited = errors.New("response without a request")

// answerAll returns nil when the upstream ended where a response may end.
func (h *webRelay) answerAll() error {
	m := pump{h.p, h.f.client, h.up, func(n int) { h.p.countDown(h.f, n) }, nil}
	for {
		err := h.p.peek(h.up, time.Time{}, func([]byte) bool { return true })
		h.mu.Lock()
		waiting := len(h.queue) > 0
		var x exchange
		if waiting {
			x = h.queue[0]
		}
		h.mu.Unlock()
		switch {
		case errors.Is(err, io.EOF) && !waiting:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case !waiting: // such as a 408 for an idle connection: the next request needs a new one
			return nil
		}
		r, err := h.response(x)
		if err != nil {
			return err
		}
		if _, err := h.f.client.Write(r.wire); err != nil {
			return err
		}
		m.tell(len(r.wire))
		switch {
		case r.status == http.StatusSwitchingProtocols:
			if x.result == nil || !r.websocket {
				return errUnsolicited
			}
			h.pop()
			x.result <- true
			return m.run(-1)
		case r.status < 200:
			continue
		case r.body.chunked:
			err = m.chunks(&chunkScanner{})
		default:
			err = m.run(r.body.length)
		}
		if err != nil {
			return err
		}
		h.pop()
		if x.result != nil {
			x.result <- false
		}
		if x.last || r.last {
			return nil
		}
	}
}

func (h *webRelay) pop() {
	h.mu.Lock()
	h.queue = h.queue[1:]
	h.cond.Broadcast()
	h.mu.Unlock()
}

type response struct {
	status    int
	body      body
	last      bool
	websocket bool
	wire      []byte
}

var errResponse = errors.New("malformed response")

func (h *webRelay) response(x exchange) (response, error) {
	var r response
	var bad error
	err := h.p.peek(h.up, time.Time{}, func(w []byte) bool {
		size := responseEnd(w)
		if size > 0 {
			r, bad = parseResponse(w[:size], x.method)
		}
		return size > 0
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return response{}, err
	}
	return r, h.take(h.up, len(r.wire))
}

// responseEnd accepts bare line feeds as well, as clients do.
func responseEnd(b []byte) int {
	for i := range b {
		if b[i] == '\n' && (bytes.HasPrefix(b[i+1:], []byte("\n")) || bytes.HasPrefix(b[i+1:], []byte("\r\n"))) {
			return i + 1 + bytes.IndexByte(b[i+1:], '\n') + 1
		}
	}
	return 0
}

// parseResponse finds the length of the body that follows (RFC 9112 §6.3).
func parseResponse(b []byte, method string) (response, error) {
	r := response{wire: bytes.Clone(b)}
	lines := strings.Split(string(b), "\n")
	status := strings.SplitN(strings.TrimSuffix(lines[0], "\r"), " ", 3)
	if len(status) < 2 || len(status[1]) != 3 || status[0] != "HTTP/1.1" && status[0] != "HTTP/1.0" {
		return r, errResponse
	}
	code, ok := decimal(status[1])
	if !ok || code < 100 {
		return r, errResponse
	}
	r.status = int(code)
	length, chunked, coded, keep := int64(-1), false, false, status[0] == "HTTP/1.1"
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(strings.TrimSuffix(l, "\r"), ":")
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "content-length":
			n, ok := decimal(value)
			if !ok || length >= 0 && n != length {
				return r, errResponse
			}
			length = n
		case "transfer-encoding":
			t := tokens(value)
			coded, chunked = true, len(t) > 0 && t[len(t)-1] == "chunked"
		case "connection":
			for _, t := range tokens(value) {
				keep = keep && t != "close" || t == "keep-alive"
			}
		case "upgrade":
			r.websocket = strings.EqualFold(value, "websocket")
		}
	}
	switch {
	case method == http.MethodHead, code < 200, code == 204, code == 304:
	case coded:
		r.body = body{chunked: chunked, length: -1}
		keep = keep && chunked && length < 0
	default:
		r.body.length = length
		keep = keep && length >= 0
	}
	r.last = !keep
	return r, nil
}
