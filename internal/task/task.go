// Package task keeps the records of tasks: one JSON file each, replaced atomically under the
// task's lock. It knows nothing of podman; what a container does is told to it (State).
//
// A record that cannot be read is shown as broken and never vanishes. Every change is a function
// over the record as it is on disk, never a write-back of an earlier read.
package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
)

// Schema is the version of task.json that this program writes.
const Schema = 1

// Modes.
const (
	Interactive = "interactive"
	Headless    = "headless"
	Imported    = "imported" // work from elsewhere that waits for review; it never has a container
)

// Phases of an operation that is under way; its owner is Launch.PID.
const (
	Launching = "launching"
	Deleting  = "deleting"
)

// Task is one record.
type Task struct {
	Schema  int    `json:"schema"`
	Rev     int    `json:"rev"` // counts replacements
	Project string `json:"project"`
	ID      string `json:"id"`
	Name    string `json:"name"` // slug, not unique
	Mode    string `json:"mode"`
	Agent   string `json:"agent"`
	Model   string `json:"model,omitempty"`

	Provider string   `json:"provider,omitempty"` // that the agent was pointed to
	Bundles  []string `json:"bundles,omitempty"`  // host directories of agent and runtime that the container has mounted

	Branch string `json:"branch"`         // terok/<id>-<slug>
	Base   string `json:"base"`           // branch of the base it began from, "" without a gate
	Start  string `json:"start"`          // commit it began from: its checkpoint
	From   string `json:"from,omitempty"` // task whose work Start is: nobody reviewed it here

	Unrestricted bool      `json:"unrestricted"`
	Allow        []string  `json:"allow,omitempty"` // rules of this task, policy grammar
	CreatedAt    time.Time `json:"created_at"`
	ReadyAt      time.Time `json:"ready_at,omitzero"`

	Phase     string `json:"phase,omitempty"`
	Launch    Launch `json:"launch"`
	Container string `json:"container"` // name; podman's id is in the cid file
	ImageID   string `json:"image_id"`
	Exit      *Exit  `json:"exit,omitempty"`
	LastError string `json:"last_error,omitempty"`
}

// Launch is the latest attempt to start the task's container.
type Launch struct {
	ID        string    `json:"id"`
	PID       int       `json:"pid"`
	PIDStart  uint64    `json:"pid_start"` // field 22 of /proc/<pid>/stat, clock ticks since boot
	StartedAt time.Time `json:"started_at,omitzero"`
}

// Exit is how the task's command ended.
type Exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
}

// Ref is "project/id".
func (t *Task) Ref() string { return t.Project + "/" + t.ID }

// Dir is the task's directory.
func (t *Task) Dir(r state.Roots) string { return r.TaskDir(t.Project, t.ID) }

// Entry is a record in a listing; Err says why it is broken.
type Entry struct {
	Task
	Err error
}

// Store reads and writes records below the roots.
type Store struct {
	Roots state.Roots
	Now   func() time.Time
}

const recordFile = "task.json"

func (s Store) file(project, id string) string {
	return filepath.Join(s.Roots.TaskDir(project, id), recordFile)
}

// Create makes a record with a new id. Name "" draws one. The record is written in a directory of
// another name, which then gets the id as its name in one step that fails when the name is taken:
// the id is unique, also among parallel creators and archived tasks, and nobody ever sees a task
// without its record, not even after kill -9 or on a full disk.
func (s Store) Create(project, name string, fill func(*Task)) (*Task, error) {
	slug := randomSlug()
	if name != "" {
		var err error
		if slug, err = Slug(name); err != nil {
			return nil, err
		}
	}
	dir := s.Roots.TasksDir(project)
	if err := state.MkdirAll(dir); err != nil {
		return nil, err
	}
	if err := sweepDrafts(dir); err != nil {
		return nil, fmt.Errorf("create task: %w", err)
	}
	pid := os.Getpid()
	draft, err := os.MkdirTemp(dir, fmt.Sprintf("%s%d-%d-*", draftPrefix, pid, ProcessStart(pid)))
	if err != nil {
		return nil, fmt.Errorf("create task: %w", err)
	}
	t, err := s.create(project, slug, draft, fill)
	if err != nil {
		os.RemoveAll(draft)
		return nil, err
	}
	return t, nil
}

func (s Store) create(project, slug, draft string, fill func(*Task)) (*Task, error) {
	for range 100 {
		id := newID()
		if s.archived(project, id) {
			continue
		}
		t := &Task{Schema: Schema, Rev: 1, Project: project, ID: id, Name: slug,
			Branch: "terok/" + id + "-" + slug, CreatedAt: s.Now().UTC().Truncate(time.Microsecond)}
		fill(t)
		if err := state.WriteJSON(filepath.Join(draft, recordFile), t); err != nil {
			return nil, err
		}
		err := unix.Renameat2(unix.AT_FDCWD, draft, unix.AT_FDCWD, s.Roots.TaskDir(project, id), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("create task: %w", err)
		}
		return t, nil
	}
	return nil, problem.New("no_free_id", problem.Failed, "no free task id found in 100 tries in project %s", project)
}

// draftPrefix begins the name of a directory that is no task yet; its maker's pid and start time
// follow.
const draftPrefix = ".new-"

