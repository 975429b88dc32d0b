package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/vault/credsd"
	"terok/internal/vault/passphrase"
)

func newSlotsCmd(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:     "slots",
		Short:   "List the ways into the vault",
		Example: "  terok vault slots\n  terok vault slots remove systemd-creds",
		Args:    noVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			slots, err := e.app.VaultSlots(cmd.Context())
			if err != nil {
				return err
			}
			return e.print("vault.slots", map[string]any{"slots": slots}, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "SLOT\tKIND\tSINCE")
				for _, s := range slots {
					kind := s.Kind
					if s.Generated {
						kind += " (made by terok)"
					}
					fmt.Fprintf(tw, "%.8s\t%s\t%s\n", s.ID, kind, s.CreatedAt.Local().Format("2006-01-02 15:04"))
				}
				return tw.Flush()
			})
		},
	}
	c.AddCommand(&cobra.Command{
		Use:     "remove SLOT",
		Short:   "Take a way into the vault away; the last one stays",
		Example: "  terok vault slots remove secret-service\n  terok vault slots remove 3fa2c91b",
		Args:    exactly(1, "which slot?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := e.app.VaultSlotRemove(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.print("vault.slots.remove", s, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%.8s %s: removed\n", s.ID, s.Kind)
				return err
			})
		},
	})
	return c
}

func newPassphraseCmd(e *env) *cobra.Command {
	return group("passphrase", "Change what opens the vault",
		newPassphraseChangeCmd(e), newPassphraseSealCmd(e), newPassphraseKeyringCmd(e), newPassphraseResyncCmd(e),
		newPassphraseAcknowledgeCmd(e), newPassphraseRevealCmd(e))
}

func newPassphraseChangeCmd(e *env) *cobra.Command {
	var file string
	var stdin, generate bool
	c := &cobra.Command{
		Use:   "change",
		Short: "Replace the passphrase; tasks and other ways in go on",
		Long: `Replaces the passphrase, or makes one. Nothing is encrypted anew and no task notices.

With --stdin the first line is the current passphrase if the vault is locked, and the next one the
new one.`,
		Example: "  terok vault passphrase change\n  terok vault passphrase change --passphrase-file ~/.config/terok/passphrase\n  terok vault passphrase change --generate",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pass, err := e.nextPassphrase(cmd, file, stdin, generate)
			defer clear(pass)
			if err != nil {
				return err
			}
			if err := e.app.VaultPassphraseChange(cmd.Context(), pass, generate); err != nil {
				return err
			}
			if generate {
				fmt.Fprintln(e.err, "A new passphrase was made; see it with: terok vault passphrase reveal")
			}
			return e.printVault(cmd, "vault.passphrase.change")
		},
	}
	passphraseFlag(c, &file)
	c.Flags().BoolVar(&stdin, "stdin", false, "read the current passphrase (if locked) and the new one from stdin, a line each")
	c.Flags().BoolVar(&generate, "generate", false, "let terok make one; an open vault can show it again")
	c.MarkFlagsMutuallyExclusive("passphrase-file", "stdin", "generate")
	return c
}

// nextPassphrase gets the new passphrase, with the vault open.
func (e *env) nextPassphrase(cmd *cobra.Command, file string, stdin, generate bool) ([]byte, error) {
	if stdin {
		in := bufio.NewReader(io.LimitReader(e.in, 16<<10))
		line := func() []byte { l, _ := in.ReadBytes('\n'); return bytes.TrimRight(l, "\r\n") }
		if problem.Is(e.app.VaultNeed(cmd.Context()), "vault_locked") {
			current := line()
			defer clear(current)
			if err := e.app.VaultUnlock(cmd.Context(), current); err != nil {
				return nil, err
			}
		}
		return line(), nil
	}
	if err := e.app.VaultNeed(cmd.Context()); err != nil {
		return nil, err
	}
	switch {
	case generate:
		return terok.MintPassphrase(), nil
	case file != "":
		return passphrase.File(file)
	case !e.interactive():
		return nil, problem.New("passphrase_needed", problem.Declined, "a new passphrase is needed and nobody can be asked").
			WithHint("terok vault passphrase change --passphrase-file FILE")
	}
	return e.chosen("New passphrase of the vault: ")
}

func newPassphraseSealCmd(e *env) *cobra.Command {
	var key string
	var exclusive bool
	c := &cobra.Command{
		Use:   "seal",
		Short: "Let this machine open the vault by itself, with systemd-creds",
		Long: `Adds a way in that systemd-creds keeps: sealed to this user of this machine, and to its TPM where
there is one. Commands and tasks then find the vault open without anybody typing. Needs systemd 257.`,
		Example: "  terok vault passphrase seal\n  terok vault passphrase seal --key tpm+host",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, ok := credsd.Keys[key]; !ok {
				return problem.New("usage", problem.Usage, "--key takes auto, tpm, host or tpm+host, not %q", key)
			}
			return e.sealed(cmd, "systemd-creds", key, exclusive)
		},
	}
	c.Flags().StringVar(&key, "key", "auto", "auto, tpm, host or tpm+host: what the sealed copy hangs on")
	c.Flags().BoolVar(&exclusive, "exclusive", false, "take the other ways in away that need no person")
	return c
}

func newPassphraseKeyringCmd(e *env) *cobra.Command {
	var exclusive bool
	c := &cobra.Command{
		Use:     "to-keyring",
		Short:   "Let the desktop's keyring open the vault (Secret Service)",
		Example: "  terok vault passphrase to-keyring\n  terok vault passphrase to-keyring --exclusive",
		Args:    exactly(0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.sealed(cmd, "secret-service", "", exclusive) },
	}
	c.Flags().BoolVar(&exclusive, "exclusive", false, "take the other ways in away that need no person")
	return c
}

