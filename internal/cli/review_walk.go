package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/text"
)

func newReviewWalkCmd(e *env) *cobra.Command {
	var branch string
	var again bool
	c := &cobra.Command{
		Use:   "walk [PROJECT/]TASK [BRANCH]",
		Short: "Go through the commits one by one: approve, reject, comment",
		Long: `Shows one commit after the other, the oldest first, and asks what you say: a approves, r rejects (with
your reason), c comments, s skips, d shows the whole diff, q ends. Each answer is recorded at once, so
you can go on later where you stopped. Commits that you decided on are left out; --all brings them back.`,
		Example: "  terok review walk k3v9p\n  terok review walk k3v9p --all",
		Args:    taskAndBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.branchArgs(args, &branch)
			if err != nil {
				return err
			}
			if e.json || !e.interactive() {
				return problem.New("needs_answer", problem.Declined, "walk asks about each commit: it needs a terminal").
					WithHint("terok review show %s --json, then terok review approve %s --sha ID --commit ID", words(t, branch), words(t, branch))
			}
			return e.walk(cmd.Context(), t, branch, again)
		},
		ValidArgsFunction: e.completeTasks,
	}
	c.Flags().StringVar(&branch, "branch", "", "another branch of the task than its own")
	c.Flags().BoolVar(&again, "all", false, "also commits that you decided on before")
	return c
}

const walkKeys = "a approve · r reject · c comment · s skip · d whole diff · q quit"

// shortDiff is how many lines of a commit's diff are shown without asking.
const shortDiff = 60

// walkPage is how many commits are read at once: few enough for each to be shown whole.
const walkPage = 20

func (e *env) walk(ctx context.Context, t *terok.Task, branch string, again bool) error {
	d, err := e.app.ReviewShow(ctx, t, terok.ReviewOptions{Branch: branch, View: review.View{Stat: true}})
	if err != nil {
		return err
	}
	p := e.painter(e.out)
	p.fancy = true
	var b strings.Builder
	p.head(&b, d)
	fmt.Fprint(e.out, b.String())
	left := d.Undecided
	if again {
		left = d.IDs
	}
	said := map[string]int{}
	if n := len(d.IDs) - len(left); n > 0 {
		said["decided before"] = n
	}
	number := map[string]int{}
	for i, id := range d.IDs {
		number[id] = len(d.IDs) - i
	}
	for len(left) > 0 {
		next := left[max(0, len(left)-walkPage):] // the oldest
		left = left[:len(left)-len(next)]
		page, err := e.app.ReviewShow(ctx, t, terok.ReviewOptions{Branch: branch, View: review.View{PerCommit: true, Commits: next}})
		if err != nil {
			return err
		}
		if page.Tip != d.Tip {
			return review.TipMoved(review.Task{Project: t.Project, ID: t.ID, Branch: t.Branch}, d.Branch, d.Tip, page.Tip)
		}
		for _, c := range slices.Backward(page.List) {
			if slices.ContainsFunc(c.Files, func(f terok.ReviewFile) bool { return f.Cut }) { // by what the others of the page hold
				if c, err = e.commitAlone(ctx, t, branch, c); err != nil {
					return err
				}
			}
			word, err := e.walkOne(ctx, t, d, c, p, fmt.Sprintf("[%d/%d]", number[c.ID], len(d.IDs)))
			if err != nil {
				return err
			}
			if word == "" {
				return e.walkEnd(ctx, t, branch, said)
			}
			said[word]++
		}
	}
	return e.walkEnd(ctx, t, branch, said)
}

// commitAlone reads a commit again, with all the room that a diff has.
func (e *env) commitAlone(ctx context.Context, t *terok.Task, branch string, c terok.ReviewedCommit) (terok.ReviewedCommit, error) {
	d, err := e.app.ReviewShow(ctx, t, terok.ReviewOptions{Branch: branch, View: review.View{PerCommit: true, Commits: []string{c.ID}}})
	if err != nil || len(d.List) != 1 {
		return c, err
	}
	return d.List[0], nil
}

