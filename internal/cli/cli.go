// Package cli is the command line: it parses flags, calls one method of terok.App and prints
// what came back. Results go to stdout; progress, prompts, hints and warnings to stderr.
//
// Each group of commands is one file with a constructor newXxxCmd(*env) that only parses; the
// work is in the App. Nothing here knows podman, git or files.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok"
	"terok/internal/problem"
	"terok/internal/state"
)

// env is what every command has: the core, the streams and the global flags.
type env struct {
	app     *terok.App
	in      io.Reader
	out     io.Writer // results
	err     io.Writer // everything else
	json    bool
	yes     bool
	noInput bool
	quiet   bool
	color   string // auto, always or never

	personalSSH bool // --use-personal-ssh
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	e := &env{in: in, out: out, err: errw}
	root := newRoot(e)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// Parsing ended at the wrong flag; a --json behind it counts all the same.
		e.json = e.json || slices.Contains(args, "--json")
		return flagError(cmd, err)
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return problem.OK
	}
	return e.fail(ctx, err)
}

// Command is the tree of all commands, for man pages and completions; it is not to be executed.
func Command() *cobra.Command {
	return newRoot(&env{in: strings.NewReader(""), out: io.Discard, err: io.Discard})
}

func newRoot(e *env) *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "terok",
		Short: "Let AI coding agents work unattended, inside a container that cannot hurt you",
		Long: `terok runs AI coding agents without permission prompts, each task in a hardened rootless
Podman container: no network but an allow-list judged by name, no real keys inside, and no way
to your upstream but through your review.`,
		Example: `  terok demo                         see all of it, nothing needed
  terok run claude -p "Fix the flaky checkout test"
  terok review                       what waits for you
  terok promote k3v9p                bring it into your clone`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := usage(cmd, cmd.ValidateFlagGroups()); err != nil {
				return err
			}
			if showVersion {
				return nil
			}
			return e.open()
		},
		Args: noVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return e.printVersion()
			}
			_ = cmd.Help()
			return problem.New("usage", problem.Usage, "a command is needed").WithHint("terok --help")
		},
	}
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "print the version; with --json commit, date and Go version too")
	f := root.PersistentFlags()
	f.BoolVar(&e.json, "json", false, "print one JSON object (streams: JSON Lines)")
	f.BoolVarP(&e.yes, "yes", "y", false, "answer prompts affirmatively")
	f.BoolVar(&e.noInput, "no-input", false, "never prompt; fail where an answer is needed (exit 9)")
	f.BoolVarP(&e.quiet, "quiet", "q", false, "no progress on stderr")
	f.StringVar(&e.color, "color", "auto", "auto, always or never; NO_COLOR is honoured")
	root.SetHelpCommand(newHelpCmd())
	root.CompletionOptions.DisableDefaultCmd = true
	for _, add := range commands {
		root.AddCommand(add(e))
	}
	strict(root)
	return root
}

// commands lists the constructors of the top-level commands, in the order of the help text.
var commands = []func(*env) *cobra.Command{
	newDemoCmd,
	newRunCmd,
	newReviewCmd,
	newPromoteCmd,
	newDiffCmd,
	newReceiptCmd,
	newLoginCmd,
	newTaskCmd,
	newProjectCmd,
	newGateCmd,
	newPanicCmd,
	newSandboxCmd,
	newClearanceCmd,
	newShieldCmd,
	newEventsCmd,
	newVerifyCmd,
	newImageCmd,
	newAgentsCmd,
	newVaultCmd,
	newAuthCmd,
	newSSHCmd,
	newAuditCmd,
	newCompletionCmd,
}

// group makes a command that only holds others; a wrong or missing verb is a usage error.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	var examples []string // the first of each verb
	for _, sub := range subs {
		first, _, _ := strings.Cut(sub.Example, "\n")
		examples = append(examples, first)
	}
	c := &cobra.Command{Use: use, Short: short, Args: noVerb, Example: strings.Join(examples, "\n")}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		_ = cmd.Help()
		return problem.New("usage", problem.Usage, "%s needs a verb", cmd.CommandPath()).WithHint("%s --help", cmd.CommandPath())
	}
	c.AddCommand(subs...)
	return c
}

