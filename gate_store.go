package terok

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/task"
)

// What the gate's upkeep returns.
type (
	GateBackup = store.Backup
	GateSize   = store.RepoSize
)

// GateSyncOptions say how to bring a gate up to date.
type GateSyncOptions struct {
	Branches    []string // only these; none: gate.branches of the project, else all
	DryRun      bool     // ask and compare, move nothing
	Wait        bool     // for another operation on the gate, without end
	Destructive bool     // take over what was rewritten or deleted upstream, after a backup
	LoseCommits bool     // with Destructive, where backups are off
	Reinit      bool     // make the gate anew
	Bundle      string   // absolute path: objects for the first sync
	Reference   string   // absolute path of a repository: objects for the first sync
}

// GateSync brings a project's base repository up to date with its upstream, making it first if
// need be. Rewrites, deletions and divergence are in Report.Pending and not applied, unless the
// options say so.
func (a *App) GateSync(ctx context.Context, project string, o GateSyncOptions) (GateReport, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return GateReport{}, err
	}
	if !p.Gated() {
		return GateReport{}, ungated(p)
	}
	s := a.gateStore()
	if err := a.placeGate(s, p); err != nil {
		return GateReport{}, err
	}
	s.Progress = func(line string) { a.say("%s", line) }
	rep, err := s.SyncWith(ctx, project, p.Git.UpstreamURL, syncOptions(p, o))
	if err != nil && !problem.Is(err, "sync_partial") {
		return rep, err
	}
	return rep, firstError(a.syncSubmodules(ctx, s, p, o.DryRun, &rep), err)
}

// syncSubmodules brings the mirrors of listed submodules up to date, or only looks at the list, and
// puts what a person should know into the report.
func (a *App) syncSubmodules(ctx context.Context, s *store.Store, p *project.Project, look bool, rep *GateReport) (err error) {
	if look {
		rep.Submodules, err = s.Submodules(ctx, p.Name, p.SubmoduleAddresses())
		if problem.Is(err, "gate_missing") {
			err = nil
		}
	} else {
		rep.Submodules, err = s.SyncSubmodules(ctx, p.Name, p.SubmoduleAddresses())
	}
	if problem.Is(err, "submodules_unreadable") {
		rep.Notes, err = append(rep.Notes, err.Error()), nil
	}
	for _, m := range rep.Submodules {
		if m.Why != "" {
			rep.Notes = append(rep.Notes, fmt.Sprintf("submodule %s (%s): %s", m.Name, m.Written, m.Why))
		}
	}
	return err
}

func syncOptions(p *project.Project, o GateSyncOptions) store.Options {
	out := store.Options{Branches: o.Branches, DryRun: o.DryRun, Wait: o.Wait, Destructive: o.Destructive, Reinit: o.Reinit, Bundle: o.Bundle,
		Reference: o.Reference, Backups: p.Backups(), AutoLossless: p.Gate.AutoApplyLossless, FsckSkip: p.Gate.FsckSkip,
		LFS: p.LFS(), LFSURL: p.Gate.LFSURL}
	out.Backups.LoseCommits = o.LoseCommits
	if len(out.Branches) == 0 {
		out.Branches = p.Gate.Branches
	}
	return out
}

// GateResolve decides one branch that needs a decision: keep, take-upstream or rename.
func (a *App) GateResolve(ctx context.Context, project, branch, how string, loseCommits bool) (GateChange, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return GateChange{}, err
	}
	b := p.Backups()
	b.LoseCommits = loseCommits
	return a.gateStore().Resolve(ctx, project, branch, how, b)
}

// GateStatus is a project's gate, what it protects, and its reviews at the forge.
type GateStatus struct {
	Class    string `json:"class"`    // gatekeeping or online
	Gated    bool   `json:"gated"`    // tasks get their repository from the gate
	External bool   `json:"external"` // tasks know the upstream's address
	Trust    string `json:"trust"`    // what is protected and what is not, one sentence
	LFSMode  string `json:"lfs_mode"` // off or proxy (gate.lfs)
	store.Status
	Reviews *ReviewLag `json:"reviews"` // null: the forge was never asked
}

