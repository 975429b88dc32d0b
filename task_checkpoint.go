package terok

import (
	"context"
	"io"
	"strings"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/task"
)

// workspaceTime bounds what is run in a workspace.
const workspaceTime = 30 * time.Minute

// TaskResetResult is what a reset kept.
type TaskResetResult struct {
	Commit string `json:"commit"` // the checkpoint
	Stash  bool   `json:"stash"`  // uncommitted work is on the workspace's stash
	Backup string `json:"backup"` // ref of the gate's replaced tip, "" when it was there already
	Inside bool   `json:"inside"` // the workspace was reset too
}

// ResetTask takes a task's branch back to its checkpoint, the commit that it began from: in the
// gate, and in the workspace if the container runs. Nothing is lost: the gate keeps the replaced
// tip as a backup, the workspace its uncommitted work on the stash and its commits in the reflog.
func (a *App) ResetTask(ctx context.Context, t *task.Task) (TaskResetResult, error) {
	r := TaskResetResult{Commit: t.Start}
	if t.Start == "" {
		return r, problem.New("no_checkpoint", problem.Conflict, "task %s began without a commit", t.Ref())
	}
	release, err := a.tasks().Operate(t.Project, t.ID)
	if err != nil {
		return r, err
	}
	defer release()
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return r, err
	}
	if c != nil && c.Running() {
		out, err := a.execInTask(ctx, c.ID, nil, `set -e
before=$(git rev-parse -q --verify refs/stash || true)
git stash push -q --include-untracked -m "before terok task reset"
[ "$before" = "$(git rev-parse -q --verify refs/stash || true)" ] || echo stashed
git checkout -q -B "$1" "$2"`, t.Branch, t.Start)
		if err != nil {
			return r, problem.New("reset_failed", problem.Failed, "the workspace of %s could not be reset: %w", t.Ref(), err).
				WithHint("terok login %s and look at: git status", t.Ref())
		}
		r.Inside, r.Stash = true, strings.Contains(out, "stashed")
	}
	if r.Backup, err = a.gateStore().Reset(ctx, t.Project, t.ID, t.Branch); err != nil {
		return r, err
	}
	return r, nil
}

// ExportTask writes the workspace as a tar archive that needs no gate: with every object that it
// borrowed, and with uncommitted files. It is made inside the container, which must run: the host
// never opens a workspace with git, and whoever unpacks the archive should not either.
func (a *App) ExportTask(ctx context.Context, t *task.Task, w io.Writer) error {
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c == nil || !c.Running() {
		return problem.New("task_not_running", problem.Conflict, "task %s does not run, and its workspace is read inside its container only", t.Ref()).
			WithHint("terok task restart %s; commits alone: terok promote %s --to bundle:FILE", t.Ref(), t.Ref())
	}
	// The repack without -l copies what is borrowed; the one with -l gives the space back.
	_, err = a.execInTask(ctx, c.ID, w, `set -e
git repack -q -a -d
trap 'git repack -q -a -d -l' EXIT
tar -cf - --exclude=./.git/objects/info/alternates .`)
	if err != nil {
		return problem.New("export_failed", problem.Failed, "the workspace of %s could not be exported: %w", t.Ref(), err)
	}
	a.note("task_exported", map[string]string{"project": t.Project, "task": t.ID})
	return nil
}

// execInTask runs a script of ours in a running container, as its user and with nothing of the
// host; what it prints is returned, or goes to w.
func (a *App) execInTask(ctx context.Context, id string, w io.Writer, script string, args ...string) (string, error) {
	argv := append([]string{"sh", "-c", script, "terok"}, args...)
	out, err := a.pod().Exec(ctx, id, argv, podman.ExecOptions{Workdir: "/workspace", Stdout: w, Timeout: workspaceTime,
		Env: []string{"GIT_TERMINAL_PROMPT=0"}})
	return string(out), err
}
