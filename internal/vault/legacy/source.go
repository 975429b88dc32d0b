package legacy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/vault/legacy/sqlite"
)

// database is the name of the old store's file.
const database = "credentials.db"

// Source is an old store as it lies on disk.
type Source struct {
	Path      string   // of the database, absolute
	Files     []string // everything in its directory that holds secrets or opens them, absolute
	Encrypted bool
	SHA256    string // hex, of database and log

	db, wal []byte
	key     *pageKey
}

// Read reads an old store into memory. dir is its directory (the old "vault" directory) or the
// database itself. Problems: old_store_missing (6), old_store_busy (7) when somebody writes to it,
// old_store_unfinished (7) after a crash that only its own program can clean up.
func Read(path string) (*Source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, database)
	}
	s := &Source{Path: path}
	if err := s.read(); err != nil {
		s.Close()
		return nil, err
	}
	s.Encrypted = !bytes.HasPrefix(s.db, []byte(sqlite.Magic))
	return s, s.list()
}

func (s *Source) read() error {
	// A hot rollback journal holds what the database looked like before a write that a crash cut off.
	if st, err := os.Stat(s.Path + "-journal"); err == nil && st.Size() > 0 {
		return problem.New("old_store_unfinished", problem.Conflict, "%s has a journal of an unfinished write beside it", s.Path).
			WithHint("start the old program once, which finishes it, and stop it again")
	}
	const tries = 3
	for range tries {
		err := s.load()
		if errors.Is(err, fs.ErrNotExist) {
			return problem.New("old_store_missing", problem.NotFound, "there is no %s", s.Path).
				WithHint("terok vault import --from-reference DIR, where DIR holds %s", database)
		}
		if err != nil {
			return err
		}
		if again, err := hash(s.Path); err != nil || again == s.SHA256 {
			return err
		}
	}
	return problem.New("old_store_busy", problem.Conflict, "%s is being written to", s.Path).WithHint("stop the old program and its tasks first")
}

// load reads log and database. That nothing moved from one into the other in between is seen by
// whoever reads both again.
func (s *Source) load() error {
	wal, err := readFile(s.Path + "-wal")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := readFile(s.Path)
	if err != nil {
		return err
	}
	s.db, s.wal = db, wal
	s.SHA256 = digest(db, wal)
	return nil
}

// Unchanged reports whether the files still are what was read.
func (s *Source) Unchanged() (bool, error) {
	now, err := hash(s.Path)
	return now == s.SHA256, err
}

func hash(path string) (string, error) {
	other := &Source{Path: path}
	err := other.load()
	return other.SHA256, err
}

func digest(db, wal []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", len(db))
	h.Write(db)
	h.Write(wal)
	return hex.EncodeToString(h.Sum(nil))
}

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, problem.New("usage", problem.Usage, "%s is not a file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, sqlite.MaxFile+1))
	if err == nil && len(b) > sqlite.MaxFile {
		err = problem.New("usage", problem.Usage, "%s has more than %d MiB: that is no credential store", path, sqlite.MaxFile>>20)
	}
	return b, err
}

// list finds what has to be destroyed when the old store is not needed any more.
func (s *Source) list() error {
	dir := filepath.Dir(s.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	name := filepath.Base(s.Path)
	for _, e := range entries {
		n := e.Name()
		backup, _ := filepath.Match(name+".plaintext-backup-*", n)
		if n == name || n == name+"-wal" || n == name+"-shm" || n == sealedName || backup {
			s.Files = append(s.Files, filepath.Join(dir, n))
		}
	}
	return nil
}

// Unlock derives the key of an encrypted store from its passphrase: ErrWrong when no page opens
// with it. It takes some tenths of a second.
func (s *Source) Unlock(passphrase []byte) error {
	if len(s.db) < pageSize {
		return &sqlite.Damage{What: "the file is shorter than a page"}
	}
	k, err := deriveKey(passphrase, s.db[:saltSize])
	if err != nil {
		return err
	}
	if !k.fits(s.db, s.wal) {
		return ErrWrong
	}
	s.key = k
	return nil
}

// open decodes the whole database.
func (s *Source) open(ignoreUnfinished bool) (*sqlite.DB, error) {
	o := sqlite.Options{IgnoreUnfinished: ignoreUnfinished}
	if s.Encrypted {
		if s.key == nil {
			return nil, errors.New("the old store is locked")
		}
		o.PageSize, o.Decode = pageSize, s.key.decode
	}
	return sqlite.Open(s.db, s.wal, o)
}

// Close overwrites what was read.
func (s *Source) Close() {
	clear(s.db)
	clear(s.wal)
	if s.key != nil {
		clear(s.key.mac)
	}
	s.db, s.wal, s.key = nil, nil, nil
}
