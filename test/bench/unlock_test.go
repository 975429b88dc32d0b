package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "terok"
	"terok/internal/state"
	"terok/internal/vault/credsd/credsdtest"
)

// vaultOf makes a vault in a tree of its own with a passphrase and a copy that systemd-creds keeps
// (the test's own, which costs nothing: a TPM's time is not ours).
func vaultOf(b *testing.B) (*core.App, []byte) {
	b.Helper()
	t := newTree(b)
	a := &core.App{Self: t.terok, Now: time.Now, Progress: io.Discard, Environ: func(string) string { return "" },
		CredsSocket: credsdtest.Start(b).Socket,
		Roots: state.Roots{Config: filepath.Join(t.dir, "config/terok"), Data: filepath.Join(t.dir, "data/terok"),
			Runtime: filepath.Join(t.dir, "run/terok")}}
	pass := []byte("correct horse battery staple")
	if err := a.VaultInit(b.Context(), core.VaultSetup{Slot: "passphrase", Passphrase: pass}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = a.VaultLock(b.Context()) })
	if _, err := a.VaultSeal(b.Context(), "systemd-creds", "auto", false); err != nil {
		b.Fatal(err)
	}
	return a, pass
}

// BenchmarkVaultUnlock: a locked vault is opened, the start of the keyholder included, by a copy
// that the machine keeps and by a passphrase, which is slow by design: a guess costs as much.
func BenchmarkVaultUnlock(b *testing.B) {
	a, pass := vaultOf(b)
	unlock := func(secret []byte) float64 {
		if err := a.VaultLock(b.Context()); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if err := a.VaultUnlock(b.Context(), secret); err != nil {
			b.Fatal(err)
		}
		return float64(time.Since(begin)) / float64(time.Millisecond)
	}
	compare(b, "vault unlock", "ms", "at most 50 ms by slot, 300 to 1000 ms by passphrase", 15,
		side{"by slot", func(int) float64 { return unlock(nil) }},
		side{"by passphrase", func(int) float64 { return unlock(pass) }})
}

// BenchmarkKeyholderMemory: resident memory of an open keyholder with 50 keys, pages of the program
// that it shares with every other terok process included, and its own alone.
func BenchmarkKeyholderMemory(b *testing.B) {
	a, pass := vaultOf(b)
	for i := range 50 {
		if _, err := a.AuthKey(b.Context(), core.AuthRequest{Name: "anthropic", Scope: fmt.Sprintf("project:p%d", i), NoVerify: true}, fmt.Appendf(nil, "sk-ant-api03-%040d", i)); err != nil {
			b.Fatal(err)
		}
	}
	var own float64
	compare(b, "keyholder memory", "MiB", "at most 20 MiB", 5,
		side{"resident", func(int) float64 {
			if err := a.VaultLock(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := a.VaultUnlock(b.Context(), pass); err != nil {
				b.Fatal(err)
			}
			st, err := a.VaultStatus(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			var all float64
			all, own = resident(b, st.PID)
			return all
		}},
		side{"its own", func(int) float64 { return own }})
}

// resident is VmRSS and RssAnon of a process, which anybody may read.
func resident(b *testing.B, pid int) (all, own float64) {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			all = kib / 1024
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kib); err == nil {
			own = kib / 1024
		}
	}
	if all == 0 || own == 0 {
		b.Fatalf("no resident memory in %q", data)
	}
	return all, own
}
