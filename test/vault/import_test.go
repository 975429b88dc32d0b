package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	core "terok"
	"terok/internal/problem"
	"terok/internal/vault/credsd"
	"terok/internal/vault/credsd/credsdtest"
	"terok/internal/vault/keyring"
	"terok/internal/vault/keyring/keyringtest"
	"terok/internal/vault/legacy"
	"terok/internal/vault/store"
)

const oldStores = "../../internal/vault/legacy/testdata"

// oldStore is what testdata/make.sh of package legacy stored.
type oldStore struct {
	Passphrase  string
	Credentials map[string]map[string]any
	Keys        []struct {
		Private     []byte
		Fingerprint string
		Scopes      []string
	}
	Never []string
}

// old copies a fixture into the user's tree.
func (u *user) old(name string) (dir string, want oldStore) {
	u.t.Helper()
	dir = filepath.Join(u.dir, "old "+name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(oldStores, name))); err != nil {
		u.t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(oldStores, "expected.json"))
	if err != nil {
		u.t.Fatal(err)
	}
	var all map[string]oldStore
	if err := json.Unmarshal(b, &all); err != nil {
		u.t.Fatal(err)
	}
	return dir, all[name]
}

// canaries are the secrets of an old store in every form in which a program would write them.
func (o oldStore) canaries() [][]byte {
	var out [][]byte
	for _, data := range o.Credentials {
		for _, f := range []string{"access_token", "refresh_token", "key", "token"} {
			if v, ok := data[f].(string); ok {
				out = append(out, []byte(v), []byte(base64.StdEncoding.EncodeToString([]byte(v))[:20]))
			}
		}
	}
	for _, k := range o.Keys {
		out = append(out, k.Private[len(k.Private)-24:])
	}
	return append(out, []byte(o.Passphrase))
}

// files hashes everything below a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		st, err := os.Stat(p)
		sum := sha256.Sum256(b)
		all[p] = hex.EncodeToString(sum[:]) + st.Mode().String() + st.ModTime().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// watch sees every file that is made, opened for writing or renamed below dir until stop.
