package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/text"
)

func newReviewCmd(e *env) *cobra.Command {
	var all bool
	var state string
	c := &cobra.Command{
		Use:   "review [PROJECT | [PROJECT/]TASK]",
		Short: "What tasks pushed and nobody promoted yet",
		Long: `Lists the branches that wait for you: commits, lines, and what deserves a closer look.
What agents pushed is read by a confined process that can do nothing else; everything they wrote is
shown with control and non-ASCII characters escaped.`,
		Example: "  terok review\n  terok review webshop --state updated\n  terok review show k3v9p\n  terok promote k3v9p",
		Args:    atMost(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if state != "" && !slices.Contains(review.States, state) {
				return problem.New("usage", problem.Usage, "--state takes %s", strings.Join(review.States, ", "))
			}
			changes, err := e.reviewQueue(cmd, args, all || state == review.Promoted)
			if changes == nil && err != nil {
				return err
			}
			if state != "" {
				changes = slices.DeleteFunc(changes, func(c terok.Change) bool { return c.State != state })
			}
			perr := e.print("review.list", changes, func(w io.Writer) error { return e.printQueue(w, changes) })
			return errors.Join(perr, err)
		},
		ValidArgsFunction: e.completeTasks,
	}
	c.Flags().BoolVar(&all, "all", false, "also what was promoted")
	c.Flags().StringVar(&state, "state", "", "only these: "+strings.Join(review.States, ", "))
	c.AddCommand(newReviewShowCmd(e), newReviewWalkCmd(e), newReviewApproveCmd(e), newReviewRejectCmd(e), newReviewCommentCmd(e), newReviewFeedbackCmd(e))
	return c
}

// reviewQueue reads the queue of a task, of a project, or of everything.
func (e *env) reviewQueue(cmd *cobra.Command, args []string, all bool) ([]terok.Change, error) {
	if len(args) == 0 {
		return e.app.ReviewQueue(cmd.Context(), all)
	}
	if _, err := e.app.ShowProject(args[0]); err == nil && len(args) == 1 {
		return e.app.ReviewQueue(cmd.Context(), all, args[0])
	}
	t, err := e.pick(args)
	if err != nil {
		return nil, err
	}
	return e.app.ReviewTask(cmd.Context(), t)
}

// branchArgs finds task and branch: "T", "P/T", "P T", each with a branch behind it or in --branch.
// Of two words the first is a project where there is one of that name, else a task.
func (e *env) branchArgs(args []string, branch *string) (*terok.Task, error) {
	n := 1
	if len(args) == 3 {
		n = 2
	} else if len(args) == 2 && !strings.Contains(args[0], "/") {
		if _, err := e.app.ShowProject(args[0]); err == nil {
			n = 2
		}
	}
	if len(args) == n+1 {
		if *branch != "" && *branch != args[n] {
			return nil, problem.New("usage", problem.Usage, "two branches are named: %s and %s", text.Line(args[n], 80), text.Line(*branch, 80))
		}
		*branch = args[n]
	}
	return e.pick(args[:n])
}

// words name a task and one of its branches in a command that a person may copy.
func words(t *terok.Task, branch string) string {
	return review.Task{Project: t.Project, ID: t.ID, Branch: t.Branch}.Words(branch)
}

// taskAndBranch demands a task and takes a branch.
func taskAndBranch(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) > 3 || len(args) == 3 && strings.Contains(args[0], "/") {
		return problem.New("usage", problem.Usage, "%s needs a task, and takes a branch", cmd.CommandPath()).WithHint("terok review")
	}
	return nil
}

