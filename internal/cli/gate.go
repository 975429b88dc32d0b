package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newGateCmd(e *env) *cobra.Command {
	return group("gate", "The git mirrors between agents and your upstream",
		newGateStatusCmd(e), newGateLogCmd(e), newGateResolveCmd(e), newGateFreezeCmd(e), newGateThawCmd(e), newGateRotateCmd(e), newGateGCCmd(e),
		newGateImportCmd(e), newGatePollCmd(e), newGatePathCmd(e), newGateCloneURLCmd(e))
}

// projectOrAll is the named project, or all that have a mirror, or those without as well.
func (e *env) projectOrAll(args []string, ungated bool) ([]string, error) {
	if len(args) > 0 {
		return args[:1], nil
	}
	list, err := e.app.ListProjects()
	var names []string
	for _, p := range list {
		if p.Gate != nil || ungated && p.Error == nil {
			names = append(names, p.Name)
		}
	}
	return names, err
}

func newGateLogCmd(e *env) *cobra.Command {
	var q terok.EventsQuery
	var since string
	c := &cobra.Command{
		Use: "log PROJECT [TASK]", Short: "Pushes, syncs and promotions, from the ledgers",
		Long:    "The part of terok events that concerns a project's gate; terok audit verify checks that nothing is missing from it.",
		Example: "  terok gate log webshop\n  terok gate log webshop k3v9p -f\n  terok gate log webshop --since 1d --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly(1, "a project name")(cmd, args)
			}
			return atMost(2)(cmd, args)
		},
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.gateTask(args)
			if err != nil {
				return err
			}
			if q.Last < 0 {
				return problem.New("usage", problem.Usage, "--last is 0 or more")
			}
			if err := e.since(&q, since); err != nil {
				return err
			}
			show, err := e.eventPrinter("gate.log")
			if err != nil {
				return err
			}
			return e.app.GateLog(cmd.Context(), args[0], t, q, show)
		},
	}
	f := c.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with what happens")
	f.StringVar(&since, "since", "", "only of the last e.g. 30m, 2h, 1d")
	f.IntVarP(&q.Last, "last", "n", 100, "only the last N events; 0 for all")
	return c
}

// gateTask finds the task of "PROJECT [TASK]", nil without one.
func (e *env) gateTask(args []string) (*terok.Task, error) {
	if len(args) < 2 {
		return nil, nil
	}
	return e.app.FindTask(args[0], args[1])
}

func newGateResolveCmd(e *env) *cobra.Command {
	var lose bool
	c := &cobra.Command{
		Use:   "resolve PROJECT BRANCH keep|take-upstream|rename",
		Short: "Decide a branch that differs between mirror and upstream",
		Long: `keep: the mirror's side stays, and nothing is said until upstream moves again. take-upstream:
upstream's side; the mirror keeps its own as a backup. rename: the mirror's side becomes
BRANCH.local-DATE and upstream's takes the name.`,
		Example: "  terok gate resolve webshop main rename\n  terok gate resolve webshop old take-upstream --yes",
		Args:    exactly(3, "a project, a branch and what to do"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 2 {
				return []string{"keep", "take-upstream", "rename"}, cobra.ShellCompDirectiveNoFileComp
			}
			return e.completeProjects(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[2] == "take-upstream" {
				if err := e.sure(fmt.Sprintf("Replace %s of %s by upstream's?", text.Show(args[1]), args[0]), "terok gate resolve %s %s %s --yes", args[0], text.Show(args[1]), args[2]); err != nil {
					return err
				}
			}
			ch, err := e.app.GateResolve(cmd.Context(), args[0], args[1], args[2], lose)
			if err != nil {
				return err
			}
			return e.print("gate.resolve", ch, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s\n", text.Show(ch.Branch), args[2])
				return err
			})
		},
	}
	c.Flags().BoolVar(&lose, "yes-lose-commits", false, "where backups are off: lose commits that upstream has not")
	return c
}

func newGateFreezeCmd(e *env) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "freeze PROJECT [TASK]", Short: "Take no more pushes and promote nothing, of one task or of all of a project", Args: oneTask,
		Long:    "Pushes and promotions are refused with the reason from now on; fetching goes on, and so do the containers. terok gate thaw ends it.",
		Example: "  terok gate freeze webshop k3v9p --reason \"looks at secrets\"\n  terok gate freeze webshop", ValidArgsFunction: e.completeProjects,
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := e.gateTask(args)
			if err == nil {
				err = e.app.GateFreeze(args[0], t, reason)
			}
			if err != nil {
				return err
			}
			return e.print("gate.freeze", map[string]any{"project": args[0], "task": taskID(t), "reason": reason}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pushes and promotions of %s are frozen; terok gate thaw %s ends it\n", strings.Join(args, "/"), strings.Join(args, " "))
				return err
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "what the agents are told")
	return c
}

