package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/state"
)

func open(t *testing.T, path string, opts Options) *Ledger {
	t.Helper()
	l, err := Open(path, Identity{Project: "webshop", Task: "k3v9p"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func flush(t *testing.T, l *Ledger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func all(t *testing.T, path string, f Filter) []Event {
	t.Helper()
	var out []Event
	if err := Read(path, f, func(e Event) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func mustVerify(t *testing.T, path string) Report {
	t.Helper()
	r, err := Verify(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.Break != nil {
		t.Fatalf("broken: %+v", *r.Break)
	}
	return r
}

func TestChainGoesOnOverReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "audit.jsonl")
	for round := range 3 {
		l := open(t, path, Options{})
		for i := range 10 {
			l.Record(Event{Ev: "flow_allowed", Name: fmt.Sprintf("h%d.%d.test", round, i), Port: 443})
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal("second Close:", err)
		}
	}
	r := mustVerify(t, path)
	if r.First != 1 || r.Last != 30 || r.Lines != 30 || r.Torn {
		t.Errorf("%+v", r)
	}
	events := all(t, path, Filter{})
	if e := events[29]; e.Name != "h2.9.test" || e.Project != "webshop" || e.V != 1 || e.TS.Location() != time.UTC {
		t.Errorf("%+v", e)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", fi.Mode().Perm())
	}
}

func TestOneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{})
	if _, err := Open(path, Identity{}, Options{}); !errors.Is(err, state.ErrLocked) {
		t.Errorf("a second writer got %v", err)
	}
	l.Close()
	open(t, path, Options{})
}

func TestFilters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, path, Options{Now: func() time.Time { at = at.Add(time.Minute); return at }})
	for i := range 10 {
		l.Record(Event{Ev: []string{"flow_allowed", "flow_denied", "vault_call"}[i%3]})
	}
	flush(t, l)
	for _, c := range []struct {
		f    Filter
		want int
	}{
		{Filter{}, 10}, {Filter{Ev: []string{"flow_"}}, 7}, {Filter{Ev: []string{"vault_", "flow_denied"}}, 6},
		{Filter{After: 8}, 2}, {Filter{Tail: 3}, 3}, {Filter{Tail: 30}, 10},
		{Filter{Since: time.Date(2026, 11, 1, 0, 9, 0, 0, time.UTC)}, 2}, {Filter{Ev: []string{"x"}, Tail: 2}, 0},
	} {
		if got := all(t, path, c.f); len(got) != c.want {
			t.Errorf("%+v selects %d events, want %d", c.f, len(got), c.want)
		}
	}
	if got := all(t, path, Filter{Tail: 3}); got[0].Seq != 8 || got[2].Seq != 10 {
		t.Errorf("tail starts at %d", got[0].Seq)
	}
	if err := Read(path+"x", Filter{}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing ledger: %v", err)
	}
}

// TestBreaks changes a ledger in every way an intruder would and expects the place to be named.
func TestBreaks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path, Options{})
	for i := range 9 {
		l.Record(Event{Ev: "flow_denied", Name: fmt.Sprintf("n%d.test", i), Reason: "r"})
	}
	l.Close()
	good, _ := os.ReadFile(path)
	lines := bytes.SplitAfter(bytes.TrimSuffix(good, []byte("\n")), []byte("\n"))
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, c := range map[string]struct {
		data []byte
		line int
	}{
		"changed value":  {bytes.Replace(good, []byte("n3.test"), []byte("n4.test"), 1), 5},
		"changed blank":  {bytes.Replace(good, []byte(`"n3.test"`), []byte(`"n3.test" `), 1), 5},
		"removed":        {join(append(append([][]byte{}, lines[:4]...), lines[5:]...)...), 5},
		"removed first":  {join(lines[1:]...), 0}, // seems rotated away: only seq tells
		"doubled":        {join(append(append([][]byte{}, lines[:5]...), lines[4:]...)...), 6},
		"swapped":        {join(lines[0], lines[2], lines[1], lines[3]), 2},
		"garbage":        {join(lines[0], []byte("x\n"), lines[1]), 2},
		"endless line":   {join(lines[0], bytes.Repeat([]byte("x"), 9000), []byte("\n")), 2},
		"version 0":      {bytes.Replace(good, []byte(`{"v":1,"seq":2,`), []byte(`{"v":0,"seq":2,`), 1), 2},
		"other sequence": {bytes.Replace(good, []byte(`"seq":7,`), []byte(`"seq":17,`), 1), 7},
	} {
		t.Run(name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := os.WriteFile(p, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Verify(p)
			if err != nil {
				t.Fatal(err)
			}
			if c.line == 0 {
				if r.Break != nil || r.First != 2 {
					t.Fatalf("%+v", r)
				}
				return
			}
			if r.Break == nil || r.Break.File != p || r.Break.Line != c.line {
				t.Fatalf("want a break at line %d, got %+v", c.line, r.Break)
			}
		})
	}
}

func TestTornLineIsRepairedAndRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{})
	l.Record(Event{Ev: "start"})
	l.Close()
	f, _ := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	fmt.Fprint(f, `{"v":1,"seq":2,"ts":"2026-`)
	f.Close()
	if r, _ := Verify(path); !r.Torn || r.Break != nil || r.Last != 1 {
		t.Errorf("before the repair: %+v", r)
	}
	l = open(t, path, Options{})
	l.Record(Event{Ev: "stop"})
	l.Close()
	r := mustVerify(t, path)
	events := all(t, path, Filter{})
	if r.Torn || len(events) != 3 || events[1].Ev != EvRepaired || events[1].Detail["bytes"] != "26" || events[1].Task != "k3v9p" {
		t.Errorf("%+v %+v", r, events)
	}
}

func TestDamagedEndStartsANewChainAndKeepsTheOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{})
	l.Record(Event{Ev: "start"})
	l.Record(Event{Ev: "flow_denied"})
	l.Close()
	f, _ := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	fmt.Fprintln(f, "not ours")
	f.Close()
	l = open(t, path, Options{})
	flush(t, l)
	events := all(t, path, Filter{})
	if len(events) != 1 || events[0].Ev != EvRestarted || events[0].Seq != 3 {
		t.Fatalf("%+v", events)
	}
	kept, err := os.ReadFile(filepath.Join(filepath.Dir(path), events[0].Detail["kept"]))
	if err != nil || !bytes.HasSuffix(kept, []byte("not ours\n")) {
		t.Errorf("the damaged file: %q %v", kept, err)
	}
	if r, _ := Verify(path); r.Break == nil {
		t.Error("a restarted chain verifies as if nothing had happened")
	}
}

func TestRotationCarriesTheChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	opts := Options{MaxSize: 4 << 10, Keep: 3}
	for range 3 { // reopened in between
		l := open(t, path, opts)
		for i := range 60 {
			l.Record(Event{Ev: "flow_end", Name: fmt.Sprintf("%d.example", i), BytesUp: 12345})
			if i%7 == 0 {
				flush(t, l)
			}
		}
		if l.Close() != nil || l.Lost() != 0 {
			t.Fatalf("lost %d", l.Lost())
		}
	}
	r := mustVerify(t, path)
	if r.Last != 180 || r.First < 20 || len(r.Files) != 4 || r.Files[3] != path {
		t.Errorf("%+v", r)
	}
	if got := all(t, path, Filter{}); len(got) != int(r.Lines) || got[0].Seq != r.First {
		t.Errorf("%d events from %d", len(got), got[0].Seq)
	}
	// A crash between two steps of a rotation: nothing new yet, and the full file not compressed.
	for range 2 {
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{3, 2} {
			os.Rename(rotatedGz(path, n-1), rotatedGz(path, n))
		}
		l := open(t, path, opts)
		l.Record(Event{Ev: "start"})
		l.Close()
		mustVerify(t, path)
	}
	if _, err := os.Stat(path + ".1"); err == nil {
		t.Error("the rotated file was not compressed")
	}
	// Both steps of the compression but the last.
	data, _ := os.ReadFile(path)
	os.Rename(path, path+".1")
	for _, n := range []int{3, 2} {
		os.Rename(rotatedGz(path, n-1), rotatedGz(path, n))
	}
	if err := compress(path + ".1"); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path+".1", data, 0o600)
	mustVerify(t, path)
	l := open(t, path, opts)
	l.Record(Event{Ev: "start"})
	l.Close()
	mustVerify(t, path)
}

func TestLongValuesAreCutNotTheLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{})
	hostile := strings.Repeat("\x1b\u202e\xff", 5000)
	big := Event{Project: hostile, Task: hostile, Sandbox: hostile, Ev: hostile, Actor: hostile, Name: hostile, IP: hostile,
		Proto: hostile, NameSource: hostile, Tier: hostile, Rule: hostile, Verdict: hostile, Scope: hostile, Expires: hostile,
		Reason: hostile, RequestID: hostile, Provider: hostile, Method: hostile, Ref: hostile, Old: hostile, New: hostile,
		Detail: map[string]string{}}
	for i := range 500 {
		big.Detail[fmt.Sprint(hostile, i)] = hostile
		big.Detail[fmt.Sprint(i)] = hostile
	}
	l.Record(big)
	l.Record(Event{Ev: "note", Reason: strings.Repeat("é", 3000), Detail: map[string]string{"a": "b"}})
	l.Close()
	mustVerify(t, path)
	data, _ := os.ReadFile(path)
	for line := range bytes.Lines(data) {
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if bytes.ContainsAny(data, "\x1b") || l.Lost() != 0 {
		t.Errorf("raw escape in the ledger, or lost %d", l.Lost())
	}
}

// TestFullDisk stands in for ENOSPC with RLIMIT_FSIZE, in a process of its own.
func TestFullDisk(t *testing.T) {
	if path := os.Getenv("AUDIT_TEST_FULL"); path != "" {
		fullDiskChild(path)
		return
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_FULL="+path)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("ALL GOOD")) {
		t.Fatalf("%v\n%s", err, out)
	}
	mustVerify(t, path)
	events := all(t, path, Filter{Ev: []string{EvLost}})
	if len(events) < 1 || events[0].Count < 1 {
		t.Errorf("%+v", events)
	}
}

func TestQueueFullIsCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{Queue: 8})
	const n, writers = 2000, 4
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range n {
				l.Record(Event{Ev: "flow_denied"})
			}
		})
	}
	wg.Wait()
	lost := l.Lost()
	l.Close()
	var counted uint64
	for _, e := range all(t, path, Filter{Ev: []string{EvLost}}) {
		counted += e.Count
	}
	written := uint64(len(all(t, path, Filter{Ev: []string{"flow_denied"}})))
	if counted != lost || written+lost != n*writers {
		t.Errorf("written %d + lost %d ≠ %d; counted in the ledger: %d", written, lost, n*writers, counted)
	}
	l.Record(Event{Ev: "late"})
	if l.Lost() != lost+1 {
		t.Error("an event after Close is not counted")
	}
}

func TestSubscribe(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"), Options{})
	fast, cancelFast := l.Subscribe(100)
	slow, _ := l.Subscribe(5)
	for range 50 {
		l.Record(Event{Ev: "flow_denied"})
	}
	flush(t, l)
	for i := range 50 {
		if e := <-fast; e.Seq != uint64(i+1) {
			t.Fatalf("event %d has seq %d", i+1, e.Seq)
		}
	}
	cancelFast()
	cancelFast()
	if _, ok := <-fast; ok {
		t.Error("a cancelled subscription goes on")
	}
	var seen, gaps uint64
	for seen+gaps < 50 {
		switch e := <-slow; e.Ev {
		case EvGap:
			gaps += e.Count
		default:
			seen++
			if seen+gaps != e.Seq {
				t.Fatalf("event %d stands where %d belongs", e.Seq, seen+gaps)
			}
		}
	}
	if gaps < 40 {
		t.Errorf("only %d dropped", gaps)
	}
	l.Close()
	if _, ok := <-slow; ok {
		t.Error("Close leaves a subscription open")
	}
	if ch, _ := l.Subscribe(1); ch != nil {
		if _, ok := <-ch; ok {
			t.Error("a subscription of a closed ledger is open")
		}
	}
}

func TestAppendOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit", "host.jsonl")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := AppendOne(path, Event{Ev: "promote", Project: "p", Ref: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r := mustVerify(t, path); r.Last != 20 {
		t.Errorf("%+v", r)
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan Event, 1000)
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, path, Filter{Ev: []string{"flow_"}, Tail: 1}, func(e Event) error { got <- e; return nil })
	}()
	l := open(t, path, Options{MaxSize: 8 << 10, Keep: 100})
	const n = 150
	for range n {
		l.Record(Event{Ev: "flow_end", Rule: strings.Repeat("r", 100)})
		l.Record(Event{Ev: "note"})
		flush(t, l) // so that several rotations happen
	}
	last := uint64(0)
	for last < 2*n-1 {
		select {
		case e := <-got:
			if e.Ev != "flow_end" || last != 0 && e.Seq != last+2 {
				t.Fatalf("after %d comes %d %s", last, e.Seq, e.Ev)
			}
			last = e.Seq
		case <-time.After(20 * time.Second):
			t.Fatalf("stuck after %d", last)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestVerifyAndReadDuringRotation: readers never see a break that is none.
func TestVerifyAndReadDuringRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 2 << 10, Keep: 4})
	l.Record(Event{Ev: "start"})
	flush(t, l)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				l.Record(Event{Ev: "flow_end", Name: "a.test"})
				if err := l.Flush(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 100 {
		mustVerify(t, path)
		last := uint64(0)
		for _, e := range all(t, path, Filter{}) {
			if e.Seq <= last {
				t.Fatalf("%d comes after %d", e.Seq, last)
			}
			last = e.Seq
		}
	}
	close(stop)
	wg.Wait()
}

func FuzzReader(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	for range 3 {
		if err := AppendOne(path, Event{Ev: "flow_denied", Name: "a.test"}); err != nil {
			f.Fatal(err)
		}
	}
	seed, _ := os.ReadFile(path)
	f.Add(seed)
	f.Add(seed[:len(seed)-5])
	f.Add([]byte("{}\n\n\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(p)
		if err != nil {
			t.Fatal(err)
		}
		if r.Break == nil && !r.Torn && r.Lines != uint64(bytes.Count(data, []byte("\n"))) {
			t.Fatalf("%d lines verified of %d", r.Lines, bytes.Count(data, []byte("\n")))
		}
		if err := Read(p, Filter{}, func(Event) error { return nil }); err != nil {
			if _, ok := errors.AsType[*DamagedError](err); !ok {
				t.Fatal(err)
			}
		}
		// Whatever lies there, a writer goes on and what it writes can be read.
		if err := AppendOne(p, Event{Ev: "fuzz_marker"}); err != nil {
			t.Fatal(err)
		}
		found := 0
		_ = Read(p, Filter{Tail: 1}, func(e Event) error {
			if e.Ev == "fuzz_marker" {
				found++
			}
			return nil
		})
		after, err := Verify(p)
		if err != nil || found != 1 {
			t.Fatalf("the event just written was found %d times, %v, %+v", found, err, after)
		}
		if r.Break != nil && after.Break == nil {
			t.Fatalf("a break was healed: %+v", r.Break)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(filepath.Join(b.TempDir(), "audit.jsonl"), Identity{Project: "p", Task: "t"}, Options{Queue: 1 << 16})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l.Record(Event{Ev: "flow_allowed", Name: "registry.npmjs.org", Port: 443, Proto: "tcp", Tier: "project", Rule: "+registry.npmjs.org"})
	}
	l.Close()
	b.ReportMetric(float64(l.Lost())/float64(b.N), "lost/op")
}

func BenchmarkAppendOne(b *testing.B) {
	path := filepath.Join(b.TempDir(), "host.jsonl")
	for b.Loop() {
		if err := AppendOne(path, Event{Ev: "promote"}); err != nil {
			b.Fatal(err)
		}
	}
}
