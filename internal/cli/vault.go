package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/passphrase"
)

func newVaultCmd(e *env) *cobra.Command {
	return group("vault", "Keep real keys out of containers",
		newVaultInitCmd(e), newVaultUnlockCmd(e), newVaultLockCmd(e), newVaultStatusCmd(e))
}

func newVaultInitCmd(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the vault and unlock it",
		Long: `Makes the vault: one encrypted file that a passphrase opens, and unlocks it.

The passphrase is typed twice, or comes from --passphrase-file or from the command in
credentials.passphrase_command of config.yml; never from an argument or the environment.`,
		Example: "  terok vault init\n  terok vault init --passphrase-file ~/.config/terok/passphrase",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pass, err := e.passphrase(cmd, file, true)
			if err != nil {
				return err
			}
			defer clear(pass)
			if err := e.app.VaultInit(cmd.Context(), pass); err != nil {
				return err
			}
			return e.printVault(cmd, "vault.init")
		},
	}
	passphraseFlag(c, &file)
	return c
}

func newVaultUnlockCmd(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "unlock",
		Short: "Unlock the vault for every task and face",
		Long: `Unlocks the vault until "terok vault lock", logout or panic. Running tasks can use it at once.

The passphrase is typed, or comes from --passphrase-file or from the command in
credentials.passphrase_command of config.yml; never from an argument or the environment.`,
		Example: "  terok vault unlock\n  terok vault unlock --passphrase-file ~/.config/terok/passphrase",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for attempt := 1; ; attempt++ {
				pass, err := e.passphrase(cmd, file, false)
				if err != nil {
					return err
				}
				typed := pass != nil && file == ""
				err = e.app.VaultUnlock(cmd.Context(), pass)
				if problem.Is(err, "wrong_passphrase") && typed && attempt < 3 {
					fmt.Fprintln(e.err, "wrong passphrase")
					continue
				}
				if err != nil {
					return err
				}
				return e.printVault(cmd, "vault.unlock")
			}
		},
	}
	passphraseFlag(c, &file)
	return c
}

func newVaultLockCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "lock",
		Short:   "Forget every key; tasks get 503 until the vault is unlocked",
		Example: "  terok vault lock",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.app.VaultLock(cmd.Context()); err != nil {
				return err
			}
			return e.printVault(cmd, "vault.lock")
		},
	}
}

func newVaultStatusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say whether the vault is locked, and what opens it",
		Example: "  terok vault status\n  terok vault status --json",
		Args:    exactly(0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.printVault(cmd, "vault.status") },
	}
}

func (e *env) printVault(cmd *cobra.Command, schema string) error {
	st, err := e.app.VaultStatus(cmd.Context())
	if err != nil {
		return err
	}
	return e.print(schema, st, func(w io.Writer) error {
		fmt.Fprintf(w, "vault %s", st.State)
		switch {
		case st.State == "unlocked":
			fmt.Fprintf(w, " · %s · keyholder %d, %s", count(st.Credentials, "credential"), st.PID, count(st.Sessions, "task"))
		case st.LockReason == "user_locked":
			fmt.Fprint(w, " by you")
		}
		fmt.Fprintln(w)
		if st.Hint != "" && schema == "vault.status" {
			fmt.Fprintf(e.err, "  → %s\n", st.Hint)
		}
		return nil
	})
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func passphraseFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "passphrase-file", "", "file (mode 0600) or pipe that holds the passphrase")
}

// passphrase gets a passphrase from a file or the terminal; nil means that the configured command
// is to be asked.
func (e *env) passphrase(cmd *cobra.Command, file string, twice bool) ([]byte, error) {
	if file != "" {
		return passphrase.File(file)
	}
	st, err := e.app.VaultStatus(cmd.Context())
	if err != nil {
		return nil, err
	}
	if st.Command || !e.interactive() {
		return nil, nil
	}
	if twice && st.State != "unprovisioned" || !twice && st.State == "unprovisioned" {
		return nil, nil // the core says what is wrong, before anything is typed
	}
	pass, err := e.secret("Passphrase of the vault: ")
	if err != nil || !twice {
		return pass, err
	}
	again, err := e.secret("Again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(pass, again) {
		return nil, problem.New("usage", problem.Usage, "the two were not the same")
	}
	if weak(pass) {
		ok, err := e.confirm("That is short or of one kind of character only. Use it all the same?")
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, problem.New("declined", problem.Declined, "nothing was made")
		}
	}
	return pass, nil
}

// weak reports whether a passphrase is under 12 characters or of one kind only.
func weak(p []byte) bool {
	var lower, upper, digit, other int
	for _, c := range p {
		switch {
		case c >= 'a' && c <= 'z':
			lower = 1
		case c >= 'A' && c <= 'Z':
			upper = 1
		case c >= '0' && c <= '9':
			digit = 1
		default:
			other = 1
		}
	}
	return len(p) < 12 || lower+upper+digit+other < 2
}

