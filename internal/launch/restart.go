package launch

import (
	"context"
	"errors"
	"os"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// Start starts a stopped container again: the hook is looked up anew and makes it a new
// supervisor. The runtime directory is made again, since it is gone after a reboot.
func (l *Launcher) Start(ctx context.Context, container, dir string) error {
	if _, err := l.Podman.Ready(ctx, l.Roots.HooksDir()); err != nil {
		return err
	}
	file, err := sandbox.Load(sandbox.Path(dir))
	if err != nil {
		return problem.New("sandbox_file", problem.Failed, "%w", err)
	}
	if err := writeHook(l.Roots.HooksDir(), l.Self); err != nil {
		return err
	}
	if err := state.MkdirAll(file.RuntimeDir); err != nil {
		return err
	}
	if err := removeAll(file.StartError); err != nil {
		return err
	}
	err = l.Podman.Start(ctx, container)
	if err == nil {
		return nil
	}
	if reason := (&plan{file: *file}).refusal(); reason != "" {
		return problem.New("start_refused", problem.Failed, "the container was not started: %s", reason).
			WithHint("%s has the supervisor's log", sandbox.LogPath(dir))
	}
	if errors.Is(err, podman.ErrAbsent) {
		return problem.New("container_not_found", problem.NotFound, "the container %q is gone", container)
	}
	return err
}

// Restart stops the container if it runs and starts it.
func (l *Launcher) Restart(ctx context.Context, container, dir string, grace time.Duration) error {
	if _, err := os.Lstat(sandbox.Path(dir)); err != nil {
		return problem.New("sandbox_file", problem.NotFound, "%w", err)
	}
	if err := l.Podman.Stop(ctx, container, grace); err != nil {
		return err
	}
	return l.Start(ctx, container, dir)
}
