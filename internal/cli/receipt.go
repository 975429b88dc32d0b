package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newReceiptCmd(e *env) *cobra.Command {
	return group("receipt", "Signed records of promotions", newReceiptVerifyCmd(e), newReceiptShowCmd(e), newReceiptKeyCmd(e))
}

// repoAndCommit demands a repository and takes a commit.
func repoAndCommit(cmd *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return problem.New("usage", problem.Usage, "%s needs a repository and takes a commit", cmd.CommandPath()).WithHint("%s . HEAD", cmd.CommandPath())
	}
	return nil
}

func query(args []string, q terok.ReceiptQuery) terok.ReceiptQuery {
	q.Repo, q.Commit = args[0], "HEAD"
	if len(args) == 2 {
		q.Commit = args[1]
	}
	return q
}

func newReceiptVerifyCmd(e *env) *cobra.Command {
	var q terok.ReceiptQuery
	c := &cobra.Command{
		Use:   "verify REPO [COMMIT]",
		Short: "Check a receipt: its signature, and every byte of the ledgers that it binds",
		Long: `Reads the receipt of a commit (git note refs/notes/terok, or terok's own copy), checks that this host's
key signed it, and compares the ledgers with what it binds. It needs no network. REPO is a clone or the
name of a project; COMMIT is what git rev-parse takes (HEAD without it).`,
		Example: "  terok receipt verify . brave-otter\n  terok receipt verify webshop 9ab10e2\n  terok receipt verify . HEAD --key laptop.pub --ledger audit.jsonl",
		Args:    repoAndCommit,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := e.app.ReceiptVerify(cmd.Context(), query(args, q))
			if err != nil && v.Ledgers == nil {
				return err
			}
			if err != nil && e.json {
				p := problem.Of(err)
				return p.With("ledgers", v.Ledgers)
			}
			perr := e.print("receipt.verify", v, func(w io.Writer) error {
				var b strings.Builder
				e.painter(w).receipt(&b, v)
				_, err := io.WriteString(w, b.String())
				return err
			})
			return errors.Join(perr, err)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&q.Keys, "key", nil, "file with a further public key that may have signed (repeatable)")
	f.StringVar(&q.Ledger, "ledger", "", "the task's ledger, where it is not in this machine's state")
	f.StringVar(&q.Host, "host-ledger", "", "the host's ledger of the machine that promoted")
	return c
}

func newReceiptShowCmd(e *env) *cobra.Command {
	var q terok.ReceiptQuery
	var whole bool
	c := &cobra.Command{
		Use:     "show REPO [COMMIT]",
		Short:   "Print the receipt of a commit",
		Example: "  terok receipt show . brave-otter\n  terok receipt show . HEAD --text > receipt",
		Args:    repoAndCommit,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := e.app.ReceiptShow(cmd.Context(), query(args, q))
			if whole && v.Text != "" {
				_, werr := io.WriteString(e.out, text.Block(v.Text, 100_000, 0))
				return errors.Join(werr, err)
			}
			if err != nil {
				return err
			}
			return e.print("receipt.show", v, func(w io.Writer) error {
				var b strings.Builder
				e.painter(w).receipt(&b, v)
				_, err := io.WriteString(w, b.String())
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&q.Keys, "key", nil, "file with a further public key that may have signed (repeatable)")
	c.Flags().BoolVar(&whole, "text", false, "the receipt as it is kept, with its signature")
	return c
}

// receipt draws a receipt. Its strings are signed by us, and may hold what an agent chose all the same.
func (p painter) receipt(b *strings.Builder, v terok.ReceiptView) {
	r := v.Receipt
	row := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%s %s\n", p.faint(fmt.Sprintf("%-9s", name)), text.Prose(fmt.Sprintf(format, args...), 400))
	}
	row("commit", "%s", r.Commit)
	row("task", "%s/%s %s", r.Project, r.Task, r.Name)
	row("agent", "%s %s", r.Agent, r.Model)
	row("range", "%s behind %.12s, tip %.12s", count(len(r.Commits), "commit"), r.Base, r.Tip)
	row("went to", "%s %s %s", r.Target, r.Ref, r.Upstream)
	row("reviewer", "%s, %s", r.Reviewer, r.At.Format("2006-01-02 15:04:05Z"))
	for _, a := range r.Approvals {
		row("approved", "%.12s (%s) by %s", a.Commit, a.Level, a.By)
	}
	for _, f := range r.Flags {
		row("flag", "%s %s, %d", f.Severity, flagName(f.Code), f.Count)
	}
	row("signed by", "%s (%s)", v.Key, v.Source)
	if v.Ledgers == nil {
		for _, l := range r.Ledgers {
			row("ledger", "of the %s: line %d, %.16s…", l.Of, l.Count, l.Head)
		}
		return
	}
	for _, l := range v.Ledgers {
		verdict := p.paint("32", "ok")
		if l.Verdict != "ok" {
			verdict = p.paint("31", "FAILED") + ": " + text.Prose(l.Verdict, 300)
		}
		fmt.Fprintf(b, "%s of the %s, %d lines: %s\n", p.faint(fmt.Sprintf("%-9s", "ledger")), text.Line(l.Of, 20), l.Count, verdict)
	}
	if v.Verified {
		b.WriteString(p.paint("32;1", "verified") + ": the receipt is this key's, and nothing that it binds was changed\n")
	}
}

func newReceiptKeyCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "The key that signs this machine's receipts",
		Long: `Prints where the public key is, for --key on other machines, and how ssh-keygen checks a receipt that
"terok receipt show --text" wrote, once it is split at its signature.`,
		Example: "  terok receipt key",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			public, signers, err := e.app.ReceiptKeyFiles()
			if err != nil {
				return err
			}
			return e.print("receipt.key", map[string]string{"public": public, "allowed_signers": signers}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s\nssh-keygen -Y verify -f %s -I terok -n terok-receipt -s SIGNATURE < PAYLOAD\n", public, signers)
				return err
			})
		},
	}
}
