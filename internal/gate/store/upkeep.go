package store

import (
	"context"
	"errors"
	"fmt"
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
	"terok/internal/state"
	"terok/internal/text"
)

// Freeze refuses pushes of a task, or with task "" of every task of the project, until Thaw. The
// tasks' servers answer 403 with the reason from their next request on.
func (s *Store) Freeze(project, task, reason string) error {
	if err := s.hasTask(project, task); err != nil {
		return err
	}
	if reason == "" {
		reason = "by the operator"
	}
	if err := state.WriteFile(view.FrozenFile(s.Roots.GateBase(project), task), []byte(text.Line(reason, 200)+"\n")); err != nil {
		return err
	}
	s.record(audit.Event{Project: project, Task: task, Ev: "gate_frozen", Actor: s.actor(), Reason: text.Line(reason, 200)})
	return nil
}

// Thaw ends Freeze. What is not frozen stays as it is.
func (s *Store) Thaw(project, task string) error {
	if err := s.hasTask(project, task); err != nil {
		return err
	}
	err := os.Remove(view.FrozenFile(s.Roots.GateBase(project), task))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		s.record(audit.Event{Project: project, Task: task, Ev: "gate_thawed", Actor: s.actor()})
	}
	return err
}

// Thawed fails with the problem "gate_frozen" (exit 7) while the task, or its whole project, is frozen:
// what is under suspicion neither comes in nor goes out.
func (s *Store) Thawed(project, task string) error {
	for _, id := range []string{"", task} {
		reason, err := readSmall(view.FrozenFile(s.Roots.GateBase(project), id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("whether the gate of %s is frozen: %w", project, err) // closed, not open
		}
		what, cure := project, "terok gate thaw "+project
		if id != "" {
			what, cure = project+"/"+id, cure+" "+id
		}
		return problem.New("gate_frozen", problem.Conflict, "%s is frozen: %s", what, text.Line(strings.TrimSpace(string(reason)), 200)).WithHint("%s", cure)
	}
	return nil
}

func (s *Store) hasTask(project, task string) error {
	if _, err := s.load(project); err != nil || task == "" {
		return err
	}
	if err := checkComponent(task); err != nil {
		return err
	}
	if _, err := os.Lstat(s.Roots.GateTask(project, task)); err != nil {
		return problem.New("task_not_found", problem.NotFound, "the gate of %s has no repository of task %s", project, task).
			WithHint("terok task list %s", project)
	}
	return nil
}

// RepoSize is one repository in a report.
type RepoSize struct {
	Name   string `json:"name"` // base, or the task's id
	Before int64  `json:"before"`
	After  int64  `json:"after"` // bytes; equal to Before in a dry run
	Packs  int    `json:"packs"` // before
	Loose  int    `json:"loose"` // object files before
	Action string `json:"action"`
	Error  string `json:"error,omitempty"`
}

// GCOptions say what gc may drop.
type GCOptions struct {
	DryRun  bool
	Keep    time.Duration // unreachable objects younger than this stay
	Backups Backups
}

// GC packs the repositories of a project. A task's repository loses what nothing reaches any more
// after Keep. The base loses nothing while a task borrows from it: nobody outside a container knows
// which of its objects a workspace uses.
func (s *Store) GC(ctx context.Context, project string, o GCOptions) ([]RepoSize, error) {
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return nil, err
	}
	defer unlock()
	st, err := s.load(project)
	if err != nil {
		return nil, err
	}
	base := s.Roots.GateBase(project)
	if err := s.checked(project, base); err != nil {
		return nil, err
	}
	ids, err := s.Tasks(project)
	if err != nil {
		return nil, err
	}
	var report []RepoSize
	for _, id := range ids {
		report = append(report, s.gcTask(ctx, project, id, o))
	}
	borrowers, err := s.borrowers(project)
	if err != nil {
		return nil, err
	}
	report = append(report, s.gcBase(ctx, base, borrowers, st, o))
	if o.DryRun {
		return report, nil
	}
	st.GCAt = s.now().UTC().Truncate(time.Second)
	var saved int64
	var failed []string
	for _, r := range report {
		saved += r.Before - r.After
		if r.Error != "" {
			failed = append(failed, r.Name)
		}
	}
	s.record(audit.Event{Project: project, Ev: "gate_gc", Actor: s.actor(), Count: uint64(len(report)), Detail: map[string]string{"saved": fmt.Sprint(saved)}})
	if err := state.WriteJSON(s.statePath(project), st); err != nil {
		return report, err
	}
	if len(failed) > 0 {
		return report, problem.New("gc_partial", problem.Attention, "could not be packed: %s", strings.Join(failed, ", ")).WithHint("terok gate gc %s", project)
	}
	return report, nil
}

