package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/text"
)

func newVaultRoutesCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "routes", Short: "List the hosts that the vault relays, and what each takes",
		Long: `Lists every host that the vault relays, built in or from a provider file, with the kinds of
credentials and the protocols. The rules of one provider: terok vault policy show.`,
		Example: "  terok vault routes\n  terok vault routes --json",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			routes, err := e.app.VaultRoutes()
			if err != nil {
				return err
			}
			return e.print("vault.routes", routes, func(w io.Writer) error {
				t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
				fmt.Fprintln(t, "PROVIDER\tHOST\tKINDS\tSERVES\tGOES TO")
				for _, r := range routes {
					host := r.Host
					if r.Port != 443 {
						host = fmt.Sprintf("%s:%d", r.Host, r.Port)
					}
					to, serves := r.Upstream, strings.Join(r.Serves, ",")
					if to == "" {
						to = "-"
					}
					if serves == "" {
						serves = "-"
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Provider, host, strings.Join(r.Kinds, ","), serves, text.Show(to))
				}
				return t.Flush()
			})
		},
	}
}

func newVaultPolicyCmd(e *env) *cobra.Command {
	return group("policy", "See which requests tasks may send to a provider",
		newVaultPolicyShowCmd(e), newVaultPolicyTestCmd(e), newVaultPolicyLearnCmd(e))
}

func newVaultPolicyShowCmd(e *env) *cobra.Command {
	var project string
	c := &cobra.Command{
		Use: "show PROVIDER", Short: "Print the rules of a provider's endpoints",
		Long: `Prints the rules of each host of a provider, in their order: the first that matches a request
decides. With --project, the project's own rules come first.`,
		Example: "  terok vault policy show anthropic\n  terok vault policy show github --project webshop",
		Args:    exactly(1, "a provider"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := e.app.VaultPolicy(args[0], project)
			if err != nil {
				return err
			}
			return e.print("vault.policy.show", p, func(w io.Writer) error { printPolicy(w, p); return nil })
		},
	}
	c.Flags().StringVar(&project, "project", "", "project whose rules come first")
	return c
}

func printPolicy(w io.Writer, p terok.VaultPolicy) {
	if len(p.Rules) > 0 {
		note := "take away only"
		if p.Widen {
			note = "may open too"
		}
		fmt.Fprintf(w, "project %s (%s)\n", p.Project, note)
		for _, r := range p.Rules {
			fmt.Fprintf(w, "  %s\n", text.Show(r))
		}
	}
	for _, r := range p.Routes {
		fmt.Fprintln(w, r.Host)
		for _, rule := range r.Rules {
			fmt.Fprintf(w, "  %s\n", text.Show(rule))
		}
		fmt.Fprintf(w, "  otherwise %s\n", r.Default)
	}
	if p.Repos == "project" {
		fmt.Fprintln(w, "writing: to the project's repository only (vault.repos: project)")
	}
	if p.ServerFetch {
		fmt.Fprintln(w, "requests may make the provider call addresses (vault.server_fetch: allow)")
	}
}

func newVaultPolicyTestCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "test PROJECT PROVIDER METHOD PATH", Short: "Say whether a request would be relayed, and by which rule",
		Long: `Judges a request of a project's task by method and path. PATH belongs to the provider's main host;
write https://HOST/PATH for another one. Exit 0: relayed or answered; 1: refused.`,
		Example: "  terok vault policy test webshop anthropic POST /v1/messages\n  terok vault policy test webshop github POST /user/keys",
		Args:    exactly(4, "a project, a provider, a method and a path"),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := e.app.VaultPolicyTest(args[0], args[1], args[2], args[3])
			if v.Action == "" {
				return err
			}
			if perr := e.print("vault.policy.test", v, func(w io.Writer) error {
				rule := v.Rule
				if rule == "" {
					rule = "the default"
				}
				fmt.Fprintf(w, "%s: %s (%s)", v.Action, text.Show(rule), v.Source)
				if v.Note != "" {
					fmt.Fprintf(w, ", %s", v.Note)
				}
				fmt.Fprintln(w)
				return nil
			}); perr != nil {
				return perr
			}
			return err
		},
	}
}

func newVaultPolicyLearnCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "learn TASK", Short: "List what a task was refused, with rules that would allow it",
		Long: `Reads a task's ledger for requests that the vault refused by their path, and proposes a rule for
each. Put what you want into vault.policy of project.yml; it opens something only with
vault.allow_widen: true in config.yml.`,
		Example:           "  terok vault policy learn webshop/k3v9p",
		Args:              exactly(1, "a task"),
		ValidArgsFunction: e.completeTasks,
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := e.app.VaultPolicyLearn(args[0])
			if err != nil {
				return err
			}
			return e.print("vault.policy.learn", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "nothing was refused by its path")
				}
				provider := ""
				for _, l := range list {
					if l.Provider != provider {
						provider = l.Provider
						fmt.Fprintf(w, "%s:\n", provider)
					}
					if l.Rule == "" {
						fmt.Fprintf(w, "  # %s %s at %s, %d times: %s\n", l.Method, text.Show(l.Path), l.Host, l.Count, l.Reason)
						continue
					}
					fmt.Fprintf(w, "  - %s  # %d times, at %s\n", text.Show(l.Rule), l.Count, l.Host)
				}
				return nil
			})
		},
	}
}
