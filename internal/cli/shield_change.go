package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/text"
)

// change is what allow and deny were asked for.
type change struct {
	sign, verb string
	target     string
	rule       string // without sign
	project    string
	reason     string
	lasts      time.Duration
	remove     bool
}

func newShieldChangeCmd(e *env, verb, sign string) *cobra.Command {
	c := change{sign: sign, verb: verb}
	var port string
	what := map[string]string{"allow": "Let a container reach something", "deny": "Keep a container from something and cut what is open"}[verb]
	more := map[string]string{
		"allow": "An allow that the deny tier outranks is refused (exit 7), with the rule that comes first.",
		"deny":  "Connections that the rule refuses are cut before the command returns.",
	}[verb]
	cmd := &cobra.Command{
		Use: verb + " TARGET RULE", Short: what,
		Args: func(cmd *cobra.Command, args []string) error {
			if c.project != "" {
				return exactly(1, "a rule (the project is given)")(cmd, args)
			}
			return exactly(2, "a sandbox or a task, and a rule")(cmd, args)
		},
		Long: what + `. It takes effect before the command returns and stays for the task's life,
over restarts. With --project it is written into project.yml instead, which keeps its comments, and
holds for every task of the project: those that run use it at once. ` + more + "\n" + targetHelp + `

RULE is NAME, *.NAME, .NAME, ADDRESS or CIDR, with :PORTS or --port (80 and 443 if an allow names
none, all ports if a deny names none), and /udp for UDP.`,
		Example: fmt.Sprintf("  terok shield %s web example.org:443\n  terok shield %s webshop/k3v9p '*.example.org' --port 8443 --for 1h --reason 'one download'\n"+
			"  terok shield %s --project webshop example.org:443\n  terok shield %s web example.org:443 --remove", verb, verb, verb, verb),
		ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			rule := args[len(args)-1]
			if c.target = args[0]; c.project != "" {
				c.target = ""
			}
			if strings.HasPrefix(rule, "+") || strings.HasPrefix(rule, "-") {
				return problem.New("usage", problem.Usage, "the rule has no sign here: the command is %q", verb)
			}
			if strings.ContainsAny(rule, "%") {
				return problem.New("usage", problem.Usage, "a reason and an end are flags here: --reason, --for")
			}
			if c.lasts < 0 {
				return problem.New("usage", problem.Usage, "--for must be positive")
			}
			var err error
			if c.rule, err = withPort(rule, port); err != nil {
				return err
			}
			if c.project != "" {
				return e.changeProject(cmd, c)
			}
			return e.changeLive(cmd, c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.reason, "reason", "", "why, for the ledger")
	f.StringVar(&port, "port", "", "ports: 443, 80,443, 8000-8099, with /udp for UDP")
	f.DurationVar(&c.lasts, "for", 0, "how long, e.g. 30m; without it as long as the task lives")
	f.BoolVar(&c.remove, "remove", false, "take this rule away again")
	f.StringVar(&c.project, "project", "", "write it into this project, for all its tasks")
	_ = cmd.RegisterFlagCompletionFunc("project", e.completeProjects)
	return cmd
}

// until is the end of --for, zero for none.
func (c change) until(now time.Time) time.Time {
	if c.lasts == 0 {
		return time.Time{}
	}
	return now.Add(c.lasts).UTC().Truncate(time.Second)
}

func (c change) done() string {
	if c.remove {
		return "removed"
	}
	return map[string]string{"allow": "allowed", "deny": "denied"}[c.verb]
}

func (e *env) changeLive(cmd *cobra.Command, c change) error {
	v, err := e.app.ShieldChange(cmd.Context(), c.target, c.sign+c.rule, c.reason, c.remove, c.until(e.app.Now()))
	if err != nil {
		return err
	}
	return e.print("shield."+c.verb, v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s%s\n", c.done(), text.Show(strings.TrimPrefix(v.Rule, c.sign)), ends(v))
		return err
	}, e.risks(c)...)
}

// ends says when a rule does.
func ends(v control.RuleView) string {
	if v.Expires == "" {
		return ""
	}
	return " until " + text.Show(v.Expires)
}

// risks warns of what an allow can mean.
func (e *env) risks(c change) []Warning {
	if c.verb != "allow" || c.remove {
		return nil
	}
	return e.riskOf(c.rule)
}

func (e *env) riskOf(rule string) []Warning {
	if risk := terok.RiskOf(rule); len(risk) > 0 {
		return []Warning{{Code: "risk", Message: fmt.Sprintf("%s is %s", text.Show(rule), strings.Join(risk, " and "))}}
	}
	return nil
}

func (e *env) changeProject(cmd *cobra.Command, c change) error {
	rule := c.sign + c.rule
	if c.reason != "" {
		if strings.ContainsAny(c.reason, "\"\n") {
			return problem.New("usage", problem.Usage, "--reason holds no quotes and line breaks")
		}
		rule += ` %reason="` + c.reason + `"`
	}
	if until := c.until(e.app.Now()); !until.IsZero() {
		rule += " %expires=" + until.Format(time.RFC3339)
	}
	v, err := e.app.ShieldProject(cmd.Context(), c.project, rule, c.remove)
	if err != nil {
		return err
	}
	return e.print("shield."+c.verb+".project", v, func(w io.Writer) error {
		said := c.done()
		if !v.Changed {
			said = "was there already"
		}
		fmt.Fprintf(w, "%s: %s in %s\n", said, text.Show(strings.TrimPrefix(v.Rule, c.sign)), text.Show(v.File))
		return printReloaded(w, v.Tasks)
	}, e.risks(c)...)
}
