package usage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/sandbox"
)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func open(t *testing.T, dir, task string, c *clock) *Book {
	t.Helper()
	b, err := Open(dir, task, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestBook(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "usage")
	c := &clock{time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)}
	one, two := open(t, dir, "one", c), open(t, dir, "two", c)
	entry := Entry{Provider: "anthropic", Model: "m", Requests: 1, Tokens: Tokens{Input: 10, Output: 5}, MicroUSD: 7}
	for range 3 {
		if err := one.Add(entry); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.Add(entry); err != nil {
		t.Fatal(err)
	}
	for span, want := range map[Span]int64{sandbox.PerTask: 1, sandbox.PerProject: 4, sandbox.PerDay: 4} {
		if got := two.Total(span); got.Requests != want || got.MicroUSD != 7*want {
			t.Errorf("%s: %+v", span, got)
		}
	}
	// What another task uses is seen within a second, not before it costs a look.
	if err := one.Add(entry); err != nil {
		t.Fatal(err)
	}
	if got := two.Total(sandbox.PerProject); got.Requests != 4 {
		t.Errorf("looked too often: %+v", got)
	}
	c.now = c.now.Add(2 * time.Minute) // midnight
	if got := two.Total(sandbox.PerProject); got.Requests != 5 {
		t.Errorf("the other task's request is missing: %+v", got)
	}
	if got := two.Total(sandbox.PerDay); got.Requests != 0 {
		t.Errorf("a new day: %+v", got)
	}

	// The writer is killed: everything is there, whoever opens next.
	f, err := os.OpenFile(Path(dir, "one"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"day":"2026-11-30","requests":1000,"inp`)
	f.Close()
	again := open(t, dir, "one", c)
	if got := again.Total(sandbox.PerTask); got.Requests != 4 {
		t.Errorf("after a torn line: %+v", got)
	}
	if err := again.Add(entry); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir, "one", c).Total(sandbox.PerTask); got.Requests != 5 {
		t.Errorf("a torn line swallowed the next: %+v", got)
	}
}

// A worker that was taken over writes into its own book only, and lowers no sum.
func TestHostileBook(t *testing.T) {
	dir := t.TempDir()
	c := &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	lines := []string{`{"day":"2026-11-30","requests":-50,"micro_usd":-1000000,"input":-5}`, `{"day":"never","requests":3}`, "\x00\xff", "[]",
		strings.Repeat("x", 1<<20), `{"day":"2026-11-30","requests":2,"micro_usd":3}`}
	if err := os.WriteFile(Path(dir, "evil"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(Path(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir, "mine", c).Total(sandbox.PerDay); got != (Total{Requests: 2, MicroUSD: 3}) {
		t.Errorf("%+v", got)
	}
}

// TestSumsDoNotTurn: as many of the largest counts as a book can hold add up to more than a number
// has room for, and must not come out as less than nothing.
func TestSumsDoNotTurn(t *testing.T) {
	dir := t.TempDir()
	c := &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	line := `{"day":"2026-11-30","requests":999999999999999999,"micro_usd":999999999999999999,"input":9999999999,"output":9999999999}` + "\n"
	if err := os.WriteFile(Path(dir, "evil"), []byte(strings.Repeat(line, 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	got := open(t, dir, "mine", c).Total(sandbox.PerProject)
	if got.MicroUSD < 1e15 || got.Requests < 1e15 || got.Sum() < 1e13 {
		t.Errorf("%+v", got)
	}
	if err := shorten(Path(dir, "evil")); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir, "mine", c).Total(sandbox.PerProject); got.MicroUSD < 1e15 || got.Requests < 1e15 {
		t.Errorf("shortened: %+v", got)
	}
}

// TestWriteThatFailed: what a full disk cut off swallows no entry that follows.
func TestWriteThatFailed(t *testing.T) {
	dir := t.TempDir()
	c := &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	b := open(t, dir, "mine", c)
	whole := b.file
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if _, err := whole.WriteString(`{"day":"2026-11-30","requ`); err != nil { // as far as it got
		t.Fatal(err)
	}
	b.file = w
	if err := b.Add(Entry{Requests: 1}); err == nil {
		t.Fatal("written to nothing")
	}
	b.file = whole
	if err := b.Add(Entry{Requests: 1}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Sum(Path(dir, "mine"), ""); err != nil || got.Requests != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestLongBookIsShortened(t *testing.T) {
	dir := t.TempDir()
	c := &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	line := `{"day":"2026-11-29","provider":"p","model":"m","requests":1,"input":2,"micro_usd":3,"unpriced":1}` + "\n"
	n := shortenAt/len(line) + 10
	if err := os.WriteFile(Path(dir, "t"), []byte(strings.Repeat(line, n)), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Total{Requests: int64(n), Tokens: Tokens{Input: int64(2 * n)}, MicroUSD: int64(3 * n), Unpriced: int64(n)}
	if got := open(t, dir, "t", c).Total(sandbox.PerTask); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if st, err := os.Stat(Path(dir, "t")); err != nil || st.Size() > 1000 {
		t.Errorf("%v %v", st, err)
	}
	if got := open(t, dir, "t", c).Total(sandbox.PerTask); got != want {
		t.Errorf("the second time: %+v", got)
	}
}

func TestPrices(t *testing.T) {
	p := Prices{"claude-sonnet-4-5": {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75, CacheLong: 6}, "gpt-5": {Input: 1.25, Output: 10}}
	for model, known := range map[string]bool{"claude-sonnet-4-5": true, "claude-sonnet-4-5-20250929": true, "anthropic/claude-sonnet-4-5": true,
		"gpt-5": true, "gpt-5-2025-08-07": true, "gpt-5-latest": true, "gpt-5-mini": false, "gpt-5-pro": false, "gpt-5.1": false, "": false, "x": false} {
		if _, ok := p.Cost(model, Tokens{Input: 1}); ok != known {
			t.Errorf("%q: %v", model, ok)
		}
	}
	got, _ := p.Cost("claude-sonnet-4-5", Tokens{Input: 1000, Output: 100, CacheRead: 10_000, CacheWrite: 1000, CacheLong: 400})
	if want := int64(3000 + 1500 + 3000 + 600*3.75 + 400*6); got != want {
		t.Errorf("%d, want %d", got, want)
	}
	if got, _ = p.Cost("gpt-5", Tokens{CacheRead: 1}); got != 2 {
		t.Errorf("a part of a millionth must count as one, and cached input without a price as input: %d", got)
	}
}

func TestUsed(t *testing.T) {
	if u := Used(Budget{MicroUSD: 1_000_000, Span: sandbox.PerTask}, Total{MicroUSD: 800_000}); u != 0.8 {
		t.Error(u)
	}
	if u := Used(Budget{Tokens: 1000, Span: sandbox.PerTask}, Total{Tokens: Tokens{Input: 200, Output: 1000}}); u != 1.2 {
		t.Error(u)
	}
}
