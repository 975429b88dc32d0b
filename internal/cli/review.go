package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newReviewCmd(e *env) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "review [PROJECT | [PROJECT/]TASK]",
		Short: "What tasks pushed and nobody promoted yet",
		Long: `Lists the branches that wait for you: commits, lines, and what deserves a closer look.
Everything an agent wrote is shown with control and non-ASCII characters escaped.`,
		Example: "  terok review\n  terok review show k3v9p\n  terok promote k3v9p",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := e.reviewQueue(cmd, args, all)
			if changes == nil && err != nil {
				return err
			}
			perr := e.print("review.list", changes, func(w io.Writer) error { return printQueue(w, changes) })
			return errors.Join(perr, err)
		},
		ValidArgsFunction: e.completeTasks,
	}
	c.Flags().BoolVar(&all, "all", false, "also what was promoted")
	c.AddCommand(newReviewShowCmd(e), newReviewApproveCmd(e))
	return c
}

// reviewQueue reads the queue of a task, of a project, or of everything.
func (e *env) reviewQueue(cmd *cobra.Command, args []string, all bool) ([]terok.Change, error) {
	if len(args) == 0 {
		return e.app.ReviewQueue(cmd.Context(), all)
	}
	if _, err := e.app.ShowProject(args[0]); err == nil {
		return e.app.ReviewQueue(cmd.Context(), all, args[0])
	}
	t, err := e.pick(args)
	if err != nil {
		return nil, err
	}
	return e.app.ReviewTask(cmd.Context(), t)
}

func printQueue(w io.Writer, changes []terok.Change) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "nothing waits for review")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range changes {
		name := c.Name
		if !strings.HasSuffix(c.Branch, "-"+c.Name) {
			name = c.Branch
		}
		state := ""
		if c.State != "pending" {
			state = "  " + c.State
		}
		fmt.Fprintf(tw, "%s/%s\t%s\t%s\t+%d -%d\t%s%s\n", c.Project, c.Task, name, count(c.Commits, "commit"), c.Insertions, c.Deletions, flagSummary(c), state)
	}
	return tw.Flush()
}

// flagSummary names the flags, the gravest first: what and where.
func flagSummary(c terok.Change) string {
	var parts []string
	for _, f := range c.Flags {
		mark := map[string]string{"deny": "!!", "warn": "!"}[f.Severity]
		if mark == "" && f.Code != "lock_file" && f.Code != "build_script" {
			continue // details are in show
		}
		if mark == "" {
			mark = "!"
		}
		where := ""
		if len(f.Where) > 0 {
			where = ": " + text.Line(f.Where[0], 60)
		}
		if f.Count > 1 {
			where += fmt.Sprintf(" and %d more", f.Count-1)
		}
		parts = append(parts, mark+" "+strings.ReplaceAll(f.Code, "_", " ")+where)
	}
	return strings.Join(parts, "  ")
}

func newReviewShowCmd(e *env) *cobra.Command {
	var branch string
	var stat bool
	c := &cobra.Command{
		Use:     "show [PROJECT/]TASK",
		Short:   "Commits, flags and the diff of one task",
		Example: "  terok review show k3v9p\n  terok review show k3v9p --stat",
		Args:    oneTask,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			d, err := e.app.ReviewShow(cmd.Context(), t, branch)
			if err != nil {
				return err
			}
			if stat {
				d.Patch, d.Cut = "", false
			}
			return e.print("review.show", d, func(w io.Writer) error { return e.printDetails(w, d) })
		},
		ValidArgsFunction: e.completeTasks,
	}
	c.Flags().StringVar(&branch, "branch", "", "another branch of the task than its own")
	c.Flags().BoolVar(&stat, "stat", false, "files and line counts, no diff")
	return c
}

