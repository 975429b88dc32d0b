package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newShieldReloadCmd(e *env) *cobra.Command {
	var project string
	c := &cobra.Command{
		Use: "reload TARGET", Short: "Make a running container use today's configuration", Args: atMost(1),
		Long: `Computes the rules of a task from project.yml, profiles and config.yml again and applies them
before the command returns: what is no longer allowed is cut. Live verdicts stay. A task that does
not run uses them from its next start, as every start and restart does by itself. ` + targetHelp,
		Example:           "  terok shield reload webshop/k3v9p\n  terok shield reload --project webshop",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (project == "") == (len(args) == 0) {
				return problem.New("usage", problem.Usage, "%s needs a sandbox, a task, or --project P", cmd.CommandPath()).WithHint("%s --help", cmd.CommandPath())
			}
			var list []terok.Reloaded
			var err error
			if project != "" {
				list, err = e.app.ShieldReloadProject(cmd.Context(), project)
			} else {
				var one terok.Reloaded
				one, err = e.app.ShieldReload(cmd.Context(), args[0])
				list = []terok.Reloaded{one}
			}
			if err != nil {
				return err
			}
			return e.print("shield.reload", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintf(w, "%s has no task that was started\n", project)
				}
				return printReloaded(w, list)
			})
		},
	}
	c.Flags().StringVar(&project, "project", "", "all tasks of this project")
	_ = c.RegisterFlagCompletionFunc("project", e.completeProjects)
	return c
}

// printReloaded says what each task got.
func printReloaded(w io.Writer, list []terok.Reloaded) error {
	for _, v := range list {
		var changes []string
		for _, r := range v.Added {
			changes = append(changes, "now "+text.Show(r))
		}
		for _, r := range v.Removed {
			changes = append(changes, "no longer "+text.Show(r))
		}
		said := "nothing changed"
		if len(changes) > 0 {
			said = strings.Join(changes, ", ")
		}
		when := "applied"
		if !v.Applied {
			when = "from its next start"
		}
		if _, err := fmt.Fprintf(w, "%s: %s (%s)\n", text.Show(v.Target), said, when); err != nil {
			return err
		}
	}
	return nil
}
