package terok

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
)

// TaskView is a task as faces show it (spec: cli.md §5).
type TaskView struct {
	Project       string             `json:"project"`
	ID            string             `json:"id"`
	Name          string             `json:"name"`
	Mode          string             `json:"mode"`
	Status        string             `json:"status"`
	StatusReason  *string            `json:"status_reason"`
	DesiredEgress *string            `json:"desired_egress"`
	Egress        *string            `json:"egress"`
	Container     *TaskContainerView `json:"container"`
	Agent         *string            `json:"agent"`
	Branch        *string            `json:"branch"`
	Start         *string            `json:"start_commit"`
	Unrestricted  bool               `json:"unrestricted"`
	CreatedAt     time.Time          `json:"created_at"`
	ReadyAt       *time.Time         `json:"ready_at"`
	Deleting      bool               `json:"deleting"`
	Workspace     string             `json:"workspace"`
	Exit          *TaskExitView      `json:"exit"`
	Supervisor    *control.Status    `json:"supervisor"`

	Traffic []audit.NameTraffic `json:"traffic,omitempty"` // of `status`: most bytes first, at most 20 names
}

// TaskContainerView is the container of a task.
type TaskContainerView struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	ImageID  string `json:"image_id"`
	Running  bool   `json:"running"`
	ExitCode *int   `json:"exit_code"`
}

// TaskExitView is how a task's command ended.
type TaskExitView struct {
	Code int        `json:"code"`
	At   *time.Time `json:"at"`
}

// Ref is "project/id".
func (v *TaskView) Ref() string { return v.Project + "/" + v.ID }

// pod is podman without a check of its fitness: for queries about what was started before.
func (a *App) pod() *podman.Runner { return podman.New(a.Roots, a.Environ) }

// containers asks podman once for every container of ours, by sandbox key. The error says that
// podman could not be asked, which is not the same as "no containers".
func (a *App) containers(ctx context.Context) (map[string]podman.Container, error) {
	list, err := a.pod().PS(ctx, sandbox.LabelManaged+"=1")
	if err != nil {
		return nil, err
	}
	byKey := map[string]podman.Container{}
	for _, c := range list {
		byKey[c.Labels[sandbox.LabelName]] = c
	}
	return byKey, nil
}

// taskKey names a task's runtime directory and labels.
func taskKey(t *task.Task) string { return t.Project + "-" + t.ID }

func observed(byKey map[string]podman.Container, err error, key string) task.Container {
	if err != nil {
		return task.Container{}
	}
	c, ok := byKey[key]
	return task.Container{Queried: true, Present: ok, Status: c.State, Code: c.ExitCode}
}

func (a *App) taskView(ctx context.Context, e task.Entry, byKey map[string]podman.Container, qerr error) TaskView {
	t := &e.Task
	v := TaskView{Project: t.Project, ID: t.ID, Name: t.Name, Mode: t.Mode, Agent: opt(t.Agent), Branch: opt(t.Branch),
		Start: opt(t.Start), Unrestricted: t.Unrestricted, CreatedAt: t.CreatedAt, Deleting: t.Phase == task.Deleting,
		Workspace: filepath.Join(t.Dir(a.Roots), "workspace")}
	if e.Err != nil {
		v.Status, v.StatusReason = task.Broken, opt(e.Err.Error())
		return v
	}
	c := observed(byKey, qerr, taskKey(t))
	if c.Present && c.Status == "running" && t.ReadyAt.IsZero() {
		a.noteReady(ctx, t)
	}
	v.Status = task.State(t, c)
	if qerr != nil {
		v.StatusReason = opt(qerr.Error())
	} else if t.LastError != "" {
		v.StatusReason = opt(t.LastError)
	}
	if !t.ReadyAt.IsZero() {
		v.ReadyAt = &t.ReadyAt
	}
	if c.Present {
		k := byKey[taskKey(t)]
		v.Container = &TaskContainerView{Name: k.Name(), ID: k.ID, ImageID: k.ImageID, Running: k.Running()}
		if k.State == "exited" {
			code := k.ExitCode
			v.Container.ExitCode = &code
			v.Exit = &TaskExitView{Code: code}
		}
	}
	if t.Exit != nil {
		at := t.Exit.At
		v.Exit = &TaskExitView{Code: t.Exit.Code, At: &at}
	}
	return v
}

