package supervisor

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemd1 stands for the operator's systemd.
type systemd1 struct {
	conn  *dbus.Conn
	asked chan startTransientUnit
}

type startTransientUnit struct {
	Name, Mode string
	Properties map[string]dbus.Variant
}

const managerName = "org.freedesktop.systemd1.Manager"

func (s *systemd1) Subscribe() *dbus.Error { return nil }

func (s *systemd1) StartTransientUnit(name, mode string, properties []struct {
	Name  string
	Value dbus.Variant
}, _ []struct {
	Name       string
	Properties []struct {
		Name  string
		Value dbus.Variant
	}
}) (dbus.ObjectPath, *dbus.Error) {
	call := startTransientUnit{name, mode, map[string]dbus.Variant{}}
	for _, p := range properties {
		call.Properties[p.Name] = p.Value
	}
	if name == "terok-refused-1.scope" {
		return "", dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"no"})
	}
	s.asked <- call
	job := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	result := map[string]string{"terok-fails-1.scope": "failed", "terok-silent-1.scope": ""}
	word, special := result[name]
	if !special {
		word = "done"
	}
	if word != "" { // another job's end first
		for _, id := range []dbus.ObjectPath{"/org/freedesktop/systemd1/job/6", job} {
			_ = s.conn.Emit("/org/freedesktop/systemd1", managerName+".JobRemoved", uint32(7), id, name, word)
		}
	}
	return job, nil
}

// userBusOf starts a bus of the test's own with a systemd on it.
func userBusOf(t *testing.T, s *systemd1) (address string) {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal("no dbus-daemon: scripts/rootless setup installs it")
	} else if err != nil {
		t.Skip("no dbus-daemon here")
	}
	dir, err := os.MkdirTemp("", "bus") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--session", "--nofork", "--print-address", "--address=unix:path="+filepath.Join(dir, "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = strings.TrimSpace(line)
	s.asked = make(chan startTransientUnit, 8)
	if s.conn, err = dbus.Connect(address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	if err := s.conn.Export(s, "/org/freedesktop/systemd1", managerName); err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.RequestName("org.freedesktop.systemd1", 0); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestScope: systemd is asked for a scope with both processes, a bound on their memory and less
// than the usual weight, and counts as having made it when it says so.
func TestScope(t *testing.T) {
	s := &systemd1{}
	address := userBusOf(t, s)
	uid := uint64(os.Getuid())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := enterScope(ctx, address, uid, scopeUnit("web", 12), []uint32{12, 13}); err != nil {
		t.Fatal(err)
	}
	got := <-s.asked
	if got.Name != "terok-web-12.scope" || got.Mode != "fail" {
		t.Errorf("%+v", got)
	}
	if pids, ok := got.Properties["PIDs"].Value().([]uint32); !ok || !slices.Equal(pids, []uint32{12, 13}) {
		t.Errorf("PIDs %v", got.Properties["PIDs"])
	}
	for name, want := range map[string]uint64{"MemoryHigh": scopeHigh, "MemoryMax": scopeMax, "CPUWeight": scopeWeight} {
		if v, ok := got.Properties[name].Value().(uint64); !ok || v != want {
			t.Errorf("%s is %v", name, got.Properties[name])
		}
	}
	if err := enterScope(ctx, address, uid, "terok-refused-1.scope", []uint32{1}); err == nil || !strings.Contains(err.Error(), "systemd") {
		t.Errorf("a refusal: %v", err)
	}
}

// TestScopeThatFails: whatever goes wrong is an error in bounded time, and no more.
func TestScopeThatFails(t *testing.T) {
	s := &systemd1{}
	address := userBusOf(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	uid := uint64(os.Getuid())
	if err := enterScope(ctx, address, uid, scopeUnit("fails", 1), []uint32{1}); err == nil || !strings.Contains(err.Error(), "failed") {
		t.Errorf("a job that failed: %v", err)
	}
	<-s.asked
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if err := enterScope(short, address, uid, scopeUnit("silent", 1), []uint32{1}); err == nil {
		t.Error("a job that never ends: no error")
	}
	if err := enterScope(ctx, "unix:path=/nonexistent/bus", uid, scopeUnit("web", 3), []uint32{1}); err == nil {
		t.Error("no bus: no error")
	}
}