func taskID(t *terok.Task) *string {
	if t == nil {
		return nil
	}
	return &t.ID
}

func newGateThawCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "thaw PROJECT [TASK]", Short: "End terok gate freeze", Args: oneTask,
		Example: "  terok gate thaw webshop k3v9p", ValidArgsFunction: e.completeProjects,
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := e.gateTask(args)
			if err == nil {
				err = e.app.GateThaw(args[0], t)
			}
			if err != nil {
				return err
			}
			return e.print("gate.thaw", map[string]any{"project": args[0], "task": taskID(t)}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pushes of %s are taken again\n", strings.Join(args, "/"))
				return err
			})
		},
	}
}

func newGateRotateCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rotate [PROJECT/]TASK", Short: "Give a running task a new token for its gate", Args: oneTask,
		Long: `The token with which git in the container reaches the task's gate is replaced without a restart.
The old one is refused from that moment on, wherever it got to; git in the container finds the new
one by itself. A request that git had begun goes on, and one that it begins in the moment between
both is refused: git then says so, and works when it is run again.

A task that does not run has no token: each start makes a new one.`,
		Example: "  terok gate rotate k3v9p\n  terok gate rotate webshop k3v9p --json", ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			r, err := e.app.GateRotate(cmd.Context(), t, "cli")
			if err != nil {
				return err
			}
			if perr := e.print("gate.rotate", r, func(w io.Writer) error {
				what := "has a new gate token; the old one is refused"
				if !r.Running {
					what = "does not run, so it has no gate token: its next start makes a new one"
				}
				_, err := fmt.Fprintf(w, "%s %s\n", t.Ref(), what)
				return err
			}); perr != nil || r.Delivered || !r.Running {
				return perr
			}
			return problem.New("token_not_delivered", problem.Attention, "the old gate token of %s is refused, but the container does not take the new one; it gets it as soon as it answers", t.Ref()).
				WithHint("terok task restart %s", t.Ref())
		},
	}
}

func newGateGCCmd(e *env) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "gc [PROJECT]", Short: "Pack the repositories of a gate", Args: atMost(1),
		Long: `Packs the mirror and the tasks' repositories, removes backups past their time, and drops what
nothing reached for gate.gc_days. The mirror drops nothing while a task borrows from it. It runs by
itself when there are many packs, and weekly.`,
		Example: "  terok gate gc webshop --dry-run\n  terok gate gc", ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := e.projectOrAll(args, false)
			if err != nil {
				return err
			}
			all := map[string][]terok.GateSize{}
			var failed error
			for _, p := range names {
				list, err := e.app.GateGC(cmd.Context(), p, dry)
				if err != nil && list == nil {
					return err
				}
				if all[p] = list; err != nil {
					failed = err
				}
			}
			if err := e.print("gate.gc", all, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "REPOSITORY\tBEFORE\tAFTER\tPACKS\tWHAT")
				for _, p := range names {
					for _, r := range all[p] {
						what := r.Action
						if r.Error != "" {
							what = "failed: " + text.Show(r.Error)
						}
						fmt.Fprintf(tw, "%s/%s\t%s\t%s\t%d\t%s\n", p, r.Name, text.Size(uint64(r.Before)), text.Size(uint64(r.After)), r.Packs, what)
					}
				}
				return tw.Flush()
			}); err != nil {
				return err
			}
			return failed
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "sizes and what would be done")
	return c
}

func newGateImportCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "import PROJECT FILE", Short: "Take a bundle or an old mirror in as work to be reviewed", Args: exactly(2, "a project and a file"),
		Long: `Makes a task without a container that holds the branches of a git bundle, or of a bare repository,
which the mirror does not have. They wait for terok review like a push, and pass the same checks.`,
		Example: "  terok gate import webshop laptop.bundle\n  terok gate import webshop ~/old/webshop.git",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return e.completeProjects(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.app.GateImport(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return e.print("gate.import", r, func(w io.Writer) error {
				fmt.Fprintf(w, "%s/%s: %s to review\n", r.Project, r.Task, branches(len(r.Branches)))
				for _, b := range r.Branches[:min(10, len(r.Branches))] {
					fmt.Fprintf(w, "  %s\n", text.Show(b))
				}
				if r.Backups > 0 {
					fmt.Fprintf(w, "  %d backups kept: terok project gate-backups %s\n", r.Backups, r.Project)
				}
				for _, b := range r.Skipped {
					fmt.Fprintf(w, "  left out: %s (not an acceptable name)\n", text.Show(b))
				}
				return nil
			})
		},
	}
}

func newGatePathCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "path PROJECT", Short: "Print the directory of a project's mirror", Args: exactly(1, "a project name"),
		Example: "  du -sh \"$(terok gate path webshop)\"", ValidArgsFunction: e.completeProjects,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := e.app.GatePath(args[0])
			if err != nil {
				return err
			}
			return e.print("gate.path", map[string]string{"path": path}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, path)
				return err
			})
		},
	}
}

func newGateCloneURLCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "clone-url PROJECT", Short: "Print the address from which git on this machine clones the mirror", Args: exactly(1, "a project name"),
		Example: "  git clone \"$(terok gate clone-url webshop)\" webshop", ValidArgsFunction: e.completeProjects,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := e.app.GatePath(args[0])
			if err != nil {
				return err
			}
			return e.print("gate.clone_url", map[string]string{"url": "file://" + path}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "file://"+path)
				return err
			})
		},
	}
}

func newGatePollCmd(e *env) *cobra.Command {
	var force, install, remove bool
	c := &cobra.Command{
		Use: "poll [PROJECT…]", Short: "Look whether upstreams moved, where that is due",
		Long: `Asks upstreams for their branches, of the named projects or of all, and fetches nothing. A project
is asked when gatekeeping.upstream_polling says that it is time, or with --force; after failures
the pauses grow up to an hour. Where gatekeeping.auto_sync is on and there is news the branches it
names are synced; what is destructive waits for you. Where the upstream is at a forge for which the
vault has a token, its open reviews are compared with what tasks pushed (gatekeeping.review_lag).

Task commands start it by themselves. --install-timer writes a systemd user timer that does so
without any command: systemctl --user enable --now terok-gate-poll.timer`,
		Example: "  terok gate poll webshop --force\n  terok gate poll --install-timer", ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case install:
				paths, err := e.app.InstallPollTimer()
				if err != nil {
					return err
				}
				return e.print("gate.poll", map[string]any{"installed": paths}, func(w io.Writer) error {
					for _, p := range paths {
						fmt.Fprintln(w, text.Show(p))
					}
					_, err := fmt.Fprintln(w, "start it: systemctl --user enable --now terok-gate-poll.timer")
					return err
				})
			case remove:
				if err := e.app.RemovePollTimer(); err != nil {
					return err
				}
				return e.print("gate.poll", map[string]any{"removed": true}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, "removed; systemctl --user daemon-reload makes systemd forget it")
					return err
				})
			}
			list, err := e.app.GatePoll(cmd.Context(), force, args...)
			if err != nil {
				return err
			}
			return e.print("gate.poll", list, func(w io.Writer) error { return printPolled(w, list) })
		},
	}
	f := c.Flags()
	f.BoolVar(&force, "force", false, "now, and where polling is off too")
	f.BoolVar(&install, "install-timer", false, "write the units of a systemd user timer")
	f.BoolVar(&remove, "remove-timer", false, "remove them")
	e.personalFlag(c)
	c.MarkFlagsMutuallyExclusive("force", "install-timer", "remove-timer")
	return c
}

func printPolled(w io.Writer, list []terok.GatePolled) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range list {
		what := "in step"
		switch {
		case r.Error != "":
			what = text.Show(r.Error)
		case r.Check == nil:
			what = "never asked"
		case r.Check.Error != "":
			what = "could not be asked: " + text.Show(r.Check.Error)
		case r.Synced != nil:
			what = fmt.Sprintf("%s synced, %d wait for a decision", branches(len(r.Synced.Applied)), len(r.Synced.Pending))
		case r.Check.Behind+r.Check.Gone > 0:
			what = fmt.Sprintf("%s moved, %d deleted upstream: terok project gate-sync %s", branches(r.Check.Behind), r.Check.Gone, r.Project)
		}
		if !r.Asked && r.Error == "" {
			what += "  (not due)"
		}
		switch {
		case r.ReviewError != "":
			what += "; reviews could not be asked for: " + text.Show(r.ReviewError)
		case r.Reviews > 0:
			what += fmt.Sprintf("; %s behind their tasks: terok gate status %s", count(r.Reviews, "review"), r.Project)
		}
		fmt.Fprintf(tw, "%s\t%s\n", r.Project, what)
	}
	return tw.Flush()
}
