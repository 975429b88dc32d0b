package front

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The frames of WebSocket (RFC 6455 §5), as far as a relay in the middle needs them: no extension
// is ever negotiated, so the bytes of a message are what they seem, and frames may be cut anew.

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// Close codes (RFC 6455 §7.4.1).
const (
	closeGoingAway   = 1001
	closeProtocol    = 1002
	closeUnsupported = 1003
	closePolicy      = 1008
	closeTooBig      = 1009
	closeInternal    = 1011
)

// maxControl is the largest payload of a control frame in bytes.
const maxControl = 125

// closing is why a tunnel ends: what is sent to both sides in a close frame.
type closing struct {
	code   int
	reason string // at most 123 bytes
}

func (c *closing) Error() string { return fmt.Sprintf("%d %s", c.code, c.reason) }

var errFrame = &closing{closeProtocol, "not a WebSocket frame"}

// frameHeader is the head of one frame.
type frameHeader struct {
	fin    bool
	op     byte
	masked bool
	mask   [4]byte
	length int64 // of the payload, in bytes
}

func (h *frameHeader) control() bool { return h.op&0x8 != 0 }

// readFrameHeader reads the head of a frame. masked says who sends: clients mask, servers do not
// (§5.1). It fails with errFrame on what only one of two readers might understand.
func readFrameHeader(r io.Reader, masked bool) (frameHeader, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return frameHeader{}, err
	}
	h := frameHeader{fin: b[0]&0x80 != 0, op: b[0] & 0x0f, masked: b[1]&0x80 != 0, length: int64(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0: // reserved bits belong to extensions
		return h, errFrame
	case h.op > opBinary && h.op < opClose || h.op > opPong:
		return h, errFrame
	case h.masked != masked:
		return h, errFrame
	case h.control() && (!h.fin || h.length > maxControl):
		return h, errFrame
	}
	switch h.length {
	case 126:
		if _, err := io.ReadFull(r, b[:2]); err != nil {
			return h, unexpected(err)
		}
		if h.length = int64(binary.BigEndian.Uint16(b[:2])); h.length < 126 {
			return h, errFrame
		}
	case 127:
		if _, err := io.ReadFull(r, b[:8]); err != nil {
			return h, unexpected(err)
		}
		n := binary.BigEndian.Uint64(b[:8])
		if n < 1<<16 || n > 1<<62 {
			return h, errFrame
		}
		h.length = int64(n)
	}
	if h.masked {
		if _, err := io.ReadFull(r, h.mask[:]); err != nil {
			return h, unexpected(err)
		}
	}
	return h, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unmask undoes or does the masking of p, whose first byte is at offset in the payload (§5.3).
func (h *frameHeader) unmask(p []byte, offset int64) {
	if !h.masked {
		return
	}
	for i := range p {
		p[i] ^= h.mask[(offset+int64(i))&3]
	}
}

// frameWriter sends frames to one side; frames of several goroutines do not mix.
type frameWriter struct {
	mu     sync.Mutex
	w      io.Writer
	client bool // we are the client of this side and mask
	ended  bool // a close frame was sent, nothing may follow
	buf    []byte
}

var errEnded = errors.New("the connection is closed")

// write sends one frame. It masks payload in place where it has to.
func (f *frameWriter) write(fin bool, op byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.send(fin, op, payload)
}

func (f *frameWriter) send(fin bool, op byte, payload []byte) error {
	if f.ended {
		return errEnded
	}
	h := frameHeader{op: op, masked: f.client}
	b := append(f.buf[:0], op)
	if fin {
		b[0] |= 0x80
	}
	var mask byte
	if f.client {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if f.client {
		rand.Read(h.mask[:]) // unpredictable, so that no payload can look like HTTP to somebody in between (§10.3)
		b = append(b, h.mask[:]...)
		h.unmask(payload, 0)
	}
	b = append(b, payload...)
	f.buf = b
	f.ended = op == opClose
	_, err := f.w.Write(b)
	return err
}

// close sends a close frame unless one was sent.
func (f *frameWriter) close(c *closing) error {
	payload := binary.BigEndian.AppendUint16(nil, uint16(c.code))
	return f.write(true, opClose, append(payload, c.reason[:min(len(c.reason), maxControl-2)]...))
}

// frameReader reads the messages of one side in pieces.
type frameReader struct {
	r       *bufio.Reader
	masked  bool // the peer is a client
	limit   int64
	h       frameHeader
	left    int64 // of the frame's payload
	offset  int64
	op      byte // of the message that is open; opContinuation: none
	size    int64
	started bool // a piece of the open message was returned
}

// piece is a part of a message, or a control frame.
type piece struct {
	op    byte // opText or opBinary for every part of a message
	first bool
	last  bool
	data  []byte // in the buffer given to next
}

// next reads the next piece into buf, which holds at least maxControl bytes. It fails with a
// *closing when the peer breaks the protocol or the limit of a message.
func (f *frameReader) next(buf []byte) (piece, error) {
	for f.left == 0 {
		h, err := readFrameHeader(f.r, f.masked)
		if err != nil {
			return piece{}, err
		}
		f.h, f.left, f.offset = h, h.length, 0
		if h.control() {
			b := buf[:h.length]
			if _, err := io.ReadFull(f.r, b); err != nil {
				return piece{}, unexpected(err)
			}
			h.unmask(b, 0)
			f.left = 0
			return piece{op: h.op, first: true, last: true, data: b}, nil
		}
		if (h.op == opContinuation) != (f.op != opContinuation) {
			return piece{}, errFrame // a message within a message, or the middle of none
		}
		if h.op != opContinuation {
			f.op, f.size, f.started = h.op, 0, false
		}
		if f.size += h.length; f.size > f.limit {
			return piece{}, &closing{closeTooBig, "a message is larger than the vault relays"}
		}
		if h.length == 0 && h.fin {
			return f.part(buf[:0]), nil
		}
	}
	n := min(int64(len(buf)), f.left)
	if k := int64(f.r.Buffered()); k > 0 && k < n {
		n = k // what is there goes on at once
	} else if k == 0 {
		if _, err := f.r.Peek(1); err != nil {
			return piece{}, unexpected(err)
		}
		n = min(n, int64(f.r.Buffered()))
	}
	b := buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		return piece{}, unexpected(err)
	}
	f.h.unmask(b, f.offset)
	f.offset += n
	f.left -= n
	return f.part(b), nil
}

func (f *frameReader) part(b []byte) piece {
	p := piece{op: f.op, first: !f.started, last: f.h.fin && f.left == 0, data: b}
	f.started = true
	if p.last {
		f.op = opContinuation
	}
	return p
}
