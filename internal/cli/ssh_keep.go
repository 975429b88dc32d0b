package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/vault/ssh"
)

func newSSHRemoveCmd(e *env) *cobra.Command {
	var sel terok.SSHSelect
	c := &cobra.Command{
		Use:   "remove",
		Short: "Take keys from a project, or delete them",
		Long: `Takes the keys that match from a project (--project) or from everywhere. A key that no project
uses any more is deleted from the vault for good, after a question that names it.`,
		Example: "  terok ssh remove --project webshop\n  terok ssh remove --fingerprint SHA256:k3v9 --yes\n  terok ssh remove --comment 'tk-side:*'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := e.app.SSHSelected(cmd.Context(), sel)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return problem.New("ssh_key_missing", problem.NotFound, "no stored SSH key matches").WithHint("terok ssh list")
			}
			for _, k := range keys {
				fmt.Fprintf(e.err, "%s  %s  used by %s\n", k.Fingerprint, k.Comment, scopesOf(k))
			}
			from := "everywhere"
			if sel.Project != "" {
				from = "project " + sel.Project
			}
			if err := e.agree(cmd, fmt.Sprintf("Take %s from %s?", count(len(keys), "key"), from)); err != nil {
				return err
			}
			deleted, err := e.app.SSHRemove(cmd.Context(), keys, sel.Project)
			if err != nil {
				return err
			}
			return e.print("ssh.remove", map[string]any{"keys": sshRows(keys), "deleted": deleted}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s taken from %s, %d deleted\n", count(len(keys), "key"), from, deleted)
				return err
			})
		},
	}
	c.Flags().StringVar(&sel.Project, "project", "", "only from this project")
	c.Flags().StringVar(&sel.Fingerprint, "fingerprint", "", "keys whose fingerprint begins so")
	c.Flags().StringVar(&sel.Comment, "comment", "", "keys whose comment matches, with * and ?")
	_ = c.RegisterFlagCompletionFunc("project", e.completeProjects)
	return c
}

// agree asks; nobody there is exit 9 with the flag that answers.
func (e *env) agree(cmd *cobra.Command, question string) error {
	if e.app.Confirm == nil {
		return problem.New("needs_answer", problem.Declined, "this needs a confirmation").WithHint("%s --yes", cmd.CommandPath())
	}
	ok, err := e.app.Confirm(question)
	if err == nil && !ok {
		err = problem.New("declined", problem.Declined, "nothing was changed")
	}
	return err
}

func newSSHExportCmd(e *env) *cobra.Command {
	var dir, name string
	c := &cobra.Command{
		Use:   "export FINGERPRINT",
		Short: "Write a key out of the vault into two files",
		Long: `Writes a key out of the vault: the private half with mode 0600 and without protection, the public
half beside it. From then on the key is as safe as that file. The export is in the host's ledger.`,
		Example: "  terok ssh export SHA256:k3v9 --out-dir /mnt/usb --yes",
		Args:    exactly(1, "the beginning of a fingerprint"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.agree(cmd, "The private key will lie in a file, unprotected. Export it?"); err != nil {
				return err
			}
			file, err := e.app.SSHExport(cmd.Context(), args[0], dir, name)
			if err != nil {
				return err
			}
			return e.print("ssh.export", map[string]string{"private": file, "public": file + ".pub"}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s and %s.pub\n", file, file)
				return err
			})
		},
	}
	c.Flags().StringVar(&dir, "out-dir", ".", "directory to write to")
	c.Flags().StringVar(&name, "out-name", "", "file name (default id_TYPE_FINGERPRINT)")
	return c
}

func newSSHTrustCmd(e *env) *cobra.Command {
	var fingerprint string
	c := &cobra.Command{
		Use:   "trust HOST[:PORT]",
		Short: "Pin the host key of an SSH server",
		Long: `Asks a server for its host keys, shows their fingerprints, and pins them after your yes. Compare
them with what its operator publishes. Keys of github.com, gitlab.com, bitbucket.org and
codeberg.org come with terok. A pinned key is never replaced silently: see terok ssh untrust.`,
		Example: "  terok ssh trust git.example.org\n  terok ssh trust git.example.org:2222 --fingerprint SHA256:k3v9",
		Args:    exactly(1, "a host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pinned, err := e.app.SSHTrust(cmd.Context(), args[0], fingerprint, e.app.Confirm)
			if err != nil {
				return err
			}
			return e.printHosts("ssh.trust", pinned)
		},
	}
	c.Flags().StringVar(&fingerprint, "fingerprint", "", "pin the key that has this fingerprint, without a question")
	return c
}

func newSSHUntrustCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "untrust HOST[:PORT]",
		Short:   "Forget the pinned host keys of a server",
		Example: "  terok ssh untrust git.example.org",
		Args:    exactly(1, "a host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.app.SSHUntrust(cmd.Context(), args[0]); err != nil {
				return err
			}
			return e.print("ssh.untrust", map[string]string{"host": args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is not trusted any more\n", args[0])
				return err
			})
		},
	}
}

func newSSHHostsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "hosts",
		Short:   "List the pinned host keys",
		Example: "  terok ssh hosts\n  terok ssh hosts --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.app.SSHHosts(cmd.Context())
			if err != nil {
				return err
			}
			return e.printHosts("ssh.hosts", list)
		},
	}
}

func (e *env) printHosts(schema string, list []terok.SSHHost) error {
	type row struct {
		Host        string `json:"host"`
		Type        string `json:"type"`
		Fingerprint string `json:"fingerprint"`
		Source      string `json:"source"`
	}
	rows := []row{}
	for _, h := range list {
		rows = append(rows, row{ssh.Server{Host: h.Host, Port: h.Port}.String(), h.Type, ssh.FingerprintOf(h.Key), h.Source})
	}
	return e.print(schema, map[string]any{"hosts": rows}, func(w io.Writer) error {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "HOST\tTYPE\tFINGERPRINT\tSOURCE")
		for _, r := range rows {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", r.Host, r.Type, r.Fingerprint, r.Source)
		}
		return tw.Flush()
	})
}

// newProjectSSHInitCmd is `terok project ssh-init`, the name that people know for terok ssh add.
func newProjectSSHInitCmd(e *env) *cobra.Command {
	c := newSSHAddCmd(e)
	c.Use, c.Short = "ssh-init PROJECT", "Make the project's SSH key; the same as terok ssh add"
	c.Example = "  terok project ssh-init webshop"
	return c
}
