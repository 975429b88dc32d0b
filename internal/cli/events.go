package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/text"
)

func newEventsCmd(e *env) *cobra.Command {
	var q terok.EventsQuery
	var since string
	cmd := &cobra.Command{
		Use: "events [TARGET]", Short: "What happened, everywhere or in one task, by time",
		Long: `Shows the ledgers of all tasks and sandboxes and the one of your own actions, merged by time; with
TARGET those of one task and what you did to it. Each line of --json is one line of a ledger.
` + targetHelp + `

Kinds: network (connections and names), verdict (rules, requests, postures), vault, gate, task
(starts, stops, tasks made and deleted), trouble (errors, tampering, panic, lost events).`,
		Example: "  terok events -f\n  terok events webshop/k3v9p --kind network --since 1h\n  terok events --kind trouble --json",
		Args:    atMost(1), ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Target = args[0]
			}
			if q.Last < 0 {
				return problem.New("usage", problem.Usage, "--last is 0 or more")
			}
			if err := e.since(&q, since); err != nil {
				return err
			}
			show, err := e.eventPrinter("events")
			if err != nil {
				return err
			}
			return e.app.Events(cmd.Context(), q, show)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with what happens")
	f.StringSliceVar(&q.Kinds, "kind", nil, "only these kinds (repeatable, or with commas)")
	f.StringVar(&since, "since", "", "only of the last e.g. 30m, 2h, 1d")
	f.IntVarP(&q.Last, "last", "n", 100, "only the last N events; 0 for all")
	_ = cmd.RegisterFlagCompletionFunc("kind", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var kinds []string
		for k := range terok.EventKinds {
			kinds = append(kinds, k)
		}
		return kinds, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// since fills in the beginning of a query.
func (e *env) since(q *terok.EventsQuery, word string) error {
	if word == "" {
		return nil
	}
	d, err := terok.Window(word)
	if err != nil {
		return problem.New("usage", problem.Usage, "--since takes a number and one of s, m, h, d, such as 2h, not %q", word)
	}
	q.Since = e.app.Now().Add(-d)
	return nil
}

// eventPrinter prints events: a line each, or JSON Lines after a hello.
func (e *env) eventPrinter(schema string) (func(audit.Event) error, error) {
	if !e.json {
		return func(ev audit.Event) error {
			_, err := fmt.Fprintln(e.out, eventOf(ev)+eventLine(ev))
			return err
		}, nil
	}
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(map[string]string{"type": "hello", "schema": "terok." + schema + "/1"})
	return func(ev audit.Event) error { return enc.Encode(ev) }, err
}

// eventOf is whose event it is, and its day unless that is today.
func eventOf(ev audit.Event) string {
	who := "host"
	switch {
	case ev.Task != "":
		who = ev.Project + "/" + ev.Task
	case ev.Sandbox != "":
		who = ev.Sandbox
	case ev.Project != "":
		who = ev.Project
	}
	day := ""
	if t := ev.TS.Local(); time.Since(t) > 20*time.Hour {
		day = t.Format("2006-01-02 ")
	}
	return fmt.Sprintf("%-18s %s", text.Show(who), day)
}

// eventLine is one event for people. Everything in it may come from a container.
func eventLine(ev audit.Event) string {
	parts := []string{ev.TS.Local().Format("15:04:05"), fmt.Sprintf("%-16s", ev.Ev)}
	target := ev.Name
	if target == "" {
		target = ev.IP
	}
	if target != "" && ev.Port != 0 {
		target = fmt.Sprintf("%s:%d", target, ev.Port)
	}
	for _, p := range []string{target, ev.Detail["second"], ev.Ref, ev.Verdict, ev.Rule, ev.Scope, ev.Reason} {
		if p != "" {
			parts = append(parts, text.Show(p))
		}
	}
	if ev.Expires != "" {
		parts = append(parts, "until "+text.Show(ev.Expires))
	}
	if ev.BytesUp+ev.BytesDown > 0 {
		parts = append(parts, fmt.Sprintf("%s out, %s in", text.Size(ev.BytesUp), text.Size(ev.BytesDown)))
	}
	if ev.Count > 1 {
		parts = append(parts, fmt.Sprintf("×%d", ev.Count))
	}
	if ev.Via != "" {
		parts = append(parts, "("+text.Show(ev.Via)+")")
	}
	return strings.Join(parts, "  ")
}

// trafficLine is what one name got. Names come from a container.
func trafficLine(n audit.NameTraffic) string {
	line := text.Show(text.Line(n.Name, 80)) + ": " + text.Size(n.BytesUp) + " out, " + text.Size(n.BytesDown) + " in"
	if n.Refused > 0 {
		line += fmt.Sprintf(", refused %d times", n.Refused)
	}
	return line
}