func (e *env) printQueue(w io.Writer, changes []terok.Change) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing waits for review")
		return err
	}
	p := e.painter(w)
	rows := [][]string{}
	for _, c := range changes {
		name := c.Name
		if !strings.HasSuffix(c.Branch, "-"+c.Name) {
			name = c.Branch
		}
		row := []string{c.Project + "/" + c.Task, name, count(c.Commits, "commit"), fmt.Sprintf("+%d", c.Insertions), fmt.Sprintf("−%d", c.Deletions), pushed(c)}
		rows = append(rows, row)
	}
	width := make([]int, 6)
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], text.Width(cell))
		}
	}
	var b strings.Builder
	for i, c := range changes {
		for n, cell := range rows[i] {
			pad := strings.Repeat(" ", width[n]-text.Width(cell))
			switch n {
			case 0:
				b.WriteString(p.bold(cell) + pad + "  ")
			case 3:
				b.WriteString(pad + p.paint("32", cell) + " ")
			case 4:
				b.WriteString(p.paint("31", cell) + pad + "  ")
			case 5:
				b.WriteString(p.faint(cell) + pad + "  ")
			default:
				b.WriteString(cell + pad + "  ")
			}
		}
		b.WriteString(strings.TrimRight(strings.TrimSpace(p.state(c.State)+"  "+p.flagSummary(c.Flags)), " ") + "\n")
		for _, name := range c.Deleted {
			b.WriteString("  " + p.paint("33", text.Show(name)+" was deleted upstream") + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// pushed is how long ago a branch was pushed, by the host's clock; "" when that is not known.
func pushed(c terok.Change) string {
	if c.PushedAt.IsZero() {
		return ""
	}
	return age(c.PushedAt)
}

// state is a state that says something; what merely waits needs no word.
func (p painter) state(s string) string {
	switch s {
	case review.Approved, review.Promoted:
		return p.paint("32", s)
	case review.Rejected:
		return p.paint("31", s)
	case review.Updated:
		return p.paint("33", s)
	}
	return ""
}

// flagSummary names the flags, the gravest first: what and where.
func (p painter) flagSummary(flags []terok.ReviewFlag) string {
	var parts []string
	for _, f := range flags {
		mark := map[string]string{"deny": "!!", "warn": "!"}[f.Severity]
		if mark == "" && f.Code != "lock_file" && f.Code != "build_script" {
			continue // details are in show
		}
		if mark == "" {
			mark = "·"
		}
		where := ""
		if len(f.Where) > 0 {
			where = ": " + text.Line(f.Where[0], 60)
		}
		if f.Count > 1 {
			where += fmt.Sprintf(" and %d more", f.Count-1)
		}
		parts = append(parts, p.paint(flagColour(f.Severity), mark+" "+flagName(f.Code))+where)
	}
	return strings.Join(parts, "  ")
}

func flagColour(severity string) string {
	return map[string]string{"deny": "31;1", "warn": "33"}[severity] + map[string]string{"info": "2"}[severity]
}

func flagName(code string) string { return strings.ReplaceAll(code, "_", " ") }

func newReviewShowCmd(e *env) *cobra.Command {
	var o terok.ReviewOptions
	var word, plain, raw bool
	c := &cobra.Command{
		Use:   "show [PROJECT/]TASK [BRANCH]",
		Short: "Commits, flags and the diff of one task",
		Long: `Shows what a task pushed: its commits, what deserves a closer look, and the diff. On a terminal it
is coloured and paged ($PAGER, and delta where you have it); --since last shows only what changed since
you approved, rejected or promoted. A text that the task keeps in Git LFS is shown below its pointer, where
the gate has it (gate.lfs: proxy).`,
		Example: "  terok review show k3v9p\n  terok review show k3v9p --stat\n  terok review show k3v9p --since last --word\n  terok review show k3v9p --path 'src/**' --path '*.md'",
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
			d, err := e.app.ReviewShow(cmd.Context(), t, o)
			if err != nil {
				return err
			}
			return e.print("review.show", d, func(w io.Writer) error {
				return e.page(cmd.Context(), w, func(p painter, b *strings.Builder) { p.details(b, d, o, word) }, e.deltaOf(cmd.Context(), w, d, plain || word || o.Stat))
			})
		},
		ValidArgsFunction: e.completeTasks,
	}
	f := c.Flags()
	f.StringVar(&o.Branch, "branch", "", "another branch of the task than its own")
	f.BoolVar(&o.Stat, "stat", false, "files and line counts, no diff")
	f.StringVar(&o.View.Commit, "commit", "", "only this commit, with its diff")
	f.BoolVar(&o.PerCommit, "per-commit", false, "the diff of each commit instead of the whole")
	f.StringVar(&o.Since, "since", "", "what came since: last (your last decision), a commit, or a branch; a rewritten branch is compared commit by commit")
	f.StringArrayVar(&o.Globs, "path", nil, "only files that match, such as src/** or *.md (repeatable)")
	f.BoolVar(&word, "word", false, "changes word by word")
	f.BoolVar(&plain, "plain", false, "without delta")
	f.BoolVar(&raw, "raw", false, "the diff as git prints it, unescaped; refused on a terminal")
	c.MarkFlagsMutuallyExclusive("stat", "word", "raw")
	c.MarkFlagsMutuallyExclusive("commit", "per-commit", "since", "raw")
	return c
}

// printRaw gives a program what git gives, and a terminal nothing.
func (e *env) printRaw(cmd *cobra.Command, t *terok.Task, branch string) error {
	if e.terminal(e.out) {
		return problem.New("raw_on_terminal", problem.Usage, "--raw may drive your terminal: it is for pipes and files only").
			WithHint("terok review show %s --raw > FILE", words(t, branch))
	}
	if e.json {
		return problem.New("usage", problem.Usage, "--raw and --json exclude each other")
	}
	data, err := e.app.DiffRaw(cmd.Context(), t, branch)
	if err != nil {
		return err
	}
	_, err = e.out.Write(data)
	return err
}

// decision is what approve, reject and comment have in common.
func newDecisionCmd(e *env, verb, short, long, example string, act func(cmd *cobra.Command, t *terok.Task, d terok.ReviewDecision) (terok.ReviewOutcome, error)) *cobra.Command {
	var d terok.ReviewDecision
	c := &cobra.Command{
		Use: verb + " [PROJECT/]TASK [BRANCH]", Short: short, Long: long, Example: example, Args: taskAndBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.branchArgs(args, &d.Branch)
			if err != nil {
				return err
			}
			if err := e.pin(cmd, t, &d, verb); err != nil {
				return err
			}
			out, err := act(cmd, t, d)
			if err != nil && !problem.Is(err, "feedback_not_delivered") {
				return err
			}
			perr := e.print("review."+verb, out, func(w io.Writer) error {
				ids := []string{}
				for _, id := range out.Commits {
					ids = append(ids, id[:min(len(id), 12)])
				}
				fmt.Fprintf(w, "%s: %s %s", t.Ref(), strings.Join(ids, ", "), out.Decision)
				if out.Delivered != "" {
					fmt.Fprintf(w, "; the task learns of it %s", out.Delivered)
				}
				_, err := fmt.Fprintln(w)
				return err
			})
			return errors.Join(perr, err)
		},
		ValidArgsFunction: e.completeTasks,
	}
	f := c.Flags()
	f.StringVar(&d.Branch, "branch", "", "another branch of the task than its own")
	f.StringVar(&d.Commit, "sha", "", "full id of the tip that you looked at; if the task pushed since, nothing is recorded (exit 7)")
	f.StringArrayVar(&d.Commits, "commit", nil, "only this commit (repeatable)")
	f.StringVarP(&d.Text, "message", "m", "", map[string]string{"approve": "a note for the record", "reject": "why, for the task", "comment": "what to say to the task"}[verb])
	return c
}

// pin fills in the tip that the person looked at: on a terminal they see and confirm it.
func (e *env) pin(cmd *cobra.Command, t *terok.Task, d *terok.ReviewDecision, verb string) error {
	if d.Commit != "" {
		return nil
	}
	if !e.interactive() || e.json {
		return problem.New("usage", problem.Usage, "--sha is needed: the full id of the tip that you looked at").WithHint("terok review show %s --json", words(t, d.Branch))
	}
	details, err := e.app.ReviewShow(cmd.Context(), t, terok.ReviewOptions{Branch: d.Branch, View: review.View{Stat: true}})
	if err != nil {
		return err
	}
	var b strings.Builder
	e.painter(e.err).summary(&b, details)
	fmt.Fprint(e.err, b.String())
	if verb == "approve" {
		if err := e.typeID(details.Tip, "approve up to "+details.Tip[:7], nil); err != nil {
			return err
		}
	}
	d.Commit = details.Tip
	return nil
}

func newReviewApproveCmd(e *env) *cobra.Command {
	return newDecisionCmd(e, "approve", "Record that you accept exactly these commits",
		`Records that you accept a branch at exactly this tip, or with --commit some of its commits. An
approval names commits: what the task pushes later needs its own.`,
		"  terok review approve k3v9p --sha 9ab10e2f…\n  terok review approve k3v9p --sha 9ab10e2f… --commit 3c0ffee --commit 9ab10e2",
		func(cmd *cobra.Command, t *terok.Task, d terok.ReviewDecision) (terok.ReviewOutcome, error) {
			return e.app.ReviewApprove(cmd.Context(), t, d)
		})
}

func newReviewRejectCmd(e *env) *cobra.Command {
	var send bool
	c := newDecisionCmd(e, "reject", "Refuse commits, and tell the task why",
		`Records that you refuse a branch, or with --commit some of its commits. The task finds your reason in
~/.terok/review-feedback.md; with --send a finished headless task starts again with it as its prompt.`,
		"  terok review reject k3v9p --sha 9ab10e2f… -m 'the test still sleeps'\n  terok review reject k3v9p -m 'keep the old API' --send",
		func(cmd *cobra.Command, t *terok.Task, d terok.ReviewDecision) (terok.ReviewOutcome, error) {
			out, err := e.app.ReviewReject(cmd.Context(), t, d)
			if err != nil || !send {
				return out, err
			}
			if err := e.app.FollowUp(cmd.Context(), t, terok.ReviewFollowUp(out.Branch, d.Text)); err != nil && !(problem.Is(err, "not_headless") && out.Delivered == "now") {
				return out, err
			}
			out.Delivered = "now"
			return out, nil
		})
	c.Flags().BoolVar(&send, "send", false, "start a finished headless task again with your reason")
	return c
}

func newReviewCommentCmd(e *env) *cobra.Command {
	return newDecisionCmd(e, "comment", "Say something about commits to the task",
		"Records a remark, and writes it into ~/.terok/review-feedback.md of the task.",
		"  terok review comment k3v9p --sha 9ab10e2f… --commit 3c0ffee -m 'why not a map?'",
		func(cmd *cobra.Command, t *terok.Task, d terok.ReviewDecision) (terok.ReviewOutcome, error) {
			return e.app.ReviewComment(cmd.Context(), t, d)
		})
}

// ago is a time for people.
func ago(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "at an unknown time"
	}
	if d := time.Until(t); d > 10*time.Minute {
		return "dated " + t.Format("2006-01-02 15:04")
	}
	return age(t) + " ago"
}
