package terok

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// ledgers makes an App whose sandboxes have ledgers with these events, "sandbox event" each, a
// second apart; "host event TASK" goes into the host's.
func withLedgers(t *testing.T, lines ...string) *App {
	t.Helper()
	dir := t.TempDir()
	a := &App{Roots: state.Roots{Config: filepath.Join(dir, "c"), Data: filepath.Join(dir, "d"), Runtime: filepath.Join(dir, "r")}, Now: time.Now}
	for i, line := range lines {
		var who, ev, task string
		_, _ = fmt.Sscan(line, &who, &ev, &task)
		e := audit.Event{Ev: ev, TS: time.Now().Add(time.Duration(i-1000) * time.Second), Sandbox: who, Count: uint64(i + 1)}
		path := sandbox.LedgerPath(a.Roots.SandboxDir(who))
		if who == "host" {
			path, e.Sandbox = a.Roots.HostLedger(), ""
			if task != "" {
				e.Project, e.Task = "webshop", task
			}
		} else {
			writeSandbox(t, a, who)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := audit.AppendOne(path, e); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func writeSandbox(t *testing.T, a *App, key string) {
	t.Helper()
	dir := a.Roots.SandboxDir(key)
	zero := fmt.Sprintf("%064d", 0)
	f := sandbox.File{Schema: sandbox.Schema, Key: key, Name: "c-" + key, Launch: "l", Dir: dir, RuntimeDir: a.Roots.RunDir(key),
		CIDFile: filepath.Join(dir, "cid"), StartError: filepath.Join(dir, "e"), PanicLock: a.Roots.PanicLock(),
		SeccompSHA256: zero, GuestSHA256: zero, SigningKey: make([]byte, 32)}
	if err := state.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := state.WriteJSON(sandbox.Path(dir), &f); err != nil {
		t.Fatal(err)
	}
}

func numbers(t *testing.T, a *App, q EventsQuery) (got []uint64) {
	t.Helper()
	if err := a.Events(t.Context(), q, func(e audit.Event) error { got = append(got, e.Count); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEvents(t *testing.T) {
	a := withLedgers(t, "one flow_blocked", "two flow_blocked", "host task_created k3v9p", "one vault_request", "one verdict", "host panic", "two flow_end")
	for _, c := range []struct {
		q    EventsQuery
		want []uint64
	}{
		{EventsQuery{}, []uint64{1, 2, 3, 4, 5, 6, 7}},
		{EventsQuery{Last: 3}, []uint64{5, 6, 7}},
		{EventsQuery{Target: "one"}, []uint64{1, 4, 5}},
		{EventsQuery{Target: "one", Last: 2}, []uint64{4, 5}},
		{EventsQuery{Kinds: []string{"network"}}, []uint64{1, 2, 7}},
		{EventsQuery{Kinds: []string{"vault", "verdict"}, Target: "one"}, []uint64{4, 5}},
		{EventsQuery{Kinds: []string{"task", "trouble"}}, []uint64{3, 6}},
		{EventsQuery{Since: time.Now().Add(-996500 * time.Millisecond)}, []uint64{5, 6, 7}},
	} {
		if got := numbers(t, a, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, not %v", c.q, got, c.want)
		}
	}
	for _, q := range []EventsQuery{{Kinds: []string{"weather"}}, {Target: "three"}} {
		if err := a.Events(t.Context(), q, func(audit.Event) error { return nil }); problem.Of(err).Exit == problem.OK {
			t.Errorf("%+v is accepted", q)
		}
	}
}

// Two watchers see every event, also of a ledger that is new. Spec: shield.md §10, 55.
func TestEventsFollow(t *testing.T) {
	a := withLedgers(t, "one flow_blocked", "two flow_blocked")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type seen struct {
		watcher int
		n       uint64
	}
	news := make(chan seen, 100)
	done := make(chan error, 2)
	for w := range 2 {
		go func() {
			done <- a.Events(ctx, EventsQuery{Follow: true, Last: 1}, func(e audit.Event) error { news <- seen{w, e.Count}; return nil })
		}()
	}
	await := func(want ...uint64) {
		t.Helper()
		left := map[seen]bool{}
		for w := range 2 {
			for _, n := range want {
				left[seen{w, n}] = true
			}
		}
		for len(left) > 0 {
			select {
			case s := <-news:
				if !left[s] {
					t.Fatalf("watcher %d sees %d, waited for %v", s.watcher, s.n, left)
				}
				delete(left, s)
			case <-time.After(60 * time.Second):
				t.Fatalf("not seen: %v", left)
			}
		}
	}
	await(2)
	writeSandbox(t, a, "three")
	for n, who := range map[uint64]string{10: "one", 11: "two", 12: "three"} {
		path := sandbox.LedgerPath(a.Roots.SandboxDir(who))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := audit.AppendOne(path, audit.Event{Ev: "note", Count: n}); err != nil {
			t.Fatal(err)
		}
	}
	await(10, 11, 12)
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
