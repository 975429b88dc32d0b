package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/text"
)

func newShieldHarvestCmd(e *env) *cobra.Command {
	var promote []string
	c := &cobra.Command{
		Use: "harvest TARGET", Short: "What a container tried and was refused, as proposals for its project", Args: exactly(1, "a sandbox or a task"),
		Long: `Folds the refusals in a container's ledger by host: how often, when, what refused it, what allowing
it would mean, and the rule that would. Counts are a floor. The names come from the container: read
them before you promote them. --promote writes a proposal into shield.allow of the task's project,
after a question, and the project's tasks use it at once; "all" stands for every proposal without a
risk. ` + targetHelp,
		Example:           "  terok shield harvest webshop/k3v9p\n  terok shield harvest webshop/k3v9p --promote registry.npmjs.org",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(promote) > 0 {
				v, err := e.app.PromoteHarvest(cmd.Context(), args[0], promote)
				if err != nil {
					return err
				}
				return e.print("shield.harvest.promote", v, func(w io.Writer) error {
					fmt.Fprintf(w, "%s: %s\n", text.Show(v.File), text.Show(strings.Join(v.Rules, ", ")))
					return printReloaded(w, v.Tasks)
				})
			}
			list, err := e.app.Harvest(args[0])
			if err != nil {
				return err
			}
			return e.print("shield.harvest", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "nothing was refused")
					return nil
				}
				return printHarvest(w, list)
			})
		},
	}
	c.Flags().StringArrayVar(&promote, "promote", nil, "host or rule of the harvest to write into the project, or all (repeatable)")
	return c
}

func printHarvest(w io.Writer, list []terok.Harvested) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "COUNT\tHOST\tPORTS\tLAST\tRISK\tPROPOSAL")
	for _, h := range list {
		var ports []string
		for _, p := range h.Ports {
			ports = append(ports, strconv.Itoa(int(p)))
		}
		proposal := "none: " + text.Show(h.Why)
		if h.Rule != nil {
			proposal = text.Show(*h.Rule)
		}
		fmt.Fprintf(t, "%d+\t%s\t%s\t%s\t%s\t%s\n", h.Count, text.Show(h.Host), dash(strings.Join(ports, ",")),
			h.LastSeen.Local().Format("01-02 15:04:05"), dash(strings.Join(h.Risk, ",")), proposal)
	}
	return t.Flush()
}
