package text

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestProse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{`plain \ text`, `plain \ text`},
		// People's languages.
		{"Größe ändern – fertig… „ja“", "Größe ändern – fertig… „ja“"},
		{"修复登录错误，测试通过。", "修复登录错误，测试通过。"},
		{"ログインを直す", "ログインを直す"},
		{"로그인 수정", "로그인 수정"},
		{"исправлен вход", "исправлен вход"},
		{"תיקון שגיאה", "תיקון שגיאה"},
		{"إصلاح خطأ", "إصلاح خطأ"},
		{"می\u200cخواهم", "می\u200cخواهم"}, // Persian needs the joiner
		{"क्\u200dष हिन्दी", "क्\u200dष हिन्दी"},
		{"แก้ไขข้อผิดพลาด", "แก้ไขข้อผิดพลาด"},
		{"tiếng Việt e\u0302\u0301", "tiếng Việt e\u0302\u0301"},
		{"∑ ≤ → ✓ € ½ ²", "∑ ≤ → ✓ € ½ ²"},
		{"done ✅ 🎉 ⚠\ufe0f 1\ufe0f\u20e3 👩🏽\u200d💻", "done ✅ 🎉 ⚠ 1\u20e3 👩🏽💻"},
		{"10\u00a0000\u202f€\u3000x", "10 000 € x"},
		// What deceives or disturbs.
		{"a\nb\tc\r", `a\nb\tc\r`},
		{"\x1b]52;c;aGk=\a", `\x1b]52;c;aGk=\x07`},
		{"\x7f\u009b31m", `\x7f\u{9b}31m`},
		{"admin\u202egnp.exe\u2066x\u061c", `admin\u{202e}gnp.exe\u{2066}x\u{61c}`},
		{"a\u2028b\u2029c", `a\u{2028}b\u{2029}c`},
		{"a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg", `a\u{200b}b\u{200c}c\u{200d}d\u{2060}e\u{feff}f\u{ad}g`},
		{"می\u200c\u200cخ", `می\u{200c}\u{200c}خ`},
		{"ا\u200c", `ا\u{200c}`},
		{"x\ufe0f✅\ufe0f\ufe0f\ufe0e", `x\u{fe0f}✅\u{fe0f}\u{fe0e}`},
		{"葛\U000e0100 a\U000e0041", `葛\u{e0100} a\u{e0041}`},
		{"🏴\U000e0067", `🏴\u{e0067}`},
		{"a\u3164b\uffa0c\u115fd\u2800e\u034ff", `a\u{3164}b\u{ffa0}c\u{115f}d\u{2800}e\u{34f}f`},
		{"\ue000\U000f0000\u0378\ufffe", `\u{e000}\u{f0000}\u{378}\u{fffe}`},
		{"\u0301a \u0301", `\u{301}a \u{301}`},
		{"z" + strings.Repeat("\u0335", 7), "z" + strings.Repeat("\u0335", 5) + `\u{335}\u{335}`},
		{"ㄱ" + strings.Repeat("\u1161", 6), "ㄱ" + strings.Repeat("\u1161", 5) + `\u{1161}`},
		{"\xffx\xc3\xe2\x80", `\xffx\xc3\xe2\x80`},
		{"\ufffd\ufffc", `\u{fffd}\u{fffc}`},
		{"✅\u200d\xff", `✅\u{200d}\xff`},
	} {
		if got := Prose(c.in, 0); got != c.want {
			t.Errorf("Prose(%+q) = %+q, want %+q", c.in, got, c.want)
		}
	}
	if got := Prose(strings.Repeat("é", 500), 100); len(got) > 100 || !strings.HasSuffix(got, "bytes cut]") || !utf8.ValidString(got) {
		t.Errorf("cut: %q", got)
	}
	if got := ProseBlock("ü\tx\r\n\x1b[2J修\n3", 2, 0); got != "ü\tx\\r\n\\x1b[2J修\n[1 more lines]\n" {
		t.Errorf("block: %q", got)
	}
}