// printDetails prints a change; every string in it is escaped already, colours come from here only.
func (e *env) printDetails(w io.Writer, d terok.ChangeDetails) error {
	paint := func(code, s string) string { return s }
	if e.styled(w) {
		paint = func(code, s string) string { return "\x1b[" + code + "m" + s + "\x1b[0m" }
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s  %s  %.12s..%s  %s\n", d.Project, d.Task, d.Branch, d.Base, d.Tip, d.State)
	for _, f := range d.Flags {
		colour := map[string]string{"deny": "31;1", "warn": "33"}[f.Severity]
		if colour == "" {
			colour = "2"
		}
		fmt.Fprintf(&b, "%s %s\n", paint(colour, f.Severity+" "+strings.ReplaceAll(f.Code, "_", " ")), strings.Join(f.Where, ", "))
	}
	for _, c := range d.List {
		fmt.Fprintf(&b, "\n%s %s\n  %s <%s>  %s  (signature not verified)\n", paint("33", c.ID[:min(12, len(c.ID))]), c.Subject, c.Author, c.Email, c.Time.Format("2006-01-02 15:04"))
		for line := range strings.Lines(c.Body) {
			b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	if d.Commits > len(d.List) {
		fmt.Fprintf(&b, "[%d older commits]\n", d.Commits-len(d.List))
	}
	b.WriteByte('\n')
	for _, f := range d.Files {
		if f.Binary {
			fmt.Fprintf(&b, " %s %s  binary\n", f.Status, f.Path)
			continue
		}
		fmt.Fprintf(&b, " %s %s  +%d -%d\n", f.Status, f.Path, f.Insertions, f.Deletions)
	}
	fmt.Fprintf(&b, " %s, +%d -%d\n", count(len(d.Files), "file"), d.Insertions, d.Deletions)
	if d.Patch != "" {
		b.WriteByte('\n')
	}
	for line := range strings.Lines(d.Patch) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "+++ ") || strings.HasPrefix(line, "--- "):
			line = paint("1", line)
		case strings.HasPrefix(line, "+"):
			line = paint("32", line)
		case strings.HasPrefix(line, "-"):
			line = paint("31", line)
		case strings.HasPrefix(line, "@@"):
			line = paint("36", line)
		}
		b.WriteString(line + "\n")
	}
	if d.Cut {
		b.WriteString("[the diff is too large to show whole]\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newReviewApproveCmd(e *env) *cobra.Command {
	var branch, commit string
	c := &cobra.Command{
		Use:     "approve [PROJECT/]TASK --commit ID",
		Short:   "Record that you accept exactly this commit",
		Example: "  terok review approve k3v9p --commit 9ab10e2…",
		Args:    oneTask,
		RunE: func(cmd *cobra.Command, args []string) error {
			if commit == "" {
				return problem.New("usage", problem.Usage, "--commit is needed: the full id that you reviewed").WithHint("terok review show %s", args[0])
			}
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if err := e.app.ReviewApprove(cmd.Context(), t, branch, commit); err != nil {
				return err
			}
			return e.print("review.approve", map[string]string{"task": t.Ref(), "commit": commit}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %.12s approved\n", t.Ref(), commit)
				return err
			})
		},
		ValidArgsFunction: e.completeTasks,
	}
	c.Flags().StringVar(&branch, "branch", "", "another branch of the task than its own")
	c.Flags().StringVar(&commit, "commit", "", "full id of the tip that you reviewed")
	return c
}

func newPromoteCmd(e *env) *cobra.Command {
	var req terok.PromoteRequest
	var undo, dry bool
	var expected string
	c := &cobra.Command{
		Use:   "promote [PROJECT/]TASK",
		Short: "Bring a reviewed branch into your clone, or to upstream",
		Long: `Shows what a task pushed and brings exactly that commit into your clone as a new branch (your
checked-out branch, index and files stay), or to upstream with --to upstream. On a terminal you
type the first four characters of the commit; elsewhere --commit must be the full id of the tip.`,
		Example: "  terok promote k3v9p\n  terok promote k3v9p --to upstream --as fix/checkout --commit 9ab10e2…\n  terok promote --undo k3v9p",
		Args:    oneTask,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if undo {
				return e.undoPromote(cmd, t)
			}
			req.Task = t
			req.AllowDefault = e.yes && req.As != ""
			if cmd.Flags().Changed("expect") {
				req.Expected = &expected
			}
			return e.promote(cmd, req, dry)
		},
		ValidArgsFunction: e.completeTasks,
	}
	f := c.Flags()
	f.StringVar(&req.Branch, "branch", "", "another branch of the task than its own")
	f.StringVar(&req.To, "to", "", "clone or upstream (default: the clone that the project was made from, else upstream)")
	f.StringVar(&req.As, "as", "", "name of the branch there")
	f.StringVar(&req.Commit, "commit", "", "full id of the tip that you reviewed")
	f.StringVar(&expected, "expect", "", "with --to upstream: the commit that the branch has there, empty for none")
	f.BoolVar(&undo, "undo", false, "take back the task's last promotion")
	f.BoolVar(&dry, "dry-run", false, "say what would be done")
	return c
}

// promote shows, asks and promotes. What is promoted is the commit that was shown, whatever the
// task pushes meanwhile.
func (e *env) promote(cmd *cobra.Command, req terok.PromoteRequest, dry bool) error {
	ask := req.Commit == "" && !dry
	if ask && (!e.interactive() || e.json) {
		return problem.New("needs_answer", problem.Usage, "without a terminal --commit is needed: the full id of the commit that you reviewed").
			WithHint("terok review show %s", req.Task.Ref())
	}
	plan, err := e.app.PlanPromote(cmd.Context(), req)
	if err != nil {
		return err
	}
	if dry {
		return e.print("promote.plan", plan, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s\n", e.planLine(plan))
			return err
		})
	}
	req.As = plan.Branch
	if ask {
		if err := e.typeCommit(plan); err != nil {
			return err
		}
		req.Commit = plan.Details.Tip
	}
	done, err := e.app.Promote(cmd.Context(), req)
	if err != nil {
		return err
	}
	return e.print("promote", done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "done: %s in %s is %.12s. Undo: terok promote --undo %s\n",
			strings.TrimPrefix(done.Ref, "refs/heads/"), text.Show(e.app.HomeRelative(done.Place)), done.Commit, req.Task.ID)
		return err
	})
}

