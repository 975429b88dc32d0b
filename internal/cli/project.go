package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
)

func newProjectCmd(e *env) *cobra.Command {
	return group("project", "Projects: a repository, its rules and its tasks",
		newProjectCreateCmd(e), newProjectListCmd(e), newProjectShowCmd(e), newProjectDeleteCmd(e),
		newGateSyncCmd(e), newProjectGatePathCmd(e), newGateBackupsCmd(e), newProjectSSHInitCmd(e))
}

func newProjectCreateCmd(e *env) *cobra.Command {
	var spec terok.ProjectSpec
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a project",
		Long: `Make a project: a project.yml that you can edit, and nothing else. The repository is
mirrored when the first task needs it, or by terok project gate-sync.`,
		Example: `  terok project create webshop --upstream ~/src/webshop
  terok project create site --upstream https://example.org/site.git --allow registry.npmjs.org:443`,
		Args: exactly(1, "a project name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if u := spec.Upstream; u != "" && !strings.Contains(u, ":") {
				abs, err := filepath.Abs(u)
				if err != nil {
					return err
				}
				spec.Upstream = abs
			}
			v, err := e.app.CreateProject(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return e.print("project.create", v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "project %s: %s\n", v.Name, v.File)
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&spec.Upstream, "upstream", "", "directory of a clone, or URL")
	f.StringVar(&spec.Class, "class", "", "gatekeeping (default): tasks reach the gate only; online: they reach the upstream themselves")
	_ = c.RegisterFlagCompletionFunc("class", cobra.FixedCompletions([]string{"gatekeeping", "online"}, cobra.ShellCompDirectiveNoFileComp))
	f.StringVar(&spec.Branch, "branch", "", "branch that tasks begin from (default: the upstream's HEAD)")
	f.StringVar(&spec.Agent, "agent", "", "default agent")
	f.StringSliceVar(&spec.Profiles, "profile", nil, "profile of rules for every task, e.g. go (repeatable; all: terok shield profiles)")
	_ = c.RegisterFlagCompletionFunc("profile", e.completeProfiles)
	f.StringArrayVar(&spec.Allow, "allow", nil, "rule for every task, e.g. registry.npmjs.org:443 (repeatable)")
	return c
}

func newProjectListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List projects", Args: exactly(0, ""),
		Example: "  terok project list --json",
		RunE: func(*cobra.Command, []string) error {
			list, err := e.app.ListProjects()
			if err != nil {
				return err
			}
			return e.print("project.list", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "no projects yet; make one with: terok run claude, or: terok project create NAME")
					return nil
				}
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "PROJECT\tTASKS\tUPSTREAM")
				for _, p := range list {
					up := deref(p.Upstream)
					if p.Error != nil {
						up = "broken: " + *p.Error
					}
					fmt.Fprintf(tw, "%s\t%d\t%s\n", p.Name, p.Tasks, up)
				}
				return tw.Flush()
			})
		},
	}
}

func newProjectShowCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show what a project's configuration means", Args: exactly(1, "a project name"),
		Example: "  terok project show webshop",
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := e.app.ShowProject(args[0])
			if err != nil {
				return err
			}
			return e.print("project.show", v, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				row := func(k, val string) {
					if val == "" {
						val = "-"
					}
					fmt.Fprintf(tw, "%s\t%s\n", k, val)
				}
				row("project", v.Name)
				row("file", v.File)
				row("upstream", deref(v.Upstream))
				row("class", v.Class)
				row("branch", deref(v.Branch))
				row("agent", deref(v.Agent))
				row("credentials", v.Scope)
				row("profiles", strings.Join(v.Profiles, "  "))
				row("allow", strings.Join(v.Allow, "  "))
				row("deny", strings.Join(v.Deny, "  "))
				row("gate", deref(v.Gate))
				row("tasks", fmt.Sprint(v.Tasks))
				return tw.Flush()
			})
		},
	}
}

func newProjectDeleteCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a project with its tasks and its gate",
		Long: `Delete a project: its configuration is archived, then its tasks, its gate and its
configuration go. Commits that were not promoted are lost; the upstream and your clone are not touched.`,
		Example: "  terok project delete webshop\n  terok project delete webshop --yes",
		Args:    exactly(1, "a project name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.app.Confirm == nil {
				return problem.New("needs_answer", problem.Declined, "deleting project %s needs a confirmation", args[0]).
					WithHint("terok project delete %s --yes", args[0])
			}
			ok, err := e.app.Confirm(fmt.Sprintf("Delete project %s, its tasks and every commit that was not promoted?", args[0]))
			if err != nil {
				return err
			}
			if !ok {
				return problem.New("declined", problem.Declined, "not deleted")
			}
			archive, err := e.app.DeleteProject(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.print("project.delete", map[string]string{"name": args[0], "archive": archive}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "project %s deleted; its configuration is kept in %s\n", args[0], archive)
				return err
			})
		},
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
