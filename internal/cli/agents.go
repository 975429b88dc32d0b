package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newAgentsCmd(e *env) *cobra.Command {
	return group("agents", "Install and list AI coding agents", newAgentsInstallCmd(e), newAgentsListCmd(e))
}

func newAgentsInstallCmd(e *env) *cobra.Command {
	var o terok.ImageOptions
	var version string
	c := &cobra.Command{
		Use:   "install AGENT",
		Short: "Install an agent once, for all tasks",
		Long: `Installs the agent's npm package inside a build container, checks that it starts, and pins its
version and content in the lock file. Tasks mount it read-only; nothing of it runs on the host.`,
		Example: "  terok agents install claude\n  terok agents install claude --version latest",
		Args:    exactly(1, "the name of an agent (terok agents list)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Verbose = !e.quiet && !e.json
			bundle, installed, err := e.app.AgentInstall(cmd.Context(), args[0], version, o)
			if err != nil {
				return err
			}
			data := map[string]any{"bundle": bundle, "directory": bundle.Dir, "installed_now": installed}
			return e.print("agents.install", data, func(w io.Writer) error {
				state := "is there already"
				if installed {
					state = "installed: " + text.Line(bundle.Says, 120)
				}
				_, err := fmt.Fprintf(w, "%s %s %s\n", bundle.Agent, bundle.Version, state)
				return err
			})
		},
	}
	c.Flags().StringVar(&version, "version", "", "exact version, or latest (default: the one terok was tested with)")
	imageFlags(c, &o, true)
	return c
}

func newAgentsListCmd(e *env) *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List agents and what is installed",
		Example: "  terok agents list\n  terok agents list --verify",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			list, err := e.app.AgentList(verify)
			if err != nil {
				return err
			}
			damaged := ""
			err = e.print("agents.list", list, func(w io.Writer) error {
				fmt.Fprintf(w, "%-10s %-18s %-12s %s\n", "AGENT", "NAME", "VERSION", "")
				for _, a := range list {
					state := "not installed (terok agents install " + a.Name + ")"
					switch {
					case a.Problem != "":
						state = a.Problem
					case a.Installed && a.Version == "":
						state = "part of the image"
					case a.Installed:
						state = fmt.Sprintf("%.0f MB", float64(a.Bytes)/1e6)
					}
					fmt.Fprintf(w, "%-10s %-18s %-12s %s\n", a.Name, text.Line(a.Title, 40), a.Version, state)
				}
				return nil
			})
			for _, a := range list {
				if a.Problem != "" {
					damaged = a.Name
				}
			}
			if err == nil && damaged != "" {
				return problem.New("bundle_damaged", problem.Failed, "the bundle of %s is not what was installed", damaged).
					WithHint("terok agents install %s --force", damaged)
			}
			return err
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "read every bundle and compare it with its digest")
	return c
}
