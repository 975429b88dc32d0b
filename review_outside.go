package terok

import (
	"context"

	"terok/internal/gate/forge"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/task"
)

// ForgeComment is what somebody wrote at the forge about a review of a task's branch.
type ForgeComment struct {
	Review string `json:"review"` // as the forge writes it, e.g. "#42"
	URL    string `json:"url"`    // of the review
	Branch string `json:"branch"` // the task's
	forge.Comment
}

// ReviewComments asks the forge for what is new about the reviews of a task's branches: what was written
// since the task's last push and has not been brought to it. It is for a person to read first.
func (a *App) ReviewComments(ctx context.Context, t *task.Task) ([]ForgeComment, error) {
	p, err := a.projects().Get(t.Project)
	if err != nil {
		return nil, err
	}
	repo, err := forge.Parse(p.Git.UpstreamURL, p.Git.Forge)
	if err != nil {
		return nil, err
	}
	token, err := a.forgeToken(ctx, p, repo)
	if err != nil {
		return nil, err
	}
	if len(token) == 0 {
		return nil, problem.New("no_token", problem.Locked, "the vault has no token for %s, or is locked", repo.Host).WithHint("terok auth, or terok vault unlock")
	}
	defer clear(token)
	client := forge.Client{HTTP: a.ForgeHTTP}
	open, err := client.List(ctx, repo, string(token))
	if err != nil {
		return nil, err
	}
	heads, pages := make([]review.Head, len(open)), map[int]string{}
	for i, o := range open {
		heads[i], pages[o.Number] = review.Head{Number: o.Number, Branch: o.Branch, Tip: o.Tip}, o.URL
	}
	lag, err := a.reader().Lag(ctx, a.reviewTask(ctx, t), heads)
	if err != nil {
		return nil, err
	}
	rec, err := review.LoadRecord(a.Roots, t.Project, t.ID)
	if err != nil {
		return nil, err
	}
	l, err := a.loadLag(t.Project)
	if err != nil {
		return nil, err
	}
	out := []ForgeComment{}
	for _, g := range lag {
		if g.Own == "" {
			continue
		}
		if before := known(l.Tasks[t.ID], g); g.PushedAt.IsZero() && before.Tip == g.Tip {
			g.PushedAt = before.PushedAt
		}
		mark := repo.Mark(g.Number)
		said, err := client.Comments(ctx, repo, g.Number, lastWord(rec, mark, g), string(token))
		if err != nil {
			return nil, err
		}
		for _, c := range said {
			out = append(out, ForgeComment{Review: mark, URL: pages[g.Number], Branch: g.Own, Comment: c})
		}
	}
	return out, nil
}

// ReviewTake brings comments, which a person has read, to a task: into the file of what reviewers said,
// as untrusted. delivered is when the task has them: "now", "at its next start", or "" for never.
func (a *App) ReviewTake(ctx context.Context, t *task.Task, list []ForgeComment) (delivered string, err error) {
	added := 0
	err = review.UpdateRecord(a.Roots, t.Project, t.ID, func(rec *review.Record) error {
		for _, c := range list {
			added += rec.History(c.Branch).TakeOutside([]review.Outside{{Review: c.Review, URL: c.URL, Author: c.Author, Path: c.Path, Line: c.Line, Text: c.Body, At: c.At}})
		}
		return nil
	})
	if err != nil || added == 0 {
		return "", err
	}
	a.promoter().Record("review_changed", review.Task{Project: t.Project, ID: t.ID}, t.Branch, nil, map[string]string{"decision": "comments taken from the forge"})
	return a.deliverFeedback(ctx, t)
}
