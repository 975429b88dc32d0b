package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/passphrase"
)

func newVaultListCmd(e *env) *cobra.Command {
	var scope string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List what the vault holds, without the secrets",
		Example: "  terok vault list\n  terok vault list --scope project:webshop --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.app.AuthList(cmd.Context())
			if err != nil {
				return err
			}
			if scope != "" {
				list = slices.DeleteFunc(list, func(c terok.Credential) bool { return c.Scope != scope })
			}
			return e.print("vault.list", map[string]any{"credentials": list}, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "PROVIDER\tSCOPE\tACCOUNT\tKIND\tSTATE\tENDS IN")
				for _, c := range list {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t…%s\n", c.Provider, c.Scope, c.Account, c.Kind, c.State, text.Line(c.Hint, 8))
				}
				return tw.Flush()
			})
		},
	}
	c.Flags().StringVar(&scope, "scope", "", "only shared, or project:NAME")
	return c
}

func newVaultShowCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "show CREDENTIAL",
		Short:   "Show one stored credential, without its secrets",
		Example: "  terok vault show anthropic\n  terok vault show shared/github/default",
		Args:    exactly(1, "which credential?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := e.app.VaultShow(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.print("vault.show", v, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				row := func(k, v string) {
					if v != "" {
						fmt.Fprintf(tw, "%s\t%s\n", k, text.Line(v, 512))
					}
				}
				when := func(t time.Time) string {
					if t.IsZero() {
						return ""
					}
					return t.Local().Format("2006-01-02 15:04")
				}
				row("credential", v.Scope+"/"+v.Provider+"/"+v.Account)
				row("kind", v.Kind)
				row("state", v.State)
				row("last error", v.LastError)
				row("ends in", v.Hint)
				row("expires", when(v.ExpiresAt))
				row("stored", when(v.CreatedAt))
				row("changed", when(v.UpdatedAt))
				row("verified", when(v.VerifiedAt))
				row("bound to", strings.Join(v.BoundTo, ", "))
				names := make([]string, 0, len(v.Public))
				for k := range v.Public {
					names = append(names, k)
				}
				slices.Sort(names)
				for _, k := range names {
					row(k, v.Public[k])
				}
				return tw.Flush()
			})
		},
	}
}

func newVaultExplainCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "explain PROJECT PROVIDER",
		Short:   "Say which credential a project's tasks use, and why",
		Example: "  terok vault explain webshop anthropic",
		Args:    exactly(2, "which project and which provider?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			steps, err := e.app.VaultExplain(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return e.print("vault.explain", map[string]any{"steps": steps}, func(w io.Writer) error {
				for _, s := range steps {
					verdict := "nothing stored"
					if s.Found {
						verdict = "this one is used"
					}
					fmt.Fprintf(w, "%-8s %s/%s/%s: %s\n", s.Rule, s.Scope, s.Provider, s.Account, verdict)
				}
				if len(steps) == 0 || !steps[len(steps)-1].Found {
					fmt.Fprintf(e.err, "nothing: tasks get no credential\n  → terok auth %s\n", text.Line(args[1], 64))
				}
				return nil
			})
		},
	}
}

func newVaultVerifyCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read the whole vault again and say what is wrong with it",
		Long: `Reads the vault's files again, decrypts both generations and checks every record. While the vault is
locked only what needs no key is checked.`,
		Example: "  terok vault verify",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, full, err := e.app.VaultVerify(cmd.Context())
			if err != nil {
				return err
			}
			if len(found) > 0 {
				for _, f := range found {
					fmt.Fprintln(e.err, text.Line(strings.TrimSpace(f.File+" "+f.Message), 400))
				}
				return problem.New("vault_unsound", problem.Failed, "%s in the vault", count(len(found), "finding")).
					WithHint("terok vault restore FILE, from a backup").With("findings", found)
			}
			return e.print("vault.verify", map[string]any{"full": full, "findings": []terok.VaultFinding{}}, func(w io.Writer) error {
				if !full {
					fmt.Fprintln(w, "the files are whole as far as can be seen while the vault is locked")
					fmt.Fprintln(e.err, "  → terok vault unlock && terok vault verify")
					return nil
				}
				_, err := fmt.Fprintln(w, "the vault is whole")
				return err
			})
		},
	}
}

