package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
)

func newTaskCmd(e *env) *cobra.Command {
	return group("task", "Tasks: one agent, one container, one branch",
		newTaskRunCmd(e), newTaskListCmd(e), newTaskStatusCmd(e), newTaskLogsCmd(e), newTaskStopCmd(e),
		newTaskRestartCmd(e), newTaskResetCmd(e), newTaskExportCmd(e), newTaskDeleteCmd(e),
		newTaskUsageCmd(e), newTaskAuditCmd(e), newTaskRevokeCmd(e))
}

// pick finds the task meant by "T", "P/T" or "P T". Without a project the current directory gives
// it; a prefix that is unique across projects needs none.
func (e *env) pick(args []string) (*terok.Task, error) {
	project, word := "", args[0]
	if len(args) == 2 {
		project, word = args[0], args[1]
	}
	if project == "" && !strings.Contains(word, "/") {
		if p, err := e.app.ProjectHere("."); err == nil && p != "" {
			if t, err := e.app.FindTask(p, word); err == nil {
				return t, nil
			}
		}
	}
	return e.app.FindTask(project, word)
}

// oneTask demands "[P/]T" or "P T".
func oneTask(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return problem.New("usage", problem.Usage, "%s needs a task", cmd.CommandPath()).WithHint("terok task list")
	}
	if len(args) > 2 {
		return problem.New("usage", problem.Usage, "unexpected argument %q", args[2]).WithHint("%s --help", cmd.CommandPath())
	}
	return nil
}

func (e *env) completeTasks(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || e.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return e.app.TaskWords(), cobra.ShellCompDirectiveNoFileComp
}

func newTaskListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "list [PROJECT]",
		Short:   "List tasks",
		Example: "  terok task list\n  terok task list webshop --json",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := e.app.ListTasks(cmd.Context(), args...)
			if list == nil {
				return err
			}
			if perr := e.print("task.list", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "no tasks yet; start one with: terok run claude")
					return nil
				}
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "TASK\tNAME\tSTATUS\tAGENT\tAGE")
				for _, t := range list {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", t.Ref(), t.Name, t.Status, deref(t.Agent), age(t.CreatedAt))
				}
				return tw.Flush()
			}); perr != nil {
				return perr
			}
			e.banner(running(list)...)
			return err // podman could not be asked: listed as unknown, exit 10
		},
	}
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func newTaskStatusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "status [PROJECT] TASK",
		Short:             "Show one task: container, network, exit",
		Example:           "  terok task status k3v9p\n  terok task status webshop/k3 --json",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			v, err := e.app.TaskStatus(cmd.Context(), t)
			if v == nil {
				return err
			}
			e.banner([2]string{v.Project, v.ID})
			if perr := e.print("task.status", v, func(w io.Writer) error { return printTask(w, v) }); perr != nil {
				return perr
			}
			return err
		},
	}
}

func printTask(w io.Writer, v *terok.TaskView) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(k, val string) {
		if val != "" {
			fmt.Fprintf(tw, "%s\t%s\n", k, val)
		}
	}
	row("task", v.Ref()+"  "+v.Name)
	row("status", v.Status)
	row("because", deref(v.StatusReason))
	row("agent", deref(v.Agent)+" ("+v.Mode+")")
	row("branch", deref(v.Branch))
	row("network", deref(v.Egress))
	if v.Container != nil {
		row("container", v.Container.Name)
	}
	if v.Exit != nil {
		row("exit code", fmt.Sprint(v.Exit.Code))
	}
	if s := v.Supervisor; s != nil {
		row("supervisor", fmt.Sprintf("parent %d, worker %d, %d restarts", s.Parent.PID, s.Worker.PID, s.Restarts))
		row("vault", s.Vault)
		c := s.Counters
		row("connections", fmt.Sprintf("%d allowed, %d refused, %d open", c.Allowed, c.Denied, c.Open))
		row("bytes", fmt.Sprintf("%d out, %d in", c.BytesUp, c.BytesDown))
	}
	for i, n := range v.Traffic[:min(len(v.Traffic), 5)] {
		row([]string{"traffic", " "}[min(i, 1)], trafficLine(n))
	}
	row("workspace", v.Workspace)
	return tw.Flush()
}