func (e *env) planLine(p terok.PromotePlan) string {
	d := p.Details
	return fmt.Sprintf("%s %.7s..%.7s → branch %s in %s · %s", count(d.Commits, "commit"), d.Base, d.Tip, p.Branch,
		text.Show(e.app.HomeRelative(p.Place)), count(len(d.Flags), "flag"))
}

// typeCommit makes the person type the beginning of the commit's id: a reflex cannot do that.
func (e *env) typeCommit(p terok.PromotePlan) error {
	want := p.Details.Tip[:4]
	for _, c := range p.Details.List[:min(10, len(p.Details.List))] {
		fmt.Fprintf(e.err, "  %.7s %s\n", c.ID, c.Subject)
	}
	for _, f := range p.Details.Flags {
		fmt.Fprintf(e.err, "  %s %s: %s\n", map[string]string{"deny": "!!", "warn": "!", "info": " "}[f.Severity], strings.ReplaceAll(f.Code, "_", " "), strings.Join(f.Where, ", "))
	}
	for {
		fmt.Fprintf(e.err, "%s · s shows · type %s: ", e.planLine(p), want)
		line, err := e.readLine()
		if err != nil {
			return err
		}
		switch strings.ToLower(line) {
		case want:
			return nil
		case "s":
			if err := e.printDetails(e.err, p.Details); err != nil {
				return err
			}
		default:
			return problem.New("declined", problem.Declined, "not promoted")
		}
	}
}

// readLine reads one line byte by byte, so that nothing behind it is swallowed.
func (e *env) readLine() (string, error) {
	var line []byte
	for buf := make([]byte, 1); len(line) < 256; {
		n, err := e.in.Read(buf)
		if n == 1 && buf[0] == '\n' {
			break
		}
		if n == 1 {
			line = append(line, buf[0])
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSpace(string(line)), nil
}

func (e *env) undoPromote(cmd *cobra.Command, t *terok.Task) error {
	done, err := e.app.UndoPromote(cmd.Context(), t)
	if err != nil {
		return err
	}
	return e.print("promote.undo", done, func(w io.Writer) error {
		what := "removed"
		if done.Old != "" {
			what = fmt.Sprintf("back at %.12s", done.Old)
		}
		_, err := fmt.Fprintf(w, "undone: %s in %s is %s\n", strings.TrimPrefix(done.Ref, "refs/heads/"), text.Show(e.app.HomeRelative(done.Place)), what)
		return err
	})
}

// newGateSyncCmd is "project gate-sync".
func newGateSyncCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "gate-sync PROJECT",
		Short: "Bring a project's mirror up to date with its upstream",
		Long: `Fetches the upstream into the project's mirror. New branches and those that only moved forward
are taken over; rewritten, deleted and diverged ones are listed and left as they are (exit 7).`,
		Example: "  terok project gate-sync webshop",
		Args:    exactly(1, "a project name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.app.GateSync(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := e.print("project.gate_sync", r, func(w io.Writer) error { return printSync(w, r) }); err != nil {
				return err
			}
			if n := len(r.Pending); n > 0 {
				return problem.New("pending_changes", problem.Conflict, "%s of upstream not taken over: history was rewritten or deleted there", branches(n)).
					With("pending", r.Pending)
			}
			return nil
		},
	}
}

func branches(n int) string {
	if n == 1 {
		return "1 branch"
	}
	return fmt.Sprintf("%d branches", n)
}

func printSync(w io.Writer, r terok.GateReport) error {
	var b strings.Builder
	verb := "is up to date"
	if r.Created {
		verb = "made"
	} else if len(r.Applied) > 0 {
		verb = "updated"
	}
	fmt.Fprintf(&b, "%s %s: %s, default %s\n", text.Show(r.Path), verb, branches(r.Branches), r.Head)
	for _, list := range [][]terok.GateChange{r.Applied, r.Pending, r.Ahead} {
		for i, c := range list {
			if i == 10 {
				fmt.Fprintf(&b, "  and %d more\n", len(list)-10)
				break
			}
			fmt.Fprintf(&b, "  %-13s %s  %.12s..%.12s\n", strings.ReplaceAll(c.Kind, "_", " "), text.Show(c.Branch), c.Old, c.New)
		}
	}
	for _, n := range r.Notes[:min(10, len(r.Notes))] {
		fmt.Fprintf(&b, "  note: %s\n", text.Show(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
