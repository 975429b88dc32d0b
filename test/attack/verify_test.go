package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"terok/internal/verify"
)

// also are targets that exist in this internet: where a wall is missing, somebody answers.
var also = []string{"--also", "a.test", "--also", "c.test", "--also", "203.0.113.10", "--also", "203.0.113.53", "--also", "2001:db8:1::10"}

// attack runs `terok verify` and returns its report and exit code.
func verifyRun(t testing.TB, args ...string) (verify.Report, int) {
	t.Helper()
	cmd := exec.Command(terok, append([]string{"verify", "--json"}, args...)...)
	cmd.Env = environ(t)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode()
	var v struct{ Data verify.Report }
	if jerr := json.Unmarshal(out.Bytes(), &v); jerr != nil {
		t.Fatalf("terok verify: %v\n%s%s", err, out.Bytes(), errs.Bytes())
	}
	return v.Data, code
}

// TestVerify: issue 3, part 9: every row of the table holds in a throw-away container, with its
// controls, within 20 seconds, and nothing reaches the internet.
func TestVerify(t *testing.T) {
	w, _ := internet(t)
	report, code := verifyRun(t, append(also, "--image", image)...)
	for _, row := range report.Rows {
		t.Run(row.Row, func(t *testing.T) {
			if !row.OK {
				t.Errorf("%s: %s", row.Guarantee, row.Proof)
			}
		})
		t.Logf("%-20s %5d ms  %s", row.Row, row.MS, row.Proof)
	}
	if len(report.Rows) != len(verify.Table()) {
		t.Errorf("%d rows", len(report.Rows))
	}
	if report.OK != (code == 0) || !report.OK && code != 1 {
		t.Errorf("ok is %v, exit code %d", report.OK, code)
	}
	t.Logf("%.1f s", report.Seconds)
	if t.Failed() { // a mutant: what it let through is no news
		return
	}
	if report.Seconds > 20 {
		t.Errorf("it took %.1f s", report.Seconds)
	}
	sawOnly(t, w)
	if left, err := exec.Command("podman", "ps", "-aq", "--filter", "name=terok-sandbox-verify-").Output(); err != nil || len(left) > 0 {
		t.Errorf("left behind: %s %v", left, err)
	}
}

// TestVerifyLive: the same in a container at work, which goes on, and keeps no rule of the run.
func TestVerifyLive(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	before := must(t, "shield", "rules", b.name)
	if _, err := command("verify", b.name); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("not asked: %v", err)
	}
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	report, code := verifyRun(t, b.name, "--yes", "--also", "c.test", "--also", "203.0.113.20")
	for _, row := range report.Rows {
		if !row.OK {
			t.Errorf("%s: %s", row.Row, row.Proof)
		}
	}
	if code != 0 || report.Target != b.name {
		t.Errorf("exit code %d, target %q", code, report.Target)
	}
	sawOnly(t, w)
	if after := must(t, "shield", "rules", b.name); after != before {
		t.Errorf("the rules were\n%s\nand are\n%s", before, after)
	}
	works(t, b, "https://a.test/", roots)
	must(t, "shield", "down", b.name, "--for", "1m", "--reason", "test")
	if _, err := command("verify", b.name, "--yes"); err == nil || !strings.Contains(err.Error(), "shield up") {
		t.Errorf("a lowered shield is attacked: %v", err)
	}
}

// environ is the environment of the program under test.
func environ(t testing.TB) []string {
	t.Helper()
	env, err := testEnviron()
	if err != nil {
		t.Fatal(fmt.Errorf("environment: %w", err))
	}
	return env
}
