package terok

import (
	"context"
	"os/user"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/gate/inspect"
	"terok/internal/gate/review"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/task"
)

// What reviews return.
type (
	Change         = review.Change
	ChangeDetails  = review.Details
	ReviewedCommit = review.Reviewed
	ReviewOptions  = review.ShowOptions
	ReviewFile     = review.File
	ReviewFlag     = review.Flag
)

// ReviewDecision is what a person says of a task's work.
type ReviewDecision struct {
	Branch  string   // "" is the task's own
	Commit  string   // full id of the tip, as it was looked at
	Commits []string // these alone, ids or abbreviations; empty: the tip and everything behind it
	Text    string   // note, reason or comment
}

// ReviewOutcome is what a decision did.
type ReviewOutcome struct {
	Task      string   `json:"task"`
	Branch    string   `json:"branch"`
	Decision  string   `json:"decision"` // approved, rejected or commented
	Commits   []string `json:"commits"`
	Delivered string   `json:"delivered"` // how the task learns of it: "now", "at its next start", or ""
}

// reader makes the reader of what tasks pushed; without a configuration that can be read the
// strictest one.
func (a *App) reader() *review.Reader {
	g, err := config.LoadGlobal(a.Roots.ConfigFile())
	r := review.NewReader(a.Roots, a.Self, err == nil && !g.Shield.RequireLandlock)
	r.Now = a.Now
	return r
}

// reviewing says what the reader has to know of tasks: each project is asked once.
type reviewing struct {
	app      *App
	roster   *roster.Roster
	projects map[string]*project.Project
	humans   map[string]inspect.Identity
}

func (a *App) reviewing() *reviewing {
	set, _ := roster.Load(a.Roots) // a broken roster leaves identities unjudged
	return &reviewing{a, set, map[string]*project.Project{}, map[string]inspect.Identity{}}
}

// task is a task as reviews need it. A project that cannot be read hides nothing.
func (r *reviewing) task(ctx context.Context, t *task.Task) review.Task {
	out := review.Task{Project: t.Project, ID: t.ID, Name: t.Name, Branch: t.Branch, Base: t.Base, Start: t.Start, Handed: t.From != "", Agent: t.Agent}
	p, ok := r.projects[t.Project]
	if !ok {
		p, _ = r.app.projects().Get(t.Project)
		r.projects[t.Project] = p
		if p != nil {
			r.humans[t.Project] = inspect.Identity(r.app.human(ctx, p))
		}
	}
	out.LFS = p != nil && p.LFS()
	if p == nil || r.roster == nil {
		return out
	}
	out.Paths, out.Identities = p.Review.Paths, []inspect.Identity{r.humans[t.Project]}
	if agent, err := r.roster.Agent(t.Agent); err == nil && agent.Spec.Author.Name != "" {
		out.Identities = append(out.Identities, inspect.Identity(agent.Spec.Author))
	}
	return out
}

func (a *App) reviewTask(ctx context.Context, t *task.Task) review.Task {
	return a.reviewing().task(ctx, t)
}

// ReviewQueue lists what waits for a person in the given projects, none meaning all; with all,
// promoted changes are listed too. What could be read is returned beside an error.
func (a *App) ReviewQueue(ctx context.Context, all bool, projects ...string) ([]Change, error) {
	entries, err := a.tasks().List(projects...)
	if err != nil {
		return nil, err
	}
	r := a.reviewing()
	var tasks []review.Task
	for _, e := range entries {
		if e.Err == nil {
			tasks = append(tasks, r.task(ctx, &e.Task))
		}
	}
	return a.queue(ctx, all, tasks...)
}

// ReviewTask is ReviewQueue for one task.
func (a *App) ReviewTask(ctx context.Context, t *task.Task) ([]Change, error) {
	return a.queue(ctx, true, a.reviewTask(ctx, t))
}