// sweepDrafts removes what creators that were killed have left.
func sweepDrafts(dir string) error {
	drafts, err := filepath.Glob(filepath.Join(dir, draftPrefix+"*"))
	if err != nil {
		return err
	}
	for _, d := range drafts {
		var maker Launch
		if n, err := fmt.Sscanf(filepath.Base(d), draftPrefix+"%d-%d-", &maker.PID, &maker.PIDStart); n != 2 || err != nil || maker.Alive() {
			continue
		}
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

func (s Store) archived(project, id string) bool {
	m, _ := filepath.Glob(filepath.Join(s.Roots.ArchiveDir(), project, "*_"+id+"*"))
	return len(m) > 0
}

// Get reads one record by its full id.
func (s Store) Get(project, id string) (*Task, error) {
	var t Task
	err := state.ReadJSON(s.file(project, id), &t)
	switch {
	case errors.Is(err, fs.ErrNotExist) && isDir(s.Roots.TaskDir(project, id)):
		return nil, problem.New("task_broken", problem.Failed, "task %s/%s has no record", project, id).
			WithHint("terok task delete %s/%s", project, id)
	case errors.Is(err, fs.ErrNotExist):
		return nil, problem.New("task_not_found", problem.NotFound, "project %s has no task %s", project, id).
			WithHint("terok task list %s", project)
	case err != nil:
		return nil, problem.New("task_broken", problem.Failed, "%w", err).
			WithHint("terok task delete %s/%s", project, id)
	case t.Schema > Schema:
		return nil, problem.New("newer_state", problem.Newer, "task %s/%s was written by a newer terok (schema %d)", project, id, t.Schema)
	case t.Project != project || t.ID != id:
		return nil, problem.New("task_broken", problem.Failed, "%s says it belongs to %s/%s", s.file(project, id), t.Project, t.ID)
	}
	return &t, nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// Update changes a record under its lock and returns it as written.
func (s Store) Update(project, id string, change func(*Task) error) (*Task, error) {
	unlock, err := state.Lock(s.file(project, id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := s.Get(project, id)
	if err != nil {
		return nil, err
	}
	if err := change(t); err != nil {
		return nil, err
	}
	t.Rev++
	return t, state.WriteJSON(s.file(project, id), t)
}

// Operate takes the task for a long operation (launch, stop, restart, delete). A second one
// meanwhile is refused with exit code 7.
func (s Store) Operate(project, id string) (release func(), err error) {
	release, err = state.TryLock(filepath.Join(s.Roots.TaskDir(project, id), "operation"))
	if errors.Is(err, state.ErrLocked) {
		return nil, problem.New("task_busy", problem.Conflict, "another terok command is working on task %s/%s", project, id).
			WithHint("wait for it, or see: terok task status %s/%s", project, id)
	}
	return release, err
}

// List returns the records of the given projects, or of all, oldest first.
func (s Store) List(projects ...string) ([]Entry, error) {
	if len(projects) == 0 {
		dirs, err := os.ReadDir(filepath.Join(s.Roots.Data, "projects"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, d := range dirs {
			projects = append(projects, d.Name())
		}
	}
	var out []Entry
	for _, p := range projects {
		dirs, err := os.ReadDir(s.Roots.TasksDir(p))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, d := range dirs {
			if !ValidID(d.Name()) {
				continue
			}
			t, err := s.Get(p, d.Name())
			if problem.Is(err, "task_not_found") {
				continue // deleted since the directory was read
			}
			if err != nil {
				out = append(out, Entry{Task{Project: p, ID: d.Name()}, err})
				continue
			}
			out = append(out, Entry{*t, nil})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].CreatedAt.Before(out[j].CreatedAt) })
	return out, nil
}

// Resolve finds the one task that a person means by "P/T", or by an id prefix in project (or,
// with project "", in all of them). "@last" is the newest task.
func (s Store) Resolve(project, word string) (*Task, error) {
	if p, t, ok := strings.Cut(word, "/"); ok {
		if project != "" && project != p {
			return nil, problem.New("usage", problem.Usage, "task %s does not belong to project %s", word, project)
		}
		project, word = p, t
	}
	var projects []string
	if project != "" {
		projects = []string{project}
	}
	all, err := s.List(projects...)
	if err != nil {
		return nil, err
	}
	if word == "@last" {
		for i := len(all) - 1; i >= 0; i-- {
			if all[i].Err == nil {
				return &all[i].Task, nil
			}
		}
		return nil, problem.New("task_not_found", problem.NotFound, "there is no task yet").WithHint("terok run claude")
	}
	prefix, err := NormalizePrefix(word)
	if err != nil {
		return nil, err
	}
	var hits []Entry
	for _, e := range all {
		if e.ID == prefix {
			hits = []Entry{e}
			break
		}
		if strings.HasPrefix(e.ID, prefix) {
			hits = append(hits, e)
		}
	}
	switch len(hits) {
	case 0:
		p := problem.New("task_not_found", problem.NotFound, "no task matching %q", word)
		if project != "" {
			return nil, p.WithHint("terok task list %s", project)
		}
		return nil, p.WithHint("terok task list")
	case 1:
		if hits[0].Err != nil {
			return nil, hits[0].Err
		}
		return &hits[0].Task, nil
	}
	var names []string
	for _, h := range hits[:min(len(hits), 10)] {
		names = append(names, fmt.Sprintf("%s (%s)", h.Ref(), h.Name))
	}
	return nil, problem.New("task_ambiguous", problem.Conflict, "%q matches %d tasks: %s", word, len(hits), strings.Join(names, ", "))
}

// Remove deletes the record's directory. The caller has made sure that everything in it may go.
func (s Store) Remove(project, id string) error {
	return os.RemoveAll(s.Roots.TaskDir(project, id))
}