// secret reads one line from the terminal without showing it.
func (e *env) secret(prompt string) ([]byte, error) {
	f, ok := e.in.(*os.File)
	if !ok || !e.interactive() {
		return nil, problem.New("declined", problem.Declined, "a secret is needed and there is no terminal to type it")
	}
	fmt.Fprint(e.err, prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(e.err)
	if err != nil {
		return nil, err
	}
	// Markers of a bracketed paste, where the terminal sends them.
	b = bytes.TrimSuffix(bytes.TrimPrefix(b, []byte("\x1b[200~")), []byte("\x1b[201~"))
	if len(b) == 0 {
		return nil, problem.New("declined", problem.Declined, "nothing was typed")
	}
	return b, nil
}

func newAuthCmd(e *env) *cobra.Command {
	var o struct {
		stdin, list, remove   bool
		file, scope, argument string
	}
	c := &cobra.Command{
		Use:   "auth [AGENT|PROVIDER]",
		Short: "Give the vault a key for an agent",
		Long: `Stores an API key in the vault. Containers never see it: they hold a token that is worth
nothing elsewhere, and the supervisor puts the key in its place on the way to the provider.

Running tasks use a new key from their next request on.`,
		Example: "  terok auth claude\n  pass show anthropic | terok auth claude --api-key-stdin\n  terok auth --list",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.argument != "" {
				return problem.New("usage", problem.Usage, "a key on the command line can be read by every process of this machine; revoke it if it was real").
					WithHint("terok auth NAME --api-key-stdin")
			}
			if o.list {
				return e.authList(cmd)
			}
			if len(args) == 0 {
				return problem.New("usage", problem.Usage, "which agent or provider?").WithHint("terok auth claude")
			}
			if o.remove {
				p, err := e.app.AuthRemove(cmd.Context(), args[0], o.scope)
				if err != nil {
					return err
				}
				return e.print("auth.remove", map[string]any{"provider": p, "scope": o.scope}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s: forgotten\n", p)
					return err
				})
			}
			// Before anybody types or pipes a key.
			if err := e.app.KnownCredential(args[0]); err != nil {
				return err
			}
			if err := e.app.VaultNeed(cmd.Context()); err != nil {
				return err
			}
			key, err := e.apiKey(o.stdin, o.file, args[0])
			if err != nil {
				return err
			}
			p, replaced, err := e.app.AuthKey(cmd.Context(), args[0], o.scope, key)
			if err != nil {
				return err
			}
			return e.print("auth.store", map[string]any{"provider": p, "scope": o.scope, "replaced": replaced}, func(w io.Writer) error {
				verb := "stored"
				if replaced {
					verb = "replaced"
				}
				_, err := fmt.Fprintf(w, "%s: key %s (%s)\n", p, verb, o.scope)
				return err
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&o.stdin, "api-key-stdin", false, "read the key from stdin")
	f.StringVar(&o.file, "api-key-file", "", "read the key from a file (mode 0600)")
	f.StringVar(&o.scope, "scope", "shared", "shared, or project:NAME for one project only")
	f.BoolVar(&o.list, "list", false, "show what is stored, without the keys")
	f.BoolVar(&o.remove, "remove", false, "forget the key")
	f.StringVar(&o.argument, "api-key", "", "")
	_ = f.MarkHidden("api-key") // known only to be refused with a reason
	c.MarkFlagsMutuallyExclusive("api-key-stdin", "api-key-file", "list", "remove")
	return c
}

func (e *env) apiKey(stdin bool, file, name string) ([]byte, error) {
	switch {
	case file != "":
		return passphrase.File(file)
	case stdin:
		key, err := io.ReadAll(io.LimitReader(e.in, 16<<10))
		if err != nil {
			return nil, fmt.Errorf("read the key: %w", err)
		}
		if len(bytes.TrimSpace(key)) == 0 {
			return nil, problem.New("usage", problem.Usage, "no key came on stdin")
		}
		return key, nil
	}
	key, err := e.secret("API key for " + text.Line(name, 64) + ": ")
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return nil, p.WithHint("terok auth %s --api-key-stdin", name)
	}
	return key, err
}

func (e *env) authList(cmd *cobra.Command) error {
	list, err := e.app.AuthList(cmd.Context())
	if err != nil {
		return err
	}
	return e.print("auth.list", map[string]any{"credentials": list}, func(w io.Writer) error {
		if len(list) == 0 {
			fmt.Fprintln(e.err, "nothing is stored\n  → terok auth claude")
			return nil
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "PROVIDER\tSCOPE\tKIND\tENDS IN\tUPDATED")
		for _, c := range list {
			fmt.Fprintf(tw, "%s\t%s\t%s\t…%s\t%s\n", c.Provider, c.Scope, c.Kind, text.Line(c.Hint, 8), c.UpdatedAt.Local().Format("2006-01-02 15:04"))
		}
		return tw.Flush()
	})
}
