package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok"
	"terok/internal/launch"
	"terok/internal/problem"
	"terok/internal/text"
)

func newSandboxCmd(e *env) *cobra.Command {
	return group("sandbox", "Run any command in a container whose only network is its supervisor",
		newSandboxRunCmd(e), newSandboxPsCmd(e), newSandboxStopCmd(e), newSandboxRestartCmd(e), newSandboxAdoptCmd(e), newSandboxRmCmd(e))
}

func newSandboxRunCmd(e *env) *cobra.Command {
	var o terok.SandboxOptions
	var detach bool
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE -- COMMAND [ARGUMENT...]",
		Short: "Start a sandbox",
		Long: `Starts COMMAND in a container made from IMAGE, which must be in the local store.

The container has no network of its own. Its supervisor relays what the rules allow and refuses
the rest at once: unlisted names, literal addresses, other ports, UDP, other resolvers. Without
--allow it reaches nothing. Rules: NAME, *.NAME (names below it), .NAME (both), ADDRESS or CIDR,
each with :PORTS (80 and 443 if you give none).

In the foreground the exit code is the command's own. There are no flags for networks, devices,
namespaces or privileges: a sandbox has what podman gives by default, less what would let it out.`,
		Example: `  terok sandbox run localhost/debian:12 -- cat /etc/os-release
  terok sandbox run --allow deb.debian.org --rm -it localhost/debian:12 -- bash
  terok sandbox run -d --name web --allow '*.example.org:443' IMAGE -- ./server
  terok sandbox run --mount ~/src/webshop:/src:ro IMAGE -- ls /src`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && args[1] == "--" {
				args = append(args[:1:1], args[2:]...)
			}
			if len(args) < 2 || strings.HasPrefix(args[1], "-") {
				return problem.New("usage", problem.Usage, "an image and a command are needed; flags of terok go before the image").
					WithHint("terok sandbox run IMAGE -- COMMAND...")
			}
			o.Image, o.Command = args[0], args[1:]
			return e.sandboxRun(cmd, o, detach)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags behind the image belong to the command
	f.StringVar(&o.Name, "name", "", "name of the sandbox; one is drawn if you give none")
	f.StringArrayVar(&o.Allow, "allow", nil, "rule for what it may reach, e.g. example.org:443; may be repeated")
	f.StringArrayVar(&o.Deny, "deny", nil, "rule for what it may never reach; goes before every --allow")
	f.StringVar(&o.Verify, "verify", "", "names in TLS and HTTP that are not the connection's: enforce (default), log or off")
	f.BoolVar(&o.IPv6, "ipv6", false, "names have IPv6 addresses inside as well")
	f.StringArrayVar(&o.Budget, "budget", nil, "how much may leave, e.g. 200MB/h or 'NAME 10MB/d quarantine'; may be repeated")
	f.StringArrayVar(&o.Env, "env", nil, "environment variable KEY=VALUE; may be repeated")
	f.StringArrayVar(&o.Mounts, "mount", nil, "SRC:DST[:ro], a directory or file of the host; may be repeated")
	f.BoolVar(&o.Remove, "rm", false, "remove the sandbox when the command ends")
	f.BoolVarP(&detach, "detach", "d", false, "run in the background and print the name")
	f.BoolVarP(&o.Stdin, "interactive", "i", false, "give it your standard input")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give it a terminal")
	f.BoolVar(&o.NoRoot, "no-root", false, "no capability and no sudo inside")
	return cmd
}

func (e *env) sandboxRun(cmd *cobra.Command, o terok.SandboxOptions, detach bool) error {
	if !detach {
		if in, ok := e.in.(*os.File); o.TTY && (!ok || !term.IsTerminal(int(in.Fd()))) {
			return problem.New("usage", problem.Usage, "-t needs a terminal").WithHint("leave -t out")
		}
		if e.json {
			return problem.New("usage", problem.Usage, "--json needs --detach: the output is the command's own")
		}
		code, err := e.app.SandboxRunAttached(cmd.Context(), o, launch.Stdio{In: e.in, Out: e.out, Err: e.err})
		if err != nil {
			return err
		}
		if code != 0 {
			return exitCode(code)
		}
		return nil
	}
	s, err := e.app.SandboxRun(cmd.Context(), o)
	if err != nil {
		return err
	}
	return e.print("sandbox.run", s, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, s.Name)
		return err
	})
}

func newSandboxPsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "ps", Short: "List sandboxes", Args: exactly(0, ""),
		Example: "  terok sandbox ps\n  terok sandbox ps --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.app.SandboxList(cmd.Context())
			if err != nil {
				return err
			}
			return e.print("sandbox.list", list, func(w io.Writer) error {
				t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
				fmt.Fprintln(t, "NAME\tSTATE\tNETWORK\tCREATED\tIMAGE")
				for _, s := range list {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.12s\n", text.Show(s.Name), stateWord(s), network(s),
						s.CreatedAt.Local().Format(time.DateTime), s.Image)
				}
				return t.Flush()
			})
		},
	}
}

func stateWord(s terok.Sandbox) string {
	if s.ExitCode != nil {
		return fmt.Sprintf("%s (%d)", s.State, *s.ExitCode)
	}
	return s.State
}

func network(s terok.Sandbox) string {
	switch {
	case s.Supervised:
		return "supervised"
	case s.State == "running":
		return "none: no supervisor (terok sandbox adopt or restart " + text.Show(s.Name) + ")"
	}
	return "-"
}

func newSandboxStopCmd(e *env) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "stop NAME", Short: "Stop a sandbox", Args: exactly(1, "the name of a sandbox"), Example: "  terok sandbox stop web",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.app.SandboxStop(cmd.Context(), args[0], grace); err != nil {
				return err
			}
			return e.done("sandbox.stop", args[0], "stopped")
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 10*time.Second, "time to end by itself before it is killed")
	return cmd
}

func newSandboxRestartCmd(e *env) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "restart NAME", Short: "Stop a sandbox and start it with a new supervisor", Args: exactly(1, "the name of a sandbox"),
		Example: "  terok sandbox restart web",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.app.SandboxRestart(cmd.Context(), args[0], grace); err != nil {
				return err
			}
			return e.done("sandbox.restart", args[0], "restarted")
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 10*time.Second, "time to end by itself before it is killed")
	return cmd
}

func newSandboxRmCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Short: "Kill sandboxes and remove them with their files", Args: atLeast(1, "the name of a sandbox"),
		Example: "  terok sandbox rm web",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := e.app.SandboxRemove(cmd.Context(), name); err != nil {
					return err
				}
			}
			return e.done("sandbox.rm", strings.Join(args, " "), "removed")
		},
	}
}

// done reports what happened to something.
func (e *env) done(schema, name, what string) error {
	return e.print(schema, map[string]string{"name": name, "result": what}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s\n", text.Show(name), what)
		return err
	})
}

// exitCode is the code of a command inside, passed through without a message of ours.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("the command ended with %d", int(c)) }