// What is protected, by mode (spec: gate.md §1).
const (
	trustGate     = "A gate protects the upstream from writes; it does not make what agents push safe: look at it with terok review only."
	trustOnline   = "Tasks reach the upstream themselves: what they push to origin nobody has reviewed. What they push to the gate waits for review."
	trustUngated  = "Tasks clone from the upstream and push to it themselves: nothing is mirrored and nothing is reviewed."
	trustNothing  = "Tasks have no repository: there is nothing to protect and nothing to review."
	trustOwnStore = "The gate is the only copy of accepted work; it does not make what agents push safe: look at it with terok review only."
)

// GateStatus describes a project's gate from what is on this machine.
func (a *App) GateStatus(ctx context.Context, project string) (GateStatus, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return GateStatus{}, err
	}
	v := GateStatus{Class: p.Project.Class, Gated: p.Gated(), External: p.External() != ""}
	switch {
	case v.Gated && p.Online():
		v.Trust = trustOnline
	case v.Gated && p.Git.UpstreamURL == "":
		v.Trust = trustOwnStore
	case v.Gated:
		v.Trust = trustGate
	case p.Git.UpstreamURL == "":
		v.Trust = trustNothing
	default:
		v.Trust = trustUngated
	}
	if !v.Gated {
		v.Project, v.Upstream = p.Name, store.MaskURL(p.Git.UpstreamURL)
		return v, nil
	}
	if v.Status, err = a.gateStore().Status(ctx, project); err != nil {
		return v, err
	}
	if v.LFSMode = string(p.Gate.LFS); !p.LFS() {
		v.Large = nil
	}
	l, err := a.loadLag(project)
	if err != nil {
		return v, err
	}
	if l.Forge != "" || len(l.Deleted) > 0 {
		v.Reviews = l
	}
	v.Modules, err = a.gateStore().Submodules(ctx, project, p.SubmoduleAddresses())
	if problem.Is(err, "submodules_unreadable") {
		err = nil // the next sync says why
	}
	return v, err
}

// GatePath is the directory of a project's base repository.
func (a *App) GatePath(project string) (string, error) {
	if _, err := a.projects().Get(project); err != nil {
		return "", err
	}
	url, err := a.gateStore().CloneURL(project)
	return strings.TrimPrefix(url, "file://"), err
}

// gateTask is the id of a task whose repository is meant, "" for t nil.
func gateTask(t *task.Task) string {
	if t == nil {
		return ""
	}
	return t.ID
}

// GateBackups lists the replaced tips of a project's base, or of a task, newest first.
func (a *App) GateBackups(ctx context.Context, project string, t *task.Task) ([]GateBackup, error) {
	if _, err := a.projects().Get(project); err != nil {
		return nil, err
	}
	return a.gateStore().ListBackups(ctx, project, gateTask(t))
}

// GateRestore moves a branch back to a backup and keeps what it replaces; replaced is "" where the
// branch was gone.
func (a *App) GateRestore(ctx context.Context, project string, t *task.Task, ref string) (b GateBackup, replaced string, err error) {
	if _, err := a.projects().Get(project); err != nil {
		return b, "", err
	}
	return a.gateStore().Restore(ctx, project, gateTask(t), ref)
}

// GateDeleteBackup removes one backup.
func (a *App) GateDeleteBackup(ctx context.Context, project string, t *task.Task, ref string) (GateBackup, error) {
	if _, err := a.projects().Get(project); err != nil {
		return GateBackup{}, err
	}
	return a.gateStore().DeleteBackup(ctx, project, gateTask(t), ref)
}

// GatePruneBackups removes backups that are older than olderThan, 0 meaning the project's own
// retention. The newest of each branch stay in any case (gate.backups.keep_min).
func (a *App) GatePruneBackups(ctx context.Context, project string, t *task.Task, olderThan time.Duration) ([]GateBackup, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return nil, err
	}
	b := p.Backups()
	if olderThan > 0 {
		b.Retention = olderThan
	}
	return a.gateStore().PruneBackups(ctx, project, gateTask(t), b)
}

