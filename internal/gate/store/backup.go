package store

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// backupTime is the time in the name of a backup, UTC.
const backupTime = "20060102T150405Z"

// Backups says how long replaced tips are kept.
type Backups struct {
	Off         bool          // replace without keeping
	LoseCommits bool          // with Off: also where commits go that upstream has not
	Retention   time.Duration // 0 is for ever
	KeepMin     int           // the newest of each branch that stay however old they are
}

// DefaultBackups keeps replaced tips for 30 days, and the last three of each branch.
var DefaultBackups = Backups{Retention: 30 * 24 * time.Hour, KeepMin: 3}

// Backup is one kept tip.
type Backup struct {
	Ref     string    `json:"ref"` // full name
	Task    string    `json:"task,omitempty"`
	Branch  string    `json:"branch"`
	Time    time.Time `json:"time"`
	Tip     string    `json:"tip"`
	Subject string    `json:"subject"` // escaped for a terminal
}

// place is the repository that backups of task lie in, "" meaning the base, and what it borrows.
func (s *Store) place(project, task string) (dir, objects string, err error) {
	if _, err := s.load(project); err != nil {
		return "", "", err
	}
	if task == "" {
		dir = s.Roots.GateBase(project)
		return dir, "", Verify(dir)
	}
	if err := checkComponent(task); err != nil {
		return "", "", err
	}
	dir, objects = s.Roots.GateTask(project, task), s.ObjectsDir(project)
	return dir, objects, Verify(dir, objects)
}

func alternatesOf(objects string) []string {
	if objects == "" {
		return nil
	}
	return []string{objects}
}

// ListBackups lists the kept tips of the base, or of a task, newest first.
func (s *Store) ListBackups(ctx context.Context, project, task string) ([]Backup, error) {
	dir, objects, err := s.place(project, task)
	if err != nil {
		return nil, err
	}
	list, err := s.listBackups(ctx, dir, objects)
	for i := range list {
		list[i].Task = task
	}
	return list, err
}

func (s *Store) listBackups(ctx context.Context, dir, objects string) ([]Backup, error) {
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: dir, Alternates: alternatesOf(objects), MaxOutput: 64 << 20,
		Args: []string{"for-each-ref", "--format=%(objectname) %(refname) %(contents:subject)", BackupRefs}})
	if err != nil {
		return nil, err
	}
	list := []Backup{}
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) < 2 {
			continue
		}
		b := Backup{Ref: f[1], Tip: f[0]}
		name := strings.TrimPrefix(f[1], BackupRefs)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			continue
		}
		b.Branch = name[:i]
		stamp, _, _ := strings.Cut(name[i+1:], "-")
		if b.Time, err = time.Parse(backupTime, stamp); err != nil {
			continue // not one of ours
		}
		if now := s.now().UTC(); b.Time.After(now) {
			b.Time = now // a clock that went wrong must not keep a tip for ever
		}
		if len(f) == 3 {
			b.Subject = text.Line(f[2], 100)
		}
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b Backup) int {
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Ref, b.Ref)
	})
	return list, nil
}

// PruneBackups removes kept tips beyond retention, of the base or of a task, and returns them.
func (s *Store) PruneBackups(ctx context.Context, project, task string, keep Backups) ([]Backup, error) {
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, objects, err := s.place(project, task)
	if err != nil {
		return nil, err
	}
	gone, err := s.pruneBackups(ctx, dir, keep, alternatesOf(objects))
	if len(gone) > 0 {
		s.record(audit.Event{Project: project, Task: task, Ev: "gate_backups_pruned", Actor: s.actor(), Count: uint64(len(gone))})
	}
	return gone, err
}

func (s *Store) pruneBackups(ctx context.Context, dir string, keep Backups, alternates []string) ([]Backup, error) {
	objects := ""
	if len(alternates) > 0 {
		objects = alternates[0]
	}
	list, err := s.listBackups(ctx, dir, objects)
	if err != nil {
		return nil, err
	}
	var gone []Backup
	var script []string
	limit := s.now().Add(-keep.Retention)
	seen := map[string]int{}
	for _, b := range list { // newest first
		seen[b.Branch]++
		if keep.Retention == 0 || seen[b.Branch] <= keep.KeepMin || !b.Time.Before(limit) {
			continue
		}
		gone = append(gone, b)
		script = append(script, "delete "+b.Ref+" "+b.Tip)
	}
	return gone, s.updateRefs(ctx, dir, alternates, script...)
}

