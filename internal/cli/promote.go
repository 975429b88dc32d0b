package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/child"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/text"
)

// promoting is one promote command line.
type promoting struct {
	req      terok.PromoteRequest
	expected string
	undo     bool
	dry      bool
	open     bool
	sha      string
}

func newPromoteCmd(e *env) *cobra.Command {
	var o promoting
	c := &cobra.Command{
		Use:   "promote [PROJECT/]TASK [BRANCH]",
		Short: "Bring a reviewed branch into your clone, or to upstream",
		Long: `Shows what a task pushed and brings exactly that commit into your clone as a new branch: your
checked-out branch, index and files stay. --to brings it elsewhere:

  clone         the clone that the project was made from (default where there is one)
  gate          the project's mirror: new tasks start from it
  upstream      the project's upstream, under a lease; never its default branch unless you say so
  repo:PATH     refs/remotes/terok/TASK/NAME of any clone, and nothing else of it
  bundle:FILE   one file that git fetches from
  patches:DIR   mails for git am

On a terminal you type the first four characters of the commit, which is your approval too. Elsewhere
--sha must be the full id of the tip, with --yes, and it must be approved (terok review approve) or
--approve must be given. Each promotion leaves a signed receipt (terok receipt).`,
		Example: "  terok promote k3v9p\n  terok promote k3v9p --to upstream --as fix/checkout --open-review\n  terok promote k3v9p --sha 9ab10e2f… --approve --yes\n  terok promote k3v9p --squash -m 'Fix the checkout test'\n  terok promote --undo k3v9p",
		Args:    taskAndBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.branchArgs(args, &o.req.Branch)
			if err != nil {
				return err
			}
			if o.undo {
				return e.undoPromote(cmd, t)
			}
			o.req.Task = t
			if cmd.Flags().Changed("expect") {
				o.req.Expected = &o.expected
			}
			if o.req.Message != "" && !o.req.Squash {
				return problem.New("usage", problem.Usage, "-m is the message of --squash: without that the commits keep their own")
			}
			return e.promote(cmd, o)
		},
		ValidArgsFunction: e.completeTasks,
	}
	f := c.Flags()
	f.StringVar(&o.req.Branch, "branch", "", "another branch of the task than its own")
	f.StringVar(&o.req.To, "to", "", "clone, gate, upstream, repo:PATH, bundle:FILE or patches:DIR")
	f.StringVar(&o.req.As, "as", "", "name of the branch there")
	f.StringVar(&o.sha, "sha", "", "full id of the tip that you reviewed; if the task pushed since, nothing is done (exit 7)")
	f.BoolVar(&o.req.Approve, "approve", false, "with --sha: you approve it by this")
	f.StringVar(&o.expected, "expect", "", "with --to upstream: the commit that the branch has there, empty for none")
	f.BoolVar(&o.req.AllowDefault, "allow-protected", false, "--as may be the default branch, or one of gate.protected")
	f.BoolVar(&o.req.Force, "force-with-lease", false, "gate, upstream: the branch may lose commits that it has now")
	f.BoolVar(&o.req.Squash, "squash", false, "one commit with all changes, and trailers that say what was reviewed")
	f.StringVarP(&o.req.Message, "message", "m", "", "of the squashed commit")
	f.BoolVar(&o.open, "open-review", false, "with --to upstream: open a pull or merge request, or say where")
	f.BoolVar(&o.req.NoReceipt, "no-receipt", false, "without a signed receipt")
	f.BoolVar(&o.undo, "undo", false, "take back the task's last promotion")
	f.BoolVar(&o.undo, "revert", false, "")
	f.BoolVar(&o.dry, "dry-run", false, "say what would be done")
	e.personalFlag(c)
	_ = f.MarkHidden("revert")
	return c
}

// promote shows, asks and promotes. What is promoted is the commit that was shown, whatever the
// task pushes meanwhile.
func (e *env) promote(cmd *cobra.Command, o promoting) error {
	ask := !o.dry && !(o.sha != "" && e.yes)
	switch {
	case ask && (!e.interactive() || e.json) && o.sha == "":
		return problem.New("needs_answer", problem.Usage, "without a terminal --sha is needed: the full id of the commit that you reviewed").
			WithHint("terok review show %s", words(o.req.Task, o.req.Branch))
	case ask && (!e.interactive() || e.json):
		return problem.New("needs_answer", problem.Declined, "without a terminal --yes is needed beside --sha").
			WithHint("terok promote %s --sha %s --yes", words(o.req.Task, o.req.Branch), text.Line(o.sha, 64))
	case o.open && o.req.To != "" && o.req.To != review.ToUpstream:
		return problem.New("usage", problem.Usage, "--open-review is for --to upstream")
	}
	o.req.Commit = o.sha
	plan, err := e.app.PlanPromote(cmd.Context(), o.req)
	if err != nil {
		return err
	}
	if o.open && plan.To != review.ToUpstream {
		return problem.New("usage", problem.Usage, "--open-review is for --to upstream, and this goes to %s", plan.To)
	}
	if o.dry {
		return e.print("promote.plan", plan, func(w io.Writer) error {
			fmt.Fprintf(w, "%s\n", e.planLine(plan))
			if n := len(plan.Unapproved); n > 0 {
				fmt.Fprintf(w, "%s not approved yet\n", count(n, "commit"))
			}
			return nil
		})
	}
	o.req.As = plan.Branch
	if ask {
		if o.sha != "" && o.sha != plan.Details.Tip {
			return review.TipMoved(review.Task{Project: o.req.Task.Project, ID: o.req.Task.ID, Branch: o.req.Task.Branch}, plan.Details.Branch, o.sha, plan.Details.Tip)
		}
		if err := e.confirmPlan(cmd, plan); err != nil {
			return err
		}
		o.req.Commit = plan.Details.Tip
		o.req.Approve = plan.Level != review.LevelCommit
	}
	done, err := e.app.Promote(cmd.Context(), o.req)
	if err != nil {
		return err
	}
	return e.promoted(cmd, o, plan, done)
}

