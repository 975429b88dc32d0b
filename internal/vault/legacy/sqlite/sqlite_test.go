package sqlite

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// real is a database of the real SQLite, with pages of 512 bytes and a tree of several levels.
func real(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/plain/credentials.db")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// frame is one page of a log; size is 0 or, for the last one of a transaction, that of the database.
type frame struct {
	number, size uint32
	page         []byte
}

// logOf writes a log as SQLite does (https://www.sqlite.org/fileformat2.html#walformat).
func logOf(order binary.ByteOrder, pageSize int, frames ...frame) []byte {
	word := binary.BigEndian.AppendUint32
	magic := uint32(logMagic)
	if order == binary.BigEndian {
		magic++
	}
	b := word(word(word(word(nil, magic), logVersion), uint32(pageSize)), 0)
	salt := []byte("saltsalt")
	b = append(b, salt...)
	s := sum{order: order}
	s.add(b)
	b = word(word(b, s.s0), s.s1)
	for _, f := range frames {
		head := word(word(nil, f.number), f.size)
		s.add(head)
		s.add(f.page)
		b = append(append(b, head...), salt...)
		b = append(word(word(b, s.s0), s.s1), f.page...)
	}
	return b
}

// users reads the first column of every row of a table, as text.
func firsts(db *DB, table string) ([]string, error) {
	t, ok, err := db.Table(table)
	if err != nil || !ok {
		return nil, errors.Join(err, errors.New("no table"))
	}
	var out []string
	err = db.Rows(t, func(_ int64, row []Value) error {
		out = append(out, string(row[0].Bytes))
		return nil
	})
	return out, err
}

func TestRealDatabase(t *testing.T) {
	t.Parallel()
	db, err := Open(real(t), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := firsts(db, "credentials")
	if err != nil || len(got) != 43 || db.UserVersion != 2 {
		t.Fatal(got, err, db.UserVersion)
	}
	tab, _, _ := db.Table("ssh_keys")
	want := []string{"id", "key_type", "private_der", "public_blob", "comment", "fingerprint", "created_at"}
	if !slices.Equal(tab.Columns, want) {
		t.Error(tab.Columns)
	}
	if _, ok, err := db.Table("nothing"); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestLog: what was committed counts, in either byte order; what was not, or what is left over from
// before the log began anew, does not; a log that is broken behind is said to be.
func TestLog(t *testing.T) {
	t.Parallel()
	base := real(t)
	const size = 512
	pages := uint32(len(base) / size)
	first := func(version byte) []byte {
		p := slices.Clone(base[:size])
		p[63] = version // PRAGMA user_version
		return p
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		whole := logOf(order, size, frame{1, pages, first(7)}, frame{2, 0, base[size : 2*size]}, frame{1, pages, first(8)}, frame{1, 0, first(9)})
		header, each := logHeader, frameHeader+size
		for _, c := range []struct {
			name    string
			log     []byte
			version int
			broken  bool
		}{
			{"none", nil, 2, false},
			{"whole", whole, 8, false},
			{"without the commit of the second", whole[:header+2*each], 7, false},
			{"only a header", whole[:header], 2, false},
			{"cut in a page", whole[:header+2*each+100], 7, true},
			{"cut in the header", whole[:20], 2, true},
			{"flipped in the first page", flip(whole, header+frameHeader+300), 2, true},
			{"flipped in the commit", flip(whole, header+2*each+7), 7, true},
			{"flipped in a salt", flip(whole, header+each+9), 7, true},
			{"flipped in the header", flip(whole, 17), 2, true},
			{"begun anew", append(slices.Clone(whole[:header+each]), stale(whole[header+each:], each)...), 7, false},
		} {
			db, err := Open(base, c.log, Options{})
			if c.broken != errors.Is(err, ErrUnfinished) || !c.broken && (err != nil || db.UserVersion != c.version) {
				t.Errorf("%v %s: %v", order, c.name, err)
			}
			db, err = Open(base, c.log, Options{IgnoreUnfinished: true})
			if err != nil || db.UserVersion != c.version {
				t.Errorf("%v %s: version %v, %v", order, c.name, db, err)
			}
		}
	}
	if _, err := Open(base, logOf(binary.LittleEndian, 1024), Options{}); err == nil {
		t.Error("a log with pages of another size was taken")
	}
}

func flip(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}

// stale gives frames another salt.
func stale(frames []byte, each int) []byte {
	frames = slices.Clone(frames)
	for i := 0; i < len(frames); i += each {
		copy(frames[i+8:], "tlastlas")
	}
	return frames
}

// TestCut: a database that is shorter, longer, or has a page less is an error.
func TestCut(t *testing.T) {
	t.Parallel()
	base := real(t)
	for _, b := range [][]byte{nil, base[:50], base[:512], base[:len(base)/4], base[:len(base)/2], base[:len(base)*3/4], base[:len(base)-512], base[:len(base)-1],
		append(slices.Clone(base), 0), append(slices.Clone(base), make([]byte, 512)...)} {
		if _, err := Open(b, nil, Options{}); err == nil {
			t.Errorf("%d bytes were taken", len(b))
		}
	}
	for name, c := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"another program's file": {0, 'X', ErrNotDatabase},
		"UTF-16":                 {59, 2, ErrUnsupported},
		"a later format":         {19, 3, ErrUnsupported},
	} {
		b := slices.Clone(base)
		b[c.at] = c.to
		if _, err := Open(b, nil, Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoops: trees and chains that come back to a page end in an error, and soon.
func TestLoops(t *testing.T) {
	t.Parallel()
	base := real(t)
	const size = 512
	for n := 1; n < len(base)/size; n++ {
		page := base[n*size:]
		if page[0] != interior {
			continue
		}
		b := slices.Clone(base)
		binary.BigEndian.PutUint32(b[n*size+8:], uint32(n+1)) // the right-most child is the page itself
		db, err := Open(b, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = firsts(db, "credentials"); err == nil {
			_, err = firsts(db, "ssh_keys")
		}
		if _, ok := errors.AsType[*Damage](err); ok {
			return
		}
		t.Error(err)
	}
	t.Error("no tree has two levels: the fixture is too small for this test")
}

func TestColumns(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		`CREATE TABLE t (a, b)`: "a b",
		`create table if not exists "t" ("A""x" TEXT, [b c] INT, 'd' , ` + "`e`" + `)`:                        `a"x|b c|d|e`,
		"CREATE TABLE t (a TEXT CHECK (a IN ('x', ')')), -- b,\n c /* ,d */, e DEFAULT (f(1,2)))":             "a c e",
		`CREATE TABLE t (a, PRIMARY KEY (a, b), b, CONSTRAINT c UNIQUE (a), FOREIGN KEY (a) REFERENCES o(x))`: "a b",
		`CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID`:                                                        "!",
		`CREATE TABLE t ("primary" TEXT, "without" INT)`:                                                      "primary without",
		`CREATE TABLE t AS SELECT 1`:                                                                          "!",
		`CREATE TABLE t (a`:                                                                                   "!",
		`CREATE TABLE t ("a`:                                                                                  "!",
		``:                                                                                                    "!",
		`(`:                                                                                                   "!",
	} {
		got, err := columns(sql)
		sep := " "
		if strings.Contains(want, "|") {
			sep = "|"
		}
		if want == "!" != (err != nil) || err == nil && strings.Join(got, sep) != want {
			t.Errorf("%s: %q %v", sql, got, err)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	// Serial types 1 to 9, a text and a blob, with negative numbers (fileformat2.html#record_format).
	rec := []byte{14, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 14, 12}
	rec = append(rec, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 'a', 'b')
	row, err := record(rec)
	if err != nil || len(row) != 13 {
		t.Fatal(row, err)
	}
	for i, want := range []int64{0, -1, -2, -3, 256, 256, -1 << 63, 0, 0, 1} {
		if i != 7 && row[i].Int != want {
			t.Errorf("value %d is %d", i, row[i].Int)
		}
	}
	if row[7].Real != 1.5 || row[10].Kind != Text || string(row[10].Bytes) != "a" || row[11].Kind != Blob || string(row[11].Bytes) != "b" || len(row[12].Bytes) != 0 {
		t.Error(row)
	}
	for _, bad := range [][]byte{nil, {0}, {2, 10}, {2, 1}, {2, 0, 1}, {9, 0}, {3, 0x80, 0x80}} {
		if _, err := record(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if v, n := varint([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); int64(v) != -1 || n != 9 {
		t.Error(v, n)
	}
}

// FuzzOpen: whatever the bytes are, reading ends, in rows or in an error.
func FuzzOpen(f *testing.F) {
	base := real(f)
	f.Add(base, []byte{}, false)
	f.Add(base, logOf(binary.LittleEndian, 512, frame{1, 67, base[:512]}, frame{2, 0, base[512:1024]}), true)
	f.Add(base[:4096], logOf(binary.BigEndian, 512, frame{3, 9, base[512:1024]}), true)
	f.Fuzz(func(t *testing.T, file, log []byte, ignore bool) {
		db, err := Open(file, log, Options{IgnoreUnfinished: ignore})
		if err != nil {
			return
		}
		defer db.Close()
		rows := 0
		_ = db.Rows(Table{root: 1}, func(_ int64, row []Value) error {
			if rows++; len(row) < 2 || rows > 20 {
				return nil
			}
			if tab, ok, err := db.Table(strings.ToLower(string(row[1].Bytes))); ok && err == nil {
				_ = db.Rows(tab, func(int64, []Value) error { return nil })
			}
			return nil
		})
	})
}

// FuzzColumns: no statement takes for ever, and what comes out is bounded.
func FuzzColumns(f *testing.F) {
	f.Add(`CREATE TABLE t (a TEXT CHECK (a IN ('x', ')')), "b" /* c */, PRIMARY KEY (a))`)
	f.Fuzz(func(t *testing.T, sql string) {
		if names, err := columns(sql); err == nil && (len(names) == 0 || len(names) > maxColumns) {
			t.Error(len(names))
		}
	})
}
