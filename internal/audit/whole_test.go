package audit

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Spec: shield.md §10, 54: with 12 MiB the file is rotated, the chain verifies across the files, and
// the last five are the last five, wherever the rotation came.
func TestTwelveMiB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{Queue: 1 << 16})
	const line = 1 << 10
	n := 12 << 20 / line
	for i := range n {
		l.Record(Event{Ev: "flow_denied", Name: fmt.Sprintf("n%d.test", i), Reason: strings.Repeat("x", line-280)})
	}
	flush(t, l)
	if l.Lost() > 0 {
		t.Fatalf("%d lost", l.Lost())
	}
	report := mustVerify(t, path)
	if report.Lines != uint64(n) || len(report.Files) != 2 || report.First != 1 {
		t.Errorf("%+v", report)
	}
	// Exactly at the border: the last five lie in two files.
	first := all(t, path, Filter{})
	border := 0
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	border = n - bytes.Count(data, []byte("\n"))
	for _, last := range []int{n, border + 2} {
		tail := all(t, path, Filter{Tail: 5, Before: first[last-1].Seq + 1})
		if len(tail) != 5 {
			t.Fatalf("%d lines", len(tail))
		}
		for i, e := range tail {
			if want := fmt.Sprintf("n%d.test", last-5+i); e.Name != want {
				t.Errorf("line %d of the last five of %d is %s, not %s", i, last, e.Name, want)
			}
		}
	}
}

