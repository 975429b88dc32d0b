package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/ssh"
)

func newSSHCmd(e *env) *cobra.Command {
	c := group("ssh", "SSH keys that stay in the vault",
		newSSHAddCmd(e), newSSHImportCmd(e), newSSHListCmd(e), newSSHPubCmd(e), newSSHLinkCmd(e), newSSHRestrictCmd(e),
		newSSHRenameCmd(e), newSSHRemoveCmd(e), newSSHExportCmd(e), newSSHTrustCmd(e), newSSHUntrustCmd(e), newSSHHostsCmd(e))
	c.Long = `SSH keys that stay in the vault. The gate uses a project's keys to reach an ssh upstream; with
ssh.in_container: true in project.yml its tasks use them as well, through an agent that signs logins
at pinned hosts and nothing else.`
	return c
}

func newSSHAddCmd(e *env) *cobra.Command {
	var kind, comment string
	var force bool
	c := &cobra.Command{
		Use:   "add PROJECT",
		Short: "Make a key for a project and print its public half",
		Long: `Makes a key in the vault for a project and prints its public half, which you give to the forge as
a deploy key. A project that has a key keeps it, unless --force makes another one: that becomes the
main key, and the old one stays as a side key until it is removed.`,
		Example:           "  terok ssh add webshop\n  terok ssh add webshop --type rsa --force",
		Args:              exactly(1, "a project name"),
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, made, err := e.app.SSHAdd(cmd.Context(), args[0], kind, comment, force)
			if err != nil {
				return err
			}
			if !made {
				fmt.Fprintf(e.err, "project %s has a key already; --force makes another one\n", args[0])
			}
			return e.printPublic("ssh.add", []terok.SSHKey{key})
		},
	}
	c.Flags().StringVar(&kind, "type", ssh.Ed25519, "ed25519 or rsa (3072 bits)")
	c.Flags().StringVar(&comment, "comment", "", "comment of the key (default tk-main:PROJECT)")
	c.Flags().BoolVar(&force, "force", false, "make a key although the project has one")
	return c
}

func newSSHImportCmd(e *env) *cobra.Command {
	var private, public, comment string
	c := &cobra.Command{
		Use:   "import PROJECT --private-key FILE",
		Short: "Take a key of yours into the vault",
		Long: `Takes a private key file into the vault: OpenSSH's own form or PEM; ed25519, ecdsa, or RSA with
2048 bits and more. A protected one asks for its passphrase in the terminal. The file stays where
it is. A key that the vault has already is linked to the project.`,
		Example:           "  terok ssh import webshop --private-key ~/.ssh/id_webshop",
		Args:              exactly(1, "a project name"),
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := keyFile("--private-key", private)
			if err != nil {
				return err
			}
			defer clear(data)
			var half []byte
			if public != "" {
				if half, err = keyFile("--public-key", public); err != nil {
					return err
				}
			}
			key, err := e.app.SSHImport(cmd.Context(), args[0], data, nil, half, comment)
			if problem.Is(err, "passphrase_needed") && e.interactive() {
				var pass []byte
				if pass, err = e.secret("passphrase of " + private + ": "); err != nil {
					return err
				}
				defer clear(pass)
				key, err = e.app.SSHImport(cmd.Context(), args[0], data, pass, half, comment)
			}
			if err != nil {
				return err
			}
			return e.printPublic("ssh.import", []terok.SSHKey{key})
		},
	}
	c.Flags().StringVar(&private, "private-key", "", "file of the private key")
	c.Flags().StringVar(&public, "public-key", "", "file of the public key, to check that they belong together")
	c.Flags().StringVar(&comment, "comment", "", "comment of the key (default: that of the public key, else tk-main:PROJECT)")
	return c
}

// keyFile reads a file that a flag names.
func keyFile(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, problem.New("usage", problem.Usage, "%s FILE is missing", flag)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("no_such_file", problem.Usage, "%s: no such file: %s", flag, path)
	}
	return data, err
}

func newSSHListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "list [PROJECT]",
		Short:             "List the stored keys and who may use them",
		Example:           "  terok ssh list\n  terok ssh list webshop --json",
		Args:              atMost(1),
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			project := ""
			if len(args) == 1 {
				project = args[0]
			}
			list, err := e.app.SSHList(cmd.Context(), project)
			if err != nil {
				return err
			}
			return e.print("ssh.list", map[string]any{"keys": sshRows(list)}, func(w io.Writer) error {
				if len(list) == 0 {
					_, err := fmt.Fprintln(w, "no SSH keys yet (terok ssh add PROJECT)")
					return err
				}
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "PROJECTS\tTYPE\tFINGERPRINT\tHOSTS\tCOMMENT")
				for _, k := range list {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", scopesOf(k), k.Type, k.Fingerprint, orElse(strings.Join(k.Hosts, ","), "upstream"), text.Line(k.Comment, 80))
				}
				return tw.Flush()
			})
		},
	}
}

// sshRow is a key in JSON: the public half as the line that forges want.
type sshRow struct {
	ID          string   `json:"id"`
	Type        string   `json:"type"`
	Fingerprint string   `json:"fingerprint"`
	Comment     string   `json:"comment"`
	PublicKey   string   `json:"public_key"`
	Main        []string `json:"main"` // projects
	Side        []string `json:"side"`
	Hosts       []string `json:"hosts"`
	Users       []string `json:"users"`
	SSHSIG      []string `json:"sshsig"`
}