func watch(t *testing.T, dir string) (stop func() []string) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = w.Add(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	last := filepath.Join(dir, "last")
	var seen []string
	var done sync.WaitGroup
	done.Go(func() {
		defer w.Close()
		for {
			select {
			case e := <-w.Events:
				if e.Name == last {
					return
				}
				if e.Op&^fsnotify.Chmod != 0 {
					seen = append(seen, e.Name)
				}
			case err := <-w.Errors:
				t.Error(err)
				return
			}
		}
	})
	return func() []string {
		// What was made before this file is told before it.
		if err := os.WriteFile(last, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		done.Wait()
		return seen
	}
}

type importAnswer struct{ Data core.ImportResult }

func (u *user) imported(exit int, args ...string) (core.ImportResult, string) {
	u.t.Helper()
	out, errs := u.run(exit, "", append([]string{"vault", "import", "--json"}, args...)...)
	var a importAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil && exit == 0 {
		u.t.Fatal(err, out)
	}
	return a.Data, errs
}

// spec/vault.md §10: 68. An encrypted store with a log that was never checkpointed: everything comes
// over equal, the old files stay as they are to the bit, and no file was made anywhere but the
// vault's own and the ledger's, in which nothing is in clear.
func TestImport(t *testing.T) {
	u := newUser(t)
	t.Setenv("HOME", u.dir)
	t.Setenv("TMPDIR", filepath.Join(u.dir, "tmp"))
	if err := os.Mkdir(filepath.Join(u.dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass))
	dir, want := u.old("cipher")
	oldPass := u.file("old-p", want.Passphrase+"\n")
	before := files(t, dir)

	dry, _ := u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass, "--dry-run")
	if n := len(want.Credentials) + len(want.Keys); dry.Count(core.ImportAdded) != n || len(dry.Records) != n {
		t.Errorf("dry run: %+v", dry.Records)
	}
	if out, _ := u.run(0, "", "vault", "list"); strings.Contains(out, "anthropic") {
		t.Error("the dry run stored something", out)
	}

	stop := watch(t, u.dir)
	res, errs := u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass)
	for _, path := range stop() {
		rel, _ := filepath.Rel(u.dir, path)
		name := filepath.Base(rel)
		ok := filepath.Dir(rel) == "d/terok/vault" && strings.HasPrefix(strings.TrimPrefix(name, "."), "vault.age") ||
			filepath.Dir(rel) == "d/terok/audit" || filepath.Dir(rel) == "r/terok"
		if !ok {
			t.Errorf("a file was made or written: %s", rel)
		}
	}
	if res.Count(core.ImportAdded) != len(res.Records) || res.OpenedBy != "passphrase" || !res.Encrypted || len(res.Shared) == 0 {
		t.Errorf("%+v", res)
	}
	if s := "shred -uz -- '" + dir + "/credentials.db' '" + dir + "/credentials.db-wal'"; res.Shred != s {
		t.Errorf("%s, want %s", res.Shred, s)
	}
	if after := files(t, dir); !mapsEqual(before, after) {
		t.Error("the old store was changed")
	}
	for p := range files(t, u.dir) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range want.canaries() {
			if bytes.Contains(b, c) && p != oldPass {
				t.Errorf("%s has a secret of the old store in clear", p)
			}
		}
	}
	for _, c := range want.canaries() {
		if strings.Contains(errs, string(c)) {
			t.Error("a secret is shown")
		}
	}

	// Again: all of it is there. A newer key of one's own stays, unless one says so.
	if res, _ := u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass); res.Count(core.ImportSame) != len(res.Records) {
		t.Errorf("%+v", res.Records)
	}
	u.run(0, "glpat-own-0123456789", "auth", "gitlab", "--api-key-stdin", "--no-verify")
	res, _ = u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass)
	if res.Count(core.ImportKept) != 1 || res.Count(core.ImportSame) != len(res.Records)-1 {
		t.Errorf("%+v", res.Records)
	}
	u.same(want, "default/gitlab")
	if out, errs := u.run(0, "", "vault", "import", "--from-reference", dir, "--passphrase-file", oldPass); !strings.Contains(out, "shared/gitlab/default") ||
		!strings.Contains(out, "--replace") || !strings.Contains(errs, "→ shred -uz -- ") || !strings.Contains(errs, "1 record of the old store") {
		t.Errorf("%s%s", out, errs)
	}
	if res, _ := u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass, "--replace"); res.Count(core.ImportReplaced) != 1 {
		t.Errorf("%+v", res.Records)
	}
	u.same(want)

	// What cannot be: no passphrase, a wrong one, a damaged store, a broken log; nothing changes.
	u.imported(9, "--from-reference", dir)
	u.imported(1, "--from-reference", dir, "--passphrase-file", u.file("wrong", "not it at all"))
	u.imported(6, "--from-reference", u.dir)
	u.imported(2)
	wal := filepath.Join(dir, "credentials.db-wal")
	b, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wal, b[:len(b)-1000], 0o600); err != nil {
		t.Fatal(err)
	}
	u.imported(7, "--from-reference", dir, "--passphrase-file", oldPass)
	u.imported(0, "--from-reference", dir, "--passphrase-file", oldPass, "--ignore-unfinished")
	db := filepath.Join(dir, "credentials.db")
	if b, err = os.ReadFile(db); err != nil {
		t.Fatal(err)
	}
	// The log has a newer version of what is cut off here, so without it.
	if err := errors.Join(os.Remove(wal), os.WriteFile(db, b[:len(b)/2], 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, errs := u.imported(1, "--from-reference", dir, "--passphrase-file", oldPass); !strings.Contains(errs, "old_store_damaged") {
		t.Error(errs)
	}
	u.run(0, "", "vault", "lock")
	u.imported(8, "--from-reference", dir, "--passphrase-file", oldPass)
}

func mapsEqual(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// same compares the vault with an old store, but for some credentials.
func (u *user) same(want oldStore, but ...string) {
	u.t.Helper()
	v, err := store.Open(u.roots.VaultDir(), []byte(pass))
	if err != nil {
		u.t.Fatal(err)
	}
	defer v.Close()
	err = v.View(func(t *store.Tx) error {
		if n := len(t.List()); n != len(want.Credentials) {
			u.t.Errorf("%d credentials, want %d", n, len(want.Credentials))
		}
		for name, data := range want.Credentials {
			set, provider, _ := strings.Cut(name, "/")
			k := store.Key{Scope: "project:" + set, Provider: provider}
			if set == "default" {
				k.Scope = "shared"
			}
			c, _ := t.Get(k)
			text := func(names ...string) string {
				for _, n := range names {
					if v, ok := data[n].(string); ok {
						return v
					}
				}
				return ""
			}
			equal := string(c.Secret) == text("access_token", "key", "token") && string(c.Refresh) == text("refresh_token") && string(c.IDToken) == text("id_token")
			if equal == slices.Contains(but, name) {
				u.t.Errorf("%s: equal is %v", name, equal)
			}
			if data["type"] == "oauth" && (c.Kind != store.KindOAuth || c.Endpoint == nil || c.ExpiresAt.IsZero() || c.Public["plan"] == "") {
				u.t.Errorf("%s: %s %v %v %v", name, c.Kind, c.Endpoint, c.ExpiresAt, c.Public)
			}
		}
		for _, k := range want.Keys {
			i := slices.IndexFunc(t.SSHKeys(), func(s store.SSHKey) bool { return s.Fingerprint == k.Fingerprint })
			if i < 0 {
				u.t.Errorf("no SSH key %s", k.Fingerprint)
				continue
			}
			got, _ := t.SSHKey(t.SSHKeys()[i].ID)
			var scopes []string
			for _, a := range t.SSHAssignments() {
				if a.KeyID == got.ID {
					scopes = append(scopes, a.Scope)
				}
			}
			if !bytes.Equal(got.Private, k.Private) || !slices.Equal(slices.Sorted(slices.Values(scopes)), slices.Sorted(slices.Values(k.Scopes))) {
				u.t.Errorf("%s: %v", k.Fingerprint, scopes)
			}
		}
		return nil
	})
	if err != nil {
		u.t.Fatal(err)
	}
}

// TestImportPlain: a store from before it was encrypted, of an older schema, needs no passphrase and
// is told about. A token for a forge's host that is not the provider's is left out.
func TestImportPlain(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass))
	dir, want := u.old("plain")
	if err := os.MkdirAll(u.roots.ProvidersDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(u.roots.ProvidersDir(), "github.yml")
	if err := os.WriteFile(own, []byte("upstream: https://github.corp.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, _ := u.imported(0, "--from-reference", dir)
	if res.Encrypted || res.OpenedBy != "" || res.Count(core.ImportLeftOut) != 1 || res.Count(core.ImportAdded) != len(res.Records)-1 {
		t.Errorf("%+v", res)
	}
	for _, r := range res.Records {
		if r.Did == core.ImportLeftOut && !strings.Contains(r.Why, "github.com") {
			t.Error(r)
		}
	}
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if _, errs := u.run(0, "", "vault", "import", "--from-reference", filepath.Join(dir, "credentials.db")); !strings.Contains(errs, "was not encrypted") {
		t.Error(errs)
	}
	u.same(want)
}

// TestImportTiers: the old passphrase is found where the predecessor kept it; what is there and does
// not open the store is passed over.
func TestImportTiers(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	creds, address := credsdtest.Start(t), keyringtest.Bus(t)
	stop := keyringtest.Gnome(t, address)
	defer stop()
	a := u.app(creds, map[string]string{"DBUS_SESSION_BUS_ADDRESS": address, "XDG_RUNTIME_DIR": u.dir + "/r"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := a.VaultInit(ctx, core.VaultSetup{Slot: "passphrase", Passphrase: []byte(pass)}); err != nil {
		t.Fatal(err)
	}
	dir, want := u.old("cipher")
	opened := func(by string) {
		t.Helper()
		res, err := a.VaultImport(ctx, core.OldVault{Path: dir, DryRun: true})
		if by == "" {
			if problem.Of(err).Exit != problem.Declined {
				t.Error(err)
			}
			return
		}
		if err != nil || res.OpenedBy != by {
			t.Errorf("%v %v, want %s", res, err, by)
		}
	}
	opened("")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(host + "\x00" + dir + "/credentials.db"))
	session := hex.EncodeToString(sum[:])[:32]
	file := filepath.Join(u.dir, "r/terok/vault-session", session)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(want.Passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	opened("session-file")
	id, err := unix.AddKey("user", "terok-sandbox:vault-passphrase:"+session, []byte(want.Passphrase), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0) })
	if _, err := unix.KeyctlInt(unix.KEYCTL_SETPERM, id, 0x3f2f0000, 0, 0); err != nil {
		t.Fatal(err)
	}
	opened("kernel-keyring")
	ring := keyring.Client{Address: address}
	if err := ring.Store(ctx, "Password for 'credentials-db' on 'terok-sandbox'", legacy.KeyringItem(), []byte(want.Passphrase)); err != nil {
		t.Fatal(err)
	}
	opened("keyring")
	sealer := credsd.Client{Socket: creds.Socket, UID: os.Getuid(), Name: legacy.SealedCredential}
	for _, c := range []struct{ pass, by string }{{"another one", "keyring"}, {want.Passphrase, "systemd-creds"}} {
		blob, err := sealer.Seal(ctx, []byte(c.pass), "auto")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vault.passphrase.cred"), blob, 0o600); err != nil {
			t.Fatal(err)
		}
		opened(c.by)
	}
	creds.Fail("KeyBelongsToOtherTPM")
	opened("keyring")

	// A person who mistypes it is asked again.
	stop()
	os.Remove(file)
	_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	typed := []string{"mistyped", want.Passphrase}
	res, err := a.VaultImport(ctx, core.OldVault{Path: dir, DryRun: true, Ask: func() ([]byte, error) {
		p := typed[0]
		typed = typed[1:]
		return []byte(p), nil
	}})
	if err != nil || res.OpenedBy != "passphrase" || len(typed) > 0 {
		t.Error(res, err)
	}
}
