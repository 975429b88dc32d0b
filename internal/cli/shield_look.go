package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/text"
)

// targetOrProject demands a target or --project, not both.
func targetOrProject(cmd *cobra.Command, args []string, project string) (string, error) {
	switch {
	case project != "" && len(args) == 0:
		return "", nil
	case project == "" && len(args) > 0:
		return args[0], nil
	}
	return "", problem.New("usage", problem.Usage, "%s needs a sandbox, a task, or --project P", cmd.CommandPath()).WithHint("%s --help", cmd.CommandPath())
}

func newShieldRulesCmd(e *env) *cobra.Command {
	var counters bool
	c := &cobra.Command{
		Use: "rules TARGET", Short: "List the rules of a container in the order in which they decide", Args: exactly(1, "a sandbox or a task"),
		Long: `The first tier that has a matching rule decides; in a tier the more specific target wins, and a
refusal wins a tie. SOURCE is the file and line, the profile, or who and when. ` + targetHelp + `

Of a container that does not run, the rules of its last start and its live verdicts are listed.

--counters shows the packet filter below these rules instead, as the kernel has it: whether it is what
terok made (exit 11 if not), and what it refused. Connections are counted by name in terok shield status.`,
		Example:           "  terok shield rules webshop/k3v9p\n  terok shield rules web --json\n  terok shield rules web --counters",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			if counters {
				return e.shieldCounters(cmd.Context(), args[0])
			}
			list, running, err := e.app.ShieldRules(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var warnings []Warning
			if !running {
				warnings = append(warnings, Warning{Code: "not_running", Message: args[0] + " does not run: these are the rules of its last start; the next one computes them anew"})
			}
			return e.print("shield.rules", list, func(w io.Writer) error { return printRules(w, list) }, warnings...)
		},
	}
	c.Flags().BoolVar(&counters, "counters", false, "the packet filter in the container, read back from the kernel")
	return c
}

// shieldCounters prints the table and fails when it is not as terok made it.
func (e *env) shieldCounters(ctx context.Context, target string) error {
	v, altered := e.app.ShieldCounters(ctx, target)
	if altered != nil && !problem.Is(altered, "table_altered") {
		return altered
	}
	err := e.print("shield.counters", v, func(w io.Writer) error {
		state := "as generated"
		if !v.Generated {
			state = "NOT as generated: " + text.Show(v.Why)
		}
		fmt.Fprintf(w, "posture %s; links and packet filter of %s are %s\n", v.Posture, text.Show(v.Target), state)
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "CHAIN\tPACKETS\tBYTES\tRULE")
		for _, c := range v.Counters {
			fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", text.Show(c.Chain), c.Packets, c.Bytes, c.Says)
		}
		return t.Flush()
	})
	if err != nil {
		return err
	}
	return altered
}

func printRules(w io.Writer, list []control.RuleView) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "TIER\tRULE\tSOURCE\tEXPIRES\tREASON")
	for _, r := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Tier, text.Show(r.Rule), text.Show(r.Source), dash(r.Expires), text.Show(r.Reason))
	}
	return t.Flush()
}

