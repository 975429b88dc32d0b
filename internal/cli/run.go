package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
)

// runFlags are the flags that terok run and terok task run share.
type runFlags struct {
	req        terok.RunRequest
	promptFile string
	mode       string
	carry      bool
	noCarry    bool
	detach     bool
}

func (f *runFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVarP(&f.req.Prompt, "prompt", "p", "", "work on this without a person and come back (\"-\" reads it from stdin)")
	s.StringVar(&f.promptFile, "prompt-file", "", "like --prompt, from a file")
	s.StringVar(&f.mode, "mode", "", "interactive or headless (default: headless with a prompt, else interactive)")
	s.StringVar(&f.req.Model, "model", "", "model, in the agent's own words")
	s.StringVar(&f.req.Provider, "provider", "", "whose model (default: the project's, else what a key is stored for; terok agents list)")
	s.DurationVar(&f.req.Timeout, "timeout", defaultTimeout, "stop a headless agent after this long, 0 never; what it wrote is kept")
	s.StringVar(&f.req.Name, "name", "", "name of the task (default: drawn)")
	s.StringVar(&f.req.Base, "from", "", "branch, commit, or TASK[:BRANCH] to begin from (default: what your clone has checked out)")
	s.StringArrayVar(&f.req.Allow, "allow", nil, "let the task reach this, e.g. registry.npmjs.org:443 (repeatable)")
	s.BoolVar(&f.req.Restricted, "restricted", false, "keep the agent's own permission prompts, and no sudo")
	s.BoolVar(&f.carry, "carry", false, "begin from the clone's uncommitted work as well")
	s.BoolVar(&f.noCarry, "no-carry", false, "leave uncommitted work out without asking")
	s.BoolVarP(&f.detach, "detach", "d", false, "start only; see terok task logs and terok login")
	c.MarkFlagsMutuallyExclusive("prompt", "prompt-file")
	c.MarkFlagsMutuallyExclusive("carry", "no-carry")
}

// timedOut is the recorded exit code of an agent whose time was over.
const timedOut = 124

// maxTimeout is far beyond any use and fits wherever the number goes.
const maxTimeout = 30 * 24 * time.Hour

// defaultTimeout is how long an agent may work without a person (spec: agents.md §9).
const defaultTimeout = 30 * time.Minute

// request finishes the request from the flags.
func (f *runFlags) request(e *env, cmd *cobra.Command) (terok.RunRequest, error) {
	req := f.req
	switch {
	case f.promptFile != "":
		data, err := os.ReadFile(f.promptFile)
		if err != nil {
			return req, problem.New("no_prompt_file", problem.Usage, "--prompt-file: %w", err)
		}
		req.Prompt = string(data)
	case req.Prompt == "-":
		data, err := io.ReadAll(io.LimitReader(e.in, 4<<20+1))
		if err != nil {
			return req, err
		}
		req.Prompt = string(data)
	}
	prompt := strings.TrimSpace(req.Prompt) != ""
	if f.promptFile != "" && !prompt {
		return req, problem.New("prompt_missing", problem.Usage, "%s is empty", f.promptFile)
	}
	switch f.mode {
	case "":
		req.Headless = prompt
	case "headless", "run":
		if req.Headless = true; !prompt {
			return req, problem.New("prompt_missing", problem.Usage, "--prompt required: a headless agent needs to know what to do").
				WithHint("%s %s --mode headless -p \"…\"", cmd.CommandPath(), strings.Join(cmd.Flags().Args(), " "))
		}
	case "interactive", "cli":
	default:
		return req, problem.New("usage", problem.Usage, "--mode is interactive or headless, not %q", f.mode).WithHint("%s --help", cmd.CommandPath())
	}
	if !req.Headless {
		if cmd.Flags().Changed("timeout") {
			return req, problem.New("usage", problem.Usage, "--timeout is for runs without a person").WithHint("add -p \"…\", or leave --timeout out")
		}
		req.Timeout = 0
	}
	if req.Timeout < 0 || req.Timeout%time.Second != 0 || req.Timeout > maxTimeout {
		return req, problem.New("usage", problem.Usage, "--timeout takes whole seconds up to %s", maxTimeout).WithHint("e.g. --timeout 90m; 0 is no limit")
	}
	if f.carry {
		req.Carry = "yes"
	}
	if f.noCarry {
		req.Carry = "no"
	}
	return req, nil
}

