package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

const (
	pass   = "correct horse battery staple"
	secret = "sk-ant-api03-REAL-canary-0123456789"

	testWork = 8 // scrypt's factor where its cost is not what is tested
)

func passphrase(p string) []NewSlot { return []NewSlot{{Kind: SlotPassphrase, Secret: []byte(p)}} }

// newVault makes a vault with a cheap work factor and returns its directory.
func newVault(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	if err := initialise(dir, passphrase(pass), testWork, time.Now()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string) *Vault {
	t.Helper()
	v, err := Open(dir, []byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	v.work = testWork
	return v
}

func key(scope, provider string, secret []byte) Credential {
	return Credential{Scope: scope, Provider: provider, Kind: KindAPIKey, Secret: secret}
}

func wantCode(t *testing.T, err error, code string, exit int) {
	t.Helper()
	p := problem.Of(err)
	if err == nil || p.Code != code || p.Exit != exit || p.Hint == "" {
		t.Errorf("got %v (%+v), want %s with exit %d and a hint", err, p, code, exit)
	}
}

func TestPutGetDelete(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	if replaced, err := v.Put(key("shared", "anthropic", []byte(secret)), time.Now()); err != nil || replaced {
		t.Fatal(replaced, err)
	}
	if replaced, err := v.Put(key("shared", "anthropic", []byte(secret+"2")), time.Now()); err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	if _, err := v.Put(key("project:p", "anthropic", []byte(secret+"3")), time.Now()); err != nil {
		t.Fatal(err)
	}
	v = open(t, dir) // from disk
	c, ok, err := v.Get(Key{Scope: "shared", Provider: "anthropic"})
	if err != nil || !ok || string(c.Secret) != secret+"2" || c.Hint != "7892" {
		t.Fatal(c, ok, err)
	}
	list, err := v.List()
	if err != nil || len(list) != 2 || list[0].Scope != "project:p" || list[0].Secret != nil {
		t.Fatal(list, err)
	}
	if found, err := v.Delete(Key{Scope: "shared", Provider: "anthropic"}); err != nil || !found {
		t.Fatal(found, err)
	}
	if found, err := v.Delete(Key{Scope: "shared", Provider: "anthropic"}); err != nil || found {
		t.Fatal(found, err)
	}
	if _, ok, _ := open(t, dir).Get(Key{Scope: "shared", Provider: "anthropic"}); ok {
		t.Error("still there")
	}
	for _, path := range []string{vaultFile(dir), slotsFile(dir), vaultFile(dir) + ".1"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{secret, "anthropic", "project:p", pass} {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds %q in the clear", path, s)
			}
		}
		if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %s", path, st.Mode())
		}
	}
}

