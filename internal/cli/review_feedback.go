package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
)

func newReviewFeedbackCmd(e *env) *cobra.Command {
	var pull bool
	c := &cobra.Command{
		Use: "feedback --pull [PROJECT/]TASK", Short: "Bring comments from the forge to a task, once you have read them", Args: oneTask,
		Long: `Asks the forge for comments on the open reviews of the task's branches that are newer than its last push,
shows them, and after your word writes them into ~/.terok/review-feedback.md of the task, quoted and marked
as untrusted: whoever can comment at the forge writes to your agent. Nothing else ever brings their text
into a container; ~/.terok/review-status has numbers and addresses only. Without a terminal --yes is your word.`,
		Example: "  terok review feedback --pull k3v9p\n  terok review feedback --pull webshop/k3v9p --json --yes", ValidArgsFunction: e.completeTasks,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := e.pick(args)
			if err != nil {
				return err
			}
			if !pull {
				return problem.New("usage", problem.Usage, "say --pull: strangers' words go to the task").WithHint("terok review feedback --pull %s", t.Ref())
			}
			list, err := e.app.ReviewComments(cmd.Context(), t)
			if err != nil {
				return err
			}
			out := struct {
				Task      string               `json:"task"`
				Comments  []terok.ForgeComment `json:"comments"`
				Delivered string               `json:"delivered"`
			}{t.Ref(), list, ""}
			if len(list) > 0 {
				if !e.json {
					printComments(e.out, list)
				}
				if err := e.sure(fmt.Sprintf("Bring %s by strangers to %s?", count(len(list), "comment"), t.Ref()), "terok review feedback --pull %s --yes", t.Ref()); err != nil {
					return err
				}
				if out.Delivered, err = e.app.ReviewTake(cmd.Context(), t, list); err != nil {
					return err
				}
			}
			return e.print("review.feedback", out, func(w io.Writer) error {
				what := "nothing new at the forge"
				switch {
				case out.Delivered != "":
					what = fmt.Sprintf("%s, %s, in ~/.terok/review-feedback.md", count(len(list), "comment"), out.Delivered)
				case len(list) > 0:
					what = "it has them already"
				}
				_, err := fmt.Fprintf(w, "%s: %s\n", t.Ref(), what)
				return err
			})
		},
	}
	c.Flags().BoolVar(&pull, "pull", false, "get them from the forge")
	return c
}

// printComments shows what strangers wrote: package forge has made it printable, and here nothing of it
// can look like a line of ours.
func printComments(w io.Writer, list []terok.ForgeComment) {
	for _, c := range list {
		where := ""
		if c.Path != "" {
			where = fmt.Sprintf("  %s:%d", text.Show(c.Path), c.Line)
		}
		fmt.Fprintf(w, "%s %s  %s, %s%s\n", text.Show(c.Review), text.Show(c.Branch), text.Show(c.Author), ago(c.At), where)
		for line := range strings.Lines(text.Block(c.Body, 200, 0)) {
			fmt.Fprintf(w, "  | %s\n", strings.TrimRight(line, "\n"))
		}
		if c.URL != "" {
			fmt.Fprintf(w, "  %s\n", text.Show(c.URL))
		}
	}
}
