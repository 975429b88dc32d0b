package idn

import (
	"strings"
	"testing"
)

func TestRule(t *testing.T) {
	for in, want := range map[string]string{
		"example.org:443":                   "example.org:443",
		"bücher.example":                    "xn--bcher-kva.example",
		"+*.BÜCHER.example:443 raw":         "+*.xn--bcher-kva.example:443 raw",
		"-.münchen.example/udp":             "-.xn--mnchen-3ya.example/udp",
		`例え.テスト:8443 %reason="für Ä"`:       `xn--r8jz45g.xn--zckzah:8443 %reason="für Ä"`,
		`example.org %reason="für den Bau"`: `example.org %reason="für den Bau"`,
		"faß.example":                       "xn--fa-hia.example",
	} {
		got, err := Rule(in)
		if err != nil || got != want {
			t.Errorf("%q became %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"exa\u200bmple.org\u202e", "bücher.example：80", "ｈｏｓｔ／８.ü.example", "a\u2024b.ü_.example", "\u05d0a.example", "\u00ad evil.example", "b\xfccher.example"} {
		if got, err := Rule(bad); err == nil {
			t.Errorf("%+q became %q", bad, got)
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{"bücher.example:443", "+*.ü.org raw %reason=\"ä\"", "-f/x", "１．２．３．４", "。", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Rule(s)
		if err != nil {
			return
		}
		for _, c := range []string{":", "/", " ", "\t", "%", "\"", "+", "*"} {
			if strings.Count(got, c) != strings.Count(s, c) {
				t.Fatalf("%q became %q", s, got)
			}
		}
		if again, err := Rule(got); err != nil || again != got {
			t.Fatalf("%q → %q → %q, %v", s, got, again, err)
		}
	})
}
