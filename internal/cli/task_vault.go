package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/text"
)

func newTaskUsageCmd(e *env) *cobra.Command {
	var project string
	cmd := &cobra.Command{
		Use:   "usage [PROJECT] TASK",
		Short: "Tokens and cost of a task, or of a project with --project",
		Long: `Shows what a task used of its providers, as the vault counted it from their own answers, by day
(UTC) and model, and how far the budgets of vault.budget are used. A model without a known price counts
tokens only; prices can be set in providers/NAME.yml. With --project all tasks that the project ever
had are summed up, deleted ones as well.`,
		Example: "  terok task usage k3v9p\n  terok task usage --project webshop\n  terok task usage webshop/k3 --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if project != "" {
				return atMost(0)(cmd, args)
			}
			return oneTask(cmd, args)
		},
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			var v *terok.UsageView
			var err error
			if project != "" {
				v, err = e.app.ProjectUsage(project)
			} else {
				var t *terok.Task
				if t, err = e.pick(args); err == nil {
					v, err = e.app.TaskUsageOf(t)
				}
			}
			if err != nil {
				return err
			}
			return e.print("task.usage", v, func(w io.Writer) error { return printUsage(w, e.err, v) })
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "of all tasks of this project")
	return cmd
}

func printUsage(w, note io.Writer, v *terok.UsageView) error {
	if v.Total.Requests == 0 {
		fmt.Fprintln(note, "nothing was used yet")
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")+"\t") }
	numbers := func(t terok.UsageTotal) []string {
		cost := "-"
		if t.CostUSD > 0 || t.Unpriced == 0 {
			cost = "$" + strconv.FormatFloat(t.CostUSD, 'f', 4, 64)
		}
		return []string{strconv.FormatInt(t.Requests, 10), text.Count(t.TokensIn), text.Count(t.CacheRead), text.Count(t.TokensOut), cost}
	}
	row("DAY", "MODEL", "REQUESTS", "IN", "CACHED", "OUT", "COST")
	for _, l := range v.Lines {
		model := l.Model
		if model == "" {
			model = "(unnamed)"
		}
		row(append([]string{l.Day, text.Show(l.Provider) + "/" + text.Show(model)}, numbers(l.UsageTotal)...)...)
	}
	row(append([]string{"all", ""}, numbers(v.Total)...)...)
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, t := range v.Tasks {
		gone := ""
		if t.Deleted {
			gone = " (deleted)"
		}
		fmt.Fprintf(w, "%s/%s: %s%s\n", v.Project, text.Show(t.ID), t.Words(), gone)
	}
	for _, b := range v.Budgets {
		fmt.Fprintf(w, "budget %s: %.0f %% used\n", b.Budget, 100*b.Used)
	}
	if n := v.Total.Unpriced; n > 0 {
		fmt.Fprintf(note, "%d requests went to models without a known price; set prices in providers/NAME.yml\n", n)
	}
	if n := v.Total.Estimated; n > 0 {
		fmt.Fprintf(note, "%d answers ended before they said what they used and were estimated\n", n)
	}
	return nil
}

func newTaskAuditCmd(e *env) *cobra.Command {
	var q terok.CredentialQuery
	var since string
	cmd := &cobra.Command{
		Use:   "audit-credentials [PROJECT] TASK",
		Short: "What a task did with its credentials, from its ledger",
		Long: `Shows every request that a task made through the vault: provider, method, status, outcome, bytes
and how long it took; and alerts, revocations and budgets. Paths, headers and bodies are never written
down. Each line of --json is one line of the ledger.`,
		Example:           "  terok task audit-credentials k3v9p\n  terok task audit-credentials webshop/k3 --provider github --since 1h --json",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Last < 0 {
				return problem.New("usage", problem.Usage, "--last is 0 or more")
			}
			if since != "" {
				d, err := terok.Window(since)
				if err != nil {
					return problem.New("usage", problem.Usage, "--since takes a number and one of s, m, h, d, such as 2h, not %q", since)
				}
				q.Since = e.app.Now().Add(-d)
			}
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if e.json {
				enc := json.NewEncoder(e.out)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(map[string]string{"type": "hello", "schema": "terok.events/1"}); err != nil {
					return err
				}
				return e.app.TaskCredentialAudit(t, q, func(ev audit.Event) error { return enc.Encode(ev) })
			}
			tw := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(tw, "TIME\tPROVIDER\tMETHOD\tSTATUS\tOUTCOME\tMS\tOUT\tIN\tMODEL")
			if err := e.app.TaskCredentialAudit(t, q, func(ev audit.Event) error {
				_, err := fmt.Fprintln(tw, strings.Join(credentialRow(ev), "\t"))
				return err
			}); err != nil {
				return err
			}
			return tw.Flush()
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Provider, "provider", "", "only of this provider")
	f.StringVar(&since, "since", "", "only of the last e.g. 30m, 2h, 1d")
	f.IntVarP(&q.Last, "last", "n", 100, "only the last N; 0 for all")
	return cmd
}

// credentialRow is an event of the vault. What stands in it may come from a container.
func credentialRow(ev audit.Event) []string {
	outcome := text.Show(ev.Reason)
	switch {
	case ev.Ev != "vault_request":
		outcome = strings.Join(strings.Fields(text.Show(strings.TrimPrefix(ev.Ev, "vault_"))+" "+text.Show(ev.Rule)+" "+outcome), " ")
	case outcome == "":
		outcome = "ok"
	}
	status := "-"
	if ev.Status != 0 {
		status = strconv.Itoa(ev.Status)
	}
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return text.Show(s)
	}
	return []string{ev.TS.Local().Format("2006-01-02 15:04:05"), or(ev.Provider), or(ev.Method), status, outcome,
		or(ev.Detail["duration_ms"]), text.Size(ev.BytesUp), text.Size(ev.BytesDown), or(ev.Detail["model"])}
}

func newTaskRevokeCmd(e *env) *cobra.Command {
	var provider string
	var now bool
	cmd := &cobra.Command{
		Use:   "revoke-credentials [PROJECT] TASK",
		Short: "Take a running task's tokens away until its next start",
		Long: `Makes the tokens of a running task worth nothing: its next request to a provider is refused (401).
Requests in flight go on, unless --now cuts them within a second. The task keeps running; a restart gives
it new tokens.`,
		Example:           "  terok task revoke-credentials k3v9p --now\n  terok task revoke-credentials webshop/k3 --provider github",
		Args:              oneTask,
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			done, err := e.app.TaskRevoke(cmd.Context(), t, provider, now, "cli")
			if err != nil {
				return err
			}
			v := struct {
				Project   string   `json:"project"`
				ID        string   `json:"id"`
				Providers []string `json:"providers"`
			}{t.Project, t.ID, done}
			return e.print("task.revoke-credentials", v, func(w io.Writer) error {
				if len(done) == 0 {
					fmt.Fprintln(e.err, "nothing to do: revoked before")
					return nil
				}
				_, err := fmt.Fprintf(w, "%s: %s revoked\n", t.Ref(), strings.Join(done, ", "))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&provider, "provider", "", "only of this provider")
	cmd.Flags().BoolVar(&now, "now", false, "also cut what is in flight")
	return cmd
}
