package terok

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/forge"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
	"terok/internal/text"
)

// ReviewLag is what is known of a project's reviews at the forge. What was learned stays when the
// forge cannot be asked. A review that was closed there is in none of it, one that was merged stays
// with its task until that pushes more.
type ReviewLag struct {
	Schema   int                     `json:"schema"`
	Forge    string                  `json:"forge"`           // host and repository
	Kind     string                  `json:"kind"`            // github, gitlab, gitea or bitbucket
	At       time.Time               `json:"at,omitzero"`     // when the forge answered last
	Next     time.Time               `json:"next,omitzero"`   // not asked before
	Failures int                     `json:"failures"`        // in a row
	Error    string                  `json:"error,omitempty"` // of the last try
	Open     []forge.Open            `json:"open"`
	Tasks    map[string][]review.Lag `json:"tasks"`   // by id: the reviews of its branches, level ones too
	Deleted  map[string][]string     `json:"deleted"` // by task: branches that upstream has deleted and the task works on
	// Told is what running tasks were told last, by id.
	Told map[string]string `json:"told"`
}

const lagSchema = 1

// Lines is what there is to tell of a task's reviews and branches, as the task is told.
func (l *ReviewLag) Lines(taskID string) []string {
	lines := strings.Split(l.words(taskID), "\n")
	return slices.DeleteFunc(lines, func(s string) bool { return s == "" })
}