func newShieldPreviewCmd(e *env) *cobra.Command {
	var project, posture string
	var hosts []string
	c := &cobra.Command{
		Use: "preview TARGET", Short: "Show the rules that today's configuration gives, and what they would decide", Args: atMost(1),
		Long: `Computes the rules of a task, or of a new task of a project, from today's configuration. Nothing
is applied and nothing is written; terok shield reload applies them. For a task each rule says
whether it is the same, added or removed. A rule that never decides, because an earlier tier
refuses its target, is outranked. With --host it says what would happen to a connection. ` + targetHelp,
		Example: "  terok shield preview webshop/k3v9p\n  terok shield preview --project webshop --host registry.npmjs.org --host 192.168.1.1:22\n" +
			"  terok shield preview web --posture down",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := targetOrProject(cmd, args, project)
			if err != nil {
				return err
			}
			v, err := e.app.ShieldPreview(target, project, control.Posture(posture), hosts)
			if err != nil {
				return err
			}
			return e.print("shield.preview", v, func(w io.Writer) error {
				fmt.Fprintf(w, "%s with posture %s; nothing is applied\n", text.Show(v.Subject), v.Posture)
				t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
				fmt.Fprintln(t, "TIER\tRULE\tEFFECT\tCHANGE\tSOURCE\tEXPIRES")
				for _, r := range v.Rules {
					effect := r.Effect
					if r.By != nil {
						effect += " by " + text.Show(*r.By)
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Tier, text.Show(r.Rule), effect, dash(r.Change), text.Show(r.Source), dash(r.Expires))
				}
				if err := t.Flush(); err != nil {
					return err
				}
				fmt.Fprintf(w, "everything else: %s\n", v.Rest)
				for _, t := range v.Targets {
					fmt.Fprintf(w, "%s: %s: %s\n", text.Show(t.Target), t.Verdict, text.Show(t.Reason))
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&project, "project", "", "for a new task of this project")
	f.StringVar(&posture, "posture", "up", "up, down, down-all or quarantine")
	f.StringArrayVar(&hosts, "host", nil, "HOST[:PORT] to decide about (repeatable)")
	_ = c.RegisterFlagCompletionFunc("project", e.completeProjects)
	_ = c.RegisterFlagCompletionFunc("posture", cobra.FixedCompletions([]string{"up", "down", "down-all", "quarantine"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newShieldResolveCmd(e *env) *cobra.Command {
	var project string
	c := &cobra.Command{
		Use: "resolve TARGET", Short: "Show what each allowed name resolves to, and which addresses would be dialled", Args: atMost(1),
		Long: `Asks the host's own resolver for every exact name that a rule allows, as the supervisor does when
a container connects, and judges each address as it would: a name that leads into a private network,
to the host itself or to a metadata address is refused unless an override opens it. Wildcards and
addresses are left out. ` + targetHelp,
		Example:           "  terok shield resolve webshop/k3v9p\n  terok shield resolve --project webshop --json",
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := targetOrProject(cmd, args, project)
			if err != nil {
				return err
			}
			list, err := e.app.ShieldResolve(cmd.Context(), target, project)
			if err != nil {
				return err
			}
			return e.print("shield.resolve", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "no rule allows an exact name")
					return nil
				}
				t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
				fmt.Fprintln(t, "NAME\tADDRESS\tVERDICT\tRANGE\tREASON")
				for _, r := range list {
					if r.Error != nil {
						fmt.Fprintf(t, "%s\t-\t-\t-\tdoes not resolve: %s\n", text.Show(r.Name), text.Show(*r.Error))
					}
					for _, a := range r.Addresses {
						fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", text.Show(r.Name), a.Address, a.Verdict, a.Range, text.Show(a.Reason))
					}
				}
				return t.Flush()
			})
		},
	}
	c.Flags().StringVar(&project, "project", "", "the rules of a new task of this project")
	_ = c.RegisterFlagCompletionFunc("project", e.completeProjects)
	return c
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return text.Show(s)
}

// withPort adds --port to a rule.
func withPort(rule, port string) (string, error) {
	if port == "" {
		return rule, nil
	}
	target, extra, _ := strings.Cut(rule, " ")
	plain := strings.Trim(target, "[]")
	if strings.Contains(target, "]:") || strings.Count(plain, ":") == 1 || strings.HasSuffix(target, "/udp") || strings.HasSuffix(target, "/tcp") {
		return "", problem.New("usage", problem.Usage, "%q has its ports already; leave --port out", rule)
	}
	if strings.Contains(plain, ":") {
		plain = "[" + plain + "]" // IPv6
	}
	out := plain + ":" + port
	if extra != "" {
		out += " " + extra
	}
	return out, nil
}
