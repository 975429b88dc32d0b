package child

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestStubbornGroupDies: a grandchild that ignores SIGTERM does not outlive its leader.
func TestStubbornGroupDies(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Spec{Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Args: []string{"-c",
			`(trap '' TERM; echo up; exec sleep 60) >"$0" 2>/dev/null & wait`, fifo}})
		done <- err
	}()
	alive, err := os.Open(fifo) // waits for the writer
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := alive.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(alive, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("want canceled, got %v", err)
	}
	if _, err := io.ReadAll(alive); err != nil { // the end comes when nobody holds the other side
		t.Errorf("the grandchild lives: %v", err)
	}
}
