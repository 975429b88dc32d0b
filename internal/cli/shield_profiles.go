package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newShieldProfilesCmd(e *env) *cobra.Command {
	c := group("profiles", "Named lists of rules that projects can choose",
		newProfilesListCmd(e), newProfilesShowCmd(e), newProfilesSetCmd(e))
	c.Long = `A profile is a list of rules under a name: curated ones come with terok, your own are files
$XDG_CONFIG_HOME/terok/profiles/NAME.txt. A project uses those that shield.profiles names, and none
by itself. Without a verb they are listed.`
	c.Aliases = []string{"profile", "sets"}
	c.Example = "  terok shield profiles\n" + c.Example
	c.RunE = func(*cobra.Command, []string) error { return e.listProfiles() }
	return c
}

func newProfilesListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List profiles", Args: exactly(0, ""),
		Long:    "Lists bundled and own profiles, what allowing them means, and which projects use them.",
		Example: "  terok shield profiles list --json",
		RunE:    func(*cobra.Command, []string) error { return e.listProfiles() },
	}
}

func (e *env) listProfiles() error {
	list, err := e.app.ShieldProfiles()
	if err != nil {
		return err
	}
	return e.print("shield.profiles", list, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "PROFILE\tRULES\tORIGIN\tRISK\tPROJECTS\tTITLE")
		for _, p := range list {
			origin, title := "bundled", text.Show(p.Title)
			if p.Origin != "bundled" {
				origin = "own"
			}
			if p.Error != nil {
				first, _, _ := strings.Cut(*p.Error, "\n")
				title = "broken: " + text.Show(first)
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", p.Name, len(p.Rules), origin, dash(strings.Join(p.Risk, ",")), dash(strings.Join(p.Used, ",")), title)
		}
		return t.Flush()
	})
}

func newProfilesShowCmd(e *env) *cobra.Command {
	var project string
	c := &cobra.Command{
		Use: "show NAME", Short: "Show the rules of a profile", Args: exactly(1, "a profile"),
		Long: `Shows rules, notes and risks. write-capable: whoever has an account there can publish through it.
anyone-hosts: anybody's content is served under the same name. With --project os-packages is that of
the project's image.`,
		Example:           "  terok shield profiles show go\n  terok shield profiles show os-packages --project webshop --json",
		ValidArgsFunction: e.completeProfiles,
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := e.app.ShieldProfile(args[0], project)
			if err != nil {
				return err
			}
			return e.print("shield.profile", p, func(w io.Writer) error { return printProfile(w, p) })
		},
	}
	c.Flags().StringVar(&project, "project", "", "as tasks of this project would have it")
	_ = c.RegisterFlagCompletionFunc("project", e.completeProjects)
	return c
}

func printProfile(w io.Writer, p terok.ProfileView) error {
	fmt.Fprintf(w, "%s (%s): %s\n", p.Name, text.Show(p.Origin), text.Show(p.Title))
	if p.Hides {
		fmt.Fprintln(w, "hides the bundled profile of this name")
	}
	if p.Suffix {
		fmt.Fprintln(w, "suffix: true: a plain name in the file is the name and all below it")
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tRISK\tNOTE")
	for _, r := range p.Rules {
		note := text.Show(r.Note)
		if r.Expires != nil {
			note = strings.TrimSpace(note + " (until " + *r.Expires + ")")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", text.Show(r.Rule), dash(strings.Join(r.Risk, ",")), note)
	}
	return t.Flush()
}

func newProfilesSetCmd(e *env) *cobra.Command {
	var now bool
	c := &cobra.Command{
		Use: "set PROJECT NAME...", Short: "Choose the profiles of a project", Args: atLeast(2, "a project and profiles, or none"),
		Long: `Writes shield.profiles into project.yml and keeps the rest of the file. "none" chooses none,
"recommended" stands for all curated ones. Tasks that run use the choice from their next start, with
--now at once; what is no longer allowed is cut then.`,
		Example: "  terok shield profiles set webshop go node\n  terok shield profiles set webshop none --now",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return e.completeProjects(cmd, args, word)
			}
			return e.completeProfiles(cmd, nil, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			names := splitNames(args[1:])
			if slices.Contains(names, "none") {
				if len(names) > 1 {
					return problem.New("usage", problem.Usage, "none stands alone").WithHint("terok shield profiles set %s none", args[0])
				}
				names = nil
			}
			v, err := e.app.SetShieldProfiles(cmd.Context(), args[0], names, now)
			if err != nil {
				return err
			}
			return e.print("shield.profiles.set", v, func(w io.Writer) error {
				chosen := "none"
				if len(v.Profiles) > 0 {
					chosen = strings.Join(v.Profiles, ", ")
				}
				fmt.Fprintf(w, "%s: %s\n", text.Show(v.File), chosen)
				if !now {
					fmt.Fprintf(w, "tasks that run use it after: terok shield reload --project %s\n", v.Project)
				}
				return printReloaded(w, v.Tasks)
			})
		},
	}
	c.Flags().BoolVar(&now, "now", false, "tasks that run use it at once")
	return c
}

// splitNames takes names apart that came in one word.
func splitNames(args []string) []string {
	var names []string
	for _, a := range args {
		for n := range strings.SplitSeq(a, ",") {
			if n != "" && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

func (e *env) completeProfiles(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || e.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := e.app.ShieldProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, p := range list {
		words = append(words, p.Name+"\t"+text.Show(p.Title))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (e *env) completeProjects(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || e.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := e.app.ListProjects()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, p := range list {
		words = append(words, p.Name)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
