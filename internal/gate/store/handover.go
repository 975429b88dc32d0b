package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/lfs"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// Handover names the work of another task of the same project that a new task begins with.
type Handover struct {
	Task   string // id
	Branch string // of that task; its own work with all further branches when ""
	Own    string // that task's own branch
}

// RecordedRefs is where a task's repository remembers its branches as the ledger has them.
const RecordedRefs = "refs/terok/recorded/"

// fromTask brings another task's work into the new task repository at repo: the commit to start
// from, and the other branches that come along.
func (s *Store) fromTask(ctx context.Context, project, repo string, h Handover, heads map[string]string) (start string, more packedRefs, err error) {
	src, objects := s.Roots.GateTask(project, h.Task), s.ObjectsDir(project)
	if err := s.hasTask(project, h.Task); err != nil {
		return "", nil, err
	}
	if err := Verify(src, objects); err != nil {
		return "", nil, err
	}
	refs, err := readRefs(src)
	if err != nil {
		return "", nil, err
	}
	mine := refs.below(refname.Heads)
	branch := h.Branch
	if branch == "" {
		branch = h.Own
	}
	if start = mine[branch]; start == "" {
		return "", nil, problem.New("no_such_branch", problem.NotFound, "task %s/%s has no branch %s", project, h.Task, text.Line(branch, 80)).
			WithHint("terok review show %s/%s", project, h.Task)
	}
	tips := []string{start}
	if h.Branch == "" {
		for b, id := range own(refs) {
			if b != branch && refname.Check(b) == nil && heads[b] == "" {
				more = append(more, packedRef{name: refname.Heads + b, id: id}, packedRef{name: RecordedRefs + b, id: id})
				tips = append(tips, id)
			}
		}
	}
	var except []string
	for _, id := range heads {
		except = append(except, id)
	}
	return start, more, s.copyObjects(ctx, src, []string{objects}, repo, tips, except...)
}

// Import is what ImportTask brought.
type Import struct {
	Branches []string `json:"branches"` // of the new task
	Backups  int      `json:"backups"`  // of an old mirror, kept in the base
	Skipped  []string `json:"skipped"`  // names that are not acceptable, escaped
}

// ImportTask fills the repository of an existing task, made by CreateTask, with work from elsewhere:
// a bundle of another machine, or a bare repository such as an old mirror of which everything that
// the base has not becomes work to be reviewed. Nothing of it is trusted: objects pass the checks
// of a push, names those of a branch.
func (s *Store) ImportTask(ctx context.Context, project, id, path string) (Import, error) {
	var done Import
	repo, objects := s.Roots.GateTask(project, id), s.ObjectsDir(project)
	if err := s.hasTask(project, id); err != nil {
		return done, err
	}
	if err := Verify(repo, objects); err != nil {
		return done, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return done, problem.New("bad_import", problem.Usage, "cannot import %s: %w", text.Show(path), err)
	}
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return done, err
	}
	defer unlock()
	release, err := view.Lock(repo)
	if err != nil {
		return done, err
	}
	defer release()
	const staged = "refs/terok/imported/"
	c := git.Cmd{GitDir: repo, Alternates: []string{objects}, Timeout: time.Hour, Protocols: []string{"file"}, Config: fsckConfig(),
		Args: []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--", path,
			"+" + refname.Heads + "*:" + staged + "*"}}
	if _, err := s.Git.Run(ctx, c); err != nil {
		return done, problem.New("bad_import", problem.Failed, "cannot import %s: %w", text.Show(path), err).
			WithHint("a bundle must be complete on top of the project's base: git bundle create FILE --branches --not --remotes")
	}
	if err := lfs.Of(repo).Take(ctx, lfs.Dir(path+keptLFS)); err != nil {
		return done, err
	}
	refs, err := readRefs(repo)
	if err != nil {
		return done, err
	}
	heads := refs.below(refname.Heads)
	baseRefs, err := readRefs(s.Roots.GateBase(project))
	if err != nil {
		return done, err
	}
	known := map[string]bool{} // what upstream or the base has is no news
	for _, ns := range []string{refname.Heads, SnapshotRefs} {
		for _, tip := range baseRefs.below(ns) {
			known[tip] = true
		}
	}
	var script []string
	for b, tip := range refs.below(staged) {
		script = append(script, "delete "+staged+b+" "+tip)
		if known[tip] {
			continue
		}
		name := b
		if heads[name] != "" {
			name = "imported/" + b
		}
		if refname.Check(name) != nil || heads[name] != "" {
			done.Skipped = append(done.Skipped, text.Line(b, 80))
			continue
		}
		script = append(script, "create "+refname.Heads+name+" "+tip, "create "+RecordedRefs+name+" "+tip)
		done.Branches = append(done.Branches, name)
	}
	slices.Sort(done.Branches)
	if err := s.updateRefs(ctx, repo, []string{objects}, script...); err != nil {
		return done, err
	}
	if info.IsDir() {
		if done.Backups, err = s.importBackups(ctx, project, path); err != nil {
			return done, err
		}
	}
	s.record(audit.Event{Project: project, Task: id, Ev: "gate_imported", Actor: s.actor(), Count: uint64(len(done.Branches)), Detail: map[string]string{"from": text.Line(path, 200)}})
	return done, nil
}

