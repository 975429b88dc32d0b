package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"terok/internal/vault/keyring"
	"terok/internal/vault/keyring/keyringtest"
)

var item = map[string]string{"application": "terok", "vault": "v1", "slot": "s1"}

// TestGnomeKeyring is the whole conversation with a real daemon.
func TestGnomeKeyring(t *testing.T) {
	address := keyringtest.Bus(t)
	keyringtest.Gnome(t, address)
	c := keyring.Client{Address: address}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, keyring.ErrNoItem) {
		t.Fatal(err)
	}
	for _, s := range []string{"first", "second"} {
		if err := c.Store(t.Context(), "terok vault", item, []byte(s)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Load(t.Context(), item); err != nil || string(got) != s {
			t.Fatalf("%q %v", got, err)
		}
	}
	// Locked: no prompt, an answer at once.
	k, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var coll, prompt dbus.ObjectPath
	if err := k.Object(service, root).Call(ifService+".ReadAlias", 0, "default").Store(&coll); err != nil {
		t.Fatal(err)
	}
	var done []dbus.ObjectPath
	if err := k.Object(service, root).Call(ifService+".Lock", 0, []dbus.ObjectPath{coll}).Store(&done, &prompt); err != nil {
		t.Fatal(err)
	}
	if err := c.State(t.Context()); !errors.Is(err, keyring.ErrLocked) {
		t.Error(err)
	}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, keyring.ErrLocked) {
		t.Error(err)
	}
	if err := c.Store(t.Context(), "terok vault", item, []byte("x")); !errors.Is(err, keyring.ErrLocked) {
		t.Error(err)
	}
}

// fake is a Secret Service with one item, that counts what it is asked.
type fake struct {
	mu      sync.Mutex
	locked  bool
	silent  bool
	dismiss bool
	value   []byte
	calls   []string
	conn    *dbus.Conn
}

func (f *fake) saw(what string) {
	f.mu.Lock()
	f.calls = append(f.calls, what)
	silent := f.silent
	f.mu.Unlock()
	if silent {
		select {} // a service that hangs; the goroutine ends with the test's process
	}
}

func (f *fake) asked(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == what {
			return true
		}
	}
	return false
}

// Names of the Secret Service API.
const (
	service   = "org.freedesktop.secrets"
	root      = dbus.ObjectPath("/org/freedesktop/secrets")
	ifService = "org.freedesktop.Secret.Service"
	ifItem    = "org.freedesktop.Secret.Item"
	ifPrompt  = "org.freedesktop.Secret.Prompt"
	tooLong   = 4<<10 + 1
)

// secret is the struct of the API.
type secret struct {
	Session    dbus.ObjectPath
	Parameters []byte
	Value      []byte
	Type       string
}

const (
	collPath   = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")
	itemPath   = dbus.ObjectPath("/org/freedesktop/secrets/collection/login/1")
	promptPath = dbus.ObjectPath("/org/freedesktop/secrets/prompt/1")
)

func (f *fake) OpenSession(string, dbus.Variant) (dbus.Variant, dbus.ObjectPath, *dbus.Error) {
	f.saw("OpenSession")
	return dbus.MakeVariant(""), "/org/freedesktop/secrets/session/1", nil
}

func (f *fake) ReadAlias(string) (dbus.ObjectPath, *dbus.Error) { return collPath, nil }

func (f *fake) SearchItems(map[string]string) (open, locked []dbus.ObjectPath, err *dbus.Error) {
	f.saw("SearchItems")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked {
		return []dbus.ObjectPath{}, []dbus.ObjectPath{itemPath}, nil
	}
	return []dbus.ObjectPath{itemPath}, []dbus.ObjectPath{}, nil
}

func (f *fake) Unlock([]dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	f.saw("Unlock")
	return []dbus.ObjectPath{}, promptPath, nil
}

// Get is org.freedesktop.DBus.Properties.
func (f *fake) Get(string, string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return dbus.MakeVariant(f.locked), nil
}

func (f *fake) GetSecret(session dbus.ObjectPath) (secret, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return secret{session, []byte{}, f.value, "text/plain"}, nil
}

func (f *fake) Prompt(string) *dbus.Error {
	f.saw("Prompt")
	f.mu.Lock()
	if !f.dismiss {
		f.locked = false
	}
	dismiss := f.dismiss
	f.mu.Unlock()
	_ = f.conn.Emit(promptPath, ifPrompt+".Completed", dismiss, dbus.MakeVariant(""))
	return nil
}

func serve(t *testing.T, f *fake) string {
	t.Helper()
	address := keyringtest.Bus(t)
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f.conn = conn
	for path, ifs := range map[dbus.ObjectPath][]string{root: {ifService}, collPath: {"org.freedesktop.DBus.Properties"}, itemPath: {ifItem}, promptPath: {ifPrompt}} {
		for _, i := range ifs {
			if err := conn.Export(f, path, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := conn.RequestName(service, 0); err != nil {
		t.Fatal(err)
	}
	return address
}

// spec/vault.md §10: 61. A locked keyring is said to be locked, and nobody is prompted.
func TestLockedWithoutAPrompt(t *testing.T) {
	f := &fake{locked: true, value: []byte("secret")}
	c := keyring.Client{Address: serve(t, f)}
	start := time.Now()
	for _, err := range []error{c.State(t.Context()), c.Store(t.Context(), "x", item, []byte("x")), c.Delete(t.Context(), item)} {
		if !errors.Is(err, keyring.ErrLocked) {
			t.Error(err)
		}
	}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, keyring.ErrLocked) {
		t.Error(err)
	}
	if f.asked("Prompt") || f.asked("Unlock") {
		t.Error("somebody was prompted", f.calls)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Error(d)
	}
	// With a person at the screen.
	c.Prompt = true
	if got, err := c.Load(t.Context(), item); err != nil || !bytes.Equal(got, f.value) || !f.asked("Prompt") {
		t.Error(got, err)
	}
	f.locked, f.dismiss = true, true
	if _, err := c.Load(t.Context(), item); !errors.Is(err, keyring.ErrLocked) {
		t.Error(err)
	}
}

// spec/vault.md §10: 61. One that hangs is given three seconds.
func TestSilentService(t *testing.T) {
	f := &fake{silent: true}
	c := keyring.Client{Address: serve(t, f)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Load(ctx, item); !errors.Is(err, keyring.ErrAbsent) || ctx.Err() != nil {
		t.Error(err, ctx.Err())
	}
}

func TestAbsent(t *testing.T) {
	for _, address := range []string{"", "unix:path=/nonexistent", "tcp:host=example", keyringtest.Bus(t)} {
		if err := (keyring.Client{Address: address}).State(t.Context()); !errors.Is(err, keyring.ErrAbsent) {
			t.Errorf("%q: %v", address, err)
		}
	}
	f := &fake{value: bytes.Repeat([]byte("x"), tooLong)}
	if _, err := (keyring.Client{Address: serve(t, f)}).Load(t.Context(), item); !errors.Is(err, keyring.ErrNoItem) {
		t.Error(err)
	}
}
