package promote

import (
	"context"
	"fmt"
	"strings"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/git"
	"terok/internal/problem"
)

// Squash makes one commit of a range. Message "" is that of the oldest commit with the subjects of
// the others.
type Squash struct {
	Message   string
	Author    inspect.Identity
	Committer inspect.Identity
}

// squash makes one commit with the changes of the range, on top of what the target has, without
// any working tree. Its trailers say what was reviewed.
func (p *Promoter) squash(ctx context.Context, j *job) error {
	parent := j.done.Old
	if parent == "" {
		parent = j.change.Base
	}
	if parent == "" {
		return problem.New("unrelated_history", problem.Conflict, "%s shares no commit with the project: there is nothing to squash it onto", j.src.Branch).
			WithHint("promote it without --squash")
	}
	tree, err := p.mergedTree(ctx, j, parent)
	if err != nil {
		return err
	}
	message := j.dst.Squash.Message
	if strings.TrimSpace(message) == "" {
		if message, err = p.subjects(ctx, j); err != nil {
			return err
		}
	}
	message = strings.TrimRight(message, "\n") + fmt.Sprintf("\n\nTerok-Task: %s\nTerok-Reviewed: %s\n", j.src.Task.Ref(), j.src.Commit)
	c := p.base(j.src.Task, "commit-tree", "-p", parent, "-F", "-", tree)
	c.Stdin = strings.NewReader(message)
	a, m := j.dst.Squash.Author, j.dst.Squash.Committer
	date := fmt.Sprintf("%d +0000", p.now().Unix())
	c.Env = []string{"GIT_AUTHOR_NAME=" + a.Name, "GIT_AUTHOR_EMAIL=" + a.Email, "GIT_COMMITTER_NAME=" + m.Name, "GIT_COMMITTER_EMAIL=" + m.Email,
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date}
	out, err := p.Git.Run(ctx, c)
	if err != nil {
		return fmt.Errorf("squash: %w", err)
	}
	id := strings.TrimSpace(string(out))
	if !refname.IsID(id) {
		return fmt.Errorf("git commit-tree printed %.60q", id)
	}
	_, err = p.Git.Run(ctx, p.base(j.src.Task, "update-ref", "--no-deref", incoming+j.src.Task.ID+"/"+id, id))
	j.done.As = id
	return err
}

// mergedTree is the tree of the tip merged into parent; the tip's own where parent is behind it.
func (p *Promoter) mergedTree(ctx context.Context, j *job, parent string) (string, error) {
	if _, err := p.Git.Run(ctx, p.base(j.src.Task, "merge-base", "--is-ancestor", parent, j.src.Commit)); err == nil {
		return j.src.Commit + "^{tree}", nil
	} else if !git.IsExit(err, 1) {
		return "", err
	}
	out, err := p.Git.Run(ctx, p.base(j.src.Task, "merge-tree", "--write-tree", "--no-messages", parent, j.src.Commit))
	if git.IsExit(err, 1) {
		return "", problem.New("merge_conflict", problem.Conflict, "%s and %.12s change the same lines", j.dst.Branch, j.src.Commit).
			WithHint("let the task merge %s first", j.dst.Branch)
	}
	if err != nil {
		return "", fmt.Errorf("merge (git 2.38 or newer is needed): %w", err)
	}
	tree, _, _ := strings.Cut(string(out), "\n")
	if !refname.IsID(tree) {
		return "", fmt.Errorf("git merge-tree printed %.60q", tree)
	}
	return tree, nil
}

// subjects is the message of a squashed commit that nobody wrote one for. What an agent wrote goes
// into it as the repository has it, without control characters.
func (p *Promoter) subjects(ctx context.Context, j *job) (string, error) {
	d, err := p.Review.Show(ctx, j.src.Task, review.ShowOptions{Branch: j.src.Branch, View: review.View{Stat: true}})
	if err != nil {
		return "", err
	}
	if len(d.List) == 0 {
		return j.src.Branch, nil
	}
	first := d.List[len(d.List)-1]
	var b strings.Builder
	b.WriteString(first.Subject)
	if first.Body != "" {
		b.WriteString("\n\n" + strings.TrimRight(first.Body, "\n"))
	}
	if len(d.List) > 1 {
		b.WriteString("\n\n")
		for i := len(d.List) - 2; i >= 0; i-- {
			b.WriteString("* " + d.List[i].Subject + "\n")
		}
	}
	return b.String(), nil
}
