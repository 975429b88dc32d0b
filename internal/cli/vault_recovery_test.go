package cli

import (
	"os"
	"path/filepath"
	"testing"

	"terok"
	"terok/internal/problem"
)

// TestRecoveryFileFirst: the code is in the file, whole and private, before the vault hears of it:
// whoever is killed in between has no vault whose code nobody has. A file that is there stays.
func TestRecoveryFileFirst(t *testing.T) {
	o := recoveryOptions{out: filepath.Join(t.TempDir(), "code")}
	code := terok.NewRecoveryCode()
	cancel, err := o.keep(code)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(o.out)
	if data, err := os.ReadFile(o.out); err != nil || string(data) != string(code)+"\n" || st.Mode().Perm() != 0o600 {
		t.Errorf("%q %v %v", data, st.Mode(), err)
	}
	if _, err := o.keep(code); !problem.Is(err, "exists") {
		t.Error(err)
	}
	cancel()
	if _, err := os.Stat(o.out); err == nil {
		t.Error("what was not used stays")
	}
}
