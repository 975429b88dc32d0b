package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/problem"
	"terok/internal/state"
)

// Remove unpins an agent or a runtime and removes all its versions; it returns the bytes that were
// freed. used maps directories of bundles to the tasks that have them mounted: while there is one,
// it is the Problem bundle_in_use and nothing changes.
func (b *Builder) Remove(ctx context.Context, agent string, used map[string][]string) (int64, error) {
	unlock, err := b.lock(ctx, "agent-"+agent)
	if err != nil {
		return 0, err
	}
	defer unlock()
	dirs, err := b.versions(agent)
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if tasks := used[dir]; len(tasks) > 0 {
			return 0, problem.New("bundle_in_use", problem.Conflict, "%s is used by %s", agent, strings.Join(tasks[:min(len(tasks), 5)], ", ")).
				WithHint("terok task delete %s", tasks[0]).With("tasks", tasks)
		}
	}
	if err := b.unpin(agent); err != nil {
		return 0, err
	}
	return removeAll(dirs)
}

// Sweep removes versions of an agent that are neither pinned nor used.
func (b *Builder) Sweep(ctx context.Context, agent string, used map[string][]string) (int64, error) {
	unlock, err := b.lock(ctx, "agent-"+agent)
	if err != nil {
		return 0, err
	}
	defer unlock()
	dirs, err := b.versions(agent)
	if err != nil {
		return 0, err
	}
	lock, err := b.readLock()
	if err != nil {
		return 0, err
	}
	var old []string
	for _, dir := range dirs {
		if x, ok := lock.Agents[agent]; ok && dir == b.bundleDir(x) || len(used[dir]) > 0 {
			continue
		}
		old = append(old, dir)
	}
	return removeAll(old)
}

// versions are the directories of an agent's bundles, finished or not.
func (b *Builder) versions(agent string) ([]string, error) {
	if !agentName.MatchString(agent) {
		return nil, problem.New("agent_invalid", problem.Usage, "%q is not the name of an agent", agent).WithHint("terok agents list")
	}
	home := filepath.Join(b.Roots.BundlesDir(), agent)
	entries, err := os.ReadDir(home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(home, e.Name()))
		}
	}
	return dirs, err
}

// unpin takes an agent out of the lock file. It comes before the removal: what is pinned is whole.
func (b *Builder) unpin(agent string) error {
	unlock, err := state.Lock(b.Roots.AgentLock())
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := b.readLock()
	if err != nil {
		return err
	}
	delete(lock.Agents, agent)
	return state.WriteJSON(b.Roots.AgentLock(), lock)
}

// removeAll removes trees and returns how many bytes their files had.
func removeAll(dirs []string) (int64, error) {
	var freed int64
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if fi, err := d.Info(); err == nil {
					freed += fi.Size()
				}
			}
			return nil
		})
		// A name that no reader takes for a bundle first: a removal that is killed leaves no half one.
		gone := filepath.Join(filepath.Dir(dir), ".new-removed-"+filepath.Base(dir))
		if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, err
		}
		if err := removeBundle(gone); err != nil {
			return freed, err
		}
	}
	return freed, nil
}
