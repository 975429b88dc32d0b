package terok

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/state"
)

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	a := &App{Roots: state.Roots{Config: filepath.Join(dir, "c"), Data: filepath.Join(dir, "d"), Runtime: filepath.Join(dir, "r")}}
	if r, err := a.AuditVerify(t.Context(), ""); err != nil || r == nil || len(r) != 0 {
		t.Fatalf("nothing yet: %v %v", r, err)
	}
	task := filepath.Join(a.Roots.TaskDir("webshop", "k3v9p"), "audit.jsonl")
	sandbox := filepath.Join(a.Roots.SandboxDir("box"), "audit.jsonl")
	for _, p := range []string{a.Roots.HostLedger(), task, sandbox} {
		for range 3 {
			if err := audit.AppendOne(p, audit.Event{Ev: "note", Reason: "r"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := a.AuditVerify(t.Context(), "")
	if err != nil || len(r) != 3 || r[1].Path != task || r[1].Lines != 3 {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := a.AuditVerify(t.Context(), filepath.Join(dir, "none")); problem.Of(err).Exit != problem.NotFound {
		t.Error(err)
	}
	data, _ := os.ReadFile(task)
	for _, p := range []string{task, sandbox} {
		if err := os.WriteFile(p, bytes.Replace(data, []byte(`"r"`), []byte(`"x"`), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err = a.AuditVerify(t.Context(), "")
	if p := problem.Of(err); len(r) != 3 || p.Code != "ledger_broken" || p.Exit != problem.Failed ||
		!strings.HasPrefix(p.Message, task+":2: ") || !strings.HasSuffix(p.Message, "(broken ledgers in all: 2)") {
		t.Errorf("%+v %v", r, err)
	}
}
