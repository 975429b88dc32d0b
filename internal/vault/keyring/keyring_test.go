package keyring

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// bus starts a session bus of the test's own.
func bus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("no dbus-daemon here")
	}
	dir, err := os.MkdirTemp("", "bus") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// No service directories: nothing is started on demand.
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(`<busconfig><type>session</type><listen>unix:path=`+filepath.Join(dir, "bus")+`</listen>`+
		`<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+conf, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// gnome starts a real gnome-keyring-daemon on the bus, with its keyring unlocked.
func gnome(t *testing.T, address string) {
	t.Helper()
	program, err := exec.LookPath("gnome-keyring-daemon")
	if err != nil {
		t.Skip("no gnome-keyring-daemon here; scripts/rootless setup installs it")
	}
	home, err := os.MkdirTemp("", "gk")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--foreground", "--unlock", "--components=secrets", "--control-directory="+filepath.Join(home, "control"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_RUNTIME_DIR=" + home, "DBUS_SESSION_BUS_ADDRESS=" + address}
	cmd.Stdin = strings.NewReader("keyring password")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(home) })
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := (Client{Address: address}).State(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var item = map[string]string{"application": "terok", "vault": "v1", "slot": "s1"}

// TestGnomeKeyring is the whole conversation with a real daemon.
func TestGnomeKeyring(t *testing.T) {
	address := bus(t)
	gnome(t, address)
	c := Client{Address: address}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, ErrNoItem) {
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
	if err := c.State(t.Context()); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if err := c.Store(t.Context(), "terok vault", item, []byte("x")); !errors.Is(err, ErrLocked) {
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
	address := bus(t)
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
	c := Client{Address: serve(t, f)}
	start := time.Now()
	for _, err := range []error{c.State(t.Context()), c.Store(t.Context(), "x", item, []byte("x")), c.Delete(t.Context(), item)} {
		if !errors.Is(err, ErrLocked) {
			t.Error(err)
		}
	}
	if _, err := c.Load(t.Context(), item); !errors.Is(err, ErrLocked) {
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
	if _, err := c.Load(t.Context(), item); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
}

// spec/vault.md §10: 61. One that hangs is given three seconds.
func TestSilentService(t *testing.T) {
	f := &fake{silent: true}
	c := Client{Address: serve(t, f)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Load(ctx, item); !errors.Is(err, ErrAbsent) || ctx.Err() != nil {
		t.Error(err, ctx.Err())
	}
}

func TestAbsent(t *testing.T) {
	for _, address := range []string{"", "unix:path=/nonexistent", "tcp:host=example", bus(t)} {
		if err := (Client{Address: address}).State(t.Context()); !errors.Is(err, ErrAbsent) {
			t.Errorf("%q: %v", address, err)
		}
	}
	f := &fake{value: bytes.Repeat([]byte("x"), maxSecret+1)}
	if _, err := (Client{Address: serve(t, f)}).Load(t.Context(), item); !errors.Is(err, ErrNoItem) {
		t.Error(err)
	}
}
