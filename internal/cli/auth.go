package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/launch"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/oauth"
	"terok/internal/vault/passphrase"
)

// authOptions are the flags of terok auth.
type authOptions struct {
	req                                    terok.AuthRequest
	project                                string
	stdin, list, revoke, upstream, refresh bool
	device, noBrowser                      bool
	file, command, importFile, argument    string
	bind, unbind                           string
}

func newAuthCmd(e *env) *cobra.Command {
	var o authOptions
	c := &cobra.Command{
		Use:   "auth [AGENT|PROVIDER]...",
		Short: "Sign in at a provider, or give the vault its key",
		Long: `Puts a credential into the vault. Containers never see it: they hold a token that is worth
nothing elsewhere, and the supervisor puts the credential in its place on the way to the provider.

On a terminal it offers what there is: an API key, which is typed or pasted without being shown, or
the sign-in of the vendor's own program, which runs in a container that reaches nothing else. The
provider is asked whether it takes the credential before anything is stored. Without a name there
is a menu.

Running tasks use a credential that replaces another from their next request on, find one that is
new when their agent starts next, and lose a revoked one within a second.`,
		Example: `  terok auth claude
  pass show anthropic | terok auth claude --api-key-stdin
  terok auth codex --device-auth
  terok auth github --project webshop --api-key-file ~/token
  terok auth --list
  terok auth claude --refresh
  terok auth gitlab --revoke --upstream`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return e.auth(cmd, args, &o) },
	}
	f := c.Flags()
	f.BoolVar(&o.stdin, "api-key-stdin", false, "read the key from stdin")
	f.StringVar(&o.file, "api-key-file", "", "read the key from a file (mode 0600)")
	f.StringVar(&o.command, "api-key-command", "", "run a program of yours and take the first line that it prints")
	f.StringVar(&o.importFile, "import-file", "", "take over the sign-in that a vendor's program keeps in this file")
	f.BoolVar(&o.device, "device-auth", false, "sign in by a code that is typed in a browser anywhere")
	f.BoolVar(&o.noBrowser, "no-browser", false, "never use a browser of this machine")
	f.BoolVar(&o.req.NoVerify, "no-verify", false, "do not ask the provider whether it takes the credential")
	f.StringVar(&o.req.Scope, "scope", "", "shared, or project:NAME for one project only (default shared)")
	f.StringVar(&o.project, "project", "", "the same as --scope project:NAME")
	f.StringVar(&o.req.Account, "account", "", "label, when there are several of one provider")
	f.StringVar(&o.bind, "bind", "", "make this project use the credential of --scope and --account")
	f.StringVar(&o.unbind, "unbind", "", "let this project use what its own scope gives it again")
	f.BoolVar(&o.list, "list", false, "show what is stored, without the secrets")
	f.BoolVar(&o.refresh, "refresh", false, "get a new access token now")
	f.BoolVar(&o.revoke, "revoke", false, "forget the credential")
	f.BoolVar(&o.revoke, "remove", false, "the same as --revoke")
	f.BoolVar(&o.upstream, "upstream", false, "with --revoke: tell the provider too")
	f.StringVar(&o.argument, "api-key", "", "")
	_ = f.MarkHidden("api-key") // known only to be refused with a reason
	_ = f.MarkHidden("remove")
	c.MarkFlagsMutuallyExclusive("api-key-stdin", "api-key-file", "api-key-command", "import-file", "device-auth", "list", "refresh", "revoke", "remove", "bind", "unbind")
	c.MarkFlagsMutuallyExclusive("scope", "project")
	return c
}