func (a *App) queue(ctx context.Context, all bool, tasks ...review.Task) ([]Change, error) {
	changes, err := a.reader().Queue(ctx, tasks...)
	waiting := []Change{}
	lags := map[string]*ReviewLag{}
	for _, c := range changes {
		if lags[c.Project] == nil { // what cannot be read is said by terok gate status
			if lags[c.Project], _ = a.loadLag(c.Project); lags[c.Project] == nil {
				lags[c.Project] = &ReviewLag{}
			}
		}
		c.Deleted = lags[c.Project].Deleted[c.Task]
		if all || c.State != review.Promoted {
			waiting = append(waiting, c)
		}
	}
	return waiting, err
}

// ReviewShow reads one branch of a task: commits, files, flags, diff.
func (a *App) ReviewShow(ctx context.Context, t *task.Task, o ReviewOptions) (ChangeDetails, error) {
	return a.reader().Show(ctx, a.reviewTask(ctx, t), o)
}

// ReviewApprove records that the person accepts a branch at exactly this tip, or some commits of it.
func (a *App) ReviewApprove(ctx context.Context, t *task.Task, d ReviewDecision) (ReviewOutcome, error) {
	return a.decide(ctx, t, d, "approved", a.reader().Approve)
}

// ReviewReject records that the person refuses it, and tells the task why.
func (a *App) ReviewReject(ctx context.Context, t *task.Task, d ReviewDecision) (ReviewOutcome, error) {
	return a.decide(ctx, t, d, "rejected", a.reader().Reject)
}

// ReviewComment records a remark, and tells the task.
func (a *App) ReviewComment(ctx context.Context, t *task.Task, d ReviewDecision) (ReviewOutcome, error) {
	return a.decide(ctx, t, d, "commented", a.reader().Comment)
}

func (a *App) decide(ctx context.Context, t *task.Task, d ReviewDecision, what string,
	act func(context.Context, review.Task, review.Decision) ([]string, error)) (ReviewOutcome, error) {
	out := ReviewOutcome{Task: t.Ref(), Branch: firstOf(d.Branch, t.Branch), Decision: what}
	var err error
	out.Commits, err = act(ctx, a.reviewTask(ctx, t), review.Decision{Branch: d.Branch, Tip: d.Commit, Commits: d.Commits, By: a.reviewer(ctx, t.Project), Text: d.Text})
	if err != nil {
		return out, err
	}
	a.promoter().Record("review_changed", review.Task{Project: t.Project, ID: t.ID}, out.Branch, out.Commits, map[string]string{"decision": what})
	if what != "approved" {
		out.Delivered, err = a.deliverFeedback(ctx, t)
	}
	return out, err
}

// reviewer is the person at this terminal: their git identity in the project and their login.
func (a *App) reviewer(ctx context.Context, projectName string) string {
	who := ""
	if p, err := a.projects().Get(projectName); err == nil {
		id := a.human(ctx, p)
		who = id.Name + " <" + id.Email + ">"
	}
	if u, err := user.Current(); err == nil {
		who = firstOf(who, u.Username)
	}
	return firstOf(who, "operator")
}

// feedbackTime bounds the delivery of feedback.
const feedbackTime = 10 * time.Second

// deliverFeedback writes what reviewers said into the task's container, whole each time. A task
// that does not run gets it at its next start.
func (a *App) deliverFeedback(ctx context.Context, t *task.Task) (string, error) {
	rec, err := review.LoadRecord(a.Roots, t.Project, t.ID)
	if err != nil {
		return "", err
	}
	words := review.Feedback(rec)
	if words == "" {
		return "", nil
	}
	c, err := a.taskContainer(ctx, t)
	if err == nil && (c == nil || !c.Running()) {
		return "at its next start", nil
	}
	if err == nil {
		err = a.writeInTask(ctx, c.ID, "feedback", words)
	}
	if err != nil {
		return "", problem.New("feedback_not_delivered", problem.Attention, "it is recorded, but the task could not be told: %w", err).
			WithHint("terok task restart %s", t.Ref())
	}
	return "now", nil
}

// writeInTask replaces the file of a verb of the guest, feedback or review-status, in a running
// container.
func (a *App) writeInTask(ctx context.Context, container, verb, words string) error {
	_, err := a.pod().Exec(ctx, container, []string{sandbox.GuestProgram, "guest", verb},
		podman.ExecOptions{Stdin: strings.NewReader(words), Timeout: feedbackTime})
	return err
}