// importBackups takes over the backups of an old mirror, which has the same names for them.
func (s *Store) importBackups(ctx context.Context, project, path string) (int, error) {
	// The old mirror hides them from fetches; that setting is the other side's, so they are named.
	list, err := s.Git.Run(ctx, git.Cmd{GitDir: path, Alternates: []string{git.AnyAlternates}, Args: []string{"for-each-ref", "--format=%(objectname) %(refname)", BackupRefs}})
	if err != nil {
		return 0, err
	}
	var tips, script []string
	for line := range strings.Lines(string(list)) {
		id, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		if refname.IsID(id) && refname.Check(strings.TrimPrefix(ref, BackupRefs)) == nil {
			tips, script = append(tips, id), append(script, "update "+ref+" "+id)
		}
	}
	if len(tips) == 0 {
		return 0, nil
	}
	base := s.Roots.GateBase(project)
	if err := s.copyObjects(ctx, path, []string{git.AnyAlternates}, base, tips); err != nil {
		return 0, err
	}
	// Objects of a foreign repository become the base's only when they are sound.
	if _, err := s.Git.Run(ctx, git.Cmd{GitDir: base, Timeout: time.Hour, Args: append([]string{"fsck", "--strict", "--no-dangling", "--no-progress"}, tips...)}); err != nil {
		return 0, problem.New("bad_import", problem.Failed, "the backups of %s are not sound: %w", text.Show(path), err)
	}
	return len(tips), s.updateRefs(ctx, base, nil, script...)
}

// Reset moves the task's own branch back to its checkpoint. The tip that it replaces is kept as a
// backup, whose ref is returned; "" when the branch was there already.
func (s *Store) Reset(ctx context.Context, project, id, branch string) (backup string, err error) {
	if err := s.hasTask(project, id); err != nil {
		return "", err
	}
	repo, objects := s.Roots.GateTask(project, id), s.ObjectsDir(project)
	if err := Verify(repo, objects); err != nil {
		return "", err
	}
	release, err := view.Lock(repo)
	if err != nil {
		return "", err
	}
	defer release()
	refs, err := readRefs(repo)
	if err != nil {
		return "", err
	}
	start, tip := refs[StartRef], refs[refname.Heads+branch]
	if start == "" {
		return "", problem.New("no_checkpoint", problem.Conflict, "task %s/%s began without a commit", project, id)
	}
	if tip == start {
		return "", nil
	}
	var script []string
	if tip != "" {
		backup = s.backupRef(branch, tip)
		script = append(script, "update "+backup+" "+tip)
	}
	script = append(script, view.Move(refname.Heads+branch, tip, start), view.Move(RecordedRefs+branch, refs[RecordedRefs+branch], start))
	if err := s.updateRefs(ctx, repo, []string{objects}, script...); err != nil {
		return "", err
	}
	s.record(audit.Event{Project: project, Task: id, Ev: "task_reset", Actor: s.actor(), Ref: refname.Heads + branch, Old: tip, New: start})
	return backup, nil
}

// sharedLock keeps gc, reinit and deletion away while a task's repository is made. It waits as long
// as ctx lives: a launch comes after the syncs of the launches beside it, however many there are.
func (s *Store) sharedLock(ctx context.Context, project string) (unlock func(), err error) {
	return s.waitLock(ctx, project, true, true, nil)
}

// TaskBranch is the branch that HEAD of a task's repository names.
func (s *Store) TaskBranch(project, id string) (string, error) {
	repo := s.Roots.GateTask(project, id)
	if _, err := os.Lstat(repo); errors.Is(err, fs.ErrNotExist) {
		return "", s.hasTask(project, id)
	}
	return headOf(repo)
}

// HasBranch reports whether the base has a branch of this name.
func (s *Store) HasBranch(ctx context.Context, project, name string) (bool, error) {
	base := s.Roots.GateBase(project)
	if err := Verify(base); err != nil {
		return false, err
	}
	refs, err := readRefs(base)
	return err == nil && refs[refname.Heads+name] != "", err
}

// CloneURL is the base as an address for git on this machine.
func (s *Store) CloneURL(project string) (string, error) {
	if _, err := s.load(project); err != nil {
		return "", err
	}
	return "file://" + filepath.ToSlash(s.Roots.GateBase(project)), nil
}
