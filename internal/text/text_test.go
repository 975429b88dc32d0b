package text

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"brave-otter", 0, "brave-otter"},
		{"a\x1b[31mb", 0, "a [31mb"},
		{"a\u202eb\u200bc", 0, "a b c"},
		{"\xff\xfe", 0, "  "},
		{"ü", 0, " "},
		{"12345678", 8, "12345678"},
		{"123456789", 8, "12345..."},
		{strings.Repeat("x", 300), 3, strings.Repeat("x", 253) + "..."},
	} {
		if got := Line(c.in, c.max); got != c.want {
			t.Errorf("Line(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}

func TestShow(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{`plain \ text`, `plain \ text`},
		{"a\nb\tc\r", `a\nb\tc\r`},
		{"\x1b]52;c;aGk=\a", `\x1b]52;c;aGk=\x07`},
		{"\x7f\u009b31m", `\x7f\u{9b}31m`},
		{"admin\u202egnp.exe", `admin\u{202e}gnp.exe`},
		{"p\u0430ypal", `p\u{430}ypal`}, // Cyrillic a
		{"a\u2028b\U000e0041", `a\u{2028}b\u{e0041}`},
		{"\xffx\xc3", `\xffx\xc3`},
		{"\ufffd", `\u{fffd}`}, // the real character, not a broken byte
	} {
		if got := Show(c.in); got != c.want {
			t.Errorf("Show(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	long := Show(strings.Repeat("é", 10000))
	if len(long) > MaxShow || !strings.HasSuffix(long, "bytes cut]") {
		t.Errorf("a long line has %d bytes and ends in %q", len(long), long[len(long)-20:])
	}
	if s := strings.Repeat("x", MaxShow); Show(s) != s {
		t.Error("a line of exactly MaxShow bytes was cut")
	}
	if got := Show(strings.Repeat("x", MaxShow+1)); len(got) > MaxShow || !strings.Contains(got, "...[") {
		t.Errorf("one byte too many gives %d bytes", len(got))
	}
}

func TestBlock(t *testing.T) {
	in := "+\tfoo\r\n-bär\n\x1b[2Jlast"
	want := "+\tfoo\\r\n-b\\u{e4}r\n\\x1b[2Jlast"
	if got := Block(in, 0, 0); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Block("a\nb\nc\nd\n", 2, 0); got != "a\nb\n[2 more lines]\n" {
		t.Errorf("got %q", got)
	}
	if got := Block("a\nb\nc", 2, 0); got != "a\nb\n[1 more lines]\n" {
		t.Errorf("got %q", got)
	}
	if got := Block(strings.Repeat("y", 500)+"\nz", 9, 100); !strings.HasSuffix(got, "bytes cut]\nz") || strings.IndexByte(got, '\n') > 100 {
		t.Errorf("got %q", got)
	}
}

func TestSizeAndDuration(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1234: "1.2 kB",
		9999: "10 kB", 212345: "212 kB", 999499: "999 kB", 999500: "1.0 MB", 3_400_000_000: "3.4 GB",
		math.MaxInt64: "9.2 EB", -1500: "-1.5 kB", math.MinInt64: "-9.2 EB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := Size(uint64(math.MaxUint64)); got != "18 EB" {
		t.Errorf("got %q", got)
	}
	for d, want := range map[time.Duration]string{0: "0.0s", -5: "0.0s", 400 * time.Millisecond: "0.4s",
		9949 * time.Millisecond: "9.9s", 9950 * time.Millisecond: "10s", 12 * time.Second: "12s",
		59600 * time.Millisecond: "1m00s", 192 * time.Second: "3m12s", 3599600 * time.Millisecond: "1h00m",
		125 * time.Minute: "2h05m", 76 * time.Hour: "3d04h", 23*time.Hour + 59*time.Minute + 40*time.Second: "1d00h",
		math.MaxInt64: "106751d23h"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%s) = %q, want %q", d, got, want)
		}
	}
}

// FuzzSanitiser holds the promise of the package for any input: only allowed bytes, bounded.
func FuzzSanitiser(f *testing.F) {
	f.Add("plain", 10, 10)
	f.Add("\x1b]0;x\x07\u202e\xff\n\t\r", 1, 48)
	f.Add(strings.Repeat("\u0430", 3000), 2, 60)
	f.Fuzz(func(t *testing.T, s string, lines, width int) {
		allowed := func(what, out, also string) {
			if i := strings.IndexFunc(out, func(r rune) bool {
				return (r < 0x20 || r > 0x7e) && !strings.ContainsRune(also, r)
			}); i >= 0 || !utf8.ValidString(out) {
				t.Fatalf("%s(%q) lets %q through", what, s, out[i:])
			}
		}
		line := Line(s, width)
		allowed("Line", line, "")
		if limit := width; len(line) > max(limit, MaxLine) && limit < MaxLine || limit >= 4 && len(line) > limit {
			t.Fatalf("Line has %d bytes, max %d", len(line), width)
		}
		shown := Show(s)
		allowed("Show", shown, "")
		if len(shown) > MaxShow {
			t.Fatalf("Show has %d bytes", len(shown))
		}
		lines, width = lines&0xff, width&0xfff
		block := Block(s, lines, width)
		allowed("Block", block, "\n\t")
		if lines > 0 && strings.Count(block, "\n") > lines+1 {
			t.Fatalf("Block has %d lines, max %d", strings.Count(block, "\n"), lines)
		}
		for l := range strings.SplitSeq(block, "\n") {
			if width > 0 && len(l) > max(width, minShow) {
				t.Fatalf("Block has a line of %d bytes, max %d", len(l), width)
			}
		}
	})
}