func (e *env) auth(cmd *cobra.Command, args []string, o *authOptions) error {
	if o.argument != "" || cmd.Flags().Changed("api-key") {
		return problem.New("usage", problem.Usage, "a key on the command line can be read by every process of this machine; revoke it if it was real").
			WithHint("terok auth NAME --api-key-stdin")
	}
	if o.project != "" {
		o.req.Scope = "project:" + o.project
	}
	switch {
	case o.upstream && !o.revoke:
		return problem.New("usage", problem.Usage, "--upstream goes with --revoke")
	case o.list:
		return e.authList(cmd)
	}
	if len(args) == 0 {
		var err error
		if args, err = e.authMenu(cmd); err != nil {
			return err
		}
	}
	// A key that somebody put behind the name is not repeated.
	for _, name := range args {
		if _, err := e.app.AuthWays(name); err != nil {
			if len(name) > 32 || strings.Contains(name, "=") {
				return problem.New("usage", problem.Usage, "that is no name of an agent or provider; if it was a key, it can be read by every process of this machine: revoke it").
					WithHint("terok auth NAME --api-key-stdin")
			}
			return err
		}
	}
	if !o.revoke && !o.refresh { // what a project left behind can still be taken away
		if err := e.app.CheckScope(o.req.Scope); err != nil {
			return err
		}
	}
	if len(args) > 1 && (o.stdin || o.file != "" || o.command != "" || o.importFile != "") {
		return problem.New("usage", problem.Usage, "one key belongs to one provider")
	}
	for _, name := range args {
		o.req.Name = name
		if err := e.authOne(cmd, o); err != nil {
			return err
		}
	}
	return nil
}

// authOne does what the flags say for one provider.
func (e *env) authOne(cmd *cobra.Command, o *authOptions) error {
	ctx := cmd.Context()
	switch {
	case o.bind != "" || o.unbind != "":
		res, err := e.app.AuthBind(ctx, o.req, o.bind+o.unbind, o.unbind != "")
		if err != nil {
			return err
		}
		return e.print("auth.bind", res, func(w io.Writer) error {
			if o.unbind != "" {
				fmt.Fprintf(w, "%s: %s is bound to no account any more\n", res.Provider, o.unbind)
			} else {
				fmt.Fprintf(w, "%s: %s uses %s/%s\n", res.Provider, o.bind, res.Scope, res.Account)
			}
			return sayTasks(w, res.Tasks, "follow with their next request")
		})
	case o.revoke:
		res, err := e.app.AuthRevoke(ctx, o.req, o.upstream)
		if err != nil {
			return err
		}
		return e.print("auth.revoke", res, func(w io.Writer) error {
			what := "forgotten"
			if o.upstream {
				what = "revoked and forgotten"
			}
			fmt.Fprintf(w, "%s: %s (%s)\n", res.Provider, what, res.Scope)
			return sayTasks(w, res.Tasks, "lose it now")
		})
	case o.refresh:
		c, err := e.app.AuthRefresh(ctx, o.req)
		if err != nil {
			return err
		}
		return e.print("auth.refresh", c, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: new token, good until %s\n", c.Provider, c.ExpiresAt.Local().Format("2006-01-02 15:04"))
			return err
		})
	}
	// Before anybody types or pipes a key.
	if err := e.app.VaultNeed(ctx); err != nil {
		return err
	}
	res, err := e.authCredential(cmd, o)
	if err != nil {
		return err
	}
	var warnings []Warning
	for _, w := range res.Warnings {
		warnings = append(warnings, Warning{"credential_mighty", w})
	}
	return e.print("auth.store", res, func(w io.Writer) error {
		verb := "stored"
		if res.Replaced {
			verb = "replaced"
		}
		fmt.Fprintf(w, "%s: %s %s (%s)", res.Provider, map[string]string{"api_key": "key", "pat": "token", "oauth": "sign-in"}[res.Kind], verb, res.Scope)
		if res.Login != "" {
			fmt.Fprintf(w, " · %s", text.Line(res.Login, 80))
		}
		if res.State != "ok" {
			fmt.Fprint(w, " · not verified")
		}
		fmt.Fprintln(w)
		if res.Late {
			return sayTasks(w, res.Tasks, "find it when their agent starts next")
		}
		return sayTasks(w, res.Tasks, "use it from their next request on")
	}, warnings...)
}

func sayTasks(w io.Writer, tasks []string, what string) error {
	if len(tasks) > 0 {
		fmt.Fprintf(w, "running tasks that %s: %s\n", what, strings.Join(tasks, ", "))
	}
	return nil
}

