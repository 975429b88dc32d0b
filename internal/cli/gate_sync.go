package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/child"
	"terok/internal/problem"
	"terok/internal/text"
)

// newGateSyncCmd is "project gate-sync".
func newGateSyncCmd(e *env) *cobra.Command {
	var o terok.GateSyncOptions
	c := &cobra.Command{
		Use:   "gate-sync PROJECT",
		Short: "Bring a project's mirror up to date with its upstream",
		Long: `Fetches the upstream into the project's mirror. New branches and those that only moved forward
are taken over. Rewritten and deleted ones need a decision: on a terminal you are asked, otherwise
they are listed and left as they are (exit 7) unless --destructive is given; the mirror keeps what
they replace (terok project gate-backups). Branches with commits of their own on both sides are
decided one by one: terok gate resolve. Exit 11: done but for a part; 12: upstream does not answer.`,
		Example: "  terok project gate-sync webshop\n  terok project gate-sync webshop --dry-run --json\n  terok project gate-sync linux --from-bundle linux.bundle",
		Args:    exactly(1, "a project name"), ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, path := range []*string{&o.Bundle, &o.Reference} {
				if *path == "" {
					continue
				}
				abs, err := filepath.Abs(*path)
				if err != nil {
					return err
				}
				*path = abs
			}
			return e.gateSync(cmd, args[0], o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.Branches, "branch", nil, "only this branch (repeatable)")
	f.BoolVar(&o.DryRun, "dry-run", false, "compare and move nothing")
	f.BoolVar(&o.Wait, "wait", false, "wait for another operation on this gate to end")
	f.BoolVar(&o.Destructive, "destructive", false, "also take over what was rewritten or deleted upstream, after a backup")
	f.BoolVar(&o.LoseCommits, "yes-lose-commits", false, "with --destructive where backups are off: lose commits that upstream has not")
	f.BoolVar(&o.Reinit, "force-reinit", false, "make the mirror anew; what only the old one has is kept as backups")
	f.StringVar(&o.Bundle, "from-bundle", "", "first sync: take objects from this bundle, and only the rest from upstream")
	f.StringVar(&o.Reference, "reference", "", "first sync: take objects from this repository of the same machine")
	e.personalFlag(c)
	c.MarkFlagsMutuallyExclusive("from-bundle", "reference")
	c.MarkFlagsMutuallyExclusive("dry-run", "destructive")
	c.MarkFlagsMutuallyExclusive("dry-run", "force-reinit")
	return c
}

// personalFlag is for commands that talk to a project's upstream.
func (e *env) personalFlag(c *cobra.Command) {
	c.Flags().BoolVar(&e.personalSSH, "use-personal-ssh", false, "reach an ssh upstream with your own agent, keys and known hosts, this once")
}

// gateSync syncs, asks about what is pending where somebody can answer, and prints the last report.
func (e *env) gateSync(cmd *cobra.Command, project string, o terok.GateSyncOptions) error {
	r, err := e.app.GateSync(cmd.Context(), project, o)
	var declined error
	if n := losing(r.Pending); err == nil && n > 0 && !o.DryRun && !o.Destructive && !e.json && !e.yes && e.app.Confirm != nil {
		if err := printSync(e.err, r); err != nil {
			return err
		}
		ok, cerr := e.app.Confirm(fmt.Sprintf("Apply %d destructive change(s)? The mirror keeps what they replace", n))
		switch {
		case cerr != nil:
			return cerr
		case ok:
			o.Destructive, o.Reinit = true, false
			r, err = e.app.GateSync(cmd.Context(), project, o)
		default:
			declined = problem.New("declined", problem.Declined, "nothing else was changed")
		}
	}
	if err != nil && !problem.Is(err, "sync_partial") {
		return err
	}
	if perr := e.print("project.gate_sync", r, func(w io.Writer) error {
		if declined != nil {
			return nil // it stands there already
		}
		return printSync(w, r)
	}); perr != nil {
		return perr
	}
	switch {
	case err != nil:
		return err
	case declined != nil:
		return declined
	case len(r.Pending) > 0 && !o.DryRun:
		p := problem.New("pending_changes", problem.Conflict, "%s of upstream not taken over: history was rewritten, deleted or diverged", branches(len(r.Pending))).
			With("pending", r.Pending)
		if losing(r.Pending) > 0 {
			return p.WithHint("terok project gate-sync %s --destructive", project)
		}
		return p.WithHint("terok gate resolve %s %s keep|take-upstream|rename", project, child.Quote(r.Pending[0].Branch))
	}
	return nil
}

// losing counts what --destructive would take over.
func losing(pending []terok.GateChange) int {
	n := 0
	for _, c := range pending {
		if c.Kind != "diverged" {
			n++
		}
	}
	return n
}

func branches(n int) string {
	if n == 1 {
		return "1 branch"
	}
	return fmt.Sprintf("%d branches", n)
}

// printSync prints a report, at most ten lines of each kind.
func printSync(w io.Writer, r terok.GateReport) error {
	var b strings.Builder
	verb := "is up to date"
	switch {
	case r.DryRun && len(r.Applied)+len(r.Pending) > 0:
		verb = "would change"
	case r.Created:
		verb = "made"
	case len(r.Applied) > 0:
		verb = "updated"
	}
	fmt.Fprintf(&b, "%s %s", text.Show(r.Path), verb)
	if r.Head != "" {
		fmt.Fprintf(&b, ": %s, default %s", branches(r.Branches), r.Head)
	}
	b.WriteByte('\n')
	for _, list := range [][]terok.GateChange{r.Applied, r.Pending, r.Ahead} {
		for i, c := range list {
			if i == 10 {
				fmt.Fprintf(&b, "  and %d more\n", len(list)-10)
				break
			}
			span := fmt.Sprintf("%.12s..%.12s", c.Old, c.New)
			if c.Old == "" {
				span = span[len(".."):] // a new branch
			}
			fmt.Fprintf(&b, "  %-13s %s  %s%s\n", strings.ReplaceAll(c.Kind, "_", " "), text.Show(c.Branch), span, loss(c))
		}
	}
	for i, name := range r.GateOnly[:min(10, len(r.GateOnly))] {
		fmt.Fprintf(&b, "  %-13s %s\n", "gate only", text.Show(name))
		if i == 9 && len(r.GateOnly) > 10 {
			fmt.Fprintf(&b, "  and %d more\n", len(r.GateOnly)-10)
		}
	}
	if r.LFS != nil && r.LFS.Objects > 0 {
		fmt.Fprintf(&b, "  %-13s %s fetched, %s\n", "lfs", count(r.LFS.Objects, "file"), text.Size(r.LFS.Bytes))
	}
	for _, n := range r.Notes[:min(10, len(r.Notes))] {
		fmt.Fprintf(&b, "  note: %s\n", text.Show(n))
	}
	for _, n := range r.Errors[:min(10, len(r.Errors))] {
		fmt.Fprintf(&b, "  failed: %s\n", text.Show(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// loss says what the mirror has of its own in a branch that needs a decision.
func loss(c terok.GateChange) string {
	switch {
	case c.Kind == "create" || c.Kind == "fast_forward":
		return ""
	case c.Lossless:
		return "  nothing of the gate's own"
	case c.GateOnly == 1:
		return "  1 commit of the gate's own"
	}
	return fmt.Sprintf("  %d commits of the gate's own", c.GateOnly)
}

func newProjectGatePathCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "gate-path PROJECT", Short: "Print the address of a project's mirror for git", Args: exactly(1, "a project name"),
		Long: `Prints the file:// address of the mirror. It holds what upstream has and what you accepted; what
agents pushed and nobody accepted is not in it.`,
		Example: "  git ls-remote \"$(terok project gate-path webshop)\"", ValidArgsFunction: e.completeProjects,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := e.app.GatePath(args[0])
			if err != nil {
				return err
			}
			return e.print("project.gate_path", map[string]string{"url": "file://" + path, "path": path}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "file://"+path)
				return err
			})
		},
	}
}

