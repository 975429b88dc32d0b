package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok/internal/problem"
)

func newTaskDeleteCmd(e *env) *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "delete TASK…",
		Short: "Delete tasks: container, workspace, commits that were not promoted",
		Long: `Delete tasks. The record, the logs and the ledger are archived; the container, the workspace
and every commit that was not promoted go. With --keep-commits these commits, and the tips that
pushes replaced, are archived as a bundle beside the record (git bundle list-heads FILE).`,
		Example:           "  terok task delete k3v9p --yes\n  terok task delete k3v9p --keep-commits",
		Args:              atLeast(1, "a task"),
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			tasks, err := e.pickSeveral(args)
			if err != nil {
				return err
			}
			var refs []string
			for _, t := range tasks {
				refs = append(refs, t.Ref())
			}
			if e.app.Confirm == nil {
				return problem.New("needs_answer", problem.Declined, "deleting needs a confirmation").
					WithHint("terok task delete %s --yes", strings.Join(refs, " "))
			}
			lost := " and every commit in them that was not promoted?"
			if keep {
				lost = "? Their commits are kept in the archive."
			}
			ok, err := e.app.Confirm("Delete " + strings.Join(refs, ", ") + lost)
			if err != nil {
				return err
			}
			if !ok {
				return problem.New("declined", problem.Declined, "not deleted")
			}
			bundles := map[string]string{}
			for _, t := range tasks {
				if !keep {
					if err := e.app.DeleteTask(cmd.Context(), t); err != nil {
						return err
					}
					continue
				}
				bundle, err := e.app.DeleteTaskKeeping(cmd.Context(), t)
				if err != nil {
					return err
				}
				if bundle != "" {
					bundles[t.Ref()] = bundle
				}
			}
			if keep {
				return e.print("task.delete", map[string]any{"deleted": refs, "bundles": bundles}, func(w io.Writer) error { return printDeleted(w, refs, bundles) })
			}
			return e.print("task.delete", refs, func(w io.Writer) error { return printDeleted(w, refs, nil) })
		},
	}
	c.Flags().BoolVar(&keep, "keep-commits", false, "archive what was not promoted as a bundle")
	return c
}

func printDeleted(w io.Writer, refs []string, bundles map[string]string) error {
	_, err := fmt.Fprintf(w, "deleted %s\n", strings.Join(refs, ", "))
	for _, ref := range refs {
		if b := bundles[ref]; b != "" && err == nil {
			_, err = fmt.Fprintf(w, "  its commits: %s\n", b)
		}
	}
	return err
}

func newTaskResetCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "reset [PROJECT] TASK",
		Short: "Take a task's branch back to the commit that it began from",
		Long: `Take a task's branch back to its checkpoint, in the gate and, if its container runs, in its
workspace. Nothing is lost: the gate keeps the replaced tip (terok project gate-backups P --task T),
the workspace keeps uncommitted work on its stash. Ignored files stay.`,
		Example:           "  terok task reset k3v9p --yes",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if err := e.sure(fmt.Sprintf("Take %s back to %.12s?", t.Ref(), t.Start), "terok task reset %s --yes", t.Ref()); err != nil {
				return err
			}
			r, err := e.app.ResetTask(cmd.Context(), t)
			if err != nil {
				return err
			}
			return e.print("task.reset", r, func(w io.Writer) error {
				what := "the gate's branch"
				if r.Inside {
					what = "workspace and gate"
				}
				fmt.Fprintf(w, "%s: %s back at %.12s\n", t.Ref(), what, r.Commit)
				if r.Stash {
					fmt.Fprintln(w, "  uncommitted work is on the workspace's stash: git stash pop")
				}
				if r.Backup != "" {
					fmt.Fprintf(w, "  what the gate had: terok project gate-backups %s --task %s --restore %s\n", t.Project, t.ID, r.Backup)
				}
				return nil
			})
		},
	}
}

func newTaskExportCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "export [PROJECT/]TASK FILE",
		Short: "Write a running task's workspace into a tar archive that needs no gate",
		Long: `Write the workspace of a running task, with uncommitted files and every object that it borrows,
into a tar archive. It is made inside the container. What is in it was written by the agent, the
configuration and hooks of its .git too: unpack it where nothing of that can do harm.`,
		Example: "  terok task export k3v9p k3v9p.tar\n  terok task export webshop/k3v9p - | ssh box tar xf -",
		Args:    exactly(2, "a task and a file (- for stdout)"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return e.completeTasks(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args[:1])
			if err != nil {
				return err
			}
			if args[1] == "-" {
				if f, ok := e.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
					return problem.New("usage", problem.Usage, "an archive is not printed on a terminal").WithHint("terok task export %s FILE", t.Ref())
				}
				return e.app.ExportTask(cmd.Context(), t, e.out)
			}
			f, err := os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return problem.New("cannot_write", problem.Usage, "%w", err).WithHint("name a file that does not exist")
			}
			err = e.app.ExportTask(cmd.Context(), t, f)
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(args[1])
				return err
			}
			return e.print("task.export", map[string]string{"task": t.Ref(), "file": args[1]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s written\n", args[1])
				return err
			})
		},
	}
}