// noteReady asks the supervisor whether the workspace is ready and writes it down: a client that
// was killed after the start never did.
func (a *App) noteReady(ctx context.Context, t *task.Task) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := control.Dial(a.controlSocket(taskKey(t))).Status(ctx)
	if err != nil || !s.Ready {
		return
	}
	if now, err := a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		if t.ReadyAt.IsZero() {
			t.ReadyAt = a.Now().UTC()
		}
		return nil
	}); err == nil {
		*t = *now
	}
}

// waitReady waits until the workspace is ready, which takes as long as cloning does. It fails
// when the container ends before.
func (a *App) waitReady(ctx context.Context, t *task.Task) error {
	for start, said := a.Now(), false; t.ReadyAt.IsZero(); {
		a.noteReady(ctx, t)
		if !t.ReadyAt.IsZero() {
			break
		}
		c, err := a.taskContainer(ctx, t)
		if err != nil {
			return err
		}
		if c == nil || !c.Running() {
			return problem.New("task_not_ready", problem.Failed, "the container of %s ended while its workspace was prepared", t.Ref()).
				WithHint("terok task logs --raw %s", t.Ref())
		}
		if !said && a.Now().Sub(start) > time.Second {
			a.say("the workspace is being prepared …")
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// ListTasks describes the tasks of the given projects, or of all. When podman cannot be asked the
// tasks are listed as unknown and the error says why.
func (a *App) ListTasks(ctx context.Context, projects ...string) ([]TaskView, error) {
	for _, p := range projects {
		if _, err := a.projects().Get(p); err != nil {
			return nil, err
		}
	}
	entries, err := a.tasks().List(projects...)
	if err != nil {
		return nil, err
	}
	var byKey map[string]podman.Container
	var qerr error
	if len(entries) > 0 {
		byKey, qerr = a.containers(ctx)
	}
	views := []TaskView{}
	for _, e := range entries {
		views = append(views, a.taskView(ctx, e, byKey, qerr))
	}
	return views, qerr
}

// FindTask resolves what a person typed; project "" searches all.
func (a *App) FindTask(project, word string) (*task.Task, error) {
	return a.tasks().Resolve(project, word)
}

// TaskStatus describes one task with what its supervisor says.
func (a *App) TaskStatus(ctx context.Context, t *task.Task) (*TaskView, error) {
	byKey, qerr := a.containers(ctx)
	v := a.taskView(ctx, task.Entry{Task: *t}, byKey, qerr)
	d, _ := control.ReadDesired(sandbox.PosturePath(t.Dir(a.Roots))) // unreadable is quarantine
	desired := string(d.At(a.Now()))
	v.DesiredEgress = &desired
	sum, _ := a.taskTraffic(t) // damage is `terok audit verify`'s to tell
	v.Traffic = sum.Top(trafficNames)
	if v.Container != nil && v.Container.Running {
		s, err := control.Dial(a.controlSocket(taskKey(t))).Status(ctx)
		switch {
		case err == nil:
			v.Supervisor, v.Egress = &s, opt(string(s.Posture))
		default:
			v.Egress = opt(string(control.Failing))
			v.StatusReason = opt("no supervisor answers: the container has no network; terok shield adopt " + t.Ref() + " keeps what runs, terok task restart " + t.Ref() + " starts it clean")
		}
	} else {
		v.Egress = opt(string(control.Offline))
	}
	return &v, qerr
}

func (a *App) controlSocket(key string) string { return sandbox.ControlPath(a.Roots.RunDir(key)) }

// StopTask stops a running task; its workspace and container stay.
func (a *App) StopTask(ctx context.Context, t *task.Task, timeout time.Duration) error {
	release, err := a.tasks().Operate(t.Project, t.ID)
	if err != nil {
		return err
	}
	defer release()
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c == nil || c.State != "running" && c.State != "paused" {
		return problem.New("task_not_running", problem.Conflict, "task %s is not running", t.Ref()).
			WithHint("terok task restart %s", t.Ref())
	}
	a.say("stopping %s …", t.Ref())
	if err := a.pod().Stop(ctx, c.ID, timeout); err != nil {
		return err
	}
	return a.recordExit(ctx, t)
}

// taskContainer finds the task's container by its labels; nil when there is none.
func (a *App) taskContainer(ctx context.Context, t *task.Task) (*podman.Container, error) {
	list, err := a.pod().PS(ctx, sandbox.LabelName+"="+taskKey(t), sandbox.LabelDir+"="+t.Dir(a.Roots))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &list[0], nil
}

// recordExit writes down how the command ended, when it did.
func (a *App) recordExit(ctx context.Context, t *task.Task) error {
	c, err := a.taskContainer(ctx, t)
	if err != nil || c == nil || c.State != "exited" {
		return err
	}
	_, err = a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		if t.Exit == nil {
			t.Exit = &task.Exit{Code: c.ExitCode, At: a.Now().UTC()}
		}
		return nil
	})
	return err
}

func (a *App) captureLog(ctx context.Context, id, dir string) error {
	if err := state.MkdirAll(filepath.Join(dir, "logs")); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "logs", "container.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return a.pod().Logs(ctx, id, false, f)
}

// archivePlace is where a task's record and logs go when it is deleted.
func (a *App) archivePlace(t *task.Task) string {
	return filepath.Join(a.Roots.ArchiveDir(), t.Project, t.CreatedAt.UTC().Format("20060102T150405.000000Z")+"_"+t.ID+"_"+t.Name)
}

// archiveTask keeps the record, the logs and the ledger; not the workspace.
func (a *App) archiveTask(t *task.Task) error {
	src := t.Dir(a.Roots)
	dst := a.archivePlace(t)
	names := []string{"task.json", "logs/container.log", "logs/supervisor.log"}
	ledgers, err := filepath.Glob(sandbox.LedgerPath(src) + "*") // with the rotated ones
	if err != nil {
		return err
	}
	for _, l := range ledgers {
		if name, err := filepath.Rel(src, l); err == nil && !strings.HasSuffix(name, ".lock") {
			names = append(names, name)
		}
	}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(src, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.Mode().IsRegular() {
			return errors.Join(err, fmt.Errorf("%s is not a regular file", name))
		}
		in, err := os.Open(filepath.Join(src, name))
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(in, 64<<20))
		in.Close()
		if err != nil {
			return err
		}
		if err := state.WriteFile(filepath.Join(dst, name), data); err != nil {
			return err
		}
	}
	return nil
}

