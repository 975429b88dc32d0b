package terok

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/forge"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
	"terok/internal/text"
)

// ReviewLag is what is known of a project's reviews at the forge. What was learned stays when the
// forge cannot be asked; a review that was merged or closed there is in none of it.
type ReviewLag struct {
	Schema   int                     `json:"schema"`
	Forge    string                  `json:"forge"`           // host and repository
	Kind     string                  `json:"kind"`            // github, gitlab or gitea
	At       time.Time               `json:"at,omitzero"`     // when the forge answered last
	Next     time.Time               `json:"next,omitzero"`   // not asked before
	Failures int                     `json:"failures"`        // in a row
	Error    string                  `json:"error,omitempty"` // of the last try
	Open     []forge.Open            `json:"open"`
	Tasks    map[string][]review.Lag `json:"tasks"` // by id: what is not level
	// Told is what running tasks were told last, by id.
	Told map[string]string `json:"told"`
}

const lagSchema = 1

// Lines is what there is to tell of a task's reviews, as the task is told.
func (l *ReviewLag) Lines(taskID string) []string {
	lines := strings.Split(strings.TrimSuffix(review.LagLines(l.Tasks[taskID], forge.Repo{Kind: l.Kind}.Mark), "\n"), "\n")
	return slices.DeleteFunc(lines, func(s string) bool { return s == "" })
}

// lagPath is the one file that terok itself writes into a gate directory beside the store's.
func (a *App) lagPath(projectName string) string {
	return filepath.Join(a.Roots.GateDir(projectName), "reviews.json")
}

// loadLag reads what is known; nothing known is no error.
func (a *App) loadLag(projectName string) (*ReviewLag, error) {
	l := &ReviewLag{}
	err := state.ReadJSON(a.lagPath(projectName), l)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if l.Schema > lagSchema {
		return nil, problem.New("newer_state", problem.Newer, "%s was written by a newer terok", a.lagPath(projectName))
	}
	l.Schema = lagSchema
	if l.Told == nil {
		l.Told = map[string]string{}
	}
	return l, nil
}

// pollReviews asks a project's forge for its open reviews, when that is due, and tells running tasks
// how far they are from them. lines counts what there is to tell, -1 when nobody was asked: there is
// no forge, no token, or it is not time. A failure keeps what was known.
func (a *App) pollReviews(ctx context.Context, p *project.Project, force bool) (lines int, err error) {
	repo, err := forge.Parse(p.Git.UpstreamURL, p.Git.Forge)
	if err != nil {
		return -1, nil
	}
	unlock, err := state.TryLock(a.lagPath(p.Name))
	if errors.Is(err, state.ErrLocked) {
		return -1, nil // another process asks just now
	}
	if err != nil {
		return -1, err
	}
	defer unlock()
	l, err := a.loadLag(p.Name)
	if err != nil {
		return -1, err
	}
	now := a.Now().UTC()
	if !force && now.Before(l.Next) {
		return -1, nil
	}
	_, token, err := a.upstreamToken(ctx, p, &url.URL{Scheme: "https", Host: repo.Host})
	if err == nil && len(token) == 0 {
		return -1, nil
	}
	interval := time.Duration(p.Gatekeeping.UpstreamPolling.IntervalMinutes) * time.Minute
	if err == nil {
		defer clear(token)
		err = a.askReviews(ctx, p, repo, l, string(token))
	}
	if ctx.Err() != nil {
		return -1, ctx.Err()
	}
	l.Forge, l.Kind, l.Error = repo.Host+"/"+repo.Path, repo.Kind, ""
	if err != nil {
		l.Failures++
		l.Error = text.Line(err.Error(), 300)
		l.Next = now.Add(min(interval<<min(l.Failures, 10), time.Hour))
	} else {
		l.Failures, l.At, l.Next = 0, now.Truncate(time.Second), now.Add(interval*8/10)
		a.tellTasks(ctx, p, repo, l)
	}
	if werr := state.WriteJSON(a.lagPath(p.Name), l); werr != nil {
		return -1, werr
	}
	for _, lag := range l.Tasks {
		lines += len(lag)
	}
	return lines, err
}

// askReviews learns what is open and how far the tasks are from it.
func (a *App) askReviews(ctx context.Context, p *project.Project, repo forge.Repo, l *ReviewLag, token string) error {
	client := forge.Client{HTTP: a.ForgeHTTP}
	open, err := client.List(ctx, repo, token)
	if err != nil {
		return err
	}
	heads := make([]review.Head, len(open))
	for i, o := range open {
		heads[i] = review.Head{Number: o.Number, Branch: o.Branch, Tip: o.Tip}
	}
	entries, err := a.tasks().List(p.Name)
	if err != nil {
		return err
	}
	tasks := map[string][]review.Lag{}
	reading := a.reviewing()
	for i := range entries {
		if entries[i].Err != nil || len(heads) == 0 {
			continue
		}
		t := &entries[i].Task
		lag, err := a.reader().Lag(ctx, reading.task(ctx, t), heads)
		switch {
		case problem.Is(err, "nothing_pushed"):
		case err != nil: // one that cannot be read does not hide the others
			a.say("warning: %s: %v", t.Ref(), err)
			tasks[t.ID] = l.Tasks[t.ID]
		case len(lag) > 0:
			tasks[t.ID] = lag
		}
	}
	l.Open, l.Tasks = open, tasks
	return nil
}

// tellTasks writes the lines into tasks that run, where they are others than before. Tasks that do
// not run get theirs at their next start.
func (a *App) tellTasks(ctx context.Context, p *project.Project, repo forge.Repo, l *ReviewLag) {
	entries, err := a.tasks().List(p.Name)
	if err != nil {
		return
	}
	told := map[string]string{}
	for i := range entries {
		t := &entries[i].Task
		words := ""
		if p.Gatekeeping.ReviewLag.SurfaceInTasks {
			words = review.LagLines(l.Tasks[t.ID], repo.Mark)
		}
		before, ever := l.Told[t.ID]
		if words == before {
			if ever {
				told[t.ID] = before
			}
			continue
		}
		c, err := a.taskContainer(ctx, t)
		if err == nil && c != nil && c.Running() {
			err = a.writeInTask(ctx, c.ID, "review-status", words)
		}
		if told[t.ID] = words; err != nil {
			told[t.ID] = before
			a.say("warning: %s could not be told of its reviews: %v", t.Ref(), err)
		}
	}
	l.Told = told
}

// reviewsAtStart lets the next start of a task bring what is known of its reviews, or take away what
// is not true any more.
func (a *App) reviewsAtStart(t *task.Task) error {
	p, err := a.projects().Get(t.Project)
	if err != nil {
		return err
	}
	l, err := a.loadLag(t.Project)
	if err != nil {
		return err
	}
	words := ""
	if repo, err := forge.Parse(p.Git.UpstreamURL, p.Git.Forge); err == nil && p.Gatekeeping.ReviewLag.Enabled && p.Gatekeeping.ReviewLag.SurfaceInTasks {
		words = review.LagLines(l.Tasks[t.ID], repo.Mark)
	}
	if _, ever := l.Told[t.ID]; words == "" && !ever {
		return nil
	}
	return a.startFiles(t, sandbox.StartFile{Path: sandbox.ReviewStatus, Mode: 0o600, Content: words})
}
