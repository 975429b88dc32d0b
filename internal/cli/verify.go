package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newVerifyCmd(e *env) *cobra.Command {
	var o terok.VerifyOptions
	cmd := &cobra.Command{
		Use: "verify [TARGET]", Short: "Attack a container's walls from inside, and prove that they hold",
		Long: `Runs a table of attacks inside a container, as root there: unlisted names, literal addresses, cloud
metadata, the host's loopback, private ranges, UDP, other resolvers, DNS tunnels, raw and exotic
sockets, other names on allowed connections, tampering, the supervisor's ports, stolen services,
real keys. Beside them stand controls: what is allowed must work through the same path. One line
of proof each; it exits with 1 when one does not hold.

Without TARGET a throw-away container is started and removed. A running task is asked about first
(or --yes), since for some seconds it may reach two ports of your loopback where terok listens; it
goes on undisturbed. ` + targetHelp,
		Example: "  terok verify\n  terok verify webshop/k3v9p --yes\n  terok verify --also intranet.example.org --also 10.1.2.3 --json",
		Args:    atMost(1), ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Target = args[0]
			}
			if o.Target != "" && o.Image != "" {
				return problem.New("usage", problem.Usage, "--image is for a throw-away container")
			}
			report, verdict := e.app.Verify(cmd.Context(), o)
			if report == nil {
				return verdict
			}
			if err := e.print("verify", report, func(w io.Writer) error {
				t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
				for _, r := range report.Rows {
					mark := "ok"
					if !r.OK {
						mark = "HOLE"
						if r.Control {
							mark = "BROKEN"
						}
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mark, r.Row, r.Guarantee, text.Show(r.Proof))
				}
				if err := t.Flush(); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "%d of %d guarantees hold in %s, in %.1f s\n", len(report.Rows)-report.Failed, len(report.Rows), text.Show(report.Target), report.Seconds)
				return err
			}); err != nil {
				return err
			}
			return verdict
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Image, "image", "", "image of the throw-away container (default: the one of your tasks)")
	f.StringArrayVar(&o.Also, "also", nil, "a name or address that must be refused as well (repeatable)")
	return cmd
}
