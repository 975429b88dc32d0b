package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/text"
)

// via is what the ledger calls this face.
const via = "cli"

func newShieldUpCmd(e *env) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "up TARGET", Short: "Raise the shield: only what the rules allow", Args: exactly(1, "a sandbox or a task"),
		Long: "Only what the rules allow is reachable. What the rules refuse is cut before the command\nreturns. " + targetHelp + `

It also ends a quarantine. Of a container that does not run the posture is written down and holds
from its next start.`,
		Example:           "  terok shield up webshop/k3v9p",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.setPosture(cmd, args[0], control.Up, 0, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	return cmd
}

func newShieldDownCmd(e *env) *cobra.Command {
	var reason, window string
	var all bool
	cmd := &cobra.Command{
		Use: "down TARGET", Aliases: []string{"bypass"}, Short: "Lower the shield for a while: every public address is open",
		Args: exactly(1, "a sandbox or a task"),
		Long: `Opens every public address and every name. Still refused: private ranges, the host itself,
cloud metadata, and what you denied. With --all private ranges and ports of the host open as well;
metadata, link-local and multicast addresses never do. Everything is still written into the ledger.

It ends by itself after an hour, or after --for: a number and s, m, h or d. The supervisor ends it
by its own clock, whether or not anybody looks. ` + targetHelp,
		Example:           "  terok shield down webshop/k3v9p --for 30m --reason 'find out which mirrors apt uses'\n  terok shield down web --all --for 5m --reason 'scanner in the lab'",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, lasts := control.Down, time.Duration(0)
			if all {
				p = control.DownAll
			}
			if cmd.Flags().Changed("for") {
				var err error
				if lasts, err = terok.Window(window); err != nil {
					return err
				}
			}
			if strings.TrimSpace(reason) == "" {
				var err error
				if reason, err = e.ask("Why does " + args[0] + " need an open network? "); err != nil {
					return err
				}
			}
			return e.setPosture(cmd, args[0], p, lasts, strings.TrimSpace(reason))
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why; needed where nobody can be asked")
	f.StringVar(&window, "for", "1h", "how long: a number and s, m, h or d")
	f.BoolVar(&all, "all", false, "private ranges and the host's loopback as well")
	f.BoolVar(&all, "disengage", false, "")
	_ = f.MarkHidden("disengage") // the old word
	return cmd
}

func newShieldQuarantineCmd(e *env) *cobra.Command {
	var reason string
	var all bool
	cmd := &cobra.Command{
		Use: "quarantine TARGET", Aliases: []string{"block"}, Short: "Cut a container off: nothing is reachable",
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return problem.New("usage", problem.Usage, "--all takes no target").WithHint("%s --help", cmd.CommandPath())
			}
			if all {
				return nil
			}
			return exactly(1, "a sandbox or a task")(cmd, args)
		},
		Long: `Nothing is reachable, no name is answered, and every open connection is cut before the command
returns; vault and gate refuse as well. The container runs on. It stays so, over restarts too,
until terok shield up. ` + targetHelp + `

--all takes every task and sandbox that runs. To stop everything for good: terok panic.`,
		Example:           "  terok shield quarantine webshop/k3v9p\n  terok shield quarantine --all --reason 'looks like exfiltration'",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !all {
				return e.setPosture(cmd, args[0], control.Quarantine, 0, reason)
			}
			views, err := e.app.QuarantineAll(cmd.Context(), reason, via)
			if views == nil {
				return err
			}
			if perr := e.print("shield.quarantine", views, func(w io.Writer) error {
				if len(views) == 0 {
					fmt.Fprintln(e.err, "nothing runs")
				}
				for _, v := range views {
					if _, err := fmt.Fprintln(w, postureLine(v, e.app.Now())); err != nil {
						return err
					}
				}
				return nil
			}); perr != nil {
				return perr
			}
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	cmd.Flags().BoolVar(&all, "all", false, "every task and sandbox that runs")
	return cmd
}

func (e *env) setPosture(cmd *cobra.Command, target string, p control.Posture, lasts time.Duration, reason string) error {
	v, err := e.app.SetPosture(cmd.Context(), target, p, lasts, reason, via)
	if err != nil {
		return err
	}
	var warnings []Warning
	if !v.Applied {
		warnings = append(warnings, Warning{"not_applied", "no supervisor runs: the posture is written down and holds from the next start"})
	}
	return e.print("shield."+cmd.Name(), v, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, postureLine(v, e.app.Now()))
		return err
	}, warnings...)
}

func postureLine(v terok.PostureView, now time.Time) string {
	line := fmt.Sprintf("%s: %s", text.Show(v.Target), v.Desired)
	if v.Until != nil {
		line += fmt.Sprintf(" until %s", v.Until.Local().Format("15:04:05"))
		if v.Until.Sub(now) > 20*time.Hour {
			line = fmt.Sprintf("%s: %s until %s", text.Show(v.Target), v.Desired, v.Until.Local().Format("2006-01-02 15:04"))
		}
	}
	if v.Applied && v.Posture != v.Desired {
		line += fmt.Sprintf(" is wanted, %s holds: %s", v.Posture, text.Show(v.Reason))
	}
	return line
}

// ask wants one line from a person.
func (e *env) ask(question string) (string, error) {
	need := problem.New("needs_answer", problem.Declined, "lowering the shield needs a reason").WithHint("--reason 'why'")
	if !e.interactive() {
		return "", need
	}
	fmt.Fprint(e.err, question)
	line, err := e.readLine()
	if err != nil {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", need
	}
	return line, nil
}

// banner says on stderr which of the tasks have their shield down.
func (e *env) banner(refs ...[2]string) {
	for _, l := range e.app.LoweredTasks(refs...) {
		line := "! " + text.Show(l.Line(e.app.Now()))
		if e.styled(e.err) {
			line = "\x1b[1;31m" + line + "\x1b[0m"
		}
		fmt.Fprintln(e.err, line)
	}
}

// loweredNote is what status says behind a lowered posture.
func loweredNote(st control.Status) string {
	note := "until it is raised"
	if st.Until != nil {
		note = time.Until(*st.Until).Round(time.Second).String() + " left"
	}
	return fmt.Sprintf(" (%s; %s)", note, text.Show(st.Reason))
}

// running are the tasks of a list that run.
func running(list []terok.TaskView) [][2]string {
	var refs [][2]string
	for _, t := range list {
		if t.Container != nil && t.Container.Running {
			refs = append(refs, [2]string{t.Project, t.ID})
		}
	}
	return refs
}
