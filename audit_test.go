package terok

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
	sandboxfile "terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
)

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	a := &App{Roots: state.Roots{Config: filepath.Join(dir, "c"), Data: filepath.Join(dir, "d"), Runtime: filepath.Join(dir, "r")}}
	if r, err := a.AuditVerify(t.Context(), ""); err != nil || r == nil || len(r) != 0 {
		t.Fatalf("nothing yet: %v %v", r, err)
	}
	task := sandboxfile.LedgerPath(a.Roots.TaskDir("webshop", "k3v9p"))
	sandbox := sandboxfile.LedgerPath(a.Roots.SandboxDir("box"))
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

// A deleted task's ledger is kept, rotated parts and all, and its chain still holds.
func TestArchiveKeepsTheLedger(t *testing.T) {
	dir := t.TempDir()
	a := &App{Roots: state.Roots{Config: filepath.Join(dir, "c"), Data: filepath.Join(dir, "d"), Runtime: filepath.Join(dir, "r")}}
	tk, err := (task.Store{Roots: a.Roots, Now: time.Now}).Create("webshop", "", func(*task.Task) {})
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := audit.Open(sandboxfile.LedgerPath(tk.Dir(a.Roots)), audit.Identity{Project: "webshop", Task: tk.ID}, audit.Options{MaxSize: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		ledger.Record(audit.Event{Ev: "note", Reason: strings.Repeat("r", 200)})
		if err := ledger.Flush(t.Context()); err != nil { // each a write of its own, so that files rotate
			t.Fatal(err)
		}
	}
	if err := ledger.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := audit.Verify(sandboxfile.LedgerPath(tk.Dir(a.Roots)))
	if err != nil || len(before.Files) < 2 {
		t.Fatalf("%+v %v", before, err)
	}
	if err := a.archiveTask(tk); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(sandboxfile.LedgerPath(filepath.Join(a.Roots.ArchiveDir(), "webshop", "*")))
	if len(found) != 1 {
		t.Fatalf("%v", found)
	}
	after, err := audit.Verify(found[0])
	if err != nil || after.Break != nil || after.Lines != before.Lines || after.Head != before.Head {
		t.Errorf("%+v %v, before %+v", after, err, before)
	}
}
