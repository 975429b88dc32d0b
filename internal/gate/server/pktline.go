package server

import (
	"errors"
	"fmt"
	"io"
)

// pkt-line framing (gitprotocol-common(5)): four hexadecimal digits of length including
// themselves, then the payload. Lengths 0, 1 and 2 are the special packets; 3 is invalid.
const (
	pktData      = iota
	pktFlush     // 0000
	pktDelim     // 0001
	pktEnd       // 0002, response end
	maxPktLength = 65520
)

var errPkt = errors.New("malformed pkt-line")

// readPkt reads one packet from r into buf, which must hold maxPktLength bytes, and returns its
// kind and payload; the payload is valid until the next call. io.EOF means that r ended between
// packets, io.ErrUnexpectedEOF that it ended inside one.
func readPkt(r io.Reader, buf []byte) (kind int, payload []byte, err error) {
	head := buf[:4]
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	n := 0
	for _, c := range head {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | int(c-'A'+10)
		default:
			return 0, nil, errPkt
		}
	}
	switch {
	case n == 0:
		return pktFlush, nil, nil
	case n == 1:
		return pktDelim, nil, nil
	case n == 2:
		return pktEnd, nil, nil
	case n < 4 || n > maxPktLength:
		return 0, nil, errPkt
	}
	payload = buf[4:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return pktData, payload, nil
}

// appendPkt appends one data packet to dst. The payload must be shorter than 65517 bytes.
func appendPkt(dst []byte, payload string) []byte {
	return append(fmt.Appendf(dst, "%04x", len(payload)+4), payload...)
}

// appendBand appends data on a side band, split into as many packets as it needs.
func appendBand(dst []byte, band byte, data []byte, limit int) []byte {
	for len(data) > 0 {
		n := min(len(data), limit)
		dst = fmt.Appendf(dst, "%04x", n+5)
		dst = append(dst, band)
		dst = append(dst, data[:n]...)
		data = data[n:]
	}
	return dst
}

const flushPkt = "0000"