func (s *Store) gcTask(ctx context.Context, project, id string, o GCOptions) RepoSize {
	repo, objects := s.Roots.GateTask(project, id), s.ObjectsDir(project)
	r := measure(id, repo)
	r.Action = "pack; drop what nothing reaches"
	if o.DryRun {
		return r
	}
	err := func() error {
		if err := Verify(repo, objects); err != nil {
			return err
		}
		release, err := view.Lock(repo)
		if err != nil {
			return err
		}
		defer release()
		view.SweepLocks(repo, s.now())
		if _, err := s.pruneBackups(ctx, repo, o.Backups, []string{objects}); err != nil {
			return err
		}
		if err := s.gcTaskLFS(ctx, repo, objects, o.Keep); err != nil {
			return err
		}
		return s.repack(ctx, repo, []string{objects}, o.Keep)
	}()
	return r.done(repo, err)
}

func (s *Store) gcBase(ctx context.Context, base string, tasks []string, st *gateState, o GCOptions) RepoSize {
	borrowers := len(tasks)
	r := measure("base", base)
	r.Action = "pack; drop what nothing reaches"
	if borrowers > 0 {
		r.Action = fmt.Sprintf("pack; drop nothing: %d tasks borrow from it", borrowers)
	}
	if o.DryRun {
		return r
	}
	err := func() (err error) {
		view.SweepLocks(base, s.now())
		if _, err := s.pruneBackups(ctx, base, o.Backups, nil); err != nil {
			return err
		}
		if err := s.gcBaseLFS(ctx, base, tasks, o.Keep); err != nil {
			return err
		}
		// Without a borrower what nothing reaches goes. With one small packs are rolled into larger
		// ones, and what is in a pack stays in one.
		pack := func() error { return s.repack(ctx, base, nil, o.Keep) }
		if borrowers > 0 {
			pack = func() error {
				return s.runAll(ctx, git.Cmd{GitDir: base, Timeout: time.Hour, Config: append(baseIndex, packConfig...)},
					[]string{"repack", "-d", "-n", "-q", "--geometric=2"}, []string{"pack-refs", "--all", "--prune"})
			}
		}
		if err := pack(); err != nil {
			return err
		}
		st.Indexed, err = s.writeBitmap(ctx, base)
		return err
	}()
	return r.done(base, err)
}

var packConfig = []string{"pack.threads=2", "pack.windowMemory=256m", "core.bigFileThreshold=16m", "repack.writeBitmaps=false"}

// repack leaves one pack of everything reachable, and loose what is unreachable and young.
func (s *Store) repack(ctx context.Context, dir string, alternates []string, keep time.Duration) error {
	since := "--unpack-unreachable=" + s.now().Add(-keep).UTC().Format(time.RFC3339)
	expire := "--expire=" + s.now().Add(-keep).UTC().Format(time.RFC3339)
	c := git.Cmd{GitDir: dir, Alternates: alternates, Timeout: time.Hour, Config: packConfig}
	if len(alternates) == 0 {
		c.Config = append(baseIndex, packConfig...)
	}
	return s.runAll(ctx, c, []string{"repack", "-A", "-d", "-l", "-n", "-q", "--depth=50", since}, []string{"prune", expire}, []string{"pack-refs", "--all", "--prune"})
}