// authCredential gets a credential in the way that was chosen and stores it.
func (e *env) authCredential(cmd *cobra.Command, o *authOptions) (*terok.AuthResult, error) {
	ctx := cmd.Context()
	ways, err := e.app.AuthWays(o.req.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case o.importFile != "":
		if e.app.Confirm == nil {
			return nil, problem.New("declined", problem.Declined, "the program that wrote the file and terok would renew the same sign-in and so end it for one another; that needs a yes").
				WithHint("terok auth %s --import-file FILE --yes", o.req.Name)
		}
		ok, err := e.app.Confirm("The program that wrote this file and terok would renew the same sign-in, and so end it for one another. Do you use the file with nothing else from now on?")
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, problem.New("declined", problem.Declined, "nothing was stored")
		}
		return e.app.AuthImport(ctx, o.req, o.importFile)
	case o.stdin, o.file != "", o.command != "":
		key, err := e.apiKey(cmd, o)
		if err != nil {
			return nil, err
		}
		return e.app.AuthKey(ctx, o.req, key)
	case o.device && ways.Device:
		return e.app.AuthDevice(ctx, o.req, e.showCode)
	case o.device && ways.Program == "":
		return nil, problem.New("usage", problem.Usage, "%s has no sign-in by code that terok knows", ways.Title).WithHint("terok auth %s --api-key-stdin", ways.Provider)
	}
	way := "key"
	if o.device {
		way = "program"
	} else if e.interactive() {
		if way, err = e.chooseWay(ways, o.noBrowser); err != nil {
			return nil, err
		}
	}
	switch way {
	case "program":
		io := launch.Stdio{Out: e.out, Err: e.err}
		if e.interactive() {
			io.In = os.Stdin
		}
		return e.app.AuthSignIn(ctx, o.req, o.device, io)
	case "device":
		return e.app.AuthDevice(ctx, o.req, e.showCode)
	case "browser":
		return e.app.AuthBrowse(ctx, o.req, func(url string) {
			fmt.Fprintf(e.err, "Open this address in a browser on this machine:\n  %s\n", url)
		})
	}
	if ways.KeyURL != "" && e.interactive() {
		fmt.Fprintf(e.err, "Get a key at %s\n", ways.KeyURL)
	}
	key, err := e.secret("API key for " + text.Line(o.req.Name, 64) + ": ")
	if err != nil {
		p := problem.Of(err)
		return nil, p.WithHint("terok auth %s --api-key-stdin", o.req.Name)
	}
	return e.app.AuthKey(ctx, o.req, key)
}

func (e *env) showCode(code *oauth.Code) {
	fmt.Fprintf(e.err, "Open %s in a browser, anywhere, and type the code:\n\n  %s\n\n", code.URL, code.User)
	if code.Complete != "" {
		fmt.Fprintf(e.err, "or open %s\n", code.Complete)
	}
	fmt.Fprintf(e.err, "It is good until %s.\n", code.ExpiresAt.Local().Format("15:04"))
}

