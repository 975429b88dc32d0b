package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/text"
)

func newShieldCmd(e *env) *cobra.Command {
	return group("shield", "What a container may reach: look and change",
		newShieldStatusCmd(e), newShieldChangeCmd(e, "allow", "+"), newShieldChangeCmd(e, "deny", "-"),
		newShieldUpCmd(e), newShieldDownCmd(e), newShieldQuarantineCmd(e), newShieldLogsCmd(e), newShieldExplainCmd(e), newShieldRulesCmd(e), newShieldPreviewCmd(e), newShieldResolveCmd(e), newShieldHarvestCmd(e), newShieldAdoptCmd(e), newShieldReloadCmd(e), newShieldProfilesCmd(e))
}

const targetHelp = "TARGET is the name of a sandbox, or PROJECT/TASK, or a task id."

func newShieldStatusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "status TARGET", Short: "Posture, counters and supervisor of a container", Args: exactly(1, "a sandbox or a task"),
		Long:              "Shows whether a container's supervisor serves and what it did. " + targetHelp,
		Example:           "  terok shield status web\n  terok shield status webshop/k3v9p --json",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.app.ShieldStatus(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.print("shield.status", st, func(w io.Writer) error { return printStatus(w, st) })
		},
	}
}

func printStatus(w io.Writer, st control.Status) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "posture\t%s%s\n", st.Posture, postureNote(st))
	if st.Worker.PID != 0 {
		c := st.Counters
		fmt.Fprintf(t, "rules\t%d\n", st.Rules)
		fmt.Fprintf(t, "connections\t%d open, %d allowed, %d refused\n", c.Open, c.Allowed, c.Denied)
		fmt.Fprintf(t, "bytes\t%s out, %s in\n", text.Size(c.BytesUp), text.Size(c.BytesDown))
		fmt.Fprintf(t, "names\t%d asked, %d refused\n", c.DNSQueries, c.DNSRefused)
		fmt.Fprintf(t, "vault\t%s\n", st.Vault)
		fmt.Fprintf(t, "supervisor\tparent %d, worker %d, %d restarts, version %s\n", st.Parent.PID, st.Worker.PID, st.Restarts, text.Show(st.Version))
		placementLines(t, st)
	}
	return t.Flush()
}

func postureNote(st control.Status) string {
	switch {
	case st.Posture == control.Offline:
		return " (stopped)"
	case st.Posture == control.Failing && st.Worker.PID == 0:
		return withoutSupervisor(st)
	case st.Posture == control.Failing:
		return " (the network inside was changed from outside: quarantine until a restart)"
	case st.Posture == control.Quarantine && st.Desired != control.Quarantine:
		return fmt.Sprintf(" (wanted: %s; %s)", st.Desired, text.Show(st.Reason))
	case st.Posture.Lowered():
		return loweredNote(st)
	case st.Posture != st.Desired:
		return fmt.Sprintf(" (wanted: %s)", st.Desired)
	case !st.Ready:
		return " (the guest is still preparing)"
	}
	return ""
}

func newShieldLogsCmd(e *env) *cobra.Command {
	var last int
	var follow bool
	cmd := &cobra.Command{
		Use: "logs TARGET", Short: "What a container reached and what was refused", Args: exactly(1, "a sandbox or a task"),
		Long:              "Prints the events of a container's ledger, oldest first. It needs no running container. " + targetHelp,
		Example:           "  terok shield logs web\n  terok shield logs webshop/k3v9p -n 20 -f\n  terok shield logs web --json",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.json {
				enc := json.NewEncoder(e.out)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(map[string]string{"type": "hello", "schema": "terok.shield.logs/1"}); err != nil {
					return err
				}
				return e.app.ShieldLogs(cmd.Context(), args[0], last, follow, func(ev audit.Event) error { return enc.Encode(ev) })
			}
			return e.app.ShieldLogs(cmd.Context(), args[0], last, follow, func(ev audit.Event) error {
				_, err := fmt.Fprintln(e.out, eventLine(ev))
				return err
			})
		},
	}
	cmd.Flags().IntVarP(&last, "last", "n", 50, "only the last N events; 0 for all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	return cmd
}

func newShieldExplainCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "explain TARGET HOST[:PORT]", Short: "Say what would happen to a connection, and which rule decides", Args: exactly(2, "a sandbox or a task, and HOST[:PORT]"),
		Long:              "Asks the policy of a running container about HOST, port 443 if you give none. " + targetHelp,
		Example:           "  terok shield explain web example.org\n  terok shield explain webshop/k3v9p 203.0.113.5:22",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := e.app.ShieldExplain(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return e.print("shield.explain", x, func(w io.Writer) error {
				fmt.Fprintf(w, "%s port %d: %s\n", text.Show(x.Target.Host), x.Target.Port, x.Verdict)
				if x.Rule != nil {
					fmt.Fprintf(w, "  rule    %s\n  source  %s\n", text.Show(x.Rule.Rule), text.Show(x.Rule.Source))
				}
				fmt.Fprintf(w, "  tier    %s\n  reason  %s\n", x.Tier, text.Show(x.Reason))
				if x.Hint != "" {
					fmt.Fprintf(w, "  → %s\n", text.Show(x.Hint))
				}
				return nil
			})
		},
	}
}
