package guest

import (
	"crypto/ed25519"
	"testing"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// TestSupervisorMustProveItself: whoever answers on the service address without the key gets
// nothing done, and a second hello starts nothing.
func TestSupervisorMustProveItself(t *testing.T) {
	seed := make([]byte, ed25519.SeedSize)
	private := ed25519.NewKeyFromSeed(seed)
	key := private.Public().(ed25519.PublicKey)
	nonce := make([]byte, 32)
	signed := append([]byte(control.HelloContext), nonce...)
	start := &sandbox.Start{}
	other := ed25519.NewKeyFromSeed(append([]byte{1}, seed[1:]...))
	for name, c := range map[string]struct {
		welcome control.Welcome
		ok      bool
	}{
		"ours":              {control.Welcome{Signature: ed25519.Sign(private, signed), Start: start}, true},
		"no proof":          {control.Welcome{Start: start}, false},
		"another's key":     {control.Welcome{Signature: ed25519.Sign(other, signed), Start: start}, false},
		"another nonce":     {control.Welcome{Signature: ed25519.Sign(private, append([]byte(control.HelloContext), 1)), Start: start}, false},
		"another context":   {control.Welcome{Signature: ed25519.Sign(private, nonce), Start: start}, false},
		"handed out before": {control.Welcome{Signature: ed25519.Sign(private, signed)}, false},
	} {
		got, err := proven(key, nonce, &c.welcome)
		if (err == nil) != c.ok || (got != nil) != c.ok {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "AAAA", "not base64!"} {
		if _, err := parseKey(bad); err == nil {
			t.Errorf("key %q accepted", bad)
		}
	}
}
