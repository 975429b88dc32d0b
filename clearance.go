package terok

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/shield/policy"
	"terok/internal/task"
)

// spreadTime is how long the other running tasks of a project may take to use a changed rule.
const spreadTime = 5 * time.Second

// Verdict answers a request of the running task or sandbox key. With ChoiceProject the rule is
// written into project.yml as well, once the supervisor has applied it, and the other running tasks
// of the project use it before this returns; Elsewhere says how that went.
//
// A refusal has one of the codes of control.VerdictChange, and then nothing has changed. With code
// project_not_written the verdict holds for this task only.
func (a *App) Verdict(ctx context.Context, key string, v control.VerdictChange) (control.Request, error) {
	var t *task.Task
	if v.Choice == control.ChoiceProject {
		var err error
		if t, err = a.taskOfKey(key); err != nil {
			return control.Request{}, err
		}
	}
	got, err := control.Dial(a.controlSocket(key)).Verdict(ctx, v)
	if err != nil {
		return got, clearanceError(key, err)
	}
	if t == nil {
		return got, nil
	}
	// What the person saw, not what the answer says: the rule outlives the task.
	if _, err := a.projects().AddRule(t.Project, projectRule(v.Host, v.Port, v.Proto)); err != nil {
		return got, problem.New("project_not_written", problem.Attention, "allowed for %s only, project.yml could not be changed: %w", t.Ref(), err).
			WithHint("terok project show %s", t.Project)
	}
	got.Elsewhere = a.spread(ctx, t)
	return got, nil
}

// spread makes the other running tasks of t's project use today's configuration, and says in words
// how many do and which do not.
func (a *App) spread(ctx context.Context, t *task.Task) string {
	// A person who leaves the menu now has decided all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), spreadTime)
	defer cancel()
	entries, err := a.tasks().List(t.Project)
	if err != nil {
		return fmt.Sprintf("other running tasks do not follow yet: %v; terok shield reload --project %s", err, t.Project)
	}
	quiet := *a // the terminal is the board's
	quiet.Progress = io.Discard
	var mu sync.Mutex
	var used int
	var failed []string
	var group errgroup.Group
	group.SetLimit(4)
	for _, e := range entries {
		if _, err := os.Lstat(a.controlSocket(taskKey(&e.Task))); err != nil || e.ID == t.ID {
			continue // one that is started later begins with today's rules
		}
		group.Go(func() error {
			v, err := quiet.ShieldReload(ctx, e.Ref())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, fmt.Sprintf("%s (%v)", e.Ref(), err))
			} else if v.Applied {
				used++
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no error
	out := fmt.Sprintf("%d other running tasks follow", used)
	if used == 1 {
		out = "one other running task follows"
	}
	if len(failed) > 0 {
		slices.Sort(failed)
		out += fmt.Sprintf("; not: %s; terok shield reload --project %s", strings.Join(failed, ", "), t.Project)
	}
	return out
}

// Undo takes the verdict on a request back, out of project.yml as well; the other running tasks of
// the project have lost the rule when it returns.
func (a *App) Undo(ctx context.Context, key string, v control.UndoChange) (control.Request, error) {
	c := control.Dial(a.controlSocket(key))
	all, err := c.Requests(ctx)
	if err != nil {
		return control.Request{}, clearanceError(key, err)
	}
	project := slices.ContainsFunc(all, func(r control.Request) bool {
		return r.ID == v.ID && r.Decision != nil && r.Decision.Choice == control.ChoiceProject
	})
	got, err := c.Undo(ctx, v)
	if err != nil || !project {
		return got, clearanceError(key, err)
	}
	t, err := a.taskOfKey(key)
	if err == nil {
		_, err = a.projects().RemoveRule(t.Project, projectRule(got.Host, got.Port, got.Proto))
	}
	if err != nil {
		return got, problem.New("project_not_written", problem.Attention, "taken back for this task only, project.yml could not be changed: %w", err)
	}
	got.Elsewhere = a.spread(ctx, t)
	return got, nil
}

// projectRule is the rule that ChoiceProject writes, in the form of shield.allow.
func projectRule(host string, port uint16, proto string) string {
	text, _ := clearance.Rule(control.ChoiceProject, clearance.Target{Host: host, Port: port, Proto: proto}, time.Time{})
	if r, err := policy.ParseRule(text, policy.Project, ""); err == nil {
		return r.Text
	}
	return text // AddRule says what is wrong with it
}

// taskOfKey finds the task whose supervisor has a key. The key comes from our own run directory,
// never from a container.
func (a *App) taskOfKey(key string) (*task.Task, error) {
	entries, err := a.tasks().List()
	if err != nil {
		return nil, err
	}
	for i := range entries {
		if taskKey(&entries[i].Task) == key {
			return &entries[i].Task, nil
		}
	}
	return nil, problem.New("no_project", problem.Usage, "%s belongs to no project: allow it for the task instead", key)
}

// clearanceError turns the client's errors into what a person needs.
func clearanceError(key string, err error) error {
	e, refused := errors.AsType[*control.Error](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, control.ErrNoSupervisor):
		return problem.New("no_supervisor", problem.Conflict, "%s has stopped: nothing was decided", key).WithHint("terok task list")
	case !refused:
		return err
	}
	exit := problem.Conflict
	switch e.Code {
	case control.CodeUnknownRequest:
		exit = problem.NotFound
	case control.CodeMismatch, control.CodeInvalidChoice:
		exit = problem.Usage
	case control.CodeApplyFailed:
		exit = problem.Failed
	}
	return problem.New(e.Code, exit, "%s", e.Message).WithHint("%s", e.Hint)
}
