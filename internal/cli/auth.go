package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/passphrase"
)

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