// A line that was taken out of a compressed file breaks the chain there.
func TestChainOverCompressedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path, Options{MaxSize: 2000})
	for range 30 {
		l.Record(Event{Ev: "note", Reason: strings.Repeat("r", 100)})
		flush(t, l)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files := mustVerify(t, path).Files
	if len(files) < 3 {
		t.Fatal(files)
	}
	victim := files[1]
	plain := gunzip(t, victim)
	lines := bytes.SplitAfter(plain, []byte("\n"))
	for what, changed := range map[string][]byte{
		"a line removed": bytes.Join(append(append([][]byte{}, lines[:1]...), lines[2:]...), nil),
		"a line changed": bytes.Replace(plain, []byte("rrrr"), []byte("rrrx"), 1),
		"cut at the end": bytes.Join(lines[:len(lines)-2], nil),
	} {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(changed)
		w.Close()
		if err := os.WriteFile(victim, z.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(path); err != nil || r.Break == nil {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
	if err := os.Remove(victim); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(path); err != nil || r.Break == nil {
		t.Errorf("a file in the middle is gone: %+v, %v", r, err)
	}
}

func gunzip(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTrim(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprint(i), "audit.jsonl")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l := open(t, path, Options{MaxSize: 1000})
		for range 20 {
			l.Record(Event{Ev: "note", Reason: strings.Repeat("r", 100)})
			flush(t, l)
		}
		paths = append(paths, path)
		if i < 2 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			l.chain.gz.Wait() // the third is still written
		}
		for j, f := range mustVerify(t, path).Files { // the first ledger is the oldest
			at := time.Now().Add(time.Duration(i*10+j-1000) * time.Minute)
			if err := os.Chtimes(f, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	size := func() (n int64) {
		for _, p := range paths {
			for _, f := range mustVerify(t, p).Files {
				fi, err := os.Stat(f)
				if err != nil {
					t.Fatal(err)
				}
				n += fi.Size()
			}
		}
		return n
	}
	before := size()
	if n, err := Trim(paths, before); n != 0 || err != nil {
		t.Errorf("%d bytes went: %v", n, err)
	}
	n, err := Trim(paths, before-1)
	if err != nil || n == 0 || size() != before-n {
		t.Errorf("%d bytes went of %d, %v", n, before-size(), err)
	}
	if r := mustVerify(t, paths[0]); r.First == 1 {
		t.Error("the oldest is still there")
	}
	if r := mustVerify(t, paths[1]); len(r.Files) < 3 {
		t.Errorf("the second ledger was touched: %+v", r)
	}
	if _, err := Trim(paths, 0); err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		files := mustVerify(t, p).Files
		if i < 2 && len(files) != 1 {
			t.Errorf("ledger %d keeps %v", i, files)
		}
		if i == 2 && len(files) < 3 {
			t.Errorf("a ledger that is being written lost files: %v", files)
		}
	}
}

func TestTraffic(t *testing.T) {
	sum := Traffic{}
	for _, e := range []Event{
		{Ev: "flow_allowed", Name: "a.test", Verdict: "allow"},
		{Ev: "flow_open", Name: "a.test", BytesUp: 500, BytesDown: 500}, // totals so far
		{Ev: "flow_end", Name: "a.test", Count: 2, BytesUp: 1000, BytesDown: 10},
		{Ev: "flow_end", IP: "203.0.113.1", BytesUp: 1},
		{Ev: "flow_blocked", Name: "b.test", Verdict: "deny", Count: 40, Proto: "tcp"},
		{Ev: "name_denied", Name: "b.test", Verdict: "deny", Proto: "dns"},
		{Ev: "name_blocked", Name: "b.test", Verdict: "deny", Proto: "dns"}, // the connection counts
		{Ev: "flow_cut", Name: "a.test", Verdict: "deny"},
		{Ev: "verdict", Name: "c.test", Verdict: "deny"},
		{Ev: "stop", BytesUp: 77},
	} {
		sum.Add(e)
	}
	got := sum.Top(5)
	want := []NameTraffic{{"a.test", 2, 0, 1000, 10}, {"203.0.113.1", 1, 0, 1, 0}, {"b.test", 0, 41, 0, 0}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v", got)
	}
	for i := range 2 * maxTraffic {
		sum.Add(Event{Ev: "flow_end", Name: fmt.Sprint(i), BytesUp: 1})
	}
	if len(sum) > maxTraffic+1 || sum[""].BytesUp == 0 {
		t.Errorf("%d names", len(sum))
	}
}

// ledgerSeeds are contents of a ledger's file and of its first compressed one.
func ledgerSeeds(f *testing.F) {
	var good bytes.Buffer
	prev := zeroHash
	for i := range 3 {
		line, err := encode(Event{V: Schema, Seq: uint64(i + 1), Ev: "note", Prev: prev})
		if err != nil {
			f.Fatal(err)
		}
		prev = hash(line)
		good.Write(append(line, '\n'))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(good.Bytes())
	z.Close()
	f.Add(good.Bytes(), []byte{})
	f.Add(good.Bytes()[:good.Len()-7], packed.Bytes())
	f.Add([]byte{}, packed.Bytes()[:packed.Len()/2])
	f.Add([]byte("{}\n\n\x00\n"+strings.Repeat("x", 5000)), []byte("\x1f\x8b"))
	f.Add([]byte(`{"v":1,"seq":18446744073709551615,"prev":"`+zeroHash+`"}`+"\n"), []byte{})
}

// fuzzed makes a ledger of arbitrary bytes.
func fuzzed(t *testing.T, current, old []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, current, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(old) > 0 {
		if err := os.WriteFile(rotatedGz(path, 1), old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// Spec: shield.md §10, 56: whatever a ledger's files hold, readers end, in bounded memory, and a
// chain that verifies is one that can be read line by line.
func FuzzReaders(f *testing.F) {
	ledgerSeeds(f)
	f.Fuzz(func(t *testing.T, current, old []byte) {
		path := fuzzed(t, current, old)
		report, err := Verify(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := uint64(0)
		readErr := Read(path, Filter{}, func(Event) error { lines++; return nil })
		_ = Read(path, Filter{Tail: 2, Ev: []string{"flow_"}}, func(Event) error { return nil })
		if report.Break == nil && readErr == nil && lines < report.Lines {
			t.Errorf("%d lines verify, %d can be read", report.Lines, lines)
		}
	})
}

// Whoever writes next goes on after whatever is there, and what it writes holds.
func FuzzWriterGoesOn(f *testing.F) {
	ledgerSeeds(f)
	f.Fuzz(func(t *testing.T, current, old []byte) {
		path := fuzzed(t, current, old)
		before, err := Verify(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := AppendOne(path, Event{Ev: "note"}); err != nil {
				t.Fatal(err)
			}
		}
		if after, err := Verify(path); err != nil || before.Break == nil && !before.Torn && after.Break != nil {
			t.Errorf("%+v became %+v, %v", before, after, err)
		}
	})
}