func (l *ReviewLag) words(taskID string) string {
	words := review.LagLines(l.Tasks[taskID], forge.Repo{Kind: l.Kind}.Mark)
	for _, b := range l.Deleted[taskID] {
		words += b + " deleted upstream\n"
	}
	return words
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
// how far they are from them, and which of their branches upstream has deleted. lines counts what there
// is to tell, -1 when nobody was asked: there is no forge, no token, or it is not time. A failure keeps
// what was known.
func (a *App) pollReviews(ctx context.Context, p *project.Project, force bool) (lines int, err error) {
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
	deleted, err := a.deletedUpstream(ctx, p)
	if err != nil {
		return -1, err
	}
	news := !maps.EqualFunc(deleted, l.Deleted, slices.Equal)
	l.Deleted = deleted
	asked, err := a.pollForge(ctx, p, l, force)
	if ctx.Err() != nil {
		return -1, ctx.Err()
	}
	if !asked && !news {
		return -1, err
	}
	a.tellTasks(ctx, p, l)
	if werr := state.WriteJSON(a.lagPath(p.Name), l); werr != nil {
		return -1, werr
	}
	if !asked {
		return -1, err
	}
	for id := range l.Tasks {
		lines += len(l.Lines(id))
	}
	return lines, err
}

// pollForge asks the forge, when that is due and there is a token for it.
func (a *App) pollForge(ctx context.Context, p *project.Project, l *ReviewLag, force bool) (asked bool, err error) {
	repo, err := forge.Parse(p.Git.UpstreamURL, p.Git.Forge)
	now := a.Now().UTC()
	if err != nil || !p.Gatekeeping.ReviewLag.Enabled || !force && now.Before(l.Next) {
		return false, nil
	}
	token, err := a.forgeToken(ctx, p, repo)
	if err == nil && len(token) == 0 {
		return false, nil
	}
	if err == nil {
		defer clear(token)
		l.Kind = repo.Kind
		err = a.askReviews(ctx, p, repo, l, string(token))
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	interval := time.Duration(p.Gatekeeping.UpstreamPolling.IntervalMinutes) * time.Minute
	l.Forge, l.Kind, l.Error = repo.Host+"/"+repo.Path, repo.Kind, ""
	if err != nil {
		l.Failures++
		l.Error = text.Line(err.Error(), 300)
		l.Next = now.Add(min(interval<<min(l.Failures, 10), time.Hour))
	} else {
		l.Failures, l.At, l.Next = 0, now.Truncate(time.Second), now.Add(interval*8/10)
	}
	return true, err
}

// forgeToken is what the vault has for a repository's forge, empty for nothing. The caller clears it.
func (a *App) forgeToken(ctx context.Context, p *project.Project, repo forge.Repo) ([]byte, error) {
	_, token, err := a.upstreamToken(ctx, p, &url.URL{Scheme: "https", Host: repo.Host}, repo.APIHost())
	return token, err
}

// deletedUpstream is which tasks work on branches that upstream has deleted: those that began from one,
// or were promoted to one.
func (a *App) deletedUpstream(ctx context.Context, p *project.Project) (map[string][]string, error) {
	st, err := a.gateStore().Status(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	gone := []string{}
	for _, c := range st.Pending {
		if c.Kind == store.Delete {
			gone = append(gone, c.Branch)
		}
	}
	if st.Checked != nil {
		gone = append(gone, st.Checked.Deleted...)
	}
	entries, err := a.tasks().List(p.Name)
	if err != nil || len(gone) == 0 {
		return map[string][]string{}, err
	}
	slices.Sort(gone)
	gone = slices.Compact(gone)
	out := map[string][]string{}
	for i := range entries {
		if t := &entries[i].Task; entries[i].Err == nil && slices.Contains(gone, t.Base) && refname.Check(t.Base) == nil {
			out[t.ID] = []string{t.Base}
		}
	}
	return out, nil
}

// Bounds of what a poll asks about single reviews.
const maxReviewCalls = 20

// askReviews learns what is open, how far the tasks are from it, what became of what is not open any
// more, and how much was said since the tasks' last pushes.
func (a *App) askReviews(ctx context.Context, p *project.Project, repo forge.Repo, l *ReviewLag, token string) error {
	client := forge.Client{HTTP: a.ForgeHTTP}
	open, err := client.List(ctx, repo, token)
	if err != nil {
		return err
	}
	calls := 0
	heads, pages := make([]review.Head, len(open)), map[int]forge.Open{}
	for i, o := range open {
		heads[i], pages[o.Number] = review.Head{Number: o.Number, Branch: o.Branch, Tip: o.Tip}, o
	}
	for _, known := range l.Tasks { // and those that were open
		for _, k := range known {
			if _, ok := pages[k.Number]; ok || k.Own == "" {
				continue
			}
			merged := k.Merged
			if !merged && calls < maxReviewCalls {
				calls++
				what, err := client.State(ctx, repo, k.Number, token)
				if merged = what == forge.StateMerged; ctx.Err() != nil {
					return ctx.Err()
				} else if err != nil {
					a.say("warning: %v", err)
				}
			}
			if pages[k.Number] = (forge.Open{}); merged {
				heads = append(heads, review.Head{Number: k.Number, Branch: k.Branch, Merged: true})
			}
		}
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
		if problem.Is(err, "nothing_pushed") {
			continue
		}
		if err != nil { // one that cannot be read does not hide the others
			a.say("warning: %s: %v", t.Ref(), err)
			tasks[t.ID] = l.Tasks[t.ID]
			continue
		}
		rec, err := review.LoadRecord(a.Roots, t.Project, t.ID)
		if err != nil {
			return err
		}
		for _, g := range lag {
			before := known(l.Tasks[t.ID], g)
			if g.Merged && (before.Own == "" || before.Merged && before.Tip != g.Tip) {
				continue // never its review, or the task has gone on since
			}
			if page := pages[g.Number]; !g.Merged && g.Own != "" {
				g.URL = page.URL
				if before.Tip == g.Tip && g.PushedAt.IsZero() {
					g.PushedAt = before.PushedAt
				}
				since := lastWord(rec, repo.Mark(g.Number), g)
				if g.Comments = before.Comments; !since.Before(page.Updated) {
					g.Comments = 0
				} else if !page.Updated.IsZero() && calls < maxReviewCalls {
					calls++
					if said, err := client.Comments(ctx, repo, g.Number, since, token); err == nil {
						g.Comments = len(said)
					} else if ctx.Err() != nil {
						return ctx.Err()
					} else {
						a.say("warning: %v", err)
					}
				}
			}
			tasks[t.ID] = append(tasks[t.ID], g)
		}
	}
	l.Open, l.Tasks = open, tasks
	return nil
}

// known is what was known of a task's branch and a review of it.
func known(list []review.Lag, g review.Lag) review.Lag {
	for _, k := range list {
		if k.Number == g.Number && k.Own == g.Own {
			return k
		}
	}
	return review.Lag{}
}

// lastWord is the time from which on comments on a review are new to the task: its last push, or the
// newest one that a person has brought to it.
func lastWord(rec *review.Record, mark string, g review.Lag) time.Time {
	since := g.PushedAt
	h := rec.History(g.Own)
	for _, o := range h.Outside {
		if o.Review == mark && o.At.After(since) {
			since = o.At
		}
	}
	if since.IsZero() {
		for _, done := range h.Promotions {
			if done.At.After(since) {
				since = done.At
			}
		}
	}
	return since.UTC()
}

// tellTasks writes the lines into tasks that run, where they are others than before. Tasks that do
// not run get theirs at their next start.
func (a *App) tellTasks(ctx context.Context, p *project.Project, l *ReviewLag) {
	entries, err := a.tasks().List(p.Name)
	if err != nil {
		return
	}
	told := map[string]string{}
	for i := range entries {
		t := &entries[i].Task
		words := ""
		if p.Gatekeeping.ReviewLag.SurfaceInTasks {
			words = l.words(t.ID)
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
	if p.Gatekeeping.ReviewLag.SurfaceInTasks {
		if _, err := forge.Parse(p.Git.UpstreamURL, p.Git.Forge); err != nil || !p.Gatekeeping.ReviewLag.Enabled {
			l.Tasks = nil // known of before
		}
		words = l.words(t.ID)
	}
	if _, ever := l.Told[t.ID]; words == "" && !ever {
		return nil
	}
	return a.startFiles(t, sandbox.StartFile{Path: sandbox.ReviewStatus, Mode: 0o600, Content: words})
}
