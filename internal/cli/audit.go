package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terok/internal/audit"
	"terok/internal/problem"
)

func newAuditCmd(e *env) *cobra.Command {
	return group("audit", "Check the record of what happened", &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Check that no line of a ledger was changed, removed or slipped in",
		Long: `Each line of a ledger carries the hash of the line before it. verify follows that chain
through a ledger and its rotated files, or, without FILE, through those of the host and of every
task and sandbox. It exits with 1 and names file and line where a chain does not hold.

Lines cut off at the end leave a chain that holds: compare the number of lines and the head with
a receipt where that matters.`,
		Example: `  terok audit verify
  terok audit verify ~/.local/share/terok/audit/host.jsonl --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return problem.New("usage", problem.Usage, "verify takes one file at most").WithHint("%s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			return runAuditVerify(cmd.Context(), e, path)
		},
	})
}

// runAuditVerify prints the reports also when a chain is broken: they are the result, and the
// error beside them makes the exit code.
func runAuditVerify(ctx context.Context, e *env, path string) error {
	reports, verdict := e.app.AuditVerify(ctx, path)
	if verdict != nil && reports == nil {
		return verdict
	}
	err := e.print("audit.verify", map[string]any{"ledgers": reports}, func(w io.Writer) error {
		for _, r := range reports {
			if _, err := fmt.Fprintln(w, auditLine(r)); err != nil {
				return err
			}
		}
		if len(reports) == 0 {
			_, err := fmt.Fprintln(w, "no ledgers yet")
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return verdict
}

// auditLine is a report in one line. File names are ours.
func auditLine(r audit.Report) string {
	switch {
	case r.Break != nil:
		return fmt.Sprintf("BROKEN  %s  line %d of %s: %s", r.Path, r.Break.Line, r.Break.File, r.Break.Reason)
	case r.Lines == 0:
		return fmt.Sprintf("ok      %s  empty", r.Path)
	}
	line := fmt.Sprintf("ok      %s  %d lines, %d to %d, head %s", r.Path, r.Lines, r.First, r.Last, r.Head[:16])
	if r.Torn {
		line += ", and an unfinished one"
	}
	return line
}