func TestPutRefuses(t *testing.T) {
	v := open(t, newVault(t))
	for _, tt := range []struct{ scope, provider, kind, secret string }{
		{"other", "anthropic", "api_key", secret}, {"project:../x", "anthropic", "api_key", secret}, {"project:%host", "anthropic", "api_key", secret},
		{"shared", "An thropic", "api_key", secret}, {"shared", "", "api_key", secret}, {"shared", "anthropic", "token", secret},
		{"shared", "anthropic", "api_key", "short"}, {"shared", "anthropic", "api_key", "has a space in it"},
		{"shared", "anthropic", "api_key", "new\nline-in-it-0"}, {"shared", "anthropic", "api_key", strings.Repeat("a", MaxSecret+1)},
	} {
		_, err := v.Put(Credential{Scope: tt.scope, Provider: tt.provider, Kind: tt.kind, Secret: []byte(tt.secret)}, time.Now())
		if p := problem.Of(err); err == nil || p.Exit != problem.Usage || len(tt.secret) > 5 && strings.Contains(p.Message, tt.secret) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestWaysToFailAreToldApart(t *testing.T) {
	dir := newVault(t)
	if _, err := open(t, dir).Put(key("shared", "anthropic", []byte(secret)), time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Run("wrong passphrase", func(t *testing.T) {
		_, err := Open(dir, []byte("wrong"))
		wantCode(t, err, CodeWrong, 1)
	})
	t.Run("empty passphrase", func(t *testing.T) {
		_, err := Open(dir, nil)
		wantCode(t, err, CodeEmpty, 2)
		wantCode(t, Init(filepath.Join(t.TempDir(), "v"), passphrase(""), time.Now()), CodeEmpty, 2)
	})
	t.Run("missing", func(t *testing.T) {
		_, err := Open(filepath.Join(t.TempDir(), "none"), []byte(pass))
		wantCode(t, err, CodeMissing, 8)
		empty := filepath.Join(t.TempDir(), "empty")
		state.MkdirAll(empty)
		_, err = Open(empty, []byte(pass))
		wantCode(t, err, CodeMissing, 8)
	})
	t.Run("exists", func(t *testing.T) { wantCode(t, Init(dir, passphrase(pass), time.Now()), CodeExists, 7) })
	for _, f := range []func(string) string{vaultFile, slotsFile} {
		t.Run("lost "+filepath.Base(f("")), func(t *testing.T) {
			c := copyVault(t, dir)
			os.Remove(f(c))
			_, err := Open(c, []byte(pass))
			wantCode(t, err, CodeDamaged, 1)
		})
	}
	t.Run("init does not write over a vault that lost its slots", func(t *testing.T) {
		c := copyVault(t, dir)
		os.Remove(slotsFile(c))
		before, _ := os.ReadFile(vaultFile(c))
		wantCode(t, initialise(c, passphrase(pass), testWork, time.Now()), CodeDamaged, 1)
		if after, _ := os.ReadFile(vaultFile(c)); !bytes.Equal(before, after) {
			t.Error("written over")
		}
	})
	t.Run("cut", func(t *testing.T) {
		for _, f := range []func(string) string{vaultFile, slotsFile} {
			for q := range 4 {
				c := copyVault(t, dir)
				data, _ := os.ReadFile(f(c))
				os.WriteFile(f(c), data[:len(data)*q/4], 0o600)
				_, err := Open(c, []byte(pass))
				wantCode(t, err, CodeDamaged, 1)
			}
		}
	})
	t.Run("newer", func(t *testing.T) {
		c := copyVault(t, dir)
		data, _ := os.ReadFile(slotsFile(c))
		data = bytes.Replace(data, []byte(`"schema": 2`), []byte(`"schema": 3, "colour": 1`), 1)
		os.WriteFile(slotsFile(c), data, 0o600)
		_, err := Open(c, []byte(pass))
		wantCode(t, err, CodeNewer, 4)
	})
	t.Run("newer document", func(t *testing.T) {
		c := copyVault(t, dir)
		v := open(t, c)
		data, err := encrypt(bytes.Replace(bytes.Clone(v.plain.bytes()), []byte(`"schema":2`), []byte(`"schema":9,"x":1`), 1), v.recipient)
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(vaultFile(c), data, 0o600)
		_, err = Open(c, []byte(pass))
		wantCode(t, err, CodeNewer, 4)
	})
	t.Run("vault of another", func(t *testing.T) {
		c, other := copyVault(t, dir), newVault(t)
		data, _ := os.ReadFile(vaultFile(other))
		os.WriteFile(vaultFile(c), data, 0o600)
		_, err := Open(c, []byte(pass))
		wantCode(t, err, CodeDamaged, 1)
	})
}

// TestBitFlips changes bits all over both files: never a wrong secret, never a success.
func TestBitFlips(t *testing.T) {
	dir := newVault(t)
	for _, f := range []func(string) string{vaultFile, slotsFile} {
		data, err := os.ReadFile(f(dir))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(data); i += max(1, len(data)/40) {
			c := copyVault(t, dir)
			bad := bytes.Clone(data)
			bad[i] ^= 0x04
			if json.Valid(bad) && bytes.Equal(bytes.TrimSpace(bad), bytes.TrimSpace(data)) {
				continue
			}
			os.WriteFile(f(c), bad, 0o600)
			if v, err := Open(c, []byte(pass)); err == nil {
				v.Close()
				t.Errorf("%s: bit flipped at %d and opened", f(""), i)
			} else if p := problem.Of(err); p.Code != CodeDamaged && p.Code != CodeTampered && p.Code != CodeNewer {
				t.Errorf("%s at %d: %v", f(""), i, err)
			}
		}
	}
}

// TestEditedSlots is an attacker with write access who also repairs the checksum.
func TestEditedSlots(t *testing.T) {
	dir, other := newVault(t), newVault(t)
	for name, edit := range map[string]func(s, foreign *slots){
		"slot of another vault": func(s, foreign *slots) { s.Slots = foreign.Slots },
		"slot id":               func(s, _ *slots) { s.Slots[0].ID = "x" },
		"vault id":              func(s, foreign *slots) { s.VaultID = foreign.VaultID },
		"recipient":             func(s, foreign *slots) { s.Recipient = foreign.Recipient },
		"added slot":            func(s, foreign *slots) { s.Slots = append(s.Slots, foreign.Slots[0]) },
		"date":                  func(s, _ *slots) { s.Slots[0].CreatedAt = time.Unix(0, 0).UTC() },
	} {
		t.Run(name, func(t *testing.T) {
			c := copyVault(t, dir)
			s, err := readSlots(c)
			if err != nil {
				t.Fatal(err)
			}
			foreign, err := readSlots(other)
			if err != nil {
				t.Fatal(err)
			}
			edit(s, foreign)
			mac := s.MAC
			s.Sum, _, _ = s.sums("")
			s.MAC = mac
			if err := state.WriteJSON(slotsFile(c), s); err != nil {
				t.Fatal(err)
			}
			_, err = Open(c, []byte(pass))
			wantCode(t, err, CodeTampered, 1)
		})
	}
}

func TestPermissions(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"directory": func(d string) error { return os.Chmod(d, 0o755) },
		"vault.age": func(d string) error { return os.Chmod(vaultFile(d), 0o640) },
		"slots":     func(d string) error { return os.Chmod(slotsFile(d), 0o604) },
		"symlink": func(d string) error {
			return errors.Join(os.Rename(vaultFile(d), vaultFile(d)+"x"), os.Symlink(vaultFile(d)+"x", vaultFile(d)))
		},
		"directory is a symlink": func(d string) error { return errors.Join(os.Rename(d, d+"x"), os.Symlink(d+"x", d)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newVault(t)
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir, []byte(pass))
			wantCode(t, err, CodePermissions, 1)
		})
	}
	dir := newVault(t)
	os.Chmod(dir, 0o755)
	_, err := Open(dir, []byte(pass))
	if p := problem.Of(err); p.Hint != fmt.Sprintf("chmod 700 '%s'", dir) {
		t.Errorf("hint %q", p.Hint)
	}
}

func TestDamageHintsAtTheGenerationBefore(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	for i := range 2 {
		if _, err := v.Put(key("shared", "anthropic", fmt.Appendf(nil, "%s%d", secret, i)), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(vaultFile(dir), []byte("x"), 0o600)
	_, err := Open(dir, []byte(pass))
	if p := problem.Of(err); !strings.HasPrefix(p.Hint, "cp -p ") {
		t.Fatalf("%q", p.Hint)
	}
	data, _ := os.ReadFile(vaultFile(dir) + ".1")
	os.WriteFile(vaultFile(dir), data, 0o600)
	if c, ok, err := open(t, dir).Get(Key{Scope: "shared", Provider: "anthropic"}); err != nil || !ok || string(c.Secret) != secret+"0" {
		t.Error(c, ok, err)
	}
}

// TestDeletedIsInNoGeneration: whoever has the passphrase finds a deleted key in no file, and
// everything else in both generations.
func TestDeletedIsInNoGeneration(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	for _, provider := range []string{"anthropic", "openai"} {
		if _, err := v.Put(key("shared", provider, []byte(secret+provider)), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := v.Delete(Key{Scope: "shared", Provider: "anthropic"}); err != nil || !found {
		t.Fatal(found, err)
	}
	v.Close()
	files, err := filepath.Glob(filepath.Join(globEscape(dir), "*"))
	if err != nil {
		t.Fatal(err)
	}
	generations := 0
	for _, file := range append(files, filepath.Join(dir, ".vault.age")) {
		data, err := os.ReadFile(file)
		if err != nil || !strings.Contains(filepath.Base(file), "vault.age") {
			continue
		}
		generations++
		c := copyVault(t, dir)
		if err := os.WriteFile(vaultFile(c), data, 0o600); err != nil {
			t.Fatal(err)
		}
		v := open(t, c)
		if _, ok, err := v.Get(Key{Scope: "shared", Provider: "anthropic"}); ok || err != nil {
			t.Errorf("%s still holds the deleted key (%v)", filepath.Base(file), err)
		}
		if _, ok, err := v.Get(Key{Scope: "shared", Provider: "openai"}); !ok || err != nil {
			t.Errorf("%s lost another key: %v", filepath.Base(file), err)
		}
	}
	if generations != 2 {
		t.Errorf("%d generations", generations)
	}
}

func copyVault(t *testing.T, dir string) string {
	t.Helper()
	c := filepath.Join(t.TempDir(), "vault")
	if err := state.MkdirAll(c); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{vaultFile(dir), slotsFile(dir), vaultFile(dir) + ".1"} {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(c, filepath.Base(path)), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// writerEnv makes the test binary a writer that stores numbered secrets until it is killed.
const writerEnv = "TEROK_STORE_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(changerEnv); dir != "" {
		changer(dir)
	}
	if dir := os.Getenv(writerEnv); dir != "" {
		v, err := Open(dir, []byte(pass))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for i := 0; ; i++ {
			if _, err := v.Put(key("shared", "anthropic", fmt.Appendf(nil, "secret-%08d", i)), time.Now()); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println(i) // durable from here on
		}
	}
	os.Exit(m.Run())
}

// TestKillAtAnyPoint kills a writer again and again: what it reported as stored, or the one after
// that, is there, and nothing is left over.
func TestKillAtAnyPoint(t *testing.T) {
	dir := newVault(t)
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		for last < round { // each round dies somewhere else
			if _, err := fmt.Fscan(out, &last); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Process.Kill()
		for {
			var n int
			if _, err := fmt.Fscan(out, &n); err != nil {
				break
			}
			last = n
		}
		cmd.Wait()
		v := open(t, dir)
		c, ok, err := v.Get(Key{Scope: "shared", Provider: "anthropic"})
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		var got int
		fmt.Sscanf(string(c.Secret), "secret-%d", &got)
		if got != last && got != last+1 {
			t.Fatalf("stored up to %d, found %q", last, c.Secret)
		}
	}
	v := open(t, dir)
	if _, err := v.Put(key("shared", "other", []byte(secret)), time.Now()); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "slots.json slots.json.1 vault.age vault.age.1 vault.lock" {
		t.Errorf("left over: %s", got)
	}
}

func TestInterruptedInitCanBeRepeated(t *testing.T) {
	dir := newVault(t)
	os.Remove(slotsFile(dir)) // as after a kill between the two files
	os.Remove(slotsFile(dir) + ".1")
	if err := initialise(dir, passphrase("another one"), testWork, time.Now()); err != nil {
		t.Fatal(err)
	}
	v, err := Open(dir, []byte("another one"))
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
}

func TestCalibration(t *testing.T) {
	if w := calibrated(); w < leastWork || w > maxWork {
		t.Error(w)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schema":1,"vault_id":"","generation":1,"created_at":"2026-01-01T00:00:00Z","credentials":[]}`))
	f.Add([]byte(`{"schema":2}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		b, err := newLockedBuffer(bytes.Clone(plain))
		if err != nil {
			t.Fatal(err)
		}
		v := &Vault{dir: "/nonexistent", plain: b}
		defer v.Close()
		if list, err := v.List(); err == nil {
			for _, c := range list {
				if c.Secret != nil {
					t.Fatal("a list with a secret")
				}
			}
		}
	})
}