func TestWidth(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é": 1, "e\u0301": 1, "修复": 4, "ｱ": 1, "Ａ": 2, "✅": 2, "한": 2, "می\u200cخ": 3, "ก็": 1, "\u1100\u1161": 2} {
		if got := Width(s); got != want {
			t.Errorf("Width(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""}, {"12345678", 8, "12345678"}, {"123456789", 8, "12345..."}, {"修复登录", 8, "修复登录"}, {"修复登录x", 8, "修复..."},
		{"e\u0301e\u0301e\u0301e\u0301e\u0301", 4, "e\u0301..."}, {"abcdef", 0, "a..."},
	} {
		if got := Fit(c.in, c.limit); got != c.want || Width(got) > max(c.limit, 4) {
			t.Errorf("Fit(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		in          string
		limit, hang int
		want        string
	}{
		{"", 10, 0, ""},
		{"one two three", 7, 0, "one two\nthree"},
		{"one two three", 8, 0, "one two\nthree"},
		{"- one two three", 9, 2, "- one two\n  three"},
		{"averyveryverylongword x", 8, 0, "averyveryverylongword\nx"},
		{"  averyveryverylongword", 8, 2, "  averyveryverylongword"},
		{"修复登录错误测试", 8, 0, "修复登录\n错误测试"},
		{"修复 ab 登录", 7, 0, "修复 ab\n登录"},
		{"ten e\u0301e\u0301e\u0301 x", 7, 0, "ten e\u0301e\u0301e\u0301\nx"},
		{"trailing   ", 20, 0, "trailing"},
		{"wide   gap", 5, 0, "wide\ngap"},
	} {
		if got := Wrap(c.in, c.limit, c.hang); got != c.want {
			t.Errorf("Wrap(%q, %d, %d) = %q, want %q", c.in, c.limit, c.hang, got, c.want)
		}
	}
}

// deceives reports what must never come out of Prose, told apart by other means than Prose has.
func deceives(r rune) bool {
	switch {
	case r == 0x200c, r == 0x200d: // judged by what is around it
		return false
	case r < 0x20, r >= 0x7f && r < 0xa1, r >= 0x2000 && r <= 0x200f, r >= 0x2028 && r <= 0x202f, r >= 0x205f && r <= 0x206f:
		return true
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0000 && r <= 0xe0fff, r >= 0xe000 && r <= 0xf8ff, r >= 0xf0000, r >= 0xfff0 && r <= 0xffff:
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Bidi_Control) || !unicode.IsGraphic(r)
}

func checkProse(t interface{ Fatalf(string, ...any) }, s string, max int) {
	out := Prose(s, max)
	if limit := atLeast(max); max > 0 && len(out) > limit {
		t.Fatalf("%d bytes of at most %d", len(out), limit)
	}
	if !utf8.ValidString(out) {
		t.Fatalf("not UTF-8: %q", out)
	}
	marks := 0
	for i, r := range out {
		if deceives(r) {
			t.Fatalf("%+q lets %+q through", s, r)
		}
		if cells(r) == 0 && r != 0x200c && r != 0x200d {
			if marks++; marks > maxMarks || i == 0 {
				t.Fatalf("%+q: %d marks in %+q", s, marks, out)
			}
		} else {
			marks = 0
		}
	}
	if again := Prose(out, 0); again != out && !strings.HasSuffix(out, " bytes cut]") {
		t.Fatalf("not stable: %+q becomes %+q", out, again)
	}
	for _, line := range strings.Split(Wrap(out, 20, 3), "\n") {
		if deceives := strings.TrimRight(line, " "); deceives != line {
			t.Fatalf("a line ends in a space: %q", line)
		}
	}
	if got, want := strings.Join(strings.Fields(Wrap(out, 20, 3)), ""), strings.Join(strings.Fields(out), ""); got != want {
		t.Fatalf("Wrap changes %q into %q", want, got)
	}
}

func TestProseProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune("ab1#* ✅👩修ا\u200c\u200d\ufe0f\u20e3\u0301\u202e\u1161\x1b\n")))).Draw(t, "s")
		checkProse(t, s, rapid.IntRange(0, 200).Draw(t, "max"))
	})
}

// FuzzProse holds the promises of Prose for any bytes.
func FuzzProse(f *testing.F) {
	f.Add("plain", 10)
	f.Add("\x1b]0;x\x07\u202e\xff\n\t\r", 48)
	f.Add("👩🏽\u200d💻 1\ufe0f\u20e3 می\u200cخواهم z\u0335\u0335\u0335\u0335\u0335\u0335", 0)
	f.Add("\u1161ㄱ\u1161\U000e0041\ue000\u3164", 60)
	f.Fuzz(func(t *testing.T, s string, max int) { checkProse(t, s, max&0xfff) })
}