// walkOne asks about one commit; "" ends the walk.
func (e *env) walkOne(ctx context.Context, t *terok.Task, d terok.ChangeDetails, c terok.ReviewedCommit, p painter, where string) (string, error) {
	draw := func(whole bool) string {
		var b, diff strings.Builder
		fmt.Fprintf(&b, "\n%s ", p.faint(where))
		p.commit(&b, c)
		p.flags(&b, c.Flags)
		p.stat(&b, c.Files, len(c.Files), c.Insertions, c.Deletions)
		p.files(&diff, c.Files, false)
		if n := strings.Count(diff.String(), "\n"); whole || n <= shortDiff {
			b.WriteString(diff.String())
		} else {
			fmt.Fprintf(&b, "%s\n", p.faint(fmt.Sprintf("[%d lines of diff: d shows them]", n)))
		}
		return b.String()
	}
	fmt.Fprint(e.out, draw(false))
	decision := terok.ReviewDecision{Branch: d.Branch, Commit: d.Tip, Commits: []string{c.ID}}
	for {
		key, err := e.key(p.faint(walkKeys) + " ")
		if err != nil {
			return "", err
		}
		switch key {
		case 'a':
			_, err = e.app.ReviewApprove(ctx, t, decision)
			return "approved", err
		case 'r', 'c':
			ask := map[byte]string{'r': "why: ", 'c': "comment: "}[key]
			fmt.Fprint(e.out, ask)
			if decision.Text, err = e.readLine(); err != nil {
				return "", err
			}
			if decision.Text == "" {
				fmt.Fprintln(e.out, "nothing was said")
				continue
			}
			if key == 'c' {
				out, err := e.app.ReviewComment(ctx, t, decision)
				if err := e.delivered(out, err); err != nil {
					return "", err
				}
				continue
			}
			out, err := e.app.ReviewReject(ctx, t, decision)
			return "rejected", e.delivered(out, err)
		case 's':
			return "skipped", nil
		case 'd':
			if err := e.page(ctx, e.out, func(_ painter, b *strings.Builder) { b.WriteString(draw(true)) }, ""); err != nil {
				return "", err
			}
		case 'q', 3, 4:
			return "", nil
		}
	}
}

// delivered says how the task learns of it. That it could not be told ends no walk.
func (e *env) delivered(out terok.ReviewOutcome, err error) error {
	if problem.Is(err, "feedback_not_delivered") {
		fmt.Fprintln(e.err, "warning:", problem.Of(err).Message)
		return nil
	}
	if err == nil {
		fmt.Fprintf(e.out, "the task learns of it %s\n", out.Delivered)
	}
	return err
}

// walkEnd sums up, and says what comes next.
func (e *env) walkEnd(ctx context.Context, t *terok.Task, branch string, said map[string]int) error {
	parts := []string{}
	for _, word := range []string{"approved", "rejected", "skipped", "decided before"} {
		if n := said[word]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, word))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing was decided")
	}
	fmt.Fprintf(e.out, "\n%s", strings.Join(parts, ", "))
	d, err := e.app.ReviewShow(ctx, t, terok.ReviewOptions{Branch: branch, View: review.View{Stat: true}})
	if err != nil {
		fmt.Fprintln(e.out)
		return err
	}
	switch d.State {
	case review.Approved:
		fmt.Fprintf(e.out, " · all of it is approved: terok promote %s\n", words(t, branch))
	case review.Rejected:
		fmt.Fprintf(e.out, " · rejected: terok review reject %s --send -m … starts a headless task again\n", words(t, branch))
	default:
		fmt.Fprintf(e.out, " · go on with: terok review walk %s\n", words(t, branch))
	}
	return nil
}

// key asks for one key.
func (e *env) key(question string) (byte, error) {
	fmt.Fprint(e.out, question)
	in, ok := e.in.(*os.File)
	if !ok {
		return 'q', nil
	}
	saved, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1)
	n, err := in.Read(buf)
	if e := term.Restore(int(in.Fd()), saved); e != nil && err == nil {
		err = e
	}
	if err != nil || n == 0 {
		return 'q', nil
	}
	fmt.Fprintln(e.out, text.Line(string(buf), 4))
	if buf[0] >= 'A' && buf[0] <= 'Z' {
		buf[0] += 'a' - 'A'
	}
	return buf[0], nil
}