func newRunCmd(e *env) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run AGENT [DIR]",
		Short: "Let an agent work on the repository in DIR (default: here)",
		Long: `Let an agent work on a repository. The agent gets its own container, its own clone and its
own branch; it reaches its model through the vault and nothing else unless you allow it; what it
pushes waits for terok review and terok promote.

Without --prompt you land in the agent's terminal. With --prompt it works on its own and you see
what it does; the exit code is 20 when the agent failed or was not done after --timeout. With
--mode interactive as well the prompt is what the agent in the terminal begins with.`,
		Example: `  terok run claude
  terok run claude -p "Fix the flaky checkout test"
  terok run claude -p "Port the parser" --model opus --timeout 2h
  terok run claude --mode interactive -p "Explain this code to me"
  terok run opencode --provider openrouter -p "Write the missing tests"
  terok run claude ~/src/webshop --allow registry.npmjs.org -p "Update the dependencies"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return problem.New("usage", problem.Usage, "terok run needs an agent").WithHint("terok run claude")
			}
			if len(args) > 2 {
				return problem.New("usage", problem.Usage, "unexpected argument %q", args[2]).WithHint("put the prompt in quotes: terok run %s -p \"…\"", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.request(e, cmd)
			if err != nil {
				return err
			}
			req.Agent, req.Dir = args[0], "."
			if len(args) == 2 {
				req.Dir = args[1]
			}
			return e.run(cmd, req, f.detach)
		},
	}
	f.add(c)
	e.personalFlag(c)
	c.ValidArgsFunction = e.completeRun
	_ = c.RegisterFlagCompletionFunc("provider", e.completeProviders)
	return c
}

func newTaskRunCmd(e *env) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run PROJECT [PROMPT]",
		Short: "Start a task of a project",
		Example: `  terok task run webshop "Fix the flaky checkout test"
  terok task run webshop --agent claude`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return problem.New("usage", problem.Usage, "terok task run needs a project").WithHint("terok project list")
			}
			if len(args) > 2 {
				return problem.New("usage", problem.Usage, "unexpected argument %q", args[2]).WithHint("put the prompt in quotes")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if f.req.Prompt != "" || f.promptFile != "" {
					return problem.New("usage", problem.Usage, "the prompt is given twice: %.40q and by a flag", args[1]).
						WithHint("an agent is named with --agent")
				}
				f.req.Prompt = args[1]
			}
			req, err := f.request(e, cmd)
			if err != nil {
				return err
			}
			req.Project = args[0]
			return e.run(cmd, req, f.detach)
		},
	}
	f.add(c)
	e.personalFlag(c)
	c.Flags().StringVar(&f.req.Agent, "agent", "", "agent (default: the project's)")
	_ = c.RegisterFlagCompletionFunc("agent", e.completeAgents)
	_ = c.RegisterFlagCompletionFunc("provider", e.completeProviders)
	return c
}

// run starts a task and stays with it: the agent's terminal, or what it does and how it ended.
func (e *env) run(cmd *cobra.Command, req terok.RunRequest, detach bool) error {
	ctx := cmd.Context()
	if err := e.app.KnownAgent(req.Agent); err != nil {
		return err
	}
	if !req.Headless && !detach && !e.interactive() {
		return problem.New("no_terminal", problem.Usage, "an interactive task needs a terminal").
			WithHint("give it a prompt (-p \"…\"), or start it detached (-d)")
	}
	v, err := e.app.Run(ctx, req)
	for err != nil {
		// What is missing and can be typed is asked for; then the run is tried again.
		cured, cerr := e.cure(cmd, err)
		if cerr != nil {
			return cerr
		}
		if !cured {
			return err
		}
		v, err = e.app.Run(ctx, req)
	}
	t, err := e.app.FindTask(v.Project, v.ID)
	if err != nil {
		return err
	}
	if !e.quiet {
		for _, line := range e.app.Headline(t, !detach && !req.Headless) {
			fmt.Fprintln(e.err, line)
		}
	}
	switch {
	case detach:
		return e.print("task.run", v, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s runs; follow it with: terok task logs -f %s\n", v.Ref(), v.ID)
			return err
		})
	case !req.Headless:
		return e.attach(ctx, t)
	}
	progress := e.out
	if e.json {
		progress = io.Discard
	}
	sum, err := e.app.FollowTask(ctx, t, true, progress, e.styled(e.out))
	if ctx.Err() != nil {
		fmt.Fprintf(e.err, "\n%s goes on without you; follow it: terok task logs -f %s · stop: terok task stop %s\n", v.Ref(), v.ID, v.ID)
		return problem.New("interrupted", problem.Interrupted, "no longer following %s", v.Ref())
	}
	if err != nil {
		return err
	}
	end, err := e.app.FinishTask(ctx, t, sum)
	if err != nil {
		return err
	}
	if perr := e.print("task.run", end, func(w io.Writer) error {
		for _, n := range end.Traffic[:min(len(end.Traffic), 3)] {
			fmt.Fprintln(w, "  "+trafficLine(n))
		}
		_, err := fmt.Fprintln(w, end.Line())
		return err
	}); perr != nil {
		return perr
	}
	if end.Failed() {
		p := problem.New("agent_failed", problem.AgentFailed, "the agent ended with exit code %d", end.ExitCode)
		if end.ExitCode == 0 {
			p = problem.New("agent_failed", problem.AgentFailed, "the agent says that it failed")
		}
		if end.ExitCode == timedOut && req.Timeout > 0 && end.Seconds >= req.Timeout.Seconds() {
			p = problem.New("agent_timeout", problem.AgentFailed, "the agent was not done after %s and was stopped (exit code %d); what it wrote and pushed is kept", req.Timeout, end.ExitCode)
		}
		return p.WithHint("terok task logs %s", v.ID).With("exit_code", end.ExitCode)
	}
	if !e.quiet && end.Commits > 0 {
		fmt.Fprintf(e.err, "look at it: terok review show %s · take it: terok promote %s\n", v.ID, v.ID)
	}
	return nil
}

// cure asks the person for what a run lacks: a vault, its passphrase, a key. It reports false for
// errors that nothing typed can cure, and where nobody can be asked.
func (e *env) cure(cmd *cobra.Command, problemErr error) (bool, error) {
	if !e.interactive() {
		return false, nil
	}
	p := problem.Of(problemErr)
	switch p.Code {
	case "vault_missing":
		fmt.Fprintln(e.err, "Your API keys are kept in an encrypted vault.")
		return true, e.setUpVault(cmd, setupOptions{})
	case "vault_locked":
		byUser := p.Details["lock_reason"] == terok.LockUser
		if byUser {
			if ok, err := e.confirm("You have locked the vault. Unlock it?"); err != nil || !ok {
				return false, err
			}
		}
		_, err := e.unlock(cmd, "", false, false, !byUser)
		return true, err
	case "credential_missing":
		name, _ := p.Details["provider"].(string)
		scope, _ := p.Details["scope"].(string)
		fmt.Fprintf(e.err, "%s.\n", p.Message)
		_, err := e.authCredential(cmd, &authOptions{req: terok.AuthRequest{Name: name, Scope: scope}})
		return err == nil, err
	}
	return false, nil
}

func newPanicCmd(e *env) *cobra.Command {
	var clear, stop bool
	c := &cobra.Command{
		Use:   "panic",
		Short: "Cut every task off from everything, now",
		Long: `Cut every task off: its supervisor is killed, and with it the container's only network, its
credentials and its gate; the vault is locked; nothing starts until terok panic --clear. Works
without podman, without configuration and with a locked vault. Containers and work are kept.`,
		Example: "  terok panic\n  terok panic --stop\n  terok panic --clear",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clear {
				if err := e.app.ClearPanic(); err != nil {
					return err
				}
				return e.print("panic.clear", map[string]bool{"locked": false}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, "unlocked; next: terok vault unlock, then terok task restart for each task that shall go on")
					return err
				})
			}
			r, err := e.app.Panic(cmd.Context(), stop)
			if perr := e.print("panic.run", r, func(w io.Writer) error {
				fmt.Fprintf(w, "supervisors killed: %d · vault: %s · containers stopped: %d\n", r.Supervisors, r.Vault, r.Stopped)
				for _, m := range r.Errors {
					fmt.Fprintln(e.err, "error:", m)
				}
				_, err := fmt.Fprintln(w, "locked: nothing starts until terok panic --clear")
				return err
			}); perr != nil {
				return errors.Join(err, perr)
			}
			return err
		},
	}
	c.Flags().BoolVar(&clear, "clear", false, "lift the lock")
	c.Flags().BoolVar(&stop, "stop", false, "also kill the containers")
	return c
}