// TaskLogs writes what the container printed, raw; with follow until it ends. A deleted
// container's captured log is used.
func (a *App) TaskLogs(ctx context.Context, t *task.Task, follow bool, w io.Writer) error {
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c != nil {
		return a.pod().Logs(ctx, c.ID, follow, w)
	}
	f, err := os.Open(filepath.Join(t.Dir(a.Roots), "logs", "container.log"))
	if errors.Is(err, fs.ErrNotExist) {
		return problem.New("no_logs", problem.NotFound, "task %s has no container and no captured log", t.Ref()).
			WithHint("terok task status %s", t.Ref())
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// note records something the operator did in the host's ledger. A ledger that cannot be written
// is said, not hidden, and does not stop the operator.
func (a *App) note(ev string, detail map[string]string) {
	project, id := detail["project"], detail["task"]
	err := audit.AppendOne(a.Roots.HostLedger(), audit.Event{Ev: ev, Actor: "operator", Project: project, Task: id, Detail: detail})
	if err != nil {
		fmt.Fprintf(a.Progress, "warning: the host ledger could not be written: %v\n", err)
	}
}

// say prints one line of progress.
func (a *App) say(format string, args ...any) { fmt.Fprintf(a.Progress, format+"\n", args...) }

// TaskWords are the task ids for shell completion, with their names; no podman is asked.
func (a *App) TaskWords() []string {
	list, err := a.tasks().List()
	if err != nil {
		return nil
	}
	words := []string{}
	for _, e := range list {
		words = append(words, e.ID+"\t"+e.Ref()+" "+e.Name)
	}
	return words
}