func sshRows(list []terok.SSHKey) []sshRow {
	rows := []sshRow{}
	for _, k := range list {
		r := sshRow{ID: k.ID, Type: k.Type, Fingerprint: k.Fingerprint, Comment: k.Comment, PublicKey: ssh.PublicLine(k.Public, k.Comment),
			Main: []string{}, Side: []string{}, Hosts: append([]string{}, k.Hosts...), Users: append([]string{}, k.Users...), SSHSIG: append([]string{}, k.SSHSIG...)}
		for _, s := range k.Scopes {
			if s.Role == "main" {
				r.Main = append(r.Main, s.Scope)
			} else {
				r.Side = append(r.Side, s.Scope)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func scopesOf(k terok.SSHKey) string {
	var list []string
	for _, s := range k.Scopes {
		if s.Role == "main" {
			list = append(list, s.Scope)
		} else {
			list = append(list, s.Scope+" (side)")
		}
	}
	return orElse(strings.Join(list, ","), "none")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (e *env) printPublic(schema string, keys []terok.SSHKey) error {
	return e.print(schema, map[string]any{"keys": sshRows(keys)}, func(w io.Writer) error {
		for _, k := range keys {
			if _, err := fmt.Fprintln(w, ssh.PublicLine(k.Public, k.Comment)); err != nil {
				return err
			}
		}
		return nil
	})
}

func newSSHPubCmd(e *env) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:               "pub PROJECT",
		Short:             "Print a project's public key, for the forge",
		Example:           "  terok ssh pub webshop\n  terok ssh pub webshop --all",
		Args:              exactly(1, "a project name"),
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := e.app.SSHList(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return problem.New("ssh_key_missing", problem.NotFound, "project %s has no SSH key", args[0]).WithHint("terok ssh add %s", args[0])
			}
			if !all {
				list = list[:1]
			}
			return e.printPublic("ssh.pub", list)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "the side keys too")
	return c
}

func newSSHLinkCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "link PROJECT FINGERPRINT",
		Short:             "Let a project use a stored key too",
		Example:           "  terok ssh link webshop SHA256:k3v9",
		Args:              exactly(2, "a project name and the beginning of a fingerprint"),
		ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := e.app.SSHLink(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return e.print("ssh.link", map[string]any{"keys": sshRows([]terok.SSHKey{key})}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "project %s may use %s\n", args[0], key.Fingerprint)
				return err
			})
		},
	}
}

func newSSHRestrictCmd(e *env) *cobra.Command {
	var hosts, users, sshsig []string
	c := &cobra.Command{
		Use:   "restrict FINGERPRINT",
		Short: "Say for which hosts, users and signatures a key is",
		Long: `Says for which servers and login names a key signs, instead of the project's upstream and its user.
--sshsig lets it sign files for a namespace ("git" is commit signing); without, it signs logins only.
An empty list goes back to the default.`,
		Example: "  terok ssh restrict SHA256:k3v9 --hosts git.example.org:2222 --users git\n  terok ssh restrict SHA256:k3v9 --sshsig git\n  terok ssh restrict SHA256:k3v9 --hosts ''",
		Args:    exactly(1, "the beginning of a fingerprint"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var l terok.SSHLimits
			for name, set := range map[string]func(){"hosts": func() { l.Hosts = &hosts }, "users": func() { l.Users = &users }, "sshsig": func() { l.SSHSIG = &sshsig }} {
				if cmd.Flags().Changed(name) {
					set()
				}
			}
			if l == (terok.SSHLimits{}) {
				return problem.New("usage", problem.Usage, "nothing to change").WithHint("%s --help", cmd.CommandPath())
			}
			return e.changeSSH(cmd, "ssh.restrict", args[0], l)
		},
	}
	c.Flags().StringSliceVar(&hosts, "hosts", nil, "host or host:port, by comma")
	c.Flags().StringSliceVar(&users, "users", nil, "login names, by comma")
	c.Flags().StringSliceVar(&sshsig, "sshsig", nil, "namespaces of file signatures, by comma")
	return c
}

func newSSHRenameCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "rename FINGERPRINT COMMENT",
		Short:   "Change the comment of a key",
		Example: "  terok ssh rename SHA256:k3v9 'deploy key of webshop'",
		Args:    exactly(2, "the beginning of a fingerprint and a comment"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changeSSH(cmd, "ssh.rename", args[0], terok.SSHLimits{Comment: &args[1]})
		},
	}
}

func (e *env) changeSSH(cmd *cobra.Command, schema, prefix string, l terok.SSHLimits) error {
	key, err := e.app.SSHChange(cmd.Context(), prefix, l)
	if err != nil {
		return err
	}
	return e.print(schema, map[string]any{"keys": sshRows([]terok.SSHKey{key})}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s  %s\n  hosts %s · users %s · file signatures %s\n", key.Fingerprint, text.Line(key.Comment, 80),
			orElse(strings.Join(key.Hosts, ","), "the upstream's"), orElse(strings.Join(key.Users, ","), "the upstream's, else git"),
			orElse(strings.Join(key.SSHSIG, ","), "never"))
		return err
	})
}
