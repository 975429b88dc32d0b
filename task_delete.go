package terok

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/task"
)

// DeleteTask archives a task's record, logs and ledger and removes everything else of it. Every
// step can be repeated, so an interrupted deletion is run again.
func (a *App) DeleteTask(ctx context.Context, t *task.Task) error { return a.deleteTask(ctx, t, false) }

// DeleteTaskKeeping is DeleteTask that also archives the commits that were not promoted: a bundle
// that git on this machine reads, beside the task's record.
func (a *App) DeleteTaskKeeping(ctx context.Context, t *task.Task) (bundle string, err error) {
	if err := a.deleteTask(ctx, t, true); err != nil {
		return "", err
	}
	bundle = a.bundlePlace(t)
	if _, err := os.Lstat(bundle); errors.Is(err, fs.ErrNotExist) {
		return "", nil // it had none
	}
	return bundle, nil
}

func (a *App) bundlePlace(t *task.Task) string {
	return filepath.Join(a.archivePlace(t), "commits.bundle")
}

func (a *App) deleteTask(ctx context.Context, t *task.Task, keep bool) error {
	dir := t.Dir(a.Roots)
	release, err := a.tasks().Operate(t.Project, t.ID)
	if err != nil {
		return err
	}
	defer release()
	// A broken record is deleted too: what is known of it is its place.
	if _, err := a.tasks().Update(t.Project, t.ID, func(t *task.Task) error { t.Phase = task.Deleting; return nil }); err != nil && !problem.Is(err, "task_broken") && !problem.Is(err, "task_not_found") {
		return err
	}
	list, err := a.pod().PS(ctx, sandbox.LabelName+"="+taskKey(t), sandbox.LabelDir+"="+dir)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := a.captureLog(ctx, c.ID, dir); err != nil {
			fmt.Fprintf(a.Progress, "warning: the container's log is not complete: %v\n", err)
		}
	}
	if err := a.archiveTask(t); err != nil {
		return problem.New("archive_failed", problem.Failed, "task %s was not deleted: its archive could not be written: %w", t.Ref(), err)
	}
	if keep {
		_, err := a.gateStore().Bundle(ctx, t.Project, t.ID, a.bundlePlace(t))
		if err != nil && !problem.Is(err, "task_not_found") && !problem.Is(err, "gate_missing") { // without a gate there are no commits
			return problem.New("archive_failed", problem.Failed, "task %s was not deleted: its commits could not be kept: %w", t.Ref(), err)
		}
	}
	for _, c := range list {
		if err := a.pod().Remove(ctx, c.ID); err != nil {
			return fmt.Errorf("remove container %s: %w", c.Name(), err)
		}
	}
	if err := os.RemoveAll(a.Roots.RunDir(taskKey(t))); err != nil {
		return err
	}
	if err := a.gateStore().DeleteTask(ctx, t.Project, t.ID); err != nil {
		return err
	}
	if err := a.removeTree(ctx, dir); err != nil {
		return err
	}
	// A deletion that was killed in removeTree is no task any more: nobody would ask for the rest.
	half, err := filepath.Glob(filepath.Join(filepath.Dir(dir), trashPrefix+"*"))
	if err != nil {
		return err
	}
	for _, trash := range half {
		if err := a.purge(ctx, trash); err != nil {
			return err
		}
	}
	a.note("task_deleted", map[string]string{"project": t.Project, "task": t.ID})
	return nil
}

// removeTree removes a directory in which a container's root may own files: where the operator
// may not, podman's user namespace may. The directory is renamed first, so that a half-removed
// one is never taken for a task.
func (a *App) removeTree(ctx context.Context, dir string) error {
	trash := filepath.Join(filepath.Dir(dir), trashPrefix+filepath.Base(dir))
	if err := os.Rename(dir, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return a.purge(ctx, trash)
}

const trashPrefix = ".trash-"

func (a *App) purge(ctx context.Context, trash string) error {
	if err := os.RemoveAll(trash); err == nil {
		return nil
	}
	if err := a.pod().Unshare(ctx, []string{"rm", "-rf", "--one-file-system", "--", trash}, io.Discard, a.Progress); err != nil {
		return fmt.Errorf("remove %s: %w", trash, err)
	}
	return nil
}
