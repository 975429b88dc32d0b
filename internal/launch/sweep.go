package launch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/peer"
	"terok/internal/state"
)

// An intent is the record of a launch that is under way: a file whose name says it all,
// LAUNCH.PID.START (START is field 22 of /proc/<pid>/stat), so that no kill can tear it. It is
// made before podman runs and removed after. One whose process is gone was interrupted, at
// whatever point, and is swept.

func (l *Launcher) intents() string { return filepath.Join(l.Roots.Data, "launching") }

// begin records a launch and returns what ends the record.
func (l *Launcher) begin(p *plan) (done func(), err error) {
	start, err := peer.StartTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(l.intents(), fmt.Sprintf("%s.%d.%d", p.file.Launch, os.Getpid(), start))
	// Not synced: after a crash of the machine no container of the launch runs.
	if err = state.MkdirAll(l.intents()); err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("record the launch: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil // what stays is swept
}

// sweep removes what interrupted launches left: containers that never ran. It asks podman only
// when there is a record, so that an ordinary launch pays one directory read.
func (l *Launcher) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(l.intents())
	if err != nil {
		return nil // no launch yet
	}
	for _, e := range entries {
		var pid int
		var start uint64
		launch, owner, _ := strings.Cut(e.Name(), ".")
		if n, _ := fmt.Sscanf(owner, "%d.%d", &pid, &start); n == 2 {
			if now, err := peer.StartTime(pid); err == nil && now == start {
				continue // under way
			}
		}
		if err := l.removeLaunch(ctx, launch); err != nil {
			return err
		}
		path := filepath.Join(l.intents(), e.Name())
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
