package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// answering is a supervisor's place at which somebody answers everything with body.
func answering(t testing.TB, body func(path string, request []byte) []byte) *supervisor {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body(r.URL.Path, request))
	}))
	t.Cleanup(srv.Close)
	s := newSupervisor()
	s.base = srv.URL
	return s
}

// FuzzWelcome: whatever answers on the service address in place of a supervisor starts nothing.
func FuzzWelcome(f *testing.F) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	nonce := make([]byte, 32)
	for _, w := range []control.Welcome{
		{Signature: ed25519.Sign(private, append([]byte(control.HelloContext), nonce...)), Start: &sandbox.Start{}},
		{Signature: ed25519.Sign(private, nonce), Start: &sandbox.Start{Env: map[string]string{"A": "b"}}},
		{Signature: ed25519.Sign(other, append([]byte(control.HelloContext), nonce...)), Start: &sandbox.Start{}, Sealed: []byte("x")},
	} {
		data, err := json.Marshal(w)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"signature":null,"start":{}}`))
	f.Add([]byte(`{"start":{"files":[{"path":"/etc/passwd","mode":438}]}}`))
	key := private.Public().(ed25519.PublicKey)
	var answer []byte
	s := answering(f, func(string, []byte) []byte { return answer })
	f.Fuzz(func(t *testing.T, data []byte) {
		answer = data
		var w control.Welcome
		if err := s.call(t.Context(), http.MethodPost, "/v1/hello", control.Hello{Nonce: nonce}, &w); err != nil {
			return
		}
		got, err := proven(key, nonce, &w)
		if err == nil && (got.Start == nil || !ed25519.Verify(key, append([]byte(control.HelloContext), nonce...), got.Signature)) {
			t.Errorf("%q is taken for a supervisor", data)
		}
		// The same as an answer to one who stays: its nonce is new, so nothing here was signed.
		if _, err := s.stay(t.Context(), key, &stayer{}); err == nil {
			t.Errorf("%q is taken for a supervisor to stay with", data)
		}
	})
}

// FuzzCredential: git asks on behalf of whatever repository it works in; only the gate's own
// address gets an answer, and never more than the token's two lines.
func FuzzCredential(f *testing.F) {
	for _, in := range []string{
		"protocol=http\nhost=" + gateHost + "\n\n",
		"protocol=https\nhost=" + gateHost + "\n",
		"protocol=http\nhost=evil.example\nhost=" + gateHost + "\n",
		"protocol=http\nhost=" + gateHost + "\nhost=evil.example\n",
		"protocol=http\nhost=" + gateHost + ".evil.example\npath=../../x\n",
		"host\n=\nprotocol=",
		strings.Repeat("a=b\n", 40000),
		"protocol=https\nhost=git.example.test\n\n",
	} {
		f.Add("get", in)
	}
	f.Add("store", "protocol=http\nhost="+gateHost+"\n")
	f.Fuzz(func(t *testing.T, verb, in string) {
		var out bytes.Buffer
		if code := answerCredential(verb, strings.NewReader(in), &out, func(path string) ([]byte, error) {
			if path == tokenFile {
				return []byte("token\n"), nil
			}
			return []byte("protocol=https\nhost=git.example.test\nusername=u\npassword=phantom\n"), nil
		}); code != 0 {
			t.Errorf("exit code %d", code)
		}
		switch {
		case out.Len() == 0:
		case out.String() == "username=u\npassword=phantom\n" && verb == "get" && strings.Contains(in, "host=git.example.test") && strings.Contains(in, "protocol=https"):
		case out.String() != "username=terok\npassword=token\n":
			t.Errorf("%q gives %q", in, out.String())
		case verb != "get" || !strings.Contains(in, "host="+gateHost) || !strings.Contains(in, "protocol=http"):
			t.Errorf("%s %q gets the token", verb, in)
		}
	})
}

// TestGuestComesBack: each time the supervisor goes away the guest looks for it again and brings
// what it keeps, to one that proves itself.
func TestGuestComesBack(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	ctx, cancel := context.WithCancel(t.Context())
	brought := make(chan string, 1)
	var visits atomic.Int32
	s := answering(t, func(path string, request []byte) []byte {
		var in control.Stay
		if path != "/v1/stay" || json.Unmarshal(request, &in) != nil {
			return nil
		}
		if visits.Add(1) == 3 {
			brought <- string(in.Sealed)
		}
		data, _ := json.Marshal(control.Welcome{Signature: ed25519.Sign(private, append([]byte(control.HelloContext), in.Nonce...))})
		return data // and the connection ends
	})
	done := make(chan struct{})
	go func() {
		s.keep(ctx, private.Public().(ed25519.PublicKey), &stayer{sealed: []byte("box")})
		close(done)
	}()
	if got := <-brought; got != "box" {
		t.Errorf("it brought %q", got)
	}
	cancel()
	<-done
}
