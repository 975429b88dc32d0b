package supervisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/vault/usage"
)

// TestAccountUnderConfinement: a confined worker writes its own book and its state, reads what the
// project's other tasks use, and cannot write into their books.
func TestAccountUnderConfinement(t *testing.T) {
	if dir := os.Getenv(confinedEnv + "_ACCOUNT"); dir != "" {
		keepAccount(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestAccountUnderConfinement$", "-test.v")
	cmd.Env = append(os.Environ(), confinedEnv+"_ACCOUNT="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the account is kept\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	all, _, err := usage.Sum(usage.Path(filepath.Join(dir, "usage"), "k3v9p"), "")
	if err != nil || all.Requests != 1 {
		t.Errorf("%+v %v", all, err)
	}
}

func keepAccount(t *testing.T, dir string) {
	task := filepath.Join(dir, "tasks", "k3v9p")
	f := accountFile(task, "100 tokens/project")
	f.Vault.Usage = filepath.Join(dir, "usage")
	for _, d := range []string{sandbox.PolicyPath(task), sandbox.LedgerPath(task)} {
		if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	other, err := usage.Open(f.Vault.Usage, "other", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Add(usage.Entry{Requests: 1, Tokens: usage.Tokens{Input: 90}}); err != nil {
		t.Fatal(err)
	}
	a, err := openAccount(f, audit.Discard)
	if err != nil {
		t.Fatal(err)
	}
	h := &handover{File: *f}
	if err := restrictFiles(h); err != nil {
		t.Fatal(err)
	}
	a.used("anthropic", "m", usage.Tokens{Input: 10}, false)
	if err := a.admit(t.Context(), "anthropic"); err == nil {
		t.Error("the other task's tokens are not seen")
	}
	if _, err := os.Stat(vaultStatePath(task)); err != nil { // the warning at 80 %
		t.Error(err)
	}
	if f, err := os.OpenFile(usage.Path(filepath.Join(dir, "usage"), "other"), os.O_WRONLY|os.O_APPEND, 0); err == nil {
		f.Close()
		t.Error("the other task's book can be written")
	}
	if !t.Failed() {
		println("the account is kept")
	}
}
