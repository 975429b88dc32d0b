package sqlite

import (
	"encoding/binary"
	"math"
)

// Kind is the storage class of a value.
type Kind uint8

// Storage classes.
const (
	Null Kind = iota
	Integer
	Real
	Text
	Blob
)

// Value is one column of a row. Bytes of Text and Blob are valid until Rows goes on.
type Value struct {
	Kind  Kind
	Int   int64
	Real  float64
	Bytes []byte
}

// pages of a table's tree.
const (
	interior = 5
	leaf     = 13
)

// Rows calls visit for every row of a table, by row id. A row may have fewer values than the table
// has columns: those that were added after it was written.
func (d *DB) Rows(t Table, visit func(rowid int64, row []Value) error) error {
	w := &walker{db: d, seen: map[uint32]bool{}, last: math.MinInt64, visit: visit}
	return w.tree(t.root, math.MaxInt64, 0)
}

type walker struct {
	db    *DB
	seen  map[uint32]bool // a page belongs to one place
	rows  int
	last  int64 // row id; they grow
	visit func(int64, []Value) error
}

// take returns a page that nothing else has used.
func (w *walker) take(n uint32) ([]byte, error) {
	if w.seen[n] {
		return nil, damaged("page %d is used twice", n)
	}
	w.seen[n] = true
	return w.db.page(n)
}

// tree visits the rows below a page; none has an id above most.
func (w *walker) tree(number uint32, most int64, depth int) error {
	if depth > maxDepth {
		return damaged("a tree of more than %d levels", maxDepth)
	}
	page, err := w.take(number)
	if err != nil {
		return err
	}
	at := 0
	if number == 1 {
		at = headerSize
	}
	kind, head := page[at], 8
	switch kind {
	case leaf:
	case interior:
		head = 12
	default:
		return damaged("page %d is not of a table", number)
	}
	cells := int(binary.BigEndian.Uint16(page[at+3:]))
	first := at + head
	body := first + 2*cells
	if body > w.db.usable {
		return damaged("page %d has %d cells", number, cells)
	}
	for i := range cells {
		start := int(binary.BigEndian.Uint16(page[first+2*i:]))
		if start < body || start >= w.db.usable {
			return damaged("a cell of page %d lies outside", number)
		}
		cell := page[start:w.db.usable]
		if kind == leaf {
			err = w.row(cell, most)
		} else {
			err = w.branch(cell, most, depth)
		}
		if err != nil {
			return err
		}
	}
	if kind == interior {
		return w.tree(binary.BigEndian.Uint32(page[at+8:]), most, depth+1)
	}
	return nil
}

func (w *walker) branch(cell []byte, most int64, depth int) error {
	if len(cell) < 4 {
		return damaged("a cell is cut off")
	}
	key, n := varint(cell[4:])
	if n == 0 || int64(key) > most {
		return damaged("row ids are out of order")
	}
	return w.tree(binary.BigEndian.Uint32(cell), int64(key), depth+1)
}

func (w *walker) row(cell []byte, most int64) error {
	length, n := varint(cell)
	id, m := varint(cell[n:])
	if n == 0 || m == 0 {
		return damaged("a cell is cut off")
	}
	rowid := int64(id)
	if rowid <= w.last && w.rows > 0 || rowid > most {
		return damaged("row ids are out of order")
	}
	if w.rows++; w.rows > maxRows {
		return damaged("more than %d rows", maxRows)
	}
	w.last = rowid
	if length > maxRecord {
		return damaged("a record of %d bytes", length)
	}
	payload, err := w.payload(cell[n+m:], int(length))
	if err != nil {
		return err
	}
	row, err := record(payload)
	if err != nil {
		return err
	}
	return w.visit(rowid, row)
}

// payload puts a record together from its cell and its chain of overflow pages.
func (w *walker) payload(cell []byte, length int) ([]byte, error) {
	usable := w.db.usable
	local := length
	if most := usable - 35; length > most {
		least := (usable-12)*32/255 - 23
		if local = least + (length-least)%(usable-4); local > most {
			local = least
		}
	}
	if local == length {
		if len(cell) < local {
			return nil, damaged("a record is cut off")
		}
		return cell[:local], nil
	}
	if len(cell) < local+4 {
		return nil, damaged("a record is cut off")
	}
	out := append(make([]byte, 0, length), cell[:local]...)
	for next := binary.BigEndian.Uint32(cell[local:]); len(out) < length; {
		page, err := w.take(next)
		if err != nil {
			return nil, err
		}
		next = binary.BigEndian.Uint32(page)
		out = append(out, page[4:4+min(usable-4, length-len(out))]...)
		if (len(out) < length) != (next != 0) {
			return nil, damaged("a chain of overflow pages does not end where its record does")
		}
	}
	return out, nil
}

// record decodes a row.
func record(b []byte) ([]Value, error) {
	head, n := varint(b)
	if n == 0 || head > uint64(len(b)) || head < uint64(n) {
		return nil, damaged("the head of a record")
	}
	types, body := b[n:head], b[head:]
	var row []Value
	for len(types) > 0 {
		t, n := varint(types)
		if n == 0 || len(row) == maxColumns {
			return nil, damaged("the head of a record")
		}
		types = types[n:]
		v, size, ok := value(t, body)
		if !ok {
			return nil, damaged("a value of a record")
		}
		row, body = append(row, v), body[size:]
	}
	if len(body) > 0 {
		return nil, damaged("a record is longer than its values")
	}
	return row, nil
}

// value decodes what a serial type describes, at the beginning of b.
func value(t uint64, b []byte) (v Value, size int, ok bool) {
	switch {
	case t == 0:
		return Value{}, 0, true
	case t == 8 || t == 9:
		return Value{Kind: Integer, Int: int64(t - 8)}, 0, true
	case t == 10 || t == 11: // reserved
		return v, 0, false
	case t < 8:
		size = [...]int{0, 1, 2, 3, 4, 6, 8, 8}[t]
	default:
		if t >= 12+2*maxRecord {
			return v, 0, false
		}
		size = int(t-12) / 2
	}
	if len(b) < size {
		return v, 0, false
	}
	b = b[:size]
	if t >= 12 {
		v = Value{Kind: Blob, Bytes: b}
		if t%2 == 1 {
			v.Kind = Text
		}
		return v, size, true
	}
	var bits uint64
	for _, c := range b {
		bits = bits<<8 | uint64(c)
	}
	if t == 7 {
		return Value{Kind: Real, Real: math.Float64frombits(bits)}, size, true
	}
	unused := 64 - 8*size
	return Value{Kind: Integer, Int: int64(bits<<unused) >> unused}, size, true
}

// varint decodes SQLite's variable-length integer; n is 0 when b is cut off.
func varint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 8 {
			return v<<8 | uint64(c), 9
		}
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
