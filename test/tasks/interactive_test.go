package tasks

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// terminal is a person's terminal: a tmux session on the host with a socket of its own.
type terminal struct {
	tr     *tree
	socket string
}

func (tr *tree) terminal(dir string) terminal {
	tr.t.Helper()
	term := terminal{tr, tr.dir + "/tmux"}
	args := []string{"-f", "/dev/null", "new-session", "-d", "-s", "person", "-x", "120", "-y", "40", "-c", dir}
	for _, kv := range tr.environ() {
		if strings.HasPrefix(kv, "XDG_") {
			args = append(args, "-e", kv)
		}
	}
	term.tmux(append(args, "env", "PS1=HOST> ", "bash", "--norc", "--noprofile")...)
	tr.t.Cleanup(func() { _ = exec.Command("tmux", "-S", term.socket, "kill-server").Run() })
	term.shows(10*time.Second, "HOST>")
	return term
}

func (term terminal) tmux(args ...string) string {
	term.tr.t.Helper()
	cmd := exec.CommandContext(term.tr.t.Context(), "tmux", append([]string{"-S", term.socket}, args...)...)
	cmd.Env = append(term.tr.environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.tr.t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (term terminal) screen() string { return term.tmux("capture-pane", "-p", "-t", "person") }

func (term terminal) enter(line string) {
	term.tmux("send-keys", "-t", "person", "-l", line)
	term.tmux("send-keys", "-t", "person", "Enter")
}

// shows waits until the screen holds one of the texts.
func (term terminal) shows(limit time.Duration, texts ...string) {
	term.tr.t.Helper()
	start := time.Now()
	if !within(term.tr.t.Context(), limit, func() bool {
		screen := term.screen()
		for _, text := range texts {
			if strings.Contains(screen, text) {
				return true
			}
		}
		return false
	}) {
		term.tr.t.Fatalf("the screen does not show %q within %s:\n%s", texts, limit, term.screen())
	}
	term.tr.t.Logf("the screen shows %q: %s", texts[0], time.Since(start).Round(time.Millisecond))
}

// modes is the state of the terminal that a program can leave behind wrongly.
func (term terminal) modes() string {
	return term.tmux("display-message", "-p", "-t", "person", "cursor #{cursor_flag} alternate #{alternate_on} mouse #{mouse_any_flag} "+
		"keypad #{keypad_flag} #{keypad_cursor_flag} insert #{insert_flag} wrap #{wrap_flag} region #{scroll_region_upper} #{scroll_region_lower} origin #{origin_flag}")
}

func (term terminal) stty() string {
	tty := strings.TrimSpace(term.tmux("display-message", "-p", "-t", "person", "#{pane_tty}"))
	out, err := exec.CommandContext(term.tr.t.Context(), "stty", "-a", "-F", tty).CombinedOutput()
	if err != nil {
		term.tr.t.Fatalf("stty: %v %s", err, out)
	}
	return string(out)
}

// TestClaudeInteractive: acceptance 7, with a person at the terminal.
func TestClaudeInteractive(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(0, repair()...)
	repo := tr.repo("greet")
	term := tr.terminal(repo)
	modes, stty := term.modes(), term.stty()
	restored := func() {
		t.Helper()
		term.shows(10*time.Second, "HOST>")
		if got := term.modes(); got != modes {
			t.Errorf("the terminal was left with %s, not %s", got, modes)
		}
		// readline changes the line discipline while it reads: compare with itself.
		if !within(t.Context(), 5*time.Second, func() bool { return term.stty() == stty }) {
			t.Errorf("stty before:\n%s\nafter:\n%s", stty, term.stty())
		}
	}

	term.enter(terok + " run claude")
	term.shows(60*time.Second, "bypass permissions on")
	for _, dialog := range []string{"Choose the text style", "trust the files", "Do you want to use this API key", "Select login method", "WARNING: Claude Code running in Bypass"} {
		if screen := term.screen(); strings.Contains(screen, dialog) {
			t.Fatalf("a first-run dialog:\n%s", screen)
		}
	}
	term.enter("The greeting is wrong. Repair it.")
	tr.wait(60*time.Second, "the script was played", tr.model.Finished)
	term.shows(10*time.Second, "The work is done.")
	var queue []change
	tr.decode(&queue, repo, "review")
	if len(queue) != 1 || queue[0].Commits != 1 {
		for step := range repair() {
			r, _ := tr.model.Result(step)
			t.Logf("step %d gave %+v", step, r)
		}
		t.Fatalf("review: %+v\n%s", queue, term.screen())
	}

	term.tmux("send-keys", "-t", "person", "C-q")
	term.shows(5*time.Second, "d detach (it goes on)")
	term.tmux("send-keys", "-t", "person", "q")
	if !within(t.Context(), 5*time.Second, func() bool { return !strings.Contains(term.screen(), "d detach (it goes on)") }) {
		t.Errorf("the menu stays:\n%s", term.screen())
	}
	term.tmux("send-keys", "-t", "person", "C-q")
	term.shows(5*time.Second, "d detach (it goes on)")
	term.tmux("send-keys", "-t", "person", "d")
	term.shows(10*time.Second, "goes on; back to it:")
	restored()

	term.enter("clear; " + terok + " login " + queue[0].Task)
	term.shows(20*time.Second, "bypass permissions on")
	term.shows(5*time.Second, "The work is done.")
	term.tmux("send-keys", "-t", "person", "C-q")
	term.shows(5*time.Second, "d detach (it goes on)")
	term.tmux("send-keys", "-t", "person", "d")
	restored()
	if len(tr.model.WrongKeys()) > 0 {
		t.Errorf("wrong keys: %d", len(tr.model.WrongKeys()))
	}
	term.tmux("kill-server")
}