// runAll runs c once with each list of arguments, until one fails.
func (s *Store) runAll(ctx context.Context, c git.Cmd, args ...[]string) error {
	for _, c.Args = range args {
		if _, err := s.Git.Run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func measure(name, dir string) RepoSize {
	r := RepoSize{Name: name}
	r.Before, r.Packs, r.Loose = sizeOf(dir)
	r.After = r.Before
	return r
}

func (r RepoSize) done(dir string, err error) RepoSize {
	if err != nil {
		r.Error = text.Line(err.Error(), 300)
	}
	r.After, _, _ = sizeOf(dir)
	return r
}

// sizeOf counts what a repository has of its own; files that go meanwhile are passed over.
func sizeOf(dir string) (bytes int64, packs, loose int) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		switch {
		case strings.HasSuffix(path, ".pack"):
			packs++
		case len(filepath.Base(filepath.Dir(path))) == 2 && filepath.Base(filepath.Dir(filepath.Dir(path))) == "objects":
			loose++
		}
		return nil
	})
	return bytes, packs, loose
}

// Bounds after which a base is packed without being asked.
const (
	gcPacks = 50
	gcEvery = 7 * 24 * time.Hour
)

// GCDue reports whether it is time for GC: many packs, or a week.
func (s *Store) GCDue(project string) bool {
	st, err := s.load(project)
	if err != nil {
		return false
	}
	packs, _ := filepath.Glob(filepath.Join(s.ObjectsDir(project), "pack", "*.pack"))
	since := st.GCAt
	if since.IsZero() {
		since = st.LastSync
	}
	return len(packs) > gcPacks || (len(packs) > 1 || st.LFS != nil) && s.now().Sub(since) > gcEvery
}

// Status is a gate as gate status shows it.
type Status struct {
	Project  string            `json:"project"`
	Path     string            `json:"path"`
	Upstream string            `json:"upstream"` // without credentials
	Protocol string            `json:"protocol"` // file, https, ssh; "" without upstream
	Head     string            `json:"head"`
	Branches int               `json:"branches"`
	Rev      uint64            `json:"rev"`
	Size     int64             `json:"size"` // bytes of the base
	Packs    int               `json:"packs"`
	LastSync time.Time         `json:"last_sync"`
	Error    string            `json:"error"` // of the last sync
	Pending  []Change          `json:"pending"`
	Ahead    []Change          `json:"ahead"`
	GateOnly []string          `json:"gate_only"`
	Checked  *Check            `json:"checked"`
	Frozen   map[string]string `json:"frozen"` // task, or "" for all → reason
	Tasks    []TaskStatus      `json:"tasks"`
	Backups  int               `json:"backups"`    // of the base
	Lock     string            `json:"lock"`       // who holds it, "" for nobody
	Modules  []Submodule       `json:"submodules"` // of the default branch
	LFS      bool              `json:"lfs"`        // the default branch keeps files in Git LFS
	Large    *LargeFiles       `json:"lfs_proxy"`  // null: gate.lfs is off, and they stay pointers
}

// TaskStatus is one task's repository.
type TaskStatus struct {
	ID       string `json:"id"`
	Size     int64  `json:"size"`     // bytes beside the base
	Branches int    `json:"branches"` // that differ from what the base offered
	Backups  int    `json:"backups"`
	Error    string `json:"error,omitempty"`
}

