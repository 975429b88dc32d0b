package guest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"terok/internal/control"
)

// TestRenewal: a supervisor that proves itself gives the guest a new token, which it writes before it says
// that it has it; an answer with a wrong signature writes nothing.
func TestRenewal(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	file := filepath.Join(t.TempDir(), "gate-token")
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := func() string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	brought := make(chan string, 1)
	visits := 0
	s := answering(t, func(_ string, request []byte) []byte {
		var in control.Stay
		if err := json.Unmarshal(request, &in); err != nil || string(in.Proof) != "proof" {
			t.Errorf("%s %v", request, err)
			return nil
		}
		w := control.Welcome{Signature: ed25519.Sign(private, append([]byte(control.HelloContext), in.Nonce...))}
		renewal := control.Renewal{GateToken: "second", Sealed: []byte("box two")}
		switch visits++; visits {
		case 1:
			w.Signature[0] ^= 1
			renewal.GateToken = "a liar's"
		case 2:
			if got := token(); got != "first" {
				t.Errorf("after the liar: %q", got)
			}
			renewal.GateToken = "" // none
		case 3:
			if got := token(); got != "first" || string(in.Sealed) != "box" {
				t.Errorf("after an empty one: %q, %q", got, in.Sealed)
			}
		case 4:
			brought <- token() + ", " + string(in.Sealed)
			return nil
		}
		answer, _ := json.Marshal(w)
		more, _ := json.Marshal(renewal)
		return append(append(answer, '\n'), more...)
	})
	done := make(chan struct{})
	go func() {
		s.keep(ctx, private.Public().(ed25519.PublicKey), &stayer{sealed: []byte("box"), proof: []byte("proof"), tokenFile: file})
		close(done)
	}()
	if got := <-brought; got != "second, box two" {
		t.Errorf("%q", got)
	}
	cancel()
	<-done
}
