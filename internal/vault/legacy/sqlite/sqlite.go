// Package sqlite reads the tables of an SQLite 3 database that lies in memory, with the committed
// part of its write-ahead log. It opens no file and writes nothing, so whoever has the bytes of a
// secret database reads it without a copy of it ever coming into being on a disk.
//
//	db, err := sqlite.Open(file, log, sqlite.Options{})
//	t, ok, err := db.Table("users")
//	err = db.Rows(t, func(rowid int64, row []sqlite.Value) error { … })
//
// The format is that of https://www.sqlite.org/fileformat2.html, of which this is the part that
// ordinary tables need: no indexes, no WITHOUT ROWID, UTF-8 only. The bytes may be damaged or made
// by an enemy: depth, records, rows and pages are bounded, a page is used once, and everything that
// does not fit together is a *Damage. SQLite itself is more lenient; it has to keep a program
// running, this has to hand over secrets or nothing.
package sqlite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxFile bounds the database and its log, in bytes each.
const MaxFile = 64 << 20

// Bounds of what is inside.
const (
	maxDepth   = 20
	maxRecord  = 1 << 20
	maxRows    = 100_000
	maxColumns = 200
)

// Magic begins every database that is not encrypted.
const Magic = "SQLite format 3\x00"

// headerSize is that of the database header, at the beginning of page 1.
const headerSize = 100

// ErrNotDatabase says that the bytes are no SQLite database.
var ErrNotDatabase = errors.New("this is no SQLite database")

// ErrUnsupported is a database that is whole but of a kind that is not read here.
var ErrUnsupported = errors.New("a form of SQLite databases that is not read here")

// Damage says that the bytes do not fit together. What never quotes content.
type Damage struct{ What string }

func (d *Damage) Error() string { return "the database is damaged: " + d.What }

func damaged(format string, args ...any) error { return &Damage{fmt.Sprintf(format, args...)} }

// Options say how pages are stored.
type Options struct {
	// PageSize is the size of a stored page where it cannot be read from the first one, since that
	// is encrypted; 0 otherwise.
	PageSize int
	// Decode turns a stored page into a plain one of the same size, which Open then owns; nil keeps
	// pages as they are. It must not change its argument.
	Decode func(number uint32, stored []byte) ([]byte, error)
	// IgnoreUnfinished leaves out what follows the last transaction of the log that is whole, as
	// SQLite does. Without it a log that ends in a broken write is the error ErrUnfinished: it may
	// as well be damage, and then what is left is older than what was stored last.
	IgnoreUnfinished bool
}

// DB is an open database.
type DB struct {
	pages  [][]byte // by number, from 1; nil: never written, so free
	usable int      // bytes of a page without the reserved ones
	own    bool     // the pages are copies of ours
	// UserVersion is PRAGMA user_version.
	UserVersion int
	// Log is what the write-ahead log added: whole transactions.
	Log int
}

// Open reads a database and its write-ahead log; an empty log is none. It fails with
// ErrNotDatabase, ErrUnsupported, ErrUnfinished or *Damage, or what Decode says.
func Open(file, wal []byte, o Options) (*DB, error) {
	if len(file) > MaxFile || len(wal) > MaxFile {
		return nil, fmt.Errorf("%w: more than %d MiB", ErrUnsupported, MaxFile>>20)
	}
	size := o.PageSize
	if size == 0 {
		if len(file) < headerSize || !bytes.HasPrefix(file, []byte(Magic)) {
			return nil, ErrNotDatabase
		}
		if size = pageSize(file); size == 0 {
			return nil, damaged("the page size is none")
		}
	}
	if len(file) < size {
		return nil, damaged("the file is shorter than a page")
	}
	l, err := replay(wal, size)
	if err != nil {
		return nil, err
	}
	if l.unfinished != "" && !o.IgnoreUnfinished {
		return nil, fmt.Errorf("%w: %s", ErrUnfinished, l.unfinished)
	}
	d := &DB{own: o.Decode != nil, Log: l.commits}
	if err := d.materialise(file, l, size, o.Decode); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// pageSize reads the size from a database header, 0 for none that exists.
func pageSize(header []byte) int {
	n := int(binary.BigEndian.Uint16(header[16:]))
	if n == 1 {
		n = 65536
	}
	if n < 512 || n&(n-1) != 0 {
		return 0
	}
	return n
}

// materialise puts the newest version of each page together.
func (d *DB) materialise(file []byte, l *replayed, size int, decode func(uint32, []byte) ([]byte, error)) error {
	stored := func(n uint32) []byte {
		if p, ok := l.pages[n]; ok {
			return p
		}
		if end := int64(n) * int64(size); end <= int64(len(file)) {
			return file[end-int64(size) : end]
		}
		return nil
	}
	plain := func(n uint32) ([]byte, error) {
		p := stored(n)
		if p == nil || decode == nil {
			return p, nil
		}
		if n > 1 && zero(p) { // in a hole of the file: allocated, freed, never written
			return nil, nil
		}
		return decode(n, p)
	}
	first, err := plain(1)
	if err != nil {
		return err
	}
	d.pages = [][]byte{first}
	count, err := d.header(first, size, len(file))
	if err != nil {
		return err
	}
	if l.commits > 0 {
		count = l.size
	} else if int64(count)*int64(size) != int64(len(file)) {
		return damaged("it has %d pages of %d bytes by its header, and %d bytes", count, size, len(file))
	}
	if int64(count)*int64(size) > MaxFile {
		return damaged("%d pages", count)
	}
	for n := uint32(2); n <= count; n++ {
		p, err := plain(n)
		if err != nil {
			return err
		}
		d.pages = append(d.pages, p)
	}
	return nil
}

// header judges the database header and returns the number of pages.
func (d *DB) header(page []byte, size, file int) (count uint32, err error) {
	switch {
	case !bytes.HasPrefix(page, []byte(Magic)):
		return 0, ErrNotDatabase
	case pageSize(page) != size:
		return 0, damaged("two page sizes")
	case page[21] != 64 || page[22] != 32 || page[23] != 32:
		return 0, damaged("its header")
	case page[19] > 2:
		return 0, fmt.Errorf("%w: read version %d", ErrUnsupported, page[19])
	}
	d.usable = size - int(page[20])
	if d.usable < 480 {
		return 0, damaged("%d usable bytes in a page", d.usable)
	}
	switch encoding := binary.BigEndian.Uint32(page[56:]); encoding {
	case 0, 1:
	case 2, 3:
		return 0, fmt.Errorf("%w: text in UTF-16", ErrUnsupported)
	default:
		return 0, damaged("text encoding %d", encoding)
	}
	d.UserVersion = int(int32(binary.BigEndian.Uint32(page[60:])))
	count = binary.BigEndian.Uint32(page[28:])
	if binary.BigEndian.Uint32(page[24:]) != binary.BigEndian.Uint32(page[92:]) { // written by an SQLite before 3.7
		count = uint32(file / size)
	}
	return count, nil
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Close overwrites the decoded pages; nothing of the database is usable afterwards.
func (d *DB) Close() {
	for _, p := range d.pages {
		if d.own {
			clear(p)
		}
	}
	d.pages = nil
}

func (d *DB) page(n uint32) ([]byte, error) {
	if n == 0 || int64(n) > int64(len(d.pages)) || d.pages[n-1] == nil {
		return nil, damaged("page %d is missing", n)
	}
	return d.pages[n-1], nil
}
