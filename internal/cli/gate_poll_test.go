package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/problem"
	"terok/internal/state"
)

// Spec/gate.md §20: 60 (panic lock, auto-sync). A look that finds news syncs the configured branches
// and no others, takes nothing away, and does nothing after a panic; settings that mean nothing are
// refused with their line.
func TestPollAndSync(t *testing.T) {
	w := gatetest.New(t)
	for key, value := range map[string]string{"HOME": w.Dir, "XDG_CONFIG_HOME": w.Dir + "/xc", "XDG_DATA_HOME": w.Dir + "/xd", "XDG_RUNTIME_DIR": w.Dir + "/xr"} {
		t.Setenv(key, value)
	}
	roots := state.Roots{Config: w.Dir + "/xc/terok", Data: w.Dir + "/xd/terok", Runtime: w.Dir + "/xr/terok"}
	run := func(wantExit int, args ...string) string {
		t.Helper()
		var out, errw bytes.Buffer
		if code := Main(t.Context(), args, strings.NewReader(""), &out, &errw); code != wantExit {
			t.Fatalf("terok %s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, wantExit, out.String(), errw.String())
		}
		return out.String() + errw.String()
	}
	w.Git(w.Upstream, "branch", "old")
	run(problem.OK, "project", "create", "webshop", "--upstream", w.Upstream)
	run(problem.OK, "project", "gate-sync", "webshop")
	base := roots.GateBase("webshop")
	tip := func(branch string) string {
		out, err := w.TryGit(base, "rev-parse", "-q", "--verify", "refs/heads/"+branch)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(out)
	}
	file := filepath.Join(roots.Config, "projects", "webshop", "project.yml")
	yml, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	settings := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, append(bytes.Clone(yml), "\ngatekeeping:\n"+text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	news := func(message string) string {
		t.Helper()
		w.Write("new", message)
		return w.Commit(w.Upstream, message)
	}

	first := tip("main")
	second := news("second")
	if out := run(problem.OK, "gate", "poll", "webshop"); !strings.Contains(out, "1 branch moved") || tip("main") != first {
		t.Errorf("without auto_sync: %s %s", out, tip("main"))
	}
	if out := run(problem.OK, "gate", "poll", "webshop"); !strings.Contains(out, "not due") {
		t.Errorf("at once again: %s", out)
	}
	settings("  auto_sync: {enabled: true, branches: [dev]}\n")
	if run(problem.OK, "gate", "poll", "webshop", "--force"); tip("main") != first {
		t.Error("a branch was synced that is not configured")
	}
	settings("  auto_sync: {enabled: true}\n")
	w.Git(w.Upstream, "branch", "dev")
	w.Git(w.Upstream, "branch", "-D", "old")
	if out := run(problem.OK, "gate", "poll", "webshop", "--force"); tip("main") != second || tip("dev") != "" || tip("old") == "" {
		t.Errorf("%s: main %s, dev %q, old %q", out, tip("main"), tip("dev"), tip("old"))
	}
	// Rewritten upstream: that waits for a person, also when it would lose nothing.
	w.Git(w.Upstream, "commit", "-q", "--amend", "-m", "another second")
	if out := run(problem.OK, "gate", "poll", "webshop", "--force"); tip("main") != second || !strings.Contains(out, "1 wait for a decision") {
		t.Errorf("rewritten: %s", out)
	}
	if err := os.WriteFile(roots.PanicLock(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(problem.Conflict, "gate", "poll", "webshop", "--force"); !strings.Contains(out, "terok panic --clear") {
		t.Error(out)
	}
	if err := os.Remove(roots.PanicLock()); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"  upstream_polling: {interval_minutes: 0}\n":                "interval_minutes",
		"  auto_sync: {enabled: true, branches: [\"-x\"]}\n":         "branches[0]",
		"  review_lag: {enabled: maybe}\n":                           "review_lag",
		"  review_lag: {surface: true}\n":                            "surface",
		"  auto_sync: {enabled: false}\ngate: {fsck_skip: [4f2c]}\n": "fsck_skip[0]",
	} {
		settings(text)
		if out := run(problem.Usage, "gate", "poll", "webshop", "--force"); !strings.Contains(out, want) || !strings.Contains(out, "project.yml:") {
			t.Errorf("%s: %s", text, out)
		}
	}
}
