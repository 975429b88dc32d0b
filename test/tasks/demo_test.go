package tasks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo: acceptance 1 and 7, the demonstration with the real Claude Code.
func TestDemo(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	cmd := tr.command(t.Context(), "", "demo")
	cmd.Env = append(cmd.Env, "TEROK_DEMO_AGENT=claude")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"claude-cli/", "refused_by_shield", "! executable: greet.sh", "8. You take exactly that commit", "of the task, ", "and with one byte of a copy changed: ", "terok run claude\n  terok review\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	left, err := os.ReadDir(filepath.Join(tr.dir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if config, _ := filepath.Glob(filepath.Join(tr.dir, "config/terok/*")); len(config) > 0 {
		t.Errorf("the demo touched the configuration: %v", config)
	}
}
