package proxy

import (
	"errors"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// errChunk says that a chunked body is not what every parser would agree on.
var errChunk = errors.New("malformed chunked body")

const (
	maxSizeLine = 1 << 10 // of a response; a request's is hexadecimal digits and CRLF
	maxTrailer  = 4 << 10
)

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataEnd
	chunkDataLF
	trailerStart
	trailerName
	trailerValue
	trailerLF
	trailerEndLF
	chunkDone
)

// chunkScanner finds the end of a chunked body (RFC 9112 §7.1) without changing it. A strict one,
// for requests, takes CRLF only, no extensions, at most 8 digits, and no trailer that servers
// could take for a header which decides.
type chunkScanner struct {
	strict bool
	state  chunkState
	digits int
	left   int64 // of the current chunk's data
	line   int   // bytes of the current size line, or of all trailers
	name   []byte
}

// feed reads b and returns how many of its bytes belong to the body, and whether it is complete.
func (s *chunkScanner) feed(b []byte) (int, bool, error) {
	for i := 0; i < len(b); {
		if s.state == chunkData {
			n := min(int64(len(b)-i), s.left)
			s.left -= n
			i += int(n)
			if s.left == 0 {
				s.state = chunkDataEnd
			}
			continue
		}
		if err := s.step(b[i]); err != nil {
			return i, false, err
		}
		i++
		if s.state == chunkDone {
			return i, true, nil
		}
	}
	return len(b), false, nil
}

func (s *chunkScanner) step(c byte) error {
	if !s.strict && c == '\r' && s.state != trailerStart { // clients ignore it
		return nil
	}
	if s.line++; s.line > maxTrailer || s.state < chunkData && s.line > maxSizeLine {
		return errChunk
	}
	switch s.state {
	case chunkSize:
		if d, ok := hexDigit(c); ok {
			s.left = s.left<<4 | int64(d)
			if s.digits++; s.strict && s.digits > 8 || s.digits > 15 {
				return errChunk
			}
			return nil
		}
		switch {
		case s.digits == 0:
			return errChunk
		case c == '\r':
			s.state = chunkSizeLF
		case s.strict:
			return errChunk
		case c == '\n':
			s.sizeDone()
		default:
			s.state = chunkExtension
		}
	case chunkExtension: // lenient only
		if c == '\n' {
			s.sizeDone()
		}
	case chunkSizeLF:
		if c != '\n' {
			return errChunk
		}
		s.sizeDone()
	case chunkDataEnd:
		switch {
		case c == '\r':
			s.state = chunkDataLF
		case c == '\n' && !s.strict:
			s.next(chunkSize)
		default:
			return errChunk
		}
	case chunkDataLF:
		if c != '\n' {
			return errChunk
		}
		s.next(chunkSize)
	default:
		return s.trailer(c)
	}
	return nil
}

func (s *chunkScanner) trailer(c byte) error {
	switch s.state {
	case trailerStart:
		switch {
		case c == '\r':
			s.state = trailerEndLF
		case c == '\n' && !s.strict:
			s.state = chunkDone
		case s.strict && !tokenByte(c):
			return errChunk
		default:
			s.name, s.state = append(s.name[:0], c), trailerName
		}
	case trailerName:
		switch {
		case c == ':':
			if s.strict && deciding(string(s.name)) {
				return errChunk
			}
			s.state = trailerValue
		case c == '\n' && !s.strict:
			s.state = trailerStart
		case s.strict && !tokenByte(c):
			return errChunk
		case len(s.name) < 64:
			s.name = append(s.name, c)
		}
	case trailerValue:
		switch {
		case c == '\r':
			s.state = trailerLF
		case c == '\n' && !s.strict:
			s.state = trailerStart
		case s.strict && (c < 0x20 && c != '\t' || c == 0x7f):
			return errChunk
		}
	case trailerLF, trailerEndLF:
		if c != '\n' {
			return errChunk
		}
		if s.state == trailerEndLF {
			s.state = chunkDone
		} else {
			s.state = trailerStart
		}
	}
	return nil
}

// deciding names the headers that must not come as trailers.
func deciding(name string) bool {
	switch strings.ToLower(name) {
	case "host", "content-length", "transfer-encoding", "connection", "upgrade":
		return true
	}
	return false
}

func (s *chunkScanner) sizeDone() {
	if s.left == 0 {
		s.next(trailerStart)
		return
	}
	s.next(chunkData)
}

func (s *chunkScanner) next(state chunkState) { s.state, s.digits, s.line = state, 0, 0 }

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// chunks copies one chunked body from src to dst as it is. Only bytes that s accepted leave src,
// so what follows the body stays for the next head.
func (m *pump) chunks(s *chunkScanner) error {
	for {
		if s.state == chunkData && s.left >= bufferSize {
			if err := m.run(s.left); err != nil {
				return err
			}
			s.left, s.state = 0, chunkDataEnd
		}
		if err := m.pay(); err != nil {
			return err
		}
		done, err := m.window(s)
		if done || err != nil {
			return err
		}
	}
}

// window moves the accepted part of what src has.
func (m *pump) window(s *chunkScanner) (bool, error) {
	var buf *[bufferSize]byte
	var n int
	var rerr error
	err := m.src.raw.Read(func(fd uintptr) bool {
		b := m.p.buffers.get()
		n, rerr = recvPeek(int(fd), b[:])
		if rerr == unix.EAGAIN {
			m.p.buffers.Put(b)
			return false
		}
		buf = b
		return true
	})
	if buf != nil {
		defer m.p.buffers.Put(buf)
	}
	switch {
	case err != nil:
		return false, err
	case rerr != nil:
		return false, rerr
	case n == 0:
		return false, io.ErrUnexpectedEOF
	}
	n, done, err := s.feed(buf[:n])
	if err != nil {
		return false, err
	}
	if _, err := io.ReadFull(m.src.TCPConn, buf[:n]); err != nil {
		return false, err
	}
	w, err := m.dst.Write(buf[:n])
	m.tell(w)
	return done, err
}