// promotion is what promote prints with --json.
type promotion struct {
	terok.Promotion
	Review *terok.OpenedReview `json:"review"`
}

func (e *env) promoted(cmd *cobra.Command, o promoting, plan terok.PromotePlan, done terok.Promotion) error {
	out := promotion{Promotion: done}
	var openErr error
	if o.open {
		var opened terok.OpenedReview
		if opened, openErr = e.app.OpenReview(cmd.Context(), o.req.Task, done, plan.Details); openErr == nil {
			out.Review = &opened
		}
	}
	perr := e.print("promote", out, func(w io.Writer) error {
		where := text.Show(e.app.HomeRelative(done.Place))
		switch done.Target {
		case review.ToBundle, review.ToPatches:
			fmt.Fprintf(w, "done: %.12s in %s.", done.As, where)
		case review.ToGate:
			fmt.Fprintf(w, "done: %s in the gate is %.12s.", strings.TrimPrefix(done.Ref, "refs/heads/"), done.As)
		case review.ToRepo:
			fmt.Fprintf(w, "done: %s in %s is %.12s.", strings.TrimPrefix(done.Ref, "refs/remotes/"), where, done.As)
		default:
			fmt.Fprintf(w, "done: %s in %s is %.12s.", strings.TrimPrefix(done.Ref, "refs/heads/"), where, done.As)
		}
		fmt.Fprintf(w, " Undo: terok promote --undo %s\n", o.req.Task.ID)
		if r := out.Review; r != nil && r.Opened {
			fmt.Fprintf(w, "review: %s\n", r.URL)
		} else if r != nil {
			fmt.Fprintf(w, "open a review: %s\n  or: %s\n", r.URL, r.Command)
		}
		return nil
	})
	if openErr != nil { // the promotion stands; that is said above
		p := problem.Of(openErr)
		openErr = problem.New(p.Code, problem.Attention, "promoted, but no review was opened: %s", p.Message).WithHint("%s", p.Hint)
	}
	return errors.Join(perr, openErr)
}

func (e *env) planLine(p terok.PromotePlan) string {
	d := p.Details
	what := count(d.Commits, "commit")
	if p.Squash {
		what += ", squashed,"
	}
	to := map[string]string{review.ToClone: "new branch " + p.Branch + " in ", review.ToRepo: "terok/" + d.Task + "/" + p.Branch + " in ",
		review.ToGate: "branch " + p.Branch + " of ", review.ToUpstream: "branch " + p.Branch + " of "}[p.To]
	return fmt.Sprintf("%s %.7s..%.7s → %s%s · %s", what, d.Base, d.Tip, to, text.Show(e.app.HomeRelative(p.Place)), count(len(d.Flags), "flag"))
}

// confirmPlan shows commits and flags, and lets the person type the beginning of the commit's id.
func (e *env) confirmPlan(cmd *cobra.Command, p terok.PromotePlan) error {
	var b strings.Builder
	pt := e.painter(e.err)
	pt.summary(&b, p.Details)
	if p.Level == review.LevelCommit && len(p.Unapproved) > 0 {
		fmt.Fprint(e.err, b.String())
		return problem.New("not_reviewed", problem.Conflict, "%s not approved, and this project wants each approved", count(len(p.Unapproved), "commit")).
			WithHint("terok review walk %s/%s %s", p.Details.Project, p.Details.Task, child.Quote(p.Details.Branch))
	}
	fmt.Fprint(e.err, b.String())
	return e.typeID(p.Details.Tip, e.planLine(p), func() error {
		return e.page(cmd.Context(), e.out, func(pt painter, b *strings.Builder) {
			pt.details(b, p.Details, terok.ReviewOptions{}, false)
		}, e.deltaOf(cmd.Context(), e.out, p.Details, false))
	})
}

// typeID makes the person type the beginning of a commit's id: a reflex cannot do that. show, if
// any, is what "s" does.
func (e *env) typeID(tip, question string, show func() error) error {
	want := tip[:4]
	keys := "type " + want
	if show != nil {
		keys = "s shows · " + keys
	}
	for {
		fmt.Fprintf(e.err, "%s · %s: ", question, keys)
		line, err := e.readLine()
		if err != nil {
			return err
		}
		switch word := strings.ToLower(line); {
		case word == "s" && show != nil:
			if err := show(); err != nil {
				return err
			}
		case len(word) >= 4 && strings.HasPrefix(tip, word):
			return nil
		default:
			return problem.New("declined", problem.Declined, "nothing was done")
		}
	}
}

// readLine reads one line byte by byte, so that nothing behind it is swallowed.
func (e *env) readLine() (string, error) {
	var line []byte
	for buf := make([]byte, 1); len(line) < 4096; {
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
		what, place := "removed", " in "+text.Show(e.app.HomeRelative(done.Place))
		if done.Old != "" {
			what = fmt.Sprintf("back at %.12s", done.Old)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(done.Ref, "refs/heads/"), "refs/remotes/")
		switch done.Target {
		case review.ToGate:
			place = " in the gate"
		case review.ToBundle, review.ToPatches:
			name, place = text.Show(e.app.HomeRelative(done.Place)), ""
		}
		_, err := fmt.Fprintf(w, "undone: %s%s is %s\n", name, place, what)
		return err
	})
}
