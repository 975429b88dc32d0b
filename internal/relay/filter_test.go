package relay

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func filter(s string) string {
	var f Filter
	return string(f.Append(nil, []byte(s)))
}

func TestFilter(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"text", "hello, wörld ✓ 漢字\r\n\tx\b\a", "hello, wörld ✓ 漢字\r\n\tx\b\a"},
		{"tmux redraw", "\x1b[?25l\x1b[1;1H\x1b[31;1mred\x1b[0m\x1b[K\x1b[2;24r\x1b[?1049h\x1b(0lqk\x1b(B\x1b7\x1b8\x1b=\x1b[?2004h",
			"\x1b[?25l\x1b[1;1H\x1b[31;1mred\x1b[0m\x1b[K\x1b[2;24r\x1b[?1049h\x1b(0lqk\x1b(B\x1b7\x1b8\x1b=\x1b[?2004h"},
		{"true colour", "\x1b[38;2;1;2;3m\x1b[4:3mx", "\x1b[38;2;1;2;3m\x1b[4:3mx"},
		{"cursor style", "\x1b[2 q", "\x1b[2 q"},
		{"modes are split and judged one by one", "\x1b[?25;3;1006l", "\x1b[?25l\x1b[?1006l"},
		{"132 columns", "\x1b[?3h", ""},
		{"clipboard", "a\x1b]52;c;ZXZpbA==\ab", "ab"},
		{"clipboard, ST", "a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"},
		{"title", "a\x1b]0;x\a\x1b]2;y\x1b\\\x1bkz\x1b\\b", "ab"},
		{"hyperlink", "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\", "text"},
		{"working directory", "\x1b]7;file://h/x\a", ""},
		{"colour query", "\x1b]11;?\a", ""},
		{"DECRQSS and XTGETTCAP", "\x1bP$qm\x1b\\\x1bP+q544e\x1b\\x", "x"},
		{"tmux pass-through", "\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\x", "\ax"[1:]},
		{"APC PM SOS", "\x1b_x\x1b\\\x1b^y\x1b\\\x1bXz\x1b\\.", "."},
		{"device attributes", "\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1bZ", ""},
		{"status report", "\x1b[5n\x1b[6n\x1b[?6n", ""},
		{"mode query", "\x1b[?25$p", ""},
		{"version query", "\x1b[>q\x1b[>0q", ""},
		{"keyboard protocol", "\x1b[?u\x1b[>1u\x1b[=1u", ""},
		{"window operations", "\x1b[21t\x1b[8;1;1t\x1b[22;0t", ""},
		{"media copy", "\x1b[5i\x1b[?5i", ""},
		{"checksum", "\x1b[1;1;1;1;1;1*y", ""},
		{"answerback, 8 bit", "a\x05b\x1b G\x1b%@", "ab"},
		{"C1 in UTF-8", "a\u009b6nb\u009d52;c;x\u009c", "a6nb52;c;x"},
		{"C1 as a byte", "a\x9b6n", "a\ufffd6n"},
		{"sequence in a string", "\x1b]0;\x1b[6n\x1b[31mx", "\x1b[31mx"},
		{"cancelled string", "\x1b]0;abc\x18def", "def"},
		{"control inside a sequence", "\x1b[3\n1mx", "1mx"},
		{"cut rune", "\xe6\xbc", ""},
		{"broken rune", "\xe6\xbcx\xff", "\ufffdx\ufffd"},
		{"bidi", "a\u202eb\u2066c", "abc"},
		{"too long", "\x1b[" + strings.Repeat("1;", 400) + "mx", "x"},
		{"endless string ends", "\x1b]" + strings.Repeat("x", maxString) + "y", "y"},
		{"mouse tracking by T", "\x1b[1;2;3;4;5T\x1b[2T", "\x1b[2T"},
		{"soft reset and others", "\x1bc\x1b[!p", "\x1b[!p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := filter(c.in); got != c.want {
				t.Errorf("filter(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestReset(t *testing.T) {
	var f Filter
	f.Append(nil, []byte("\x1b[?1049h\x1b[?1000h\x1b[?1006h\x1b[?1006l"))
	got := string(f.Reset())
	for want, in := range map[string]bool{"\x1b[?1049l": true, "\x1b[?1000l": true, "\x1b[?1006l": false, "\x1b[?25h": true} {
		if strings.Contains(got, want) != in {
			t.Errorf("Reset() = %q: %q there: %v", got, want, !in)
		}
	}
	if again := filter(got); again != got {
		t.Errorf("Reset() = %q is not what the filter itself lets through: %q", got, again)
	}
}

// allowed is the same policy written a second time, as a grammar of whole outputs.
var allowed = regexp.MustCompile(`^(?:[\x07-\x0f\x20-\x7e\x{a0}-\x{10ffff}]` +
	`|\x1b[78=>DEHM]|\x1b[(-+][0AB]` +
	`|\x1b\[[0-9:;]*[@A-HIJKLMPSTXZ` + "`" + `a-bdefgmrsu]|\x1b\[4[hl]|\x1b\[\?[0-9]+[hl]|\x1b\[\?[0-9:;]*[JK]|\x1b\[>4[0-9:;]*m` +
	`|\x1b\[[0-9:;]* q|\x1b\[[0-9:;]*!p)*$`)

// FuzzFilter: nothing but allowed sequences comes out, the cuts between chunks do not matter,
// what came out passes again unchanged, and ordinary text is not touched.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"plain", "\x1b]52;c;eA==\a", "\x1b[?1049h\x1b[6n", "\x1bP$qm\x1b\\", "\u009b6n", "\x1b\x1b[\x18", "\xe6\xbc\xa2", "\x1b[?25;9999999999999999999l", "\x1b[1 2q", "\x1b[;>m"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var whole, parts Filter
		a := whole.Append(nil, in)
		if !allowed.Match(a) {
			t.Fatalf("%q became %q", in, a)
		}
		if len(whole.seq) > maxSequence {
			t.Fatalf("holds %d bytes", len(whole.seq))
		}
		n := 0
		if len(in) > 0 {
			n = int(uint(cut) % uint(len(in)))
		}
		b := parts.Append(parts.Append(nil, in[:n]), in[n:])
		if !bytes.Equal(a, b) {
			t.Fatalf("%q cut at %d: %q and %q", in, n, a, b)
		}
		if again := filter(string(a)); again != string(a) {
			t.Fatalf("%q passes as %q the second time", a, again)
		}
		if ordinary(in) && !bytes.Equal(a, in) {
			t.Fatalf("text %q became %q", in, a)
		}
	})
}

func ordinary(in []byte) bool {
	if !utf8.Valid(in) {
		return false
	}
	for _, r := range string(in) {
		if r < 0x20 && r != '\n' && r != '\r' && r != '\t' || r >= 0x7f && r <= 0x9f || bidiOrTag(r) {
			return false
		}
	}
	return true
}
