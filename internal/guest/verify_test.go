package guest

import (
	"strings"
	"testing"
)

func TestKeyShapes(t *testing.T) {
	for text, want := range map[string]bool{
		"ANTHROPIC_API_KEY=sk-ant-api03-" + strings.Repeat("a", 40): true,
		"x\nghp_" + strings.Repeat("A1", 18):                        true,
		"-----BEGIN OPENSSH PRIVATE KEY-----":                       true,
		"set sk-ant-... here":                                       false,
		"terok-p-abcdefghij-" + strings.Repeat("a", 38):             false,
		"task-ant-" + strings.Repeat("a", 40):                       false,
		"desk-ant-" + strings.Repeat("a", 40):                       false,
		"":                                                          false,
	} {
		found := false
		for _, shape := range keyShapes {
			found = found || keyIn([]byte(text), shape) >= 0
		}
		if found != want {
			t.Errorf("%q: %v", text, found)
		}
	}
}

// FuzzAnswer: answers come from whoever listens.
func FuzzAnswer(f *testing.F) {
	q := query(7, "host.terok.internal", typeA)
	good := append([]byte{}, q...)
	good[2], good[3], good[7] = 0x81, 0x80, 1
	good = append(good, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 1)
	if a, err := parseAnswer(good, len(q)); err != nil || a.addr.String() != "198.18.0.1" || a.rcode != 0 || a.answers != 1 {
		f.Fatal(a, err)
	}
	f.Add(good, len(q))
	f.Add(good[:len(good)-3], len(q))
	f.Add([]byte("\x00\x07\x81\x80\x00\x01\xff\xff\x00\x00\x00\x00\xff\xff\xff"), 12)
	f.Fuzz(func(t *testing.T, b []byte, question int) {
		if question < 0 || question > 300 {
			return
		}
		if a, err := parseAnswer(b, question); err == nil && a.answers > 65535 {
			t.Error(a)
		}
	})
}
