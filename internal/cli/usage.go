package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/version"
)

// Usage errors: whatever cobra and pflag find wrong with a command line ends as a Problem with
// exit code 2 and, where one is near, the word that was meant.

func unknownCommand(cmd *cobra.Command, name string) error {
	p := problem.New("unknown_command", problem.Usage, "unknown command %q for %q", name, cmd.CommandPath())
	if name == "version" {
		return p.WithHint("terok --version")
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	if s := config.Suggest(name, names); s != "" {
		return p.WithHint("did you mean: %s %s", cmd.CommandPath(), s)
	}
	return p.WithHint("%s --help", cmd.CommandPath())
}

// noVerb is the rule of commands that only hold others: whatever stands there is a command that
// does not exist, and that is said before anything is read.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

// flagError says what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	p := problem.New("usage", problem.Usage, "%w", err).WithHint("%s --help", cmd.CommandPath())
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return p
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if s := config.Suggest(unknown.GetSpecifiedName(), names); s != "" {
		p.WithHint("did you mean: %s --%s", cmd.CommandPath(), s)
	}
	return p
}

// strict makes every complaint about arguments in the tree below c a usage error.
func strict(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error { return usage(cmd, check(cmd, args)) }
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

func usage(cmd *cobra.Command, err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok || err == nil {
		return err
	}
	return problem.New("usage", problem.Usage, "%s: %w", cmd.CommandPath(), err).WithHint("%s --help", cmd.CommandPath())
}

// exactly demands n arguments; what names them in the error.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		if len(args) > n {
			return problem.New("usage", problem.Usage, "unexpected argument %q", args[n]).WithHint("%s --help", cmd.CommandPath())
		}
		return problem.New("usage", problem.Usage, "%s needs %s", cmd.CommandPath(), what).WithHint("%s --help", cmd.CommandPath())
	}
}

// atLeast demands n arguments or more; what names them in the error.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return exactly(n, what)(cmd, args)
	}
}

// atMost allows no argument behind the n-th.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return exactly(n, "")(cmd, args)
	}
}

func (e *env) printVersion() error {
	data := map[string]string{"version": version.Version, "commit": version.Commit, "date": version.Date, "go": runtime.Version()}
	return e.print("version", data, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "terok %s\n", version.Version)
		return err
	})
}

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND...]",
		Short:             "Show what a command does",
		Example:           "  terok help run\n  terok help sandbox run",
		Args:              cobra.ArbitraryArgs,
		PersistentPreRunE: nothing,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			found, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range found.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if found == nil || err != nil {
				return unknownCommand(cmd.Root(), args[0])
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// newCompletionCmd takes the place of cobra's own command, which explains itself at length.
func newCompletionCmd(*env) *cobra.Command {
	c := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what completes commands in bash, zsh or fish",
		Long: `Prints a script that completes commands, flags and task ids. Load it in the shell's start file,
or write it where the shell looks for completions.`,
		Example: `  source <(terok completion bash)      in ~/.bashrc
  terok completion zsh > "${fpath[1]}/_terok"
  terok completion fish > ~/.config/fish/completions/terok.fish`,
		Args:              exactly(1, "a shell: bash, zsh or fish"),
		ValidArgs:         []string{"bash", "zsh", "fish"},
		PersistentPreRunE: nothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return problem.New("usage", problem.Usage, "completions are there for bash, zsh and fish, not for %q", args[0]).
				WithHint("terok completion bash")
		},
	}
	return c
}

// nothing is the preparation of commands that need no state and no environment.
func nothing(*cobra.Command, []string) error { return nil }