// open fills in the core once flags are parsed.
func (e *env) open() error {
	switch e.color {
	case "auto", "always", "never":
	default:
		return problem.New("usage", problem.Usage, "--color takes auto, always or never, not %q", e.color)
	}
	roots, err := state.FromEnv(os.Getenv)
	if err != nil {
		return problem.New("environment", problem.Usage, "%w", err)
	}
	if err := roots.Check(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the terok program: %w", err)
	}
	e.app = &terok.App{Roots: roots, Self: self, Environ: os.Getenv, Progress: e.err, Now: time.Now, PersonalSSH: e.personalSSH}
	if e.quiet {
		e.app.Progress = io.Discard
	}
	if e.yes {
		e.app.Confirm = func(string) (bool, error) { return true, nil }
	} else if e.interactive() {
		e.app.Confirm = e.confirm
	}
	return nil
}

// interactive reports whether a person can answer: stdin and stdout are terminals.
func (e *env) interactive() bool {
	in, ok1 := e.in.(*os.File)
	out, ok2 := e.out.(*os.File)
	return !e.noInput && ok1 && ok2 && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd()))
}

// styled reports whether w may get colours.
func (e *env) styled(w io.Writer) bool {
	switch e.color {
	case "always":
		return true
	case "never":
		return false
	}
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// confirm asks a yes/no question; the default and EOF are no.
func (e *env) confirm(q string) (bool, error) {
	fmt.Fprintf(e.err, "%s [y/N] ", q)
	line, err := readLine(e.in)
	if err != nil {
		return false, err
	}
	a := strings.ToLower(strings.TrimSpace(line))
	return a == "y" || a == "yes", nil
}

// readLine reads one line and nothing behind it, without its end; the end of the input ends it too.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for buf := make([]byte, 1); len(line) < 64<<10; {
		n, err := r.Read(buf)
		if n == 1 && buf[0] != '\n' {
			line = append(line, buf[0])
			continue
		}
		if n == 1 || err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(string(line), "\r"), nil
}

// sure asks before something is lost; without anybody to ask it is an error that names the command.
func (e *env) sure(question, hint string, args ...any) error {
	if e.app.Confirm == nil {
		return problem.New("needs_answer", problem.Declined, "this needs a confirmation: %s", question).WithHint(hint, args...)
	}
	ok, err := e.app.Confirm(question)
	if err == nil && !ok {
		err = problem.New("declined", problem.Declined, "nothing was changed")
	}
	return err
}

// Warning is a remark that does not change the result.
type Warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// print writes a result: data as JSON under schema "terok.<noun>.<verb>/1", or by human.
func (e *env) print(schema string, data any, human func(w io.Writer) error, warnings ...Warning) error {
	if !e.json {
		for _, w := range warnings {
			fmt.Fprintln(e.err, "warning:", w.Message)
		}
		return human(e.out)
	}
	if warnings == nil {
		warnings = []Warning{}
	}
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(map[string]any{"schema": "terok." + schema + "/1", "data": data, "warnings": warnings})
}

// fail prints an error with its cure and returns the exit code.
func (e *env) fail(ctx context.Context, err error) int {
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code) // a command inside a container spoke for itself
	}
	p := problem.Of(err)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		p = problem.New("interrupted", problem.Interrupted, "interrupted")
	}
	if e.json {
		enc := json.NewEncoder(e.err)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]any{"error": map[string]any{
			"code": p.Code, "message": p.Message, "hint": nilIfEmpty(p.Hint), "exit": p.Exit, "details": p.Details}})
		return p.Exit
	}
	fmt.Fprintf(e.err, "terok: %s\n", p.Message)
	if p.Hint != "" {
		fmt.Fprintf(e.err, "  → %s\n", p.Hint)
	}
	return p.Exit
}

func nilIfEmpty(s string) any {
	if s == "" {
		return nil
	}
	return s
}
