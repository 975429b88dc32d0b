package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrUnfinished says that the log goes on after its last whole transaction with something broken:
// a write that a crash cut off, or damage.
var ErrUnfinished = errors.New("the write-ahead log ends in a write that is not whole")

const (
	logHeader   = 32
	frameHeader = 24
	logVersion  = 3007000
	// The last bit of the magic number tells the byte order of the words that are summed up; the
	// numbers themselves are always big-endian.
	logMagic = 0x377f0682
)

// replayed is what a log holds: the newest committed version of pages.
type replayed struct {
	pages      map[uint32][]byte
	size       uint32 // of the database in pages, after the last commit
	commits    int
	unfinished string // why the rest of the log was not read, or ""
}

// replay reads a write-ahead log of pages of a size. Frames count up to the last commit before the
// first frame whose salt or running checksum is not right; a frame with another salt is left over
// from before the log was begun anew.
func replay(wal []byte, pageSize int) (*replayed, error) {
	l := &replayed{pages: map[uint32][]byte{}}
	if len(wal) == 0 {
		return l, nil
	}
	if len(wal) < logHeader {
		l.unfinished = "its header is cut off"
		return l, nil
	}
	word := binary.BigEndian.Uint32
	order := binary.ByteOrder(binary.LittleEndian)
	if word(wal)&1 != 0 {
		order = binary.BigEndian
	}
	s := sum{order: order}
	s.add(wal[:24])
	if word(wal)&^1 != logMagic || !s.is(wal[24:]) {
		l.unfinished = "its header is broken"
		return l, nil
	}
	if v := word(wal[4:]); v != logVersion {
		return nil, fmt.Errorf("%w: write-ahead log of version %d", ErrUnsupported, v)
	}
	if int64(word(wal[8:])) != int64(pageSize) {
		return nil, damaged("the log has pages of %d bytes, the database of %d", word(wal[8:]), pageSize)
	}
	salt := string(wal[16:24])
	pending := map[uint32][]byte{}
	frame := frameHeader + pageSize
	rest := wal[logHeader:]
	for ; len(rest) >= frame; rest = rest[frame:] {
		f := rest[:frame]
		if string(f[8:16]) != salt {
			break
		}
		s.add(f[:8])
		s.add(f[frameHeader:])
		if !s.is(f[16:]) {
			break
		}
		number, size := word(f), word(f[4:])
		if number == 0 {
			return nil, damaged("the log has a page 0")
		}
		pending[number] = f[frameHeader:]
		if size == 0 {
			continue
		}
		for n, p := range pending {
			l.pages[n] = p
		}
		clear(pending)
		l.size, l.commits = size, l.commits+1
	}
	for ; len(rest) >= frame; rest = rest[frame:] {
		if string(rest[8:16]) == salt {
			l.unfinished = fmt.Sprintf("after transaction %d", l.commits)
			return l, nil
		}
	}
	if len(rest) > 0 {
		l.unfinished = fmt.Sprintf("its last %d bytes are part of a page", len(rest))
	}
	return l, nil
}

// sum is the running checksum of a log.
type sum struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (s *sum) add(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		s.s0 += s.order.Uint32(b) + s.s1
		s.s1 += s.order.Uint32(b[4:]) + s.s0
	}
}

func (s *sum) is(b []byte) bool {
	return binary.BigEndian.Uint32(b) == s.s0 && binary.BigEndian.Uint32(b[4:]) == s.s1
}
