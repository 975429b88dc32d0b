package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/passphrase"
)

func newVaultImportCmd(e *env) *cobra.Command {
	var o terok.OldVault
	var file string
	c := &cobra.Command{
		Use:   "import --from-reference DIR",
		Short: "Take over the keys of terok's predecessor",
		Long: `Reads the credential store of terok's predecessor, DIR/credentials.db, encrypted or not, and puts its API
keys, sign-ins and SSH keys into the vault. Phantom tokens are not taken. The old store is decrypted in
memory only, is not changed, and can be imported as often as you like: what is here already stays, and
what differs is listed.

The old passphrase comes from --passphrase-file, else from where the predecessor kept it (systemd-creds,
the keyring, the kernel's keyring), else it is asked for. At the end the command is printed that destroys
the old store.`,
		Example: "  terok vault import --from-reference ~/.local/share/terok/vault --dry-run\n  terok vault import --from-reference /media/old/vault --passphrase-file old-passphrase",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Path == "" {
				return problem.New("usage", problem.Usage, "which old store?").WithHint("terok vault import --from-reference DIR")
			}
			if err := e.app.VaultNeed(cmd.Context()); err != nil {
				return err
			}
			if file != "" {
				var err error
				if o.Passphrase, err = passphrase.File(file); err != nil {
					return err
				}
				defer clear(o.Passphrase)
			}
			if e.interactive() {
				o.Ask = func() ([]byte, error) { return e.secret("Passphrase of the old store: ") }
			}
			res, err := e.app.VaultImport(cmd.Context(), o)
			if err != nil {
				return err
			}
			return e.print("vault.import", res, func(w io.Writer) error { return e.printImport(w, res) })
		},
	}
	c.Flags().StringVar(&o.Path, "from-reference", "", "vault directory of the predecessor, or its credentials.db")
	_ = c.MarkFlagDirname("from-reference")
	passphraseFlag(c, &file)
	c.Flags().BoolVar(&o.Replace, "replace", false, "replace what is stored here under the same name")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	c.Flags().BoolVar(&o.IgnoreUnfinished, "ignore-unfinished", false, "leave out a broken write at the end of the old log")
	return c
}

func (e *env) printImport(w io.Writer, res *terok.ImportResult) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range res.Records {
		name := r.Name
		if len(r.Projects) > 0 {
			name += " (" + text.Line(strings.Join(r.Projects, ", "), 120) + ")"
		}
		why := ""
		if r.Why != "" {
			why = "\t" + text.Line(r.Why, 200)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s%s\n", strings.ReplaceAll(r.Did, "_", " "), text.Line(name, 300), r.Kind, why)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	done := ""
	for _, d := range []string{terok.ImportAdded, terok.ImportReplaced, terok.ImportSame, terok.ImportKept, terok.ImportLeftOut} {
		if n := res.Count(d); n > 0 {
			done += fmt.Sprintf(", %d %s", n, strings.ReplaceAll(d, "_", " "))
		}
	}
	if done == "" {
		done = ", which is empty"
	}
	from := "the old store"
	if res.OpenedBy != "" {
		from += " (opened with its " + res.OpenedBy + ")"
	}
	if res.DryRun {
		_, err := fmt.Fprintf(w, "%s%s; nothing was changed\n", from, done)
		return err
	}
	fmt.Fprintf(w, "%s%s\n", from, done)
	if len(res.Shared) > 0 {
		fmt.Fprintf(e.err, "stop the old terok for good: it and this one would renew the same sign-in and end it for one another (%s)\n", text.Line(strings.Join(res.Shared, ", "), 200))
	}
	if n := res.Count(terok.ImportKept) + res.Count(terok.ImportLeftOut); n > 0 {
		fmt.Fprintf(e.err, "%s of the old store are not in the vault; look at them before you destroy it\n", count(n, "record"))
	}
	if !res.Encrypted {
		fmt.Fprintln(e.err, "the old store was not encrypted: whoever could read that disk or a backup of it has its keys; new ones are safer")
	}
	fmt.Fprintf(e.err, "when nothing of the old store is needed any more:\n  → %s\n", res.Shred)
	return nil
}
