package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fullDiskChild writes until the limit is hit, frees space and goes on.
func fullDiskChild(path string) {
	fail := func(what any) {
		fmt.Println("FAILED:", what)
		os.Exit(1)
	}
	signal.Ignore(syscall.SIGXFSZ)
	failed := make(chan error, 10)
	l, err := Open(path, Identity{}, Options{OnFailure: func(err error) { failed <- err }})
	if err != nil {
		fail(err)
	}
	ctx := context.Background()
	stream, cancel := l.Subscribe(100)
	defer cancel()
	limit := syscall.Rlimit{Cur: 5000, Max: 1 << 40}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fail(err)
	}
	for range 30 {
		l.Record(Event{Ev: "flow_denied", Reason: strings.Repeat("x", 300)})
		_ = l.Flush(ctx)
	}
	if err := <-failed; err == nil {
		fail("no failure was reported")
	}
	for e := range stream { // whoever watches is told although nothing can be written
		if e.Ev == EvFailed {
			if e.Seq != 0 || e.Reason == "" {
				fail(e)
			}
			break
		}
	}
	lost := l.Lost()
	if lost == 0 || lost >= 30 {
		fail(lost)
	}
	limit.Cur = 1 << 40
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fail(err)
	}
	for err := error(errors.New("still failing")); err != nil; { // tried again although nothing happens
		err = <-failed
	}
	l.Record(Event{Ev: "note"})
	if err := l.Flush(ctx); err != nil {
		fail(err)
	}
	if err := l.Close(); err != nil {
		fail(err)
	}
	fmt.Println("ALL GOOD")
}

// killedChild writes for ever, in small rotated files, and says so once it has begun.
func killedChild(path string) {
	l, err := Open(path, Identity{Task: "killed"}, Options{MaxSize: 16 << 10, Keep: 50})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	l.Record(Event{Ev: "start"})
	_ = l.Flush(context.Background())
	fmt.Println("writing")
	for {
		l.Record(Event{Ev: "flow_end", Name: "a.test", Reason: strings.Repeat("y", 200)})
	}
}

// TestKill9 ends a writer at any moment: the next one goes on, and the chain holds.
func TestKill9(t *testing.T) {
	if path := os.Getenv("AUDIT_TEST_KILL"); path != "" {
		killedChild(path)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill9$")
		cmd.Env = append(os.Environ(), "AUDIT_TEST_KILL="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "writing\n" {
			t.Fatalf("%q %v", line, err)
		}
		for n := 0; n < 5; { // it has written, and is writing
			r, err := Verify(path)
			if err != nil || r.Break != nil {
				t.Fatalf("%v %+v", err, r.Break)
			}
			n++
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := AppendOne(path, Event{Ev: "next"}); err != nil {
			t.Fatal(err)
		}
		mustVerify(t, path)
	}
}