func newVaultBackupCmd(e *env) *cobra.Command {
	var out, recipient string
	c := &cobra.Command{
		Use:   "backup",
		Short: "Write the vault into one file that opens elsewhere",
		Long: `Writes one new file (0600) with the encrypted vault and the ways in that a person has: passphrase and
recovery code. Sealed copies and the keyring open it nowhere, so they are not in it.`,
		Example: "  terok vault backup --out /media/stick/terok-vault\n  terok vault backup --out vault.age --recipient age1…",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return problem.New("usage", problem.Usage, "into which file?").WithHint("terok vault backup --out FILE")
			}
			path, err := e.app.VaultBackup(cmd.Context(), out, recipient)
			if err != nil {
				return err
			}
			return e.print("vault.backup", map[string]any{"path": path}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, path)
				return err
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "new file")
	c.Flags().StringVar(&recipient, "recipient", "", "encrypt it once more to this age public key")
	return c
}

func newVaultRestoreCmd(e *env) *cobra.Command {
	var merge bool
	var file string
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup back, or add what it has",
		Long: `Puts the vault of a backup in place. A vault that is there is moved aside, never overwritten; that is
asked first. With --merge the vault stays and only gets what it does not have; the backup's passphrase
or recovery code is needed for that.`,
		Example: "  terok vault restore /media/stick/terok-vault\n  terok vault restore old-backup --merge --passphrase-file old-passphrase",
		Args:    exactly(1, "which file?"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if merge {
				return e.mergeVault(cmd, args[0], file)
			}
			st, err := e.app.VaultStatus(cmd.Context())
			if err != nil {
				return err
			}
			if st.State != terok.VaultUnprovisioned {
				if err := e.typed("restore", "There is a vault already; it is moved aside and locked."); err != nil {
					return err
				}
			}
			old, err := e.app.VaultRestore(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.print("vault.restore", map[string]any{"previous": old}, func(w io.Writer) error {
				fmt.Fprintln(w, "restored; the vault is locked")
				if old != "" {
					fmt.Fprintf(e.err, "the vault before it: %s\n", old)
				}
				fmt.Fprintln(e.err, "  → terok vault unlock")
				return nil
			})
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add what the vault does not have; overwrite nothing")
	passphraseFlag(c, &file)
	return c
}

func (e *env) mergeVault(cmd *cobra.Command, backup, file string) error {
	if err := e.app.VaultNeed(cmd.Context()); err != nil {
		return err
	}
	var pass []byte
	var err error
	switch {
	case file != "":
		pass, err = passphrase.File(file)
	case e.interactive():
		pass, err = e.secret("Passphrase or recovery code of the backup: ")
	default:
		err = problem.New("passphrase_needed", problem.Declined, "the passphrase of the backup is needed and nobody can be asked").
			WithHint("terok vault restore FILE --merge --passphrase-file FILE")
	}
	if err != nil {
		return err
	}
	defer clear(pass)
	m, err := e.app.VaultMerge(cmd.Context(), backup, pass)
	if err != nil {
		return err
	}
	return e.print("vault.restore", m, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d added, %d were there already\n", m.Added, m.Kept)
		return err
	})
}

func newVaultWipeCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "wipe",
		Short: "Destroy the vault and everything that opens it",
		Long: `Destroys the vault's files, vaults that a restore moved aside, and what the keyring keeps for them.
Keys stay valid at the providers until they are revoked there: the pages are printed.`,
		Example: "  terok vault wipe\n  terok vault wipe --yes",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.typed("wipe", "This destroys every key in the vault. Backups elsewhere are not touched."); err != nil {
				return err
			}
			pages, err := e.app.VaultWipe(cmd.Context())
			if err != nil {
				return err
			}
			return e.print("vault.wipe", map[string]any{"revoke_at": pages}, func(w io.Writer) error {
				fmt.Fprintln(w, "the vault is gone")
				for _, p := range pages {
					fmt.Fprintln(e.err, "revoke the key at:", text.Line(p, 200))
				}
				return nil
			})
		},
	}
}

// typed asks for a word that nobody types by accident; --yes answers it.
func (e *env) typed(word, why string) error {
	if e.yes {
		return nil
	}
	if !e.interactive() {
		return problem.New("declined", problem.Declined, "somebody has to confirm that, and nobody can be asked").WithHint("the same command with --yes")
	}
	fmt.Fprintf(e.err, "%s\nType %q to go on: ", why, word)
	got, err := readLine(e.in)
	if err != nil {
		return err
	}
	if strings.TrimSpace(got) != word {
		return problem.New("declined", problem.Declined, "nothing was changed")
	}
	return nil
}
