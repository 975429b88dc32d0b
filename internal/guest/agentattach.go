package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// runTmux joins the container's one tmux session, which every login shares; the first login
// starts the agent in it. Where the image has no tmux the agent runs without one.
func (w *wrapper) runTmux() (int, error) {
	self := []string{sandbox.GuestProgram, "guest", "agent", "--then-shell", w.name}
	w.setenv("TERM", w.usableTerm())
	tmux, err := w.program("tmux")
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok: no tmux in this image; the agent ends when you leave")
		return w.become(self)
	}
	argv := []string{tmux, "-u"}
	if conf := w.path(filepath.Base(sandbox.TmuxConf)); exists(conf) {
		argv = append(argv, "-f", conf)
	}
	argv = append(argv, "new-session", "-A", "-s", sandbox.TmuxSession)
	return w.become(append(argv, self...))
}

// usableTerm is TERM when the image has a description of it, else one that every image with
// ncurses has: tmux refuses to start under a terminal it does not know.
func (w *wrapper) usableTerm() string {
	for _, term := range []string{w.getenv("TERM"), "xterm-256color"} {
		if term == "" || filepath.Base(term) != term {
			continue
		}
		for _, dir := range []string{"/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"} {
			if exists(filepath.Join(dir, term[:1], term)) {
				return term
			}
		}
	}
	return "xterm"
}

// runThenShell runs the agent and, when it has ended, becomes a shell: the session, and with it
// what the agent printed last, stays.
func (w *wrapper) runThenShell(argv []string) (int, error) {
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Env: w.environ, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	// The terminal sends its signals to the whole group: they are for the agent.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, os.Interrupt, unix.SIGQUIT)
	err := cmd.Run()
	signal.Stop(ignored)
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		fmt.Fprintf(os.Stderr, "\nterok: %s ended with %s.", w.name, ee.ProcessState)
	} else if err != nil {
		fmt.Fprintf(os.Stderr, "\nterok: %s did not start: %v.", w.name, err)
	} else {
		fmt.Fprintf(os.Stderr, "\nterok: %s ended.", w.name)
	}
	fmt.Fprintf(os.Stderr, " This is a shell in the container; `%s` starts it again, `exit` ends the session.\n", w.name)
	return w.shell()
}

// shell becomes a shell of the image.
func (w *wrapper) shell() (int, error) {
	for _, shell := range []string{"bash", "sh"} {
		if path, err := w.program(shell); err == nil {
			return w.become([]string{path})
		}
	}
	return agentNotFound, errors.New("this image has no shell")
}