// Status describes a gate without asking upstream.
func (s *Store) Status(ctx context.Context, project string) (Status, error) {
	st, err := s.load(project)
	if err != nil {
		return Status{}, err
	}
	up, err := ParseUpstream(st.Upstream)
	if err != nil {
		return Status{}, err
	}
	base := s.Roots.GateBase(project)
	v := Status{Project: project, Path: base, Upstream: up.String(), Protocol: up.Protocol, Rev: st.Rev, LastSync: st.LastSync, Error: st.LastError,
		Checked: st.Checked, Frozen: map[string]string{}, Tasks: []TaskStatus{}}
	rep, err := s.pending(ctx, project)
	if err != nil {
		return v, err
	}
	v.Head, v.Branches, v.Pending, v.Ahead, v.GateOnly = rep.Head, rep.Branches, rep.Pending, rep.Ahead, rep.GateOnly
	v.LFS, v.Large = s.usesLFS(ctx, base), st.LFS
	v.Size, v.Packs, _ = sizeOf(base)
	if list, err := s.listBackups(ctx, base, ""); err == nil {
		v.Backups = len(list)
	}
	frozen, _ := filepath.Glob(filepath.Join(base, "terok", "frozen*"))
	for _, f := range frozen {
		reason, _ := readSmall(f)
		id := strings.TrimPrefix(strings.TrimPrefix(filepath.Base(f), "frozen"), ".")
		v.Frozen[id] = text.Line(strings.TrimSpace(string(reason)), 200)
	}
	ids, err := s.Tasks(project)
	if err != nil {
		return v, err
	}
	for _, id := range ids {
		v.Tasks = append(v.Tasks, s.taskStatus(ctx, project, id))
	}
	if unlock, err := state.TryLock(filepath.Join(s.Roots.GateHome(project), "gate")); err == nil {
		unlock()
	} else if errors.Is(err, state.ErrLocked) {
		holder, _ := readSmall(filepath.Join(s.Roots.GateHome(project), "gate.lock"))
		v.Lock = text.Line(string(holder), 100)
	}
	return v, nil
}

func (s *Store) taskStatus(ctx context.Context, project, id string) TaskStatus {
	repo, objects := s.Roots.GateTask(project, id), s.ObjectsDir(project)
	v := TaskStatus{ID: id}
	v.Size, _, _ = sizeOf(repo)
	if err := Verify(repo, objects); err != nil {
		v.Error = text.Line(err.Error(), 200)
		return v
	}
	refs, err := readRefs(repo)
	if err != nil {
		v.Error = text.Line(err.Error(), 200)
		return v
	}
	v.Branches, v.Backups = len(own(refs)), len(refs.below(BackupRefs))
	return v
}

// own are the branches of a task that are its work: neither what the base offered nor its start.
func own(refs refMap) map[string]string {
	mine := refs.below(refname.Heads)
	offered := refs.below(OfferedRefs)
	for b, id := range mine {
		if id == offered[b] || id == refs[StartRef] {
			delete(mine, b)
		}
	}
	return mine
}

// Bundle writes the task's own commits, with the tips that its pushes replaced, into a bundle that
// needs the base (git-bundle(1)), and the files in LFS that the task sent into FILE.lfs beside it. It reports false, and writes nothing, where there are none.
func (s *Store) Bundle(ctx context.Context, project, id, file string) (bool, error) {
	if err := s.hasTask(project, id); err != nil {
		return false, err
	}
	repo, objects := s.Roots.GateTask(project, id), s.ObjectsDir(project)
	if err := Verify(repo, objects); err != nil {
		return false, err
	}
	refs, err := readRefs(repo)
	if err != nil {
		return false, err
	}
	var names []string
	for b := range own(refs) {
		names = append(names, refname.Heads+b)
	}
	for b := range refs.below(BackupRefs) {
		names = append(names, BackupRefs+b)
	}
	if len(names) == 0 {
		return false, nil
	}
	slices.Sort(names)
	if err := state.MkdirAll(filepath.Dir(file)); err != nil {
		return false, err
	}
	revs := strings.Join(names, "\n") + "\n"
	for _, tip := range refs.below(view.Upstream) {
		revs += "^" + tip + "\n"
	}
	tmp := file + ".tmp"
	defer os.Remove(tmp)
	if _, err := s.Git.Run(ctx, git.Cmd{GitDir: repo, Alternates: []string{objects}, Timeout: time.Hour, Stdin: strings.NewReader(revs), Config: packConfig,
		Args: []string{"bundle", "create", "--quiet", tmp, "--stdin"}}); err != nil {
		if strings.Contains(err.Error(), "empty bundle") {
			return false, nil // everything is in the base by now
		}
		return false, err
	}
	if err := os.Chmod(tmp, 0o600); err != nil {
		return false, err
	}
	if err := lfs.Dir(file+keptLFS).Take(ctx, lfs.Of(repo)); err != nil {
		return false, fmt.Errorf("keep files in LFS: %w", err)
	}
	return true, os.Rename(tmp, file)
}
