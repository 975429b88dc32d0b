package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/text"
)

func newDiffCmd(e *env) *cobra.Command {
	var o terok.DiffOptions
	var names, code, word, raw bool
	c := &cobra.Command{
		Use:   "diff [PROJECT/]TASK [BRANCH]",
		Short: "What a task changed, committed or not",
		Long: `Shows the diff of what a task pushed; with --worktree of its files as they are now, also what is not
committed. That is computed inside the task's container, or in a throw-away one without network: no git
of yours ever runs in a workspace.`,
		Example: "  terok diff k3v9p\n  terok diff k3v9p --worktree\n  terok diff k3v9p --name-only --exit-code\n  terok diff k3v9p --since-review --word\n  terok diff k3v9p --base main --stat",
		Args:    taskAndBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.branchArgs(args, &o.Branch)
			if err != nil {
				return err
			}
			for _, g := range o.Globs {
				if err := review.CheckGlob(g); err != nil {
					return problem.New("usage", problem.Usage, "--path %s is no pattern", text.Line(g, 80))
				}
			}
			if raw {
				return e.printRaw(cmd, t, o.Branch)
			}
			o.Stat = o.Stat || names
			d, err := e.app.Diff(cmd.Context(), t, o)
			if err != nil {
				return err
			}
			if err := e.print("diff", d, func(w io.Writer) error {
				return e.page(cmd.Context(), w, func(p painter, b *strings.Builder) { p.comparison(b, d, names, o.Stat, word) }, "")
			}); err != nil {
				return err
			}
			if code && d.Changed {
				return exitCode(1)
			}
			return nil
		},
		ValidArgsFunction: e.completeTasks,
	}
	f := c.Flags()
	f.StringVar(&o.Branch, "branch", "", "another branch of the task than its own")
	f.StringVar(&o.Base, "base", "", "begin at this commit of the task, at least 4 digits of its id, or at a branch of the task or of the gate")
	f.BoolVar(&o.Worktree, "worktree", false, "the task's files as they are now")
	f.BoolVar(&o.SinceReview, "since-review", false, "what came since your last decision")
	f.BoolVar(&o.Stat, "stat", false, "files and line counts only")
	f.BoolVar(&names, "name-only", false, "names only")
	f.BoolVar(&word, "word", false, "changes word by word")
	f.BoolVar(&code, "exit-code", false, "exit 1 when something differs")
	f.BoolVar(&raw, "raw", false, "as git prints it, unescaped; refused on a terminal")
	f.StringArrayVar(&o.Globs, "path", nil, "only files that match, such as src/** or *.md (repeatable)")
	c.MarkFlagsMutuallyExclusive("base", "since-review")
	c.MarkFlagsMutuallyExclusive("stat", "name-only", "word", "raw")
	c.MarkFlagsMutuallyExclusive("worktree", "raw")
	return c
}

func (p painter) comparison(b *strings.Builder, d terok.Diff, names, stat, word bool) {
	switch {
	case !d.Changed:
		if p.fancy {
			b.WriteString("nothing differs\n")
		}
	case d.Range != "":
		p.rangeDiff(b, d.Range)
	case names:
		for _, f := range d.Files {
			b.WriteString(f.Path + "\n")
		}
	case stat:
		ins, del := 0, 0
		for _, f := range d.Files {
			ins, del = ins+f.Insertions, del+f.Deletions
		}
		p.stat(b, d.Files, len(d.Files), ins, del)
	case p.fancy || word:
		p.files(b, d.Files, word)
	default:
		p.unified(b, d.Patch)
	}
	if d.Cut {
		fmt.Fprintln(b, p.paint("33", "[the diff is too large to show whole]"))
	}
}
