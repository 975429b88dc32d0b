package legacy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok/internal/problem"
	"terok/internal/vault/legacy/sqlite"
)

// expected is what testdata/make.sh stored.
type expected struct {
	Passphrase  string                    `json:"passphrase"`
	Credentials map[string]map[string]any `json:"credentials"`
	Keys        []struct {
		Private     []byte   `json:"private"`
		Fingerprint string   `json:"fingerprint"`
		Comment     string   `json:"comment"`
		Scopes      []string `json:"scopes"`
	} `json:"keys"`
	Never []string `json:"never"`
}

func want(t testing.TB, name string) expected {
	t.Helper()
	b, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]expected
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all[name]
}

func read(t testing.TB, path string) *Source {
	t.Helper()
	s, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func unlocked(t testing.TB) *Source {
	t.Helper()
	s := read(t, "testdata/cipher")
	if err := s.Unlock([]byte(want(t, "cipher").Passphrase)); err != nil {
		t.Fatal(err)
	}
	return s
}

// secrets are all secrets of a store.
func (s *Store) secrets() []string {
	var out []string
	for _, c := range s.Credentials {
		out = append(out, string(c.Token.Access))
		for _, more := range [][]byte{c.Token.Refresh, c.Token.ID} {
			if more != nil {
				out = append(out, string(more))
			}
		}
	}
	for _, k := range s.Keys {
		out = append(out, string(k.Private))
	}
	slices.Sort(out)
	return out
}

// secrets are all secrets that were stored last.
func (e expected) secrets() []string {
	var out []string
	for _, data := range e.Credentials {
		for _, f := range []string{"access_token", "refresh_token", "id_token", "key", "token"} {
			if v, ok := data[f].(string); ok {
				out = append(out, v)
			}
		}
	}
	for _, k := range e.Keys {
		out = append(out, string(k.Private))
	}
	slices.Sort(out)
	return out
}

// spec/vault.md §10: 68. What the real SQLCipher and the real SQLite wrote, the first with a log that
// was never checkpointed, comes out equal; older values and phantom tokens do not.
func TestRealStores(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"cipher", "plain"} {
		e := want(t, name)
		src := read(t, "testdata/"+name)
		if src.Encrypted != (name == "cipher") {
			t.Fatal(name, src.Encrypted)
		}
		if src.Encrypted {
			if _, err := src.Store(false); err == nil {
				t.Error("read without a passphrase")
			}
			if err := src.Unlock([]byte(e.Passphrase)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := src.Store(false)
		if err != nil {
			t.Fatal(name, err)
		}
		if len(got.Bad) > 0 || len(got.Credentials) != len(e.Credentials) || len(got.Keys) != len(e.Keys) {
			t.Errorf("%s: %d credentials, %d keys, bad: %v", name, len(got.Credentials), len(got.Keys), got.Bad)
		}
		if !slices.Equal(got.secrets(), e.secrets()) {
			t.Errorf("%s: the secrets are not those that were stored", name)
		}
		for _, c := range got.Credentials {
			if e.Credentials[c.Set+"/"+c.Provider] == nil {
				t.Errorf("%s: %s/%s", name, c.Set, c.Provider)
			}
		}
		for i, k := range got.Keys {
			if w := e.Keys[i]; k.Fingerprint != w.Fingerprint || k.Comment != w.Comment || k.CreatedAt.IsZero() || !slices.Equal(slices.Sorted(slices.Values(k.Scopes)), slices.Sorted(slices.Values(w.Scopes))) {
				t.Errorf("%s: key %+v", name, w)
			}
		}
		all := fmt.Sprintf("%q", got.secrets())
		for _, never := range e.Never {
			if strings.Contains(all, never) {
				t.Errorf("%s: %s came out", name, never)
			}
		}
		if same, err := src.Unchanged(); !same || err != nil {
			t.Error(same, err)
		}
	}
}

// TestFacts: what is not secret comes along.
func TestFacts(t *testing.T) {
	t.Parallel()
	got, err := unlocked(t).Store(false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range got.Credentials {
		switch c.Set + "/" + c.Provider {
		case "default/anthropic":
			if c.Type != "oauth" || c.Public["plan"] != "max" || c.Public["scopes"] != "user:profile user:inference" || c.Token.ExpiresAt.Unix() != 1900028800 {
				t.Errorf("%+v", c.Public)
			}
		case "default/gitlab":
			if c.Host != "gitlab.com" || c.Type != "pat" {
				t.Errorf("%+v", c)
			}
		}
	}
}

// TestWrongPassphrase: it is told from damage, also when the first page is what is damaged.
func TestWrongPassphrase(t *testing.T) {
	t.Parallel()
	s := read(t, "testdata/cipher")
	if err := s.Unlock([]byte("something else")); !errors.Is(err, ErrWrong) {
		t.Error(err)
	}
	s = unlocked(t)
	s.db = slices.Clone(s.db)
	s.wal = nil
	s.db[100] ^= 1
	if !s.key.fits(s.db, nil) {
		t.Error("a damaged page is taken for a wrong passphrase")
	}
	if _, err := s.Store(false); !isDamage(err) {
		t.Error(err)
	}
}

func isDamage(err error) bool {
	_, ok := errors.AsType[*sqlite.Damage](err)
	return ok
}

// TestCut: an encrypted store without its end is an error, at whatever quarter it was cut.
func TestCut(t *testing.T) {
	t.Parallel()
	s := unlocked(t)
	db, wal := s.db, s.wal
	for q := range 4 {
		for _, odd := range []int{0, 1, 100} {
			s.db, s.wal = db[:len(db)*q/4+odd], nil
			if _, err := s.Store(false); err == nil {
				t.Errorf("%d bytes of the database were taken", len(s.db))
			}
			s.db, s.wal = db, wal[:len(wal)*q/4+odd]
			if _, err := s.Store(false); len(s.wal) > 0 && !errors.Is(err, sqlite.ErrUnfinished) {
				t.Errorf("%d bytes of the log: %v", len(s.wal), err)
			}
		}
	}
	s.db, s.wal = db, wal
}

// TestFlippedBits: one flipped bit is an error wherever it is, in the log or in a database without
// one. Where the log has a newer version of a page, the old one does not count.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	s := unlocked(t)
	random := rand.New(rand.NewPCG(4, 68))
	db, wal := s.db, s.wal
	for range 100 {
		s.db, s.wal = slices.Clone(db), nil
		at := saltSize + random.IntN(len(db)-saltSize) // of another salt another key would be derived
		s.db[at] ^= 1 << random.IntN(8)
		if _, err := s.Store(false); !isDamage(err) {
			t.Fatalf("byte %d of the database: %v", at, err)
		}
	}
	e := want(t, "cipher")
	once := map[string]bool{}
	for _, v := range append(e.secrets(), e.Never...) {
		once[v] = true
	}
	for range 50 {
		s.db, s.wal = db, slices.Clone(wal)
		at := random.IntN(len(wal))
		s.wal[at] ^= 1 << random.IntN(8)
		if _, err := s.Store(false); !errors.Is(err, sqlite.ErrUnfinished) {
			t.Fatalf("byte %d of the log: %v", at, err)
		}
		// Without what follows the damage it is what was stored before.
		got, err := s.Store(true)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range got.secrets() {
			if !once[v] {
				t.Fatalf("byte %d of the log: a secret that was never stored", at)
			}
		}
	}
}

// TestPlainDamage: a plain store has no checksums, so only its form is judged; but the halves of an
// SSH key belong together.
func TestPlainDamage(t *testing.T) {
	t.Parallel()
	s := read(t, "testdata/plain")
	whole := s.db
	for q := range 4 {
		s.db = whole[:len(whole)*q/4]
		if _, err := s.Store(false); err == nil {
			t.Errorf("%d bytes were taken", len(s.db))
		}
	}
	der := want(t, "plain").Keys[0].Private
	random := rand.New(rand.NewPCG(4, 69))
	for range 100 {
		s.db = slices.Clone(whole)
		s.db[random.IntN(len(whole))] ^= 1 << random.IntN(8)
		got, err := s.Store(false)
		if err != nil {
			continue
		}
		for _, k := range got.Keys {
			if !slices.Equal(k.Private, der) {
				t.Fatal("another SSH key came out")
			}
		}
	}
}

// TestWhere: what is not there, not a store, newer, half-written or of a later version is said.
func TestWhere(t *testing.T) {
	t.Parallel()
	code := func(path, code string) {
		t.Helper()
		if _, err := Read(path); !problem.Is(err, code) {
			t.Errorf("%s: %v", path, err)
		}
	}
	dir := t.TempDir()
	code(dir, "old_store_missing")
	code(filepath.Join(dir, "nothing"), "old_store_missing")
	db := filepath.Join(dir, database)
	plain := read(t, "testdata/plain").db
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	later := slices.Clone(plain)
	later[63] = 4
	write(db, later)
	if _, err := read(t, dir).Store(false); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
	write(db, plain)
	for _, f := range []string{sealedName, database + "-wal", database + ".plaintext-backup-1.tar.gz", "other"} {
		write(filepath.Join(dir, f), nil)
	}
	s := read(t, db)
	if len(s.Files) != 4 || s.Path != db {
		t.Error(s.Files)
	}
	write(db, later)
	if same, err := s.Unchanged(); same || err != nil {
		t.Error("a change was not seen", err)
	}
	write(db+"-journal", []byte("hot"))
	code(dir, "old_store_unfinished")
}

// TestRecords: every kind of record, and what is none.
func TestRecords(t *testing.T) {
	t.Parallel()
	for data, ok := range map[string]bool{
		`{"type":"api_key","key":"sk-0123456789","expires_at":"soon","new":{"field":1}}`: false, // a time that is no number
		`{"type":"api_key","key":"sk-0123456789","new":{"field":1}}`:                     true,
		`{"type":"oauth","access_token":"a","expires_at":1.9e9,"scopes":"a b"}`:          true,
		`{"type":"oauth","access_token":"a","expires_at":null,"scopes":[1,"a"]}`:         true,
		`{"type":"oauth","refresh_token":"a"}`:                                           false,
		`{"type":"pat","token":"glpat","host":"GitLab.com"}`:                             true,
		`{"type":"cookie","token":"x"}`:                                                  false,
		`[]`:                                                                             false,
		``:                                                                               false,
	} {
		c, err := credential("default", "x", []byte(data))
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "0123456789") {
			t.Errorf("%s: %+v %v", data, c, err)
		}
	}
}

// FuzzStore: a plain store of any bytes ends in an error or in something bounded.
func FuzzStore(f *testing.F) {
	f.Add(read(f, "testdata/plain").db)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		s := &Source{db: b}
		if got, err := s.Store(true); err == nil {
			got.Close()
		}
	})
}

// TestHalves: an SSH key whose public half or fingerprint is another's is left out, and named.
func TestHalves(t *testing.T) {
	t.Parallel()
	s := read(t, "testdata/plain")
	print := want(t, "plain").Keys[0].Fingerprint
	whole := s.db
	at := strings.LastIndex(string(whole), print)
	for at >= 0 {
		s.db = slices.Clone(whole)
		s.db[at+len(print)-1] ^= 1
		if got, err := s.Store(false); err == nil && len(got.Keys) == 0 && len(got.Bad) == 1 && strings.HasPrefix(got.Bad[0].Name, "SSH key SHA256:") {
			return
		}
		at = strings.LastIndex(string(whole[:at]), print) // the index has one as well
	}
	t.Error("a key with another's fingerprint was taken")
}
