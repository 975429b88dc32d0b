package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// StartRef is the commit that a task began from, in its repository.
const StartRef = "refs/terok/start"

// OfferedRefs is where a task's repository remembers the base's branches as last offered.
const OfferedRefs = view.Offered

// TaskSpec says what to make.
type TaskSpec struct {
	Project string
	ID      string
	Branch  string    // the task's own branch, e.g. "terok/k3v9p-brave-otter"
	Start   string    // branch or full commit id of the base; "" is its default branch, or Clone's HEAD
	Clone   *Clone    // a person's clone to start from; nil starts from the base alone
	LFS     bool      // bring what the start keeps in Git LFS and the base has not
	From    *Handover // another task's work to start from; wins over Start and Clone
}

// Task is one task's repository.
type Task struct {
	Repo   string // path
	Base   string // the base it borrows from
	Branch string
	From   string // branch of the base that Start was taken from, "" when given as an id
	Start  string // commit that Branch begins at: the checkpoint; "" when there is no commit yet
}

// CreateTask makes the repository of a task: the base's objects are borrowed, its refs are one
// file, so it takes milliseconds whatever the size of the project. The task's branch is created
// at the start commit and HEAD names it. With a Clone, commits that the base has not, and
// uncommitted work if wanted, are brought along. It fails with "gate_missing", "no_such_branch",
// "branch_exists" or "task_exists", and leaves nothing behind.
func (s *Store) CreateTask(ctx context.Context, spec TaskSpec) (Task, error) {
	base, repo := s.Roots.GateBase(spec.Project), s.Roots.GateTask(spec.Project, spec.ID)
	t := Task{Repo: repo, Base: base, Branch: spec.Branch}
	st, err := s.load(spec.Project)
	if err != nil {
		return t, err
	}
	if err := errors.Join(checkComponent(spec.ID), refname.Check(spec.Branch)); err != nil {
		return t, err
	}
	unlock, err := s.sharedLock(ctx, spec.Project)
	if err != nil {
		return t, err
	}
	defer unlock()
	if err := Verify(base); err != nil {
		return t, err
	}
	if _, err := os.Lstat(repo); !errors.Is(err, fs.ErrNotExist) {
		return t, problem.New("task_exists", problem.Conflict, "task %s/%s has a repository already", spec.Project, spec.ID)
	}
	refs, err := s.peeledRefs(ctx, base)
	if err != nil {
		return t, err
	}
	heads := refs.heads()
	if _, taken := heads[spec.Branch]; taken {
		return t, problem.New("branch_exists", problem.Conflict, "the gate of %s has a branch %s already", spec.Project, spec.Branch)
	}
	if err := state.MkdirAll(filepath.Dir(repo)); err != nil {
		return t, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(repo), "."+spec.ID+".tmp-")
	if err != nil {
		return t, err
	}
	defer os.RemoveAll(tmp)
	objects := filepath.Join(base, "objects")
	if err := makeRepo(tmp, st.Format, spec.Branch, objects); err != nil {
		return t, err
	}
	switch {
	case spec.From != nil:
		var more packedRefs
		t.Start, more, err = s.fromTask(ctx, spec.Project, tmp, *spec.From, heads)
		refs = append(refs, more...)
	case spec.Clone != nil && spec.Start == "":
		t.From, t.Start, err = s.fromClone(ctx, tmp, objects, spec.Clone, heads)
	default:
		t.From, t.Start, err = s.resolveStart(ctx, base, spec.Start, heads)
	}
	if err != nil {
		return t, err
	}
	if from := s.lfsSource(ctx, spec); from != "" {
		tips := []string{t.Start}
		for _, r := range refs {
			if strings.HasPrefix(r.name, refname.Heads) && heads[strings.TrimPrefix(r.name, refname.Heads)] != r.id {
				tips = append(tips, r.id)
			}
		}
		if err := s.bringLFS(ctx, tmp, base, tips, from); err != nil {
			return t, err
		}
	}
	if err := os.WriteFile(filepath.Join(tmp, "packed-refs"), packed(refs, heads, spec.Branch, t.Start), 0o600); err != nil {
		return t, err
	}
	return t, os.Rename(tmp, repo)
}

// resolveStart finds the commit that start names in the base.
func (s *Store) resolveStart(ctx context.Context, base, start string, heads map[string]string) (from, id string, err error) {
	if start == "" {
		if start, err = headOf(base); err != nil {
			return "", "", err
		}
		if len(heads) == 0 {
			return start, "", nil // an empty project: the task makes its first commit
		}
	}
	if id, ok := heads[start]; ok {
		return start, id, nil
	}
	missing := problem.New("no_such_branch", problem.NotFound, "the gate has no branch or commit %s", text.Line(start, 80)).
		WithHint("terok project gate-sync")
	if !refname.IsID(start) {
		return "", "", missing
	}
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: base, Args: []string{"cat-file", "-t", start}})
	if err != nil || strings.TrimSpace(string(out)) != "commit" {
		return "", "", missing
	}
	return "", start, nil
}

// packedRef is one ref as packed-refs holds it: an annotated tag carries what it points to.
type packedRef struct{ name, id, peeled string }

