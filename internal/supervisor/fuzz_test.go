package supervisor

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/control"
	"terok/internal/sandbox"
)

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"id":"` + strings.Repeat("a", 64) + `","pid":4,"bundle":"/b","annotations":{"io.terok.sandbox":"/x"}}`))
	f.Add([]byte(`{"id":"../..","pid":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(strings.NewReader(string(data)))
		if err == nil && (len(s.ID) != 64 || s.PID <= 1 || !filepath.IsAbs(s.Bundle)) {
			t.Errorf("accepted %+v", s)
		}
	})
}

func FuzzSpec(f *testing.F) {
	file := &sandbox.File{Bounding: []string{"CAP_CHOWN"}, SeccompSHA256: (&sandbox.Seccomp{DefaultAction: "SCMP_ACT_ERRNO"}).Digest()}
	f.Add([]byte(`{"process":{"args":["` + sandbox.GuestProgram + `","guest","init"],"capabilities":{"bounding":["CAP_CHOWN"]}},` +
		`"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"},"namespaces":[{"type":"network"},{"type":"user","path":"/x"}]}}`))
	f.Add([]byte(`{"linux":{"seccomp":null,"namespaces":[{}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSpec(data)
		if err != nil || s.check(file) != nil {
			return
		}
		if s.Process.Args[0] != sandbox.GuestProgram {
			t.Errorf("accepted %q", s.Process.Args)
		}
	})
}

func FuzzProgramMapping(f *testing.F) {
	f.Add("00400000-00c9e000 r-xp 00000000 fe:00 1234 /bin/terok")
	f.Add("00400000-00c9e000 rw-p 00000000 fe:00 1234 /bin/terok")
	f.Fuzz(func(t *testing.T, line string) {
		if start, end, ok := programMapping([]byte(line), "/bin/terok"); ok && uintptr(end) <= uintptr(start) {
			t.Errorf("%q", line)
		}
	})
}

func FuzzGuestRequest(f *testing.F) {
	f.Add([]byte(`{"nonce":"AAAA"}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{&control.Hello{}, &control.Ready{}, &control.Stay{}} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(data)))
			if ok := readStrict(w, r, v); ok && len(data) > maxGuestRequest {
				t.Error("a request over the bound is taken")
			}
		}
	})
}