func newGateBackupsCmd(e *env) *cobra.Command {
	var task, restore, remove, older string
	var prune bool
	c := &cobra.Command{
		Use:   "gate-backups PROJECT",
		Short: "Tips that a sync, a push or a restore replaced",
		Long: `Lists the replaced tips that a project's mirror keeps, or with --task those of a task's repository.
They go after gate.backups.retention_days; the newest gate.backups.keep_min of each branch stay.`,
		Example: "  terok project gate-backups webshop\n  terok project gate-backups webshop --task k3v9p\n  terok project gate-backups webshop --restore main/20261130T101500Z-4f2c1a9d0b3e",
		Args:    exactly(1, "a project name"), ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, p := cmd.Context(), args[0]
			var t *terok.Task
			if task != "" {
				var err error
				if t, err = e.app.FindTask(p, task); err != nil {
					return err
				}
			}
			if older != "" && !prune {
				return problem.New("usage", problem.Usage, "--older-than goes with --prune").WithHint("terok project gate-backups %s --prune --older-than %s", p, older)
			}
			var list []terok.GateBackup
			var err error
			switch {
			case restore != "":
				b, replaced, err := e.app.GateRestore(ctx, p, t, restore)
				if err != nil {
					return err
				}
				return e.print("project.gate_backups", map[string]any{"restored": b, "replaced": replaced}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s is at %.12s again\n", text.Show(b.Branch), b.Tip)
					return err
				})
			case remove != "":
				b, err := e.app.GateDeleteBackup(ctx, p, t, remove)
				if err != nil {
					return err
				}
				list = []terok.GateBackup{b}
			case prune:
				var d time.Duration
				if older != "" {
					if d, err = terok.Window(older); err != nil {
						return problem.New("usage", problem.Usage, "--older-than takes a number and one of s, m, h, d, such as 30d, not %q", older)
					}
				}
				if list, err = e.app.GatePruneBackups(ctx, p, t, d); err != nil {
					return err
				}
			default:
				if list, err = e.app.GateBackups(ctx, p, t); err != nil {
					return err
				}
			}
			if list == nil {
				list = []terok.GateBackup{}
			}
			gone := prune || remove != ""
			return e.print("project.gate_backups", list, func(w io.Writer) error { return printBackups(w, list, gone) })
		},
	}
	f := c.Flags()
	f.StringVar(&task, "task", "", "of this task's repository instead of the mirror")
	f.StringVar(&restore, "restore", "", "move the branch back to this backup; what it replaces is kept too")
	f.StringVar(&remove, "delete", "", "remove this backup")
	f.BoolVar(&prune, "prune", false, "remove what is past its time")
	f.StringVar(&older, "older-than", "", "with --prune: another time than the project's, e.g. 30d")
	c.MarkFlagsMutuallyExclusive("restore", "delete", "prune")
	_ = c.RegisterFlagCompletionFunc("task", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return e.completeTasks(cmd, nil, word)
	})
	return c
}

func printBackups(w io.Writer, list []terok.GateBackup, gone bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no backups")
		return err
	}
	if gone {
		_, err := fmt.Fprintf(w, "%d removed\n", len(list))
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "BACKUP\tTIME\tTIP\tSUBJECT")
	for _, b := range list {
		fmt.Fprintf(tw, "%s\t%s\t%.12s\t%s\n", text.Show(strings.TrimPrefix(b.Ref, "refs/terok/backup/")), b.Time.Local().Format("2006-01-02 15:04"), b.Tip, text.Show(b.Subject))
	}
	return tw.Flush()
}
