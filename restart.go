package terok

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
)

// RestartTask starts a task's container again: with new supervisor, phantoms and tokens, and
// with the rules of today's configuration.
func (a *App) RestartTask(ctx context.Context, t *task.Task) error {
	if err := a.notPanicked(); err != nil {
		return err
	}
	return a.restart(ctx, t)
}

func (a *App) restart(ctx context.Context, t *task.Task) error {
	release, err := a.tasks().Operate(t.Project, t.ID)
	if err != nil {
		return err
	}
	defer release()
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c == nil {
		return problem.New("container_gone", problem.Conflict, "the container of %s is gone; its branch is still in the gate", t.Ref()).
			WithHint("terok review show %s, then start a new task", t.Ref())
	}
	if t.Mode == task.Headless && !c.Running() && t.Exit != nil {
		return problem.New("task_finished", problem.Conflict, "%s has finished; a restart would repeat its prompt", t.Ref()).
			WithHint("terok review show %s", t.Ref())
	}
	if _, err := a.refreshPolicy(t); err != nil {
		return err
	}
	if err := errors.Join(a.feedbackAtStart(t), a.reviewsAtStart(t), a.submodulesAtStart(ctx, t)); err != nil {
		return err
	}
	if _, err := a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		t.ReadyAt, t.Exit = time.Time{}, nil
		t.Launch.StartedAt = a.Now().UTC()
		return nil
	}); err != nil {
		return err
	}
	a.wakeFor(ctx, t)
	a.say("restarting %s …", t.Ref())
	defer a.pollSoon(t.Project)
	defer a.startNotifier()
	return a.launcher().Restart(ctx, c.ID, t.Dir(a.Roots), 10*time.Second)
}

// wakeFor opens the vault for a task that uses it, if something can without a person. A locked one is
// no reason not to start: requests wait for the unlock with a text that names it.
func (a *App) wakeFor(ctx context.Context, t *task.Task) {
	f, err := sandbox.Load(sandbox.Path(t.Dir(a.Roots)))
	if err != nil || f.SSH == nil && (f.Vault == nil || !slices.ContainsFunc(f.Vault.Grants, func(g sandbox.Grant) bool { return !g.Waiting })) {
		return
	}
	if err := a.VaultNeed(ctx); err != nil {
		a.say("warning: %s; requests that need it are answered 503 until: terok vault unlock", problem.Of(err).Message)
	}
}

// startFiles changes what the guest writes at a task's next start.
func (a *App) startFiles(t *task.Task, files ...sandbox.StartFile) error {
	f, err := sandbox.Load(sandbox.Path(t.Dir(a.Roots)))
	if err != nil {
		return problem.New("sandbox_file", problem.Failed, "%w", err)
	}
	for _, file := range files {
		i := slices.IndexFunc(f.Start.Files, func(have sandbox.StartFile) bool { return have.Path == file.Path })
		if i < 0 {
			f.Start.Files = append(f.Start.Files, file)
		} else {
			f.Start.Files[i].Content = file.Content
		}
	}
	return state.WriteJSON(sandbox.Path(t.Dir(a.Roots)), f)
}

// feedbackAtStart lets the next start bring what reviewers said meanwhile.
func (a *App) feedbackAtStart(t *task.Task) error {
	rec, err := review.LoadRecord(a.Roots, t.Project, t.ID)
	if err != nil {
		return err
	}
	words := review.Feedback(rec)
	if words == "" {
		return nil
	}
	return a.startFiles(t, sandbox.StartFile{Path: sandbox.FeedbackFile, Mode: 0o600, Content: words})
}

// FollowUp gives a finished headless task a new prompt: its container starts again with its
// workspace, and the agent goes on with its session.
func (a *App) FollowUp(ctx context.Context, t *task.Task, prompt string) error {
	if t.Mode != task.Headless {
		return problem.New("not_headless", problem.Conflict, "%s is interactive: its agent is told in its terminal", t.Ref()).WithHint("terok login %s", t.Ref())
	}
	if strings.TrimSpace(prompt) == "" || len(prompt) > roster.MaxPrompt {
		return problem.New("usage", problem.Usage, "a follow-up needs a prompt of at most 4 MiB")
	}
	if err := a.notPanicked(); err != nil {
		return err
	}
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c == nil {
		return problem.New("container_gone", problem.Conflict, "the container of %s is gone; its branch is still in the gate", t.Ref()).WithHint("terok review show %s", t.Ref())
	}
	if c.Running() {
		return problem.New("task_running", problem.Conflict, "%s is still at work; it finds what you said in ~/.terok/review-feedback.md", t.Ref()).WithHint("terok task logs %s -f", t.Ref())
	}
	if err := a.startFiles(t, sandbox.StartFile{Path: sandbox.PromptFile, Mode: 0o600, Content: prompt}); err != nil {
		return err
	}
	if _, err := a.tasks().Update(t.Project, t.ID, func(t *task.Task) error { t.Exit = nil; return nil }); err != nil {
		return err
	}
	t.Exit = nil
	return a.restart(ctx, t)
}

// ReviewFollowUp is the prompt of a follow-up after a rejection.
func ReviewFollowUp(branch, reason string) string {
	return "A person reviewed what you pushed to " + branch + " and rejected it. All of what they said is in ~/.terok/review-feedback.md. The latest:\n\n" +
		strings.TrimSpace(reason) + "\n\nChange your work accordingly, commit, and push the branch again.\n"
}