// findBackup resolves a full ref, or the part behind refs/terok/backup/.
func (s *Store) findBackup(ctx context.Context, dir, objects, ref string) (Backup, error) {
	list, err := s.listBackups(ctx, dir, objects)
	if err != nil {
		return Backup{}, err
	}
	for _, b := range list {
		if b.Ref == ref || strings.TrimPrefix(b.Ref, BackupRefs) == ref {
			return b, nil
		}
	}
	return Backup{}, problem.New("no_such_backup", problem.NotFound, "there is no backup %s", text.Line(ref, 120)).
		WithHint("terok project gate-backups")
}

// Restore moves a branch of the base, or of a task, back to a kept tip. What it replaces is kept as
// well, in the same transaction. It returns the backup and the tip that was replaced, "" for none.
func (s *Store) Restore(ctx context.Context, project, task, ref string) (Backup, string, error) {
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return Backup{}, "", err
	}
	defer unlock()
	dir, objects, err := s.place(project, task)
	if err != nil {
		return Backup{}, "", err
	}
	if task != "" {
		release, err := view.Lock(dir)
		if err != nil {
			return Backup{}, "", err
		}
		defer release()
	}
	b, err := s.findBackup(ctx, dir, objects, ref)
	if err != nil {
		return b, "", err
	}
	refs, err := readRefs(dir)
	if err != nil {
		return b, "", err
	}
	old := refs[refname.Heads+b.Branch]
	if old == b.Tip {
		return b, old, nil
	}
	var script []string
	if old != "" {
		script = append(script, "update "+s.backupRef(b.Branch, old)+" "+old)
	}
	script = append(script, view.Move(refname.Heads+b.Branch, old, b.Tip))
	if err := s.updateRefs(ctx, dir, alternatesOf(objects), script...); err != nil {
		return b, old, err
	}
	s.record(audit.Event{Project: project, Task: task, Ev: "gate_restored", Actor: s.actor(), Ref: refname.Heads + b.Branch, Old: old, New: b.Tip})
	if task == "" {
		err = s.publish(ctx, project)
	}
	return b, old, err
}

// DeleteBackup removes one kept tip.
func (s *Store) DeleteBackup(ctx context.Context, project, task, ref string) (Backup, error) {
	unlock, err := s.Lock(ctx, project)
	if err != nil {
		return Backup{}, err
	}
	defer unlock()
	dir, objects, err := s.place(project, task)
	if err != nil {
		return Backup{}, err
	}
	b, err := s.findBackup(ctx, dir, objects, ref)
	if err != nil {
		return b, err
	}
	err = s.updateRefs(ctx, dir, alternatesOf(objects), "delete "+b.Ref+" "+b.Tip)
	if err == nil {
		s.record(audit.Event{Project: project, Task: task, Ev: "gate_backup_deleted", Actor: s.actor(), Ref: b.Ref, Old: b.Tip})
	}
	return b, err
}

// copyObjects brings what tips reach, and neither dst nor except has, from one repository of ours
// into another, as one pack.
func (s *Store) copyObjects(ctx context.Context, src string, alternates []string, dst string, tips []string, except ...string) error {
	have, err := readRefs(dst)
	if err != nil {
		return err
	}
	var revs bytes.Buffer
	for _, id := range tips {
		fmt.Fprintln(&revs, id)
	}
	// What dst has and src does not know cannot be named there.
	check := git.Cmd{GitDir: src, Alternates: alternates, MaxOutput: 64 << 20, Args: []string{"cat-file", "--batch-check=%(objectname) %(objecttype)"}}
	var ids bytes.Buffer
	for _, id := range have {
		fmt.Fprintln(&ids, id)
	}
	for _, id := range except {
		fmt.Fprintln(&ids, id)
	}
	check.Stdin = &ids
	out, err := s.Git.Run(ctx, check)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if id, kind, ok := strings.Cut(strings.TrimSpace(line), " "); ok && kind == "commit" {
			fmt.Fprintln(&revs, "^"+id)
		}
	}
	_, err = s.Git.Run(ctx, git.Cmd{GitDir: src, Alternates: alternates, Timeout: time.Hour, Stdin: &revs, Config: []string{"pack.threads=2", "pack.packSizeLimit=0"},
		Args: []string{"pack-objects", "--revs", "--quiet", "--non-empty", "--delta-base-offset", "--missing=error", filepath.Join(dst, "objects", "pack", "pack")}})
	if err != nil {
		return fmt.Errorf("copy objects: %w", err)
	}
	return nil
}
