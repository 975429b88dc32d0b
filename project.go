package terok

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/state"
	"terok/internal/task"
)

// ProjectView is a project as faces show it.
type ProjectView struct {
	Name        string   `json:"name"`
	Description *string  `json:"description"`
	Upstream    *string  `json:"upstream"`
	Class       string   `json:"security_class"` // gatekeeping or online
	Branch      *string  `json:"default_branch"`
	Agent       *string  `json:"default_agent"`
	Scope       string   `json:"credential_scope"`
	Allow       []string `json:"allow"`
	Deny        []string `json:"deny"`
	Profiles    []string `json:"profiles"`
	File        string   `json:"file"`
	Gate        *string  `json:"gate"` // path of the base repository, null before the first sync
	Tasks       int      `json:"tasks"`
	Error       *string  `json:"error"` // why the project cannot be used
}

func (a *App) projects() project.Store { return project.Store{Roots: a.Roots, Now: a.Now} }

func (a *App) tasks() task.Store { return task.Store{Roots: a.Roots, Now: a.Now} }

// opt turns "" into nil, which JSON shows as null.
func opt(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// CreateProject makes a project. Upstream "" makes one without a repository.
func (a *App) CreateProject(_ context.Context, spec project.Spec) (*ProjectView, error) {
	if filepath.IsAbs(spec.Upstream) {
		if _, err := os.Stat(spec.Upstream); err != nil {
			return nil, problem.New("bad_upstream", problem.Usage, "upstream: %w", err)
		}
	}
	if err := a.KnownAgent(spec.Agent); err != nil {
		return nil, err
	}
	p, err := a.projects().Create(spec)
	if err != nil {
		return nil, err
	}
	a.note("project_created", map[string]string{"project": spec.Name})
	a.suggestProfiles(p)
	return a.ShowProject(spec.Name)
}

// ShowProject describes one project; a broken one is an error.
func (a *App) ShowProject(name string) (*ProjectView, error) {
	p, err := a.projects().Get(name)
	if err != nil {
		return nil, err
	}
	return a.projectView(p)
}

func (a *App) projectView(p *project.Project) (*ProjectView, error) {
	tasks, err := a.tasks().List(p.Name)
	if err != nil {
		return nil, err
	}
	v := &ProjectView{Name: p.Name, Description: opt(p.Project.Description), Upstream: opt(p.Git.UpstreamURL), Class: p.Project.Class,
		Branch: opt(p.Git.DefaultBranch), Agent: opt(p.DefaultAgent), Scope: p.Scope(),
		Allow: project.Texts(p.Shield.Allow), Deny: project.Texts(p.Shield.Deny), Profiles: append([]string{}, p.Shield.Profiles...), File: p.File, Tasks: len(tasks)}
	if _, err := os.Stat(a.Roots.GateBase(p.Name)); err == nil {
		v.Gate = opt(a.Roots.GateBase(p.Name))
	}
	return v, nil
}

// ListProjects describes all projects; broken ones carry their error.
func (a *App) ListProjects() ([]ProjectView, error) {
	names, err := a.projects().Names()
	if err != nil {
		return nil, err
	}
	views := []ProjectView{}
	for _, n := range names {
		v, err := a.ShowProject(n)
		if err != nil {
			v = &ProjectView{Name: n, File: a.Roots.ProjectFile(n), Allow: []string{}, Deny: []string{}, Profiles: []string{}, Error: opt(err.Error())}
		}
		views = append(views, *v)
	}
	return views, nil
}

// DeleteProject archives the project's configuration, deletes its tasks and its gate, and its
// configuration last, so that an interrupted deletion can be run again.
func (a *App) DeleteProject(ctx context.Context, name string) (archived string, err error) {
	if _, err := os.Lstat(a.Roots.ProjectDir(name)); errors.Is(err, fs.ErrNotExist) || !project.Name.MatchString(name) {
		_, err := a.projects().Get(name)
		return "", err
	}
	tasks, err := a.tasks().List(name)
	if err != nil {
		return "", err
	}
	if len(tasks) > 0 { // before anything is made: without podman no task can be deleted
		if _, err := a.containers(ctx); err != nil {
			return "", err
		}
	}
	archived = filepath.Join(a.Roots.ArchiveDir(), a.Now().UTC().Format("20060102T150405.000000Z")+"_"+name+".tar.gz")
	if err := archiveDir(archived, a.Roots.ProjectDir(name), name); err != nil {
		return "", problem.New("archive_failed", problem.Failed, "project %s was not deleted: its archive could not be written: %w", name, err)
	}
	for _, t := range tasks {
		if err := a.DeleteTask(ctx, &t.Task); err != nil {
			return archived, fmt.Errorf("task %s: %w", t.Ref(), err)
		}
	}
	if err := os.RemoveAll(a.Roots.ProjectData(name)); err != nil {
		return archived, fmt.Errorf("delete project: %w", err)
	}
	kept, err := a.gateStore().Remove(name)
	if err != nil {
		return archived, fmt.Errorf("delete project: %w", err)
	}
	if kept != "" {
		a.say("note: the mirror stays, project %s uses it", kept)
	}
	if err := a.projects().RemoveConfig(name); err != nil {
		return archived, fmt.Errorf("delete project: %w", err)
	}
	a.note("project_deleted", map[string]string{"project": name, "archive": archived})
	return archived, nil
}

// archiveDir writes the regular files below dir to a gzipped tar, under the name prefix.
// Links and special files are left out.
func archiveDir(path, dir, prefix string) error {
	if err := state.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(path + ".tmp") // no-op after the rename
	defer f.Close()
	gz := gzip.NewWriter(f)
	tw := tar.NewWriter(gz)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: prefix + "/" + name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		in, err := root.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.CopyN(tw, in, info.Size())
		return err
	})
	if err := errors.Join(err, tw.Close(), gz.Close(), f.Sync()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