func (e *env) sealed(cmd *cobra.Command, kind, key string, exclusive bool) error {
	s, err := e.app.VaultSeal(cmd.Context(), kind, key, exclusive)
	if err != nil {
		return err
	}
	return e.print("vault.passphrase.seal", s, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s opens the vault from now on (slot %.8s)\n", s.Kind, s.ID)
		return err
	})
}

func newPassphraseResyncCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "resync",
		Short: "Take what credentials.passphrase_command prints now",
		Long: `Makes what the command in credentials.passphrase_command prints now a way into the vault, after it
was changed there or configured for the first time. The vault must be open.`,
		Example: "  terok vault passphrase resync",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.app.VaultPassphraseResync(cmd.Context()); err != nil {
				return err
			}
			return e.printVault(cmd, "vault.passphrase.resync")
		},
	}
}

func newPassphraseAcknowledgeCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "acknowledge",
		Short:   "Confirm that the recovery code is kept somewhere safe",
		Example: "  terok vault passphrase acknowledge",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			before, err := e.app.VaultAcknowledge(cmd.Context())
			if err != nil {
				return err
			}
			if before {
				fmt.Fprintln(e.err, "it was confirmed before")
			} else {
				fmt.Fprintln(e.err, "it was not confirmed before")
			}
			return e.printVault(cmd, "vault.passphrase.acknowledge")
		},
	}
}

func newPassphraseRevealCmd(e *env) *cobra.Command {
	var redirect bool
	c := &cobra.Command{
		Use:   "reveal",
		Short: "Show the passphrase that terok made",
		Long: `Shows a passphrase that terok made, on the terminal only; with --allow-redirect on stdout and nothing
else there. One that a person chose is kept nowhere and cannot be shown.`,
		Example: "  terok vault passphrase reveal\n  terok vault passphrase reveal --allow-redirect",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := e.app.VaultReveal(cmd.Context())
			if err != nil {
				return err
			}
			defer clear(p)
			if redirect {
				fmt.Fprintln(e.err, "The passphrase of the vault:")
				_, err := fmt.Fprintf(e.out, "%s\n", p)
				return err
			}
			tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
			if err != nil {
				return problem.New("no_terminal", problem.Declined, "it is shown on a terminal only, and there is none: %w", err).
					WithHint("terok vault passphrase reveal --allow-redirect")
			}
			defer tty.Close()
			_, err = fmt.Fprintf(tty, "The passphrase of the vault:\n\n    %s\n\n", p)
			return err
		},
	}
	c.Flags().BoolVar(&redirect, "allow-redirect", false, "print it on stdout")
	return c
}

func newRotateKeyCmd(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "rotate-key",
		Short: "Encrypt the vault to a new key",
		Long: `Gives the vault a new key, after the old one may have become known: copies of the vault from before
cannot be combined with what comes after. Ways in stay whose secret is at hand: sealed copies, the
keyring, the command, and the passphrase if it is typed or in a file. The others are listed and
dropped if you agree; a recovery code always is, and a new one is shown.`,
		Example: "  terok vault rotate-key\n  terok vault rotate-key --passphrase-file ~/.config/terok/passphrase --recovery-out ~/recovery-code --yes",
		Args:    exactly(0, ""),
	}
	var o recoveryOptions
	passphraseFlag(c, &file)
	o.flags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error { return e.rotateKey(cmd, file, o) }
	return c
}

func (e *env) rotateKey(cmd *cobra.Command, file string, o recoveryOptions) error {
	ctx := cmd.Context()
	if err := o.check(); err != nil {
		return err
	}
	slots, err := e.app.VaultSlots(ctx)
	if err != nil {
		return err
	}
	if err := e.app.VaultNeed(ctx); err != nil {
		return err
	}
	has := map[string]bool{}
	for _, s := range slots {
		has[s.Kind] = true
	}
	var pass []byte
	switch {
	case file != "":
		if pass, err = passphrase.File(file); err != nil {
			return err
		}
	case has["passphrase"] && e.interactive():
		if pass, err = e.secret("Passphrase of the vault, to keep it: "); err != nil {
			return err
		}
	}
	defer clear(pass)
	plan, err := e.app.VaultRotatePlan(ctx, pass)
	if err != nil {
		return err
	}
	renew := has["recovery"] && e.canShow(o)
	for _, s := range plan.Lost {
		if s.Kind == "recovery" && renew {
			fmt.Fprintln(e.err, "The recovery code will be replaced by a new one.")
			continue
		}
		fmt.Fprintf(e.err, "This way in will be dropped: %s (%.8s)\n", s.Kind, s.ID)
	}
	if len(plan.Lost) > 0 {
		if e.app.Confirm == nil {
			return problem.New("declined", problem.Declined, "ways into the vault would be dropped and nobody can be asked").WithHint("terok vault rotate-key --yes")
		}
		if ok, err := e.app.Confirm("Go on?"); err != nil || !ok {
			return problem.New("declined", problem.Declined, "nothing was changed")
		}
	}
	var code terok.RecoveryCode
	cancel := func() {}
	if renew {
		code = terok.NewRecoveryCode()
		if cancel, err = o.keep(code); err != nil {
			return err
		}
	}
	dropped, err := e.app.VaultRotateKey(ctx, plan)
	if err != nil {
		cancel()
		return err
	}
	if renew {
		if err := e.replaceRecovery(cmd, code, o, cancel); err != nil {
			return err
		}
	}
	return e.print("vault.rotate-key", map[string]any{"dropped": dropped}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, "the vault has a new key")
		return err
	})
}
