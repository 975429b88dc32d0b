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

func newAgentsCmd(e *env) *cobra.Command {
	return group("agents", "Install, update and list AI coding agents", newAgentsInstallCmd(e), newAgentsListCmd(e), newAgentsUpdateCmd(e), newAgentsRemoveCmd(e))
}

func newAgentsInstallCmd(e *env) *cobra.Command {
	var o terok.ImageOptions
	var version string
	c := &cobra.Command{
		Use:   "install AGENT…",
		Short: "Install agents once, for all tasks",
		Long: `Installs each agent's npm package inside a build container, checks that it starts, and pins its
version and content in the lock file. Tasks mount it read-only; nothing of it runs on the host. A
runtime that an agent needs (Node) comes along and is shared.`,
		Example:           "  terok agents install claude\n  terok agents install codex opencode pi\n  terok agents install claude --version latest",
		Args:              someAgents,
		ValidArgsFunction: e.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Verbose = !e.quiet && !e.json
			done, err := e.app.AgentInstall(cmd.Context(), args, version, o)
			if err != nil {
				return err
			}
			return e.print("agents.install", done, func(w io.Writer) error { return printInstalled(w, done) })
		},
	}
	c.Flags().StringVar(&version, "version", "", "exact version, or latest (default: the one terok was tested with)")
	imageFlags(c, &o, true)
	return c
}

// someAgents wants at least one name of an agent.
func someAgents(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return problem.New("usage", problem.Usage, "%s needs the name of an agent (terok agents list)", cmd.CommandPath()).WithHint("%s --help", cmd.CommandPath())
	}
	return nil
}

func printInstalled(w io.Writer, done []terok.AgentInstalled) error {
	for _, x := range done {
		state := "is there already"
		switch {
		case x.Now && x.Before != "":
			state = fmt.Sprintf("instead of %s, says: %s", x.Before, text.Line(x.Says, 120))
		case x.Now:
			state = "installed, says: " + text.Line(x.Says, 120)
		}
		if x.Freed > 0 {
			state += fmt.Sprintf(" · %s of earlier versions removed", text.Size(uint64(x.Freed)))
		}
		if _, err := fmt.Fprintf(w, "%s %s %s\n", x.Agent, x.Version, state); err != nil {
			return err
		}
	}
	return nil
}

func newAgentsUpdateCmd(e *env) *cobra.Command {
	var o terok.ImageOptions
	var latest bool
	c := &cobra.Command{
		Use:   "update [AGENT…]",
		Short: "Bring installed agents to the versions terok was tested with",
		Long: `Brings the named agents, or all installed ones, to the versions that this terok was tested with, or
with --latest to the newest. Tasks keep the version that they began with; earlier versions that no
task uses are removed.`,
		Example:           "  terok agents update\n  terok agents update codex --latest",
		ValidArgsFunction: e.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Verbose = !e.quiet && !e.json
			done, err := e.app.AgentUpdate(cmd.Context(), args, latest, o)
			if err != nil {
				return err
			}
			if done == nil {
				done = []terok.AgentInstalled{}
			}
			return e.print("agents.update", done, func(w io.Writer) error {
				if len(done) == 0 {
					_, err := fmt.Fprintln(w, "no agent is installed")
					return err
				}
				return printInstalled(w, done)
			})
		},
	}
	c.Flags().BoolVar(&latest, "latest", false, "the newest versions, which terok may not know yet")
	imageFlags(c, &o, true)
	return c
}

func newAgentsRemoveCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "remove AGENT…",
		Short: "Remove installed agents",
		Long: `Removes all installed versions of an agent, and the runtime that it alone needed. An agent that a
task has mounted is kept, and the task is named.`,
		Example:           "  terok agents remove opencode",
		Args:              someAgents,
		ValidArgsFunction: e.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			type removed struct {
				Name  string `json:"name"`
				Freed int64  `json:"freed"`
			}
			list := []removed{}
			for _, name := range args {
				freed, err := e.app.AgentRemove(cmd.Context(), name)
				if err != nil {
					return err
				}
				list = append(list, removed{name, freed})
			}
			return e.print("agents.remove", list, func(w io.Writer) error {
				for _, r := range list {
					fmt.Fprintf(w, "%s removed, %s freed\n", r.Name, text.Size(uint64(r.Freed)))
				}
				return nil
			})
		},
	}
}

func newAgentsListCmd(e *env) *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List agents, their providers and what is installed",
		Example: "  terok agents list\n  terok agents list --verify",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			list, err := e.app.AgentList(verify)
			if err != nil {
				return err
			}
			damaged := ""
			err = e.print("agents.list", list, func(w io.Writer) error {
				fmt.Fprintf(w, "%-10s %-16s %-10s %-28s %s\n", "AGENT", "NAME", "VERSION", "", "PROVIDERS")
				for _, a := range list {
					state := "terok agents install " + a.Name
					switch {
					case a.Problem != "":
						state = "damaged"
					case a.Missing != "":
						state = "only in an image that has it"
					case a.Installed && a.Version == "":
						state = "part of the image"
					case a.Installed:
						state = text.Size(uint64(a.Bytes))
						if a.Pinned != a.Version {
							state += " (tested: " + a.Pinned + ")"
						}
					}
					fmt.Fprintf(w, "%-10s %-16s %-10s %-28s %s\n", a.Name, text.Fit(a.Title, 16), a.Version, state, strings.Join(a.Providers, " "))
				}
				return nil
			})
			for _, a := range list {
				if a.Problem != "" {
					damaged = a.Name
				}
			}
			if err == nil && damaged != "" {
				return problem.New("bundle_damaged", problem.Failed, "the bundle of %s is not what was installed", damaged).
					WithHint("terok agents install %s --force", damaged)
			}
			return err
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "read every bundle and compare it with its digest")
	return c
}

// completeAgents completes names of agents.
func (e *env) completeAgents(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if e.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := e.app.AgentList(false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, a := range list {
		if a.Kind == "agent" {
			words = append(words, a.Name+"\t"+text.Show(a.Title))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// completeRun completes the agent of terok run; its directory is for the shell.
func (e *env) completeRun(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return e.completeAgents(cmd, nil, word)
}

// completeProviders completes the providers of the agent that is named.
func (e *env) completeProviders(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if e.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := e.app.AgentList(false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	seen := map[string]bool{}
	var words []string
	for _, a := range list {
		if len(args) > 0 && a.Name != args[0] {
			continue
		}
		for _, p := range a.Providers {
			if !seen[p] {
				seen[p] = true
				words = append(words, p)
			}
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
