package terok

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"
	"time"

	"terok/internal/state"
	"terok/internal/vault/store"
)

// TestRotatePlanKeepsWhatIsAtHand: a sealed copy that cannot be read is lost in a rotation, the
// passphrase that was typed is not.
func TestRotatePlanKeepsWhatIsAtHand(t *testing.T) {
	dir := t.TempDir()
	a := &App{Roots: state.Roots{Config: dir + "/c", Data: dir + "/d", Runtime: dir + "/r"}, Now: time.Now, Progress: io.Discard,
		Environ: func(string) string { return "" }, CredsSocket: filepath.Join(dir, "none")}
	pass := []byte("correct horse battery staple")
	id, secret := store.NewSlotSecret()
	ways := []store.NewSlot{{Kind: store.SlotSystemdCreds, ID: id, Secret: secret, Sealed: []byte("blob")}, {Kind: store.SlotPassphrase, Secret: pass}}
	if err := store.Init(a.Roots.VaultDir(), ways, time.Now()); err != nil {
		t.Fatal(err)
	}
	plan, err := a.VaultRotatePlan(t.Context(), pass)
	if err != nil || len(plan.Secrets) != 1 || !bytes.Equal(plan.Secrets[0], pass) || len(plan.Lost) != 1 || plan.Lost[0].Kind != store.SlotSystemdCreds {
		t.Errorf("%+v %v", plan, err)
	}
}
