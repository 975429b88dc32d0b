package leak_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"terok/internal/leak"
	"terok/internal/vault/front"
)

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

func secret(n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

// TestKinds: what is found, and what only looks like it.
func TestKinds(t *testing.T) {
	ghost := front.NewPhantom()
	for text, want := range map[string]string{
		"key = " + ghost + "\n":                                            "phantom token of terok",
		"sk-ant-oat01-" + ghost:                                            "phantom token of terok", // in a vendor's shape
		"http://x:terok-g-" + secret(64) + "@10.0.2.2/":                    "gate token of terok",
		"ANTHROPIC_API_KEY=sk-ant-api03-" + secret(80):                     "Anthropic key",
		`{"token":"ghp_` + secret(36) + `"}`:                               "GitHub token",
		"glpat-" + secret(20):                                              "GitLab token",
		"AKIAIOSFODNN7EXAMPLE":                                             "AWS access key",
		"ASIAIOSFODNN7EXAMPLE":                                             "AWS access key",
		"sk-svcacct-" + secret(60):                                         "OpenAI key",
		"sk-admin-" + secret(60):                                           "OpenAI key",
		"sk-" + secret(20) + "T3BlbkFJ" + secret(20):                       "OpenAI key",
		"class=\"sk-folding-cube-with-a-very-long-name-of-a-style-sheet\"": "",
		"gldt-" + secret(20):                                               "GitLab token",
		"glrt-" + secret(20):                                               "GitLab token",
		"glptt-" + secret(40):                                              "GitLab token",
		"glcbt-64_" + secret(20):                                           "GitLab token",
		"ghp_" + strings.Repeat("x", 36):                                   "",
		"ghp_short":                                                        "",
		"a_ghp_" + secret(36):                                              "", // the middle of a longer word
		ghost[:56] + "a" + "b"[:0]:                                         "",
		"terok-p- is how phantom tokens of terok begin":                    "",
		"see https://example.org/AKIA and AKIAAAAAAAAAAA":                  "",
	} {
		found := leak.Bytes([]byte(text))
		got := ""
		for _, f := range found {
			if f.Own || got == "" {
				got = f.Kind
			}
		}
		if got != want && !(want == "" && strings.HasPrefix(text, ghost[:56]) && ghost[56] == 'a') {
			t.Errorf("%q: found %q, want %q", text, got, want)
		}
		if out, _ := json.Marshal(found); want != "" && len(text) > 30 && bytes.Contains(out, []byte(text[len(text)-20:])) {
			t.Errorf("the finding repeats the value: %s", out)
		}
	}
}

// TestStream: a token is found once, wherever the reader cuts it.
func TestStream(t *testing.T) {
	token := "ghp_" + secret(36)
	for _, at := range []int{0, 1, 100, 64<<10 - 1, 64<<10 - 20, 64 << 10, 64<<10 + 255, 200_000} {
		text := strings.Repeat(" ", at) + token + strings.Repeat("\n", 70_000)
		for name, r := range map[string]*bytes.Reader{"whole": bytes.NewReader([]byte(text))} {
			found, err := leak.Scan(iotest.HalfReader(r))
			if err != nil || len(found) != 1 || found[0].Offset != int64(at) || found[0].Kind != "GitHub token" {
				t.Errorf("%s at %d: %+v, %v", name, at, found, err)
			}
		}
	}
	if _, err := leak.Scan(iotest.ErrReader(iotest.ErrTimeout)); err == nil {
		t.Error("the reader's error is lost")
	}
}

// FuzzScan: the stream and the whole agree, and nothing makes it fail.
func FuzzScan(f *testing.F) {
	f.Add([]byte("ghp_"+secret(36)), uint16(3))
	f.Add([]byte(front.NewPhantom()+front.NewPhantom()), uint16(64<<10-10))
	f.Fuzz(func(t *testing.T, data []byte, pad uint16) {
		text := append(bytes.Repeat([]byte{' '}, int(pad)), data...)
		found, err := leak.Scan(iotest.HalfReader(bytes.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		whole := leak.Bytes(text)
		if len(whole) < 100 && len(found) != len(whole) {
			t.Fatalf("stream found %d, whole %d", len(found), len(whole))
		}
		for _, x := range found {
			if x.Offset < 0 || x.Offset >= int64(len(text)) {
				t.Fatalf("offset %d of %d", x.Offset, len(text))
			}
		}
	})
}

// TestManyHideNone: keys of vendors, which an operator may let through, do not hide a token of terok.
func TestManyHideNone(t *testing.T) {
	text := strings.Repeat("ghp_"+secret(36)+"\n", 5000) + front.NewPhantom() + "\n"
	for name, found := range map[string][]leak.Finding{"bytes": leak.Bytes([]byte(text)), "stream": must(leak.Scan(strings.NewReader(text)))} {
		own := 0
		for _, f := range found {
			if f.Own && f.Phantom() != "" {
				own++
			}
		}
		if own != 1 || len(found) > 200 {
			t.Errorf("%s: %d of terok's own among %d", name, own, len(found))
		}
	}
}

func must(found []leak.Finding, err error) []leak.Finding {
	if err != nil {
		panic(err)
	}
	return found
}
