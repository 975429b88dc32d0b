package server

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// Errors of request bodies; their texts reach the client.
var (
	errTooLarge = errors.New("the request is larger than this gate accepts")
	errBomb     = errors.New("the request is compressed beyond reason")
	errEncoding = errors.New("unknown Content-Encoding")
)

// maxRatio is how much a compressed request may grow. Negotiation of object ids, which is what
// git compresses, stays below 3.
const maxRatio = 100

// bufferSize is the unit of copying in both directions.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// body is a request body: decompressed, counted, limited, and with a deadline per read.
type body struct {
	raw   io.Reader // the connection
	plain io.Reader // decompressed; raw itself when there is no compression
	rc    *http.ResponseController
	idle  time.Duration
	in    int64 // bytes read from the connection
	n     int64 // bytes handed out
	limit int64
}

// openBody prepares the body of r. Reading past limit gives errTooLarge.
func openBody(w http.ResponseWriter, r *http.Request, limit int64, idle time.Duration) (*body, error) {
	b := &body{raw: r.Body, rc: http.NewResponseController(w), idle: idle, limit: limit}
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		b.plain = connection{b}
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(connection{b})
		if err != nil {
			return nil, errors.New("the request is not valid gzip")
		}
		b.plain = z
	default:
		return nil, errEncoding
	}
	// Git answers (progress) while the client still sends. Only HTTP/1 needs to be told, and a
	// response recorder cannot. From here on the body must be read to its end (drain) or the
	// connection given up: net/http would otherwise read it concurrently with the next request.
	_ = b.rc.EnableFullDuplex()
	return b, nil
}

// connection is the raw side: it renews the read deadline before each read and takes it away at
// the end, because net/http goes on watching the connection for the client's departure.
type connection struct{ *body }

func (c connection) Read(p []byte) (int, error) {
	_ = c.rc.SetReadDeadline(time.Now().Add(c.idle))
	n, err := c.raw.Read(p)
	if err != nil {
		_ = c.rc.SetReadDeadline(time.Time{})
	}
	c.in += int64(n)
	return n, err
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.plain.Read(p)
	b.n += int64(n)
	if b.n > b.limit {
		return 0, errTooLarge
	}
	if b.n > maxRatio*b.in+1<<20 {
		return 0, errBomb
	}
	return n, err
}

// errUnread says that the client sends on and on; its connection is given up.
var errUnread = errors.New("the request goes on beyond its limit")

// drain reads what is left, at most one more limit's worth, so that the client gets to reading
// the answer.
func (b *body) drain() error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for left := b.limit; left > 0; {
		n, err := connection{b}.Read(*buf)
		left -= int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errUnread
}

// response is the answer: every write is flushed and has a deadline.
type response struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
	n    int64 // bytes written
}

func newResponse(w http.ResponseWriter, idle time.Duration) *response {
	return &response{w: w, rc: http.NewResponseController(w), idle: idle}
}

func (r *response) Write(p []byte) (int, error) {
	_ = r.rc.SetWriteDeadline(time.Now().Add(r.idle))
	n, err := r.w.Write(p)
	r.n += int64(n)
	if err != nil {
		return n, err
	}
	return n, r.rc.Flush()
}

// done takes the deadlines away: the connection serves further requests.
func (r *response) done() {
	_ = r.rc.SetWriteDeadline(time.Time{})
	_ = r.rc.SetReadDeadline(time.Time{})
}
