// Package view keeps what a task sees of its project's base up to date: the branches it has not
// touched follow the base, its own work stays.
//
//	refs/upstream/heads/*    the base's branches, read-only for the task
//	refs/terok/base/*        the base's value last offered
//	refs/heads/*             the task's; moved only where they still equal what was offered
//
// Both sides use it: the host after a sync, and the task's server before it answers a fetch, which
// catches up with whatever it missed while a push held the task's lock.
package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/gate/refs"
	"terok/internal/git"
	"terok/internal/state"
)

// Offered and Upstream are the namespaces beside refs/heads/.
const (
	Offered  = "refs/terok/base/"
	Upstream = "refs/upstream/heads/"
)

// LockWait is how long a push or a refresh waits for the task's lock.
const LockWait = 10 * time.Second

// Lock takes a task's lock: pushes, refreshes and deletion hold it while they move refs. It ends
// with unlock or with the process; after LockWait it fails with state.ErrLocked. The lock lies in
// the repository, where the confined server may write.
func Lock(repo string) (unlock func(), err error) {
	return state.LockFor(filepath.Join(repo, "task"), LockWait)
}

// FrozenFile is the file whose existence freezes pushes: of task, or with task "" of every task of
// the base. Its text is the reason. It lies in the base, which the servers can read and not write.
func FrozenFile(base, task string) string {
	if task == "" {
		return filepath.Join(base, "terok", "frozen")
	}
	return filepath.Join(base, "terok", "frozen."+task)
}

// staleLock is the age from which a lock file of git's is what a killed process left: no ref
// transaction of ours takes as long.
const staleLock = 10 * time.Minute

// SweepLocks removes lock files that killed git processes left in a repository; without it the ref
// could never move again. The caller holds the lock under which refs are moved.
func SweepLocks(repo string, now time.Time) {
	_ = filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // gone meanwhile
		case d.IsDir() && d.Name() == "objects":
			return fs.SkipDir
		case !d.Type().IsRegular() || !strings.HasSuffix(path, ".lock") || path == filepath.Join(repo, "task.lock"):
			return nil
		}
		if info, err := d.Info(); err == nil && now.Sub(info.ModTime()) > staleLock {
			_ = os.Remove(path)
		}
		return nil
	})
}

// Refresh moves the view of the task's repository at repo to heads, the base's branches. The
// caller holds the task's lock and has verified the repository. objects is the base's object
// directory.
func Refresh(ctx context.Context, r *git.Runner, repo, objects string, heads map[string]string) error {
	now, err := Refs(repo)
	if err != nil {
		return err
	}
	mine, offered, shown := Below(now, refname.Heads), Below(now, Offered), Below(now, Upstream)
	all := maps.Clone(heads)
	for b := range offered {
		if _, ok := all[b]; !ok {
			all[b] = ""
		}
	}
	var changes [][]string
	for _, b := range slices.Sorted(maps.Keys(all)) {
		if all[b] == offered[b] {
			continue
		}
		change := []string{Move(Offered+b, offered[b], all[b]), Move(Upstream+b, shown[b], all[b])}
		if mine[b] == offered[b] {
			change = append(change, Move(refname.Heads+b, mine[b], all[b]))
		}
		changes = append(changes, change)
	}
	if update(ctx, r, repo, objects, slices.Concat(changes...)) == nil {
		return nil
	}
	// One name in the way (the task has feat/x, the base now feat) must not hide the others.
	var errs []error
	for _, change := range changes {
		errs = append(errs, update(ctx, r, repo, objects, change))
	}
	return errors.Join(errs...)
}

// Refs reads all refs of a repository of ours, by full name.
func Refs(repo string) (map[string]string, error) {
	r, err := refs.Read(repo)
	if err != nil {
		return nil, err
	}
	return r.IDs, nil
}

// Below returns the refs under prefix, without it.
func Below(refs map[string]string, prefix string) map[string]string {
	out := map[string]string{}
	for ref, id := range refs {
		if name, ok := strings.CutPrefix(ref, prefix); ok {
			out[name] = id
		}
	}
	return out
}

// Move is a line of git update-ref --stdin that takes ref from old to new; "" means "no such ref".
func Move(ref, old, new string) string {
	switch {
	case new == "" && old == "":
		return "verify " + ref
	case new == "":
		return "delete " + ref + " " + old
	case old == "":
		return "create " + ref + " " + new
	}
	return "update " + ref + " " + new + " " + old
}

func update(ctx context.Context, r *git.Runner, repo, objects string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := r.Run(ctx, git.Cmd{GitDir: repo, Alternates: []string{objects}, Args: []string{"update-ref", "--no-deref", "--stdin"},
		Stdin: strings.NewReader("start\n" + strings.Join(lines, "\n") + "\nprepare\ncommit\n")})
	if err != nil {
		return fmt.Errorf("move the task's view: %w", err)
	}
	return nil
}