// chooseWay asks how to sign in, where there is more than one way.
func (e *env) chooseWay(w terok.AuthWays, noBrowser bool) (string, error) {
	ways, words := []string{"key"}, []string{"an API key or token"}
	if w.Device {
		ways, words = append(ways, "device"), append(words, "a code that you type in a browser")
	}
	if w.Browser && !noBrowser {
		ways, words = append(ways, "browser"), append(words, "a browser on this machine")
	}
	if w.Program != "" {
		ways, words = append(ways, "program"), append(words, "the sign-in of "+w.Program+", in a container")
	}
	if len(ways) == 1 {
		return ways[0], nil
	}
	for i, word := range words {
		fmt.Fprintf(e.err, "  %d  %s\n", i+1, word)
	}
	line, err := e.line(fmt.Sprintf("Sign in at %s with [1]: ", w.Title))
	if err != nil {
		return "", err
	}
	if line == "" {
		return ways[0], nil
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 1 || n > len(ways) {
		return "", problem.New("declined", problem.Declined, "%q is none of 1 to %d", text.Line(line, 20), len(ways))
	}
	return ways[n-1], nil
}

// line reads one line that may be shown.
func (e *env) line(prompt string) (string, error) {
	fmt.Fprint(e.err, prompt)
	var out []byte
	for buf := make([]byte, 1); len(out) < 1024; {
		n, err := e.in.Read(buf)
		if n == 1 && buf[0] != '\n' {
			out = append(out, buf[0])
			continue
		}
		if n == 1 || err == io.EOF && len(out) > 0 {
			break
		}
		if err != nil {
			return "", problem.New("declined", problem.Declined, "nothing was chosen")
		}
	}
	return strings.TrimSpace(string(out)), nil
}

// authMenu lets a person choose providers by number or name.
func (e *env) authMenu(cmd *cobra.Command) ([]string, error) {
	choices, err := e.app.AuthChoices(cmd.Context())
	if err != nil {
		return nil, err
	}
	names := make([]string, len(choices))
	for i, c := range choices {
		names[i] = c.Provider
	}
	if !e.interactive() {
		return nil, problem.New("usage", problem.Usage, "which agent or provider? there are: %s", strings.Join(names, ", ")).
			WithHint("terok auth claude").With("choices", choices)
	}
	tw := tabwriter.NewWriter(e.err, 0, 0, 2, ' ', 0)
	for i, c := range choices {
		fmt.Fprintf(tw, "  %d\t%s\t%s\t%s\n", i+1, c.Title, strings.Join(c.Agents, ", "), c.Badge)
	}
	_ = tw.Flush()
	line, err := e.line("Which (numbers or names, with commas between)? ")
	if err != nil {
		return nil, err
	}
	var picked []string
	for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.Atoi(word)
		switch {
		case err == nil && n >= 1 && n <= len(names):
			picked = append(picked, names[n-1])
		case err == nil:
			fmt.Fprintf(e.err, "warning: there is no %d\n", n)
		default:
			if _, err := e.app.AuthWays(word); err != nil {
				fmt.Fprintf(e.err, "warning: there is no %q\n", text.Line(word, 40))
				continue
			}
			picked = append(picked, word)
		}
	}
	if len(picked) == 0 {
		return nil, problem.New("declined", problem.Declined, "nothing was chosen")
	}
	return picked, nil
}

// apiKey reads a key from where a flag says.
func (e *env) apiKey(cmd *cobra.Command, o *authOptions) ([]byte, error) {
	switch {
	case o.file != "":
		return passphrase.File(o.file)
	case o.command != "":
		key, err := passphrase.Command(cmd.Context(), o.command, os.Getenv, os.Environ(), e.err)
		if err != nil {
			// The runner speaks of the vault's own command.
			return nil, problem.New("key_command_failed", problem.Failed, "%s", strings.ReplaceAll(err.Error(), "credentials.passphrase_command", "--api-key-command"))
		}
		return key, nil
	}
	key, err := io.ReadAll(io.LimitReader(e.in, 16<<10))
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	if strings.TrimSpace(string(key)) == "" {
		return nil, problem.New("usage", problem.Usage, "no key came on stdin")
	}
	return key, nil
}

func (e *env) authList(cmd *cobra.Command) error {
	list, err := e.app.AuthList(cmd.Context())
	if err != nil {
		return err
	}
	now := time.Now()
	type row struct {
		terok.Credential
		Badge string `json:"badge"`
	}
	rows := make([]row, len(list))
	for i, c := range list {
		rows[i] = row{c, terok.AuthBadge(c, now)}
	}
	return e.print("auth.list", map[string]any{"credentials": rows}, func(w io.Writer) error {
		if len(list) == 0 {
			fmt.Fprintln(e.err, "nothing is stored\n  → terok auth claude")
			return nil
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "PROVIDER\tSCOPE\tACCOUNT\tKIND\tENDS IN\tSTATE")
		for _, r := range rows {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t…%s\t%s\n", r.Provider, r.Scope, r.Account, r.Kind, text.Line(r.Hint, 8), r.Badge)
			if r.LastError != "" {
				fmt.Fprintf(tw, "\t\t\t\t\t  %s\n", text.Line(r.LastError, 200))
			}
		}
		return tw.Flush()
	})
}