type packedRefs []packedRef

func (p packedRefs) heads() map[string]string {
	m := map[string]string{}
	for _, r := range p {
		if b, ok := strings.CutPrefix(r.name, refname.Heads); ok {
			m[b] = r.id
		}
	}
	return m
}

// peeledRefs reads branches and tags of the base. Only tags are asked of git: branches are commits, which
// have nothing to peel, and may be very many.
func (s *Store) peeledRefs(ctx context.Context, base string) (packedRefs, error) {
	all, err := readRefs(base)
	if err != nil {
		return nil, err
	}
	var refs packedRefs
	for b, id := range all.below(refname.Heads) {
		refs = append(refs, packedRef{id: id, name: refname.Heads + b})
	}
	if len(all.below("refs/tags/")) == 0 {
		return refs, nil
	}
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: base, MaxOutput: 64 << 20,
		Args: []string{"for-each-ref", "--format=%(objectname) %(*objectname) %(refname)", "refs/tags/"}})
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("git for-each-ref: unexpected line %.80q", line)
		}
		refs = append(refs, packedRef{id: f[0], peeled: f[1], name: f[2]})
	}
	return refs, nil
}

// packed is the packed-refs file of a new task repository (format: git's refs/packed-backend.c;
// sorted by name, annotated tags followed by "^" and what they point to).
func packed(refs packedRefs, base map[string]string, branch, start string) []byte {
	all := slices.Clone(refs)
	for b, id := range base {
		all = append(all, packedRef{name: view.Upstream + b, id: id}, packedRef{name: OfferedRefs + b, id: id})
	}
	if start != "" {
		all = append(all, packedRef{name: refname.Heads + branch, id: start}, packedRef{name: StartRef, id: start})
	}
	slices.SortFunc(all, func(a, b packedRef) int { return strings.Compare(a.name, b.name) })
	var out bytes.Buffer
	out.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for _, r := range all {
		fmt.Fprintf(&out, "%s %s\n", r.id, r.name)
		if r.peeled != "" {
			fmt.Fprintf(&out, "^%s\n", r.peeled)
		}
	}
	return out.Bytes()
}

// DeleteTask removes a task's repository with everything that was pushed and not promoted, and
// its review. A repository that is not there is no error.
func (s *Store) DeleteTask(_ context.Context, project, id string) error {
	if err := errors.Join(checkComponent(project), checkComponent(id)); err != nil {
		return err
	}
	repo := s.Roots.GateTask(project, id)
	if _, err := os.Lstat(repo); err == nil {
		// A push under way ends first; one that hangs does not keep the task alive.
		if release, err := view.Lock(repo); err == nil {
			defer release()
		}
	}
	_ = os.Remove(view.FrozenFile(s.Roots.GateBase(project), id)) // a later task may get the id
	gone := filepath.Join(filepath.Dir(repo), "."+id+".deleted")
	// What a command left that was killed while it made the repository, see CreateTask.
	half, err := filepath.Glob(filepath.Join(filepath.Dir(repo), "."+id+".tmp-*"))
	if err != nil {
		return err
	}
	for _, dir := range append(half, gone) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	// Renamed first: an interrupted removal must not look like a task.
	if err := os.Rename(repo, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	review := filepath.Join(s.Roots.GateDir(project), "review", id+".json")
	cache := filepath.Join(filepath.Dir(review), "cache", id+".json")
	for _, path := range []string{review, review + ".lock", cache} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(gone)
}

// Tasks lists the ids of a project's task repositories.
func (s *Store) Tasks(project string) ([]string, error) {
	if err := checkComponent(project); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(s.Roots.GateDir(project), "tasks"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".git"); ok && id != "" && id[0] != '.' && e.IsDir() {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// refreshTasks shows a changed base to the tasks that run: their next fetch sees it.
func (s *Store) refreshTasks(ctx context.Context, project string, rep *Report) {
	base := s.Roots.GateBase(project)
	refs, err := readRefs(base)
	if err != nil {
		rep.Notes = append(rep.Notes, "tasks were not told: "+text.Line(err.Error(), 0))
		return
	}
	heads := refs.below(refname.Heads)
	tasks, err := s.borrowers(project)
	if err != nil {
		rep.Notes = append(rep.Notes, "tasks could not be listed: "+text.Line(err.Error(), 0))
		return
	}
	for _, t := range tasks {
		p, id, _ := strings.Cut(t, "/")
		if err := s.refreshTask(ctx, s.Roots.GateTask(p, id), filepath.Join(base, "objects"), heads); err != nil {
			rep.Notes = append(rep.Notes, fmt.Sprintf("task %s was not told: %s", id, text.Line(err.Error(), 0)))
		}
	}
}

// refreshTask is view.Refresh of one task.
func (s *Store) refreshTask(ctx context.Context, repo, objects string, heads map[string]string) error {
	if err := Verify(repo, objects); err != nil {
		return err
	}
	unlock, err := view.Lock(repo)
	if err != nil {
		return err
	}
	defer unlock()
	return view.Refresh(ctx, s.Git, repo, objects, heads)
}
