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

// newGateSyncCmd is "project gate-sync".
func newGateSyncCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "gate-sync PROJECT",
		Short: "Bring a project's mirror up to date with its upstream",
		Long: `Fetches the upstream into the project's mirror. New branches and those that only moved forward
are taken over; rewritten, deleted and diverged ones are listed and left as they are (exit 7).`,
		Example: "  terok project gate-sync webshop",
		Args:    exactly(1, "a project name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.app.GateSync(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := e.print("project.gate_sync", r, func(w io.Writer) error { return printSync(w, r) }); err != nil {
				return err
			}
			if n := len(r.Pending); n > 0 {
				return problem.New("pending_changes", problem.Conflict, "%s of upstream not taken over: history was rewritten or deleted there", branches(n)).
					With("pending", r.Pending)
			}
			return nil
		},
	}
}

func branches(n int) string {
	if n == 1 {
		return "1 branch"
	}
	return fmt.Sprintf("%d branches", n)
}

func printSync(w io.Writer, r terok.GateReport) error {
	var b strings.Builder
	verb := "is up to date"
	if r.Created {
		verb = "made"
	} else if len(r.Applied) > 0 {
		verb = "updated"
	}
	fmt.Fprintf(&b, "%s %s: %s, default %s\n", text.Show(r.Path), verb, branches(r.Branches), r.Head)
	for _, list := range [][]terok.GateChange{r.Applied, r.Pending, r.Ahead} {
		for i, c := range list {
			if i == 10 {
				fmt.Fprintf(&b, "  and %d more\n", len(list)-10)
				break
			}
			fmt.Fprintf(&b, "  %-13s %s  %.12s..%.12s\n", strings.ReplaceAll(c.Kind, "_", " "), text.Show(c.Branch), c.Old, c.New)
		}
	}
	for _, n := range r.Notes[:min(10, len(r.Notes))] {
		fmt.Fprintf(&b, "  note: %s\n", text.Show(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