func newTaskLogsCmd(e *env) *cobra.Command {
	var follow, raw bool
	c := &cobra.Command{
		Use:               "logs [PROJECT] TASK",
		Short:             "Show what the agent did and said",
		Example:           "  terok task logs k3v9p -f\n  terok task logs k3v9p --json\n  terok task logs k3v9p --raw > agent.jsonl",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if e.json {
				return e.logLines(cmd.Context(), t, follow)
			}
			if raw {
				return e.app.TaskLogs(cmd.Context(), t, follow, e.out)
			}
			_, err = e.app.FollowTask(cmd.Context(), t, follow, e.out, e.styled(e.out))
			return err
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "until the task ends")
	c.Flags().BoolVar(&raw, "raw", false, "the container's bytes as they are: do not send them to a terminal")
	return c
}

// logLines prints the container's lines as JSON Lines: a hello, then one object each.
func (e *env) logLines(ctx context.Context, t *terok.Task, follow bool) error {
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]string{"type": "hello", "schema": "terok.task.logs/1"}); err != nil {
		return err
	}
	w := &lineWriter{emit: func(line []byte) error {
		return enc.Encode(map[string]string{"type": "line", "text": string(line)})
	}}
	if err := e.app.TaskLogs(ctx, t, follow, w); err != nil {
		return err
	}
	return w.end()
}

// lineWriter cuts a stream into lines, a line of more than 1 MiB into pieces.
type lineWriter struct {
	rest []byte
	emit func([]byte) error
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		skip := 1
		if i < 0 && len(w.rest) > 1<<20 {
			i, skip = 1<<20, 0
		}
		if i < 0 {
			return len(p), nil
		}
		if err := w.emit(w.rest[:i]); err != nil {
			return 0, err
		}
		w.rest = w.rest[i+skip:]
	}
}

// end emits a last line without an end.
func (w *lineWriter) end() error {
	if len(w.rest) == 0 {
		return nil
	}
	return w.emit(w.rest)
}

func newTaskStopCmd(e *env) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:               "stop [PROJECT] TASK",
		Short:             "Stop a running task; its work stays",
		Example:           "  terok task stop k3v9p",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.onTask(cmd.Context(), args, "task.stop", "stopped", func(ctx context.Context, t *terok.Task) error {
				return e.app.StopTask(ctx, t, timeout)
			})
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long the agent may take to end")
	return c
}

func newTaskRestartCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "restart [PROJECT] TASK",
		Short:             "Start a task's container again, with a new supervisor",
		Example:           "  terok task restart k3v9p",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.onTask(cmd.Context(), args, "task.restart", "restarted", e.app.RestartTask)
		},
	}
}

// onTask runs an operation and prints the resulting task.
func (e *env) onTask(ctx context.Context, args []string, schema, done string, op func(context.Context, *terok.Task) error) error {
	t, err := e.pick(args)
	if err != nil {
		return err
	}
	if err := op(ctx, t); err != nil {
		return err
	}
	v, err := e.app.TaskStatus(ctx, t)
	if err != nil {
		return err
	}
	return e.print(schema, v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s\n", v.Ref(), done)
		return err
	})
}

// pickSeveral finds the tasks of "T…", each also "P/T", or of "P T".
func (e *env) pickSeveral(args []string) ([]*terok.Task, error) {
	if len(args) == 2 && !strings.Contains(args[0], "/") {
		if _, err := e.app.ShowProject(args[0]); err == nil {
			args = []string{args[0] + "/" + args[1]}
		}
	}
	var tasks []*terok.Task
	for _, a := range args {
		t, err := e.pickForDelete(a)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// pickForDelete accepts a broken task by its full name as well.
func (e *env) pickForDelete(word string) (*terok.Task, error) {
	t, err := e.pick([]string{word})
	if problem.Is(err, "task_broken") {
		if p, id, ok := strings.Cut(word, "/"); ok {
			return &terok.Task{Project: p, ID: id}, nil
		}
	}
	return t, err
}

func newLoginCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "login [PROJECT] TASK",
		Short: "Open a running task's terminal",
		Long: `Open the tmux session of a running task. Ctrl-q opens terok's own menu, outside the
container; detach there, or with tmux's prefix Ctrl-a and d. The agent goes on.`,
		Example:           "  terok login k3v9p",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !e.interactive() {
				return problem.New("no_terminal", problem.Usage, "login needs a terminal").WithHint("terok task logs %s", strings.Join(args, " "))
			}
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			return e.attach(cmd.Context(), t)
		},
	}
}

// attach opens the task's terminal and says at the end how to come back.
func (e *env) attach(ctx context.Context, t *terok.Task) error {
	e.banner([2]string{t.Project, t.ID})
	if err := e.app.AttachTask(ctx, t, e.in.(*os.File), e.out.(*os.File)); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "%s goes on; back to it: terok login %s · its work: terok review show %s · stop: terok task stop %s\n", t.Ref(), t.ID, t.ID, t.ID)
	return nil
}
