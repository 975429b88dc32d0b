package tasks

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"time"
)

// TestVerdictForTheProject: a person says "p" to what one task asks for, and the other running task
// of the project has the rule in force before the answer is printed, without a reload; undo takes
// it from both. spec/shield.md §8.3, "allow for project".
func TestVerdictForTheProject(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	const knock = `trap 'exit 0' TERM; while :; do (: >/dev/tcp/shared.test/443) 2>/dev/null; sleep 1 & wait $!; done`
	tr.run(0, repo, "task", "run", "greet", "-d", "-q", "exec bash -c '"+strings.ReplaceAll(knock, "'", `'\''`)+"'")
	tr.run(0, repo, "task", "run", "greet", "-d", "-q", "sleep infinity & wait")
	var asks, other string
	tr.wait(time.Minute, "one of them asks", func() bool {
		for _, v := range tr.tasks() {
			var e struct{ Verdict string }
			ref := "greet/" + v.ID
			if out, _, err := tr.try(0, "q\n", "", "clearance", "--line", "--task", ref); err == nil && strings.Contains(out, "shared.test:443") {
				asks = ref
			} else {
				tr.decode(&e, "", "shield", "explain", ref, "shared.test:443")
				other = ref
			}
		}
		return asks != ""
	})
	verdict := func() string {
		var e struct{ Verdict string }
		tr.decode(&e, "", "shield", "explain", other, "shared.test:443")
		return e.Verdict
	}
	if v := verdict(); v == "allow" {
		t.Fatalf("%s is open in %s before anybody said so", "shared.test", other)
	}
	cmd := tr.command(t.Context(), "", "clearance", "--line", "--task", asks)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	say := func(line, answer string) {
		t.Helper()
		if line != "" {
			if _, err := io.WriteString(in, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		var all []string
		for lines.Scan() {
			if all = append(all, lines.Text()); strings.Contains(lines.Text(), answer) {
				return
			}
		}
		t.Fatalf("%q was never answered with %q:\n%s", line, answer, strings.Join(all, "\n"))
	}
	say("", "[1]")
	say("p 1 yes", "allowed for the project")
	if !strings.Contains(lines.Text(), "one other running task follows") {
		t.Errorf("people read %q", lines.Text())
	}
	if v := verdict(); v != "allow" {
		t.Errorf("the other task says %q after the verdict", v)
	}
	say("u", "taken back")
	if v := verdict(); v == "allow" {
		t.Error("taken back, and the other task still allows it")
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