// GateGC packs the repositories of a project and drops what nothing reaches.
func (a *App) GateGC(ctx context.Context, project string, dryRun bool) ([]GateSize, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return nil, err
	}
	return a.gateStore().GC(ctx, project, gcOptions(p, dryRun))
}

func gcOptions(p *project.Project, dryRun bool) store.GCOptions {
	return store.GCOptions{DryRun: dryRun, Keep: time.Duration(p.Gate.GCDays) * 24 * time.Hour, Backups: p.Backups()}
}

// GateFreeze refuses pushes: of a task, or of all tasks of the project where t is nil.
func (a *App) GateFreeze(project string, t *task.Task, reason string) error {
	if _, err := a.projects().Get(project); err != nil {
		return err
	}
	return a.gateStore().Freeze(project, gateTask(t), reason)
}

// GateThaw ends GateFreeze.
func (a *App) GateThaw(project string, t *task.Task) error {
	if _, err := a.projects().Get(project); err != nil {
		return err
	}
	return a.gateStore().Thaw(project, gateTask(t))
}

// GateLog calls fn for pushes, syncs and promotions of a project, by time, from the ledgers.
func (a *App) GateLog(ctx context.Context, project string, t *task.Task, q EventsQuery, fn func(audit.Event) error) error {
	if _, err := a.projects().Get(project); err != nil {
		return err
	}
	q.Kinds, q.Project = []string{"gate"}, project
	if t != nil {
		q.Target = t.Ref()
	}
	return a.Events(ctx, q, fn)
}

// GateImported is what GateImport made.
type GateImported struct {
	Project string `json:"project"`
	Task    string `json:"task"` // the pseudo-task that holds it for review
	store.Import
}

// GateImport takes work from elsewhere, a bundle or a bare repository, into a task without a
// container, where it waits for review like a push. A bare repository is an old mirror: what
// upstream does not know is imported, and its backups are kept.
func (a *App) GateImport(ctx context.Context, projectName, path string) (GateImported, error) {
	done := GateImported{Project: projectName}
	if _, err := a.projects().Get(projectName); err != nil {
		return done, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return done, err
	}
	if _, err := a.gateStore().Upstream(projectName); err != nil {
		return done, err
	}
	t, err := a.tasks().Create(projectName, importName(path), func(t *task.Task) { t.Mode = task.Imported })
	if err != nil {
		return done, err
	}
	done.Task = t.ID
	repo, err := a.gateStore().CreateTask(ctx, store.TaskSpec{Project: t.Project, ID: t.ID, Branch: t.Branch})
	if err == nil {
		_, err = a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
			t.Base, t.Start = repo.From, repo.Start
			return nil
		})
	}
	if err == nil {
		done.Import, err = a.gateStore().ImportTask(ctx, t.Project, t.ID, path)
	}
	if err == nil && len(done.Branches)+done.Backups == 0 {
		err = problem.New("nothing_to_import", problem.Conflict, "%s has nothing that the gate of %s has not", path, projectName)
	}
	if err != nil {
		if derr := a.dropImport(context.WithoutCancel(ctx), t); derr != nil {
			a.say("warning: task %s could not be removed again: %v", t.Ref(), derr)
		}
		return done, err
	}
	return done, nil
}

// dropImport removes a pseudo-task that never got its work; no container was ever made for it.
func (a *App) dropImport(ctx context.Context, t *task.Task) error {
	if err := a.gateStore().DeleteTask(ctx, t.Project, t.ID); err != nil {
		return err
	}
	return a.removeTree(ctx, t.Dir(a.Roots))
}

// importName is a name for the pseudo-task, after the file.
func importName(path string) string {
	base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".bundle"), ".git")
	return "import " + strings.ReplaceAll(base, ".", " ")
}

// upkeep packs a gate when it is due. It never fails what it comes with.
func (a *App) upkeep(ctx context.Context, p *project.Project) {
	s := a.gateStore()
	s.Actor = "auto"
	if !s.GCDue(p.Name) {
		return
	}
	if _, err := s.GC(ctx, p.Name, gcOptions(p, false)); err != nil && !problem.Is(err, "gate_busy") {
		a.say("note: the gate of %s could not be packed: %v", p.Name, err)
	}
}
