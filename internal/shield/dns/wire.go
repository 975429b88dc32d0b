package dns

import (
	"encoding/binary"
	"strings"

	mdns "github.com/miekg/dns"
)

// The container's queries are read by hand: a few checks instead of a general parser, no
// allocation but the name, and nothing accepted that a resolver library does not send (RFC 1035
// §4.1, RFC 6891).

const (
	headerLen  = 12
	maxQuery   = 4096 // bytes of a query that are looked at
	maxReply   = 1232 // bytes over UDP
	minReply   = 512
	maxText    = 253 // bytes of a name
	qr         = 0x80
	answerTTL  = 60 // seconds, for synthetic and local answers
	hinfoTTL   = 3600
	edeBlocked = 17 // RFC 8914: Filtered
	edeDenied  = 18 // RFC 8914: Prohibited
)

// query is a parsed message of the container.
type query struct {
	id       uint16
	rd       bool
	opcode   byte
	question []byte // as received, for the echo: case is preserved
	name     string // lower case, no trailing dot
	qtype    uint16
	qclass   uint16
	edns     bool
	version  byte
	size     int  // bytes that the asker takes over UDP
	badName  bool // bytes outside of [a-z0-9_-]
}

// fault is what is wrong with a message.
type fault uint8

const (
	sound     fault = iota
	dropped         // no answer: not a query at all
	malformed       // FORMERR
)

// parseQuery reads a message. Only a sound one has name and type; a malformed one has at least
// its id.
func parseQuery(msg []byte, q *query) fault {
	*q = query{size: minReply}
	if len(msg) < headerLen || msg[2]&qr != 0 {
		return dropped // answering an answer could go on for ever
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.rd = msg[2]&1 != 0
	q.opcode = msg[2] >> 3 & 15
	if q.opcode != mdns.OpcodeQuery {
		return sound // answered NOTIMP; its sections mean something else
	}
	counts := msg[4:headerLen]
	if binary.BigEndian.Uint16(counts) != 1 || binary.BigEndian.Uint32(counts[2:]) != 0 {
		return malformed // one question, no answers, no authority
	}
	end := parseQuestion(msg, q)
	if end < 0 {
		return malformed
	}
	return parseAdditional(msg, end, int(binary.BigEndian.Uint16(counts[6:])), q)
}

// parseQuestion returns the offset behind the question, or -1.
func parseQuestion(msg []byte, q *query) int {
	var text [maxText + 1]byte
	n, i := 0, headerLen
	for {
		if i >= len(msg) {
			return -1
		}
		l := int(msg[i])
		i++
		if l == 0 {
			break
		}
		// Labels over 63 bytes, and pointers: a question has nothing to point to.
		if l > 63 || i+l > len(msg) || n+l+1 > len(text) {
			return -1
		}
		for _, c := range msg[i : i+l] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				q.badName = true
				c = '?' // never a dot, which would make two labels of one
			}
			text[n] = c
			n++
		}
		text[n] = '.'
		n++
		i += l
	}
	if i+4 > len(msg) {
		return -1
	}
	if n > 0 {
		q.name = string(text[:n-1])
	}
	q.qtype = binary.BigEndian.Uint16(msg[i:])
	q.qclass = binary.BigEndian.Uint16(msg[i+2:])
	q.question = msg[headerLen : i+4]
	return i + 4
}

// parseAdditional accepts one OPT record with a root owner and nothing else.
func parseAdditional(msg []byte, at, count int, q *query) fault {
	if count == 0 && at == len(msg) {
		return sound
	}
	const optLen = 11 // root, type, class, TTL, length
	if count != 1 || at+optLen > len(msg) || msg[at] != 0 || binary.BigEndian.Uint16(msg[at+1:]) != mdns.TypeOPT {
		return malformed
	}
	if at+optLen+int(binary.BigEndian.Uint16(msg[at+9:])) != len(msg) {
		return malformed
	}
	q.edns = true
	q.size = min(max(int(binary.BigEndian.Uint16(msg[at+3:])), minReply), maxReply)
	q.version = msg[at+6]
	return sound
}

// reply is an answer in the making.
type reply struct {
	rcode   int
	foreign bool   // the rcode is upstream's, not a refusal of ours
	ede     uint16 // extended error, 0 for none
	rr      []byte // answer records
	count   uint16 // of answer records
}

// ownerPointer points to the question's name.
var ownerPointer = []byte{0xc0, headerLen}

// add appends a record about the question's name.
func (r *reply) add(rtype uint16, ttl uint32, rdata []byte) {
	r.rr = append(r.rr, ownerPointer...)
	r.rr = binary.BigEndian.AppendUint16(r.rr, rtype)
	r.rr = binary.BigEndian.AppendUint16(r.rr, mdns.ClassINET)
	r.rr = binary.BigEndian.AppendUint32(r.rr, ttl)
	r.rr = binary.BigEndian.AppendUint16(r.rr, uint16(len(rdata)))
	r.rr = append(r.rr, rdata...)
	r.count++
}

// appendReply appends the message to out. Answers made here always fit 512 bytes.
func appendReply(out []byte, q *query, r *reply) []byte {
	flags := uint16(qr)<<8 | uint16(q.opcode)<<11 | 1<<7 | uint16(r.rcode&15) // RA
	if q.rd {
		flags |= 1 << 8
	}
	out = binary.BigEndian.AppendUint16(out, q.id)
	out = binary.BigEndian.AppendUint16(out, flags)
	var qd, ar uint16
	if len(q.question) > 0 {
		qd = 1
	}
	if q.edns {
		ar = 1
	}
	out = binary.BigEndian.AppendUint16(out, qd)
	out = binary.BigEndian.AppendUint16(out, r.count)
	out = binary.BigEndian.AppendUint16(out, 0)
	out = binary.BigEndian.AppendUint16(out, ar)
	out = append(out, q.question...)
	out = append(out, r.rr...)
	if q.edns {
		out = append(out, 0, 0, byte(mdns.TypeOPT), maxReply>>8, maxReply&0xff, byte(r.rcode>>4), 0, 0, 0)
		if r.ede == 0 {
			return append(out, 0, 0)
		}
		out = append(out, 0, 6, 0, mdns.EDNS0EDE, 0, 2, byte(r.ede>>8), byte(r.ede))
	}
	return out
}

// wireName returns a valid name in wire form.
func wireName(name string) []byte {
	out := make([]byte, 0, len(name)+2)
	for label := range strings.SplitSeq(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}
