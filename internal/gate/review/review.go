// Package review reads what tasks pushed, for a person to judge, and keeps what the person said.
//
// Everything in a task's repository was written by an agent, and reading it must be harmless:
// the repository is verified before anything opens it (store.Verify), its refs are read without
// git, and its objects by the confined child of package inspect. Every string in the results passed
// package text, so printing them cannot drive a terminal; sizes are capped and a cut is said.
//
// A review is bound to commit ids: Change.Base and Change.Tip. Approvals name commits and are never
// carried to rewritten ones; that a rewritten commit has the same change as an approved one is said
// and nothing more. What the inspector found is kept beside the record, by the ids that it depends
// on, so that a queue of a hundred branches needs no git at all.
package review

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/child"
	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Task is whose work is reviewed.
type Task struct {
	Project    string
	ID         string
	Name       string // slug
	Branch     string // the task's own branch
	Base       string // branch of the base that it works for; "" where that is not known
	Start      string // commit that it began from, by the host's record; "" for none
	Handed     bool   // Start is another task's work, which is reviewed with this one's
	Agent      string
	Identities []inspect.Identity // that its commits may have; empty: any
	Paths      []string           // review.paths of the project
	LFS        bool               // gate.lfs: proxy
}

// Ref is "project/id".
func (t Task) Ref() string { return t.Project + "/" + t.ID }

// Words name a branch of the task in a command that a person may copy.
func (t Task) Words(branch string) string {
	if branch == "" || branch == t.Branch {
		return t.Ref()
	}
	return t.Ref() + " " + child.Quote(text.Show(branch))
}

// States of a change.
const (
	Pending  = "pending"
	Approved = "approved" // a person approved exactly these commits
	Rejected = "rejected" // a person refused one of them
	Updated  = "updated"  // the tip moved since it was approved, rejected or promoted
	Promoted = "promoted" // exactly this tip was promoted
)

// States lists all of them, for flags.
var States = []string{Pending, Approved, Rejected, Updated, Promoted}

// What a change consists of.
type (
	Flag   = inspect.Flag
	File   = inspect.File
	Commit = inspect.Commit
	View   = inspect.View
)

// Severities of flags.
const (
	Info = inspect.Info
	Warn = inspect.Warn
	Deny = inspect.Deny
)

// LFSMissing is the state of a file in LFS that the gate does not have, and the others what one is that it
// has.
const (
	LFSMissing = inspect.LFSMissing
	LFSText    = inspect.LFSText
	LFSLong    = inspect.LFSLong
	LFSUnread  = inspect.LFSUnread
)

// Change is one branch of a task with commits that the base has not. All strings are printable.
type Change struct {
	Project  string    `json:"project"`
	Task     string    `json:"task"`
	Name     string    `json:"name"`
	Agent    string    `json:"agent"`
	Branch   string    `json:"branch"`
	State    string    `json:"state"`
	PushedAt time.Time `json:"pushed_at,omitzero"` // by the host's clock; absent when not known
	Deleted  []string  `json:"deleted,omitempty"`  // branches that upstream has deleted and the task works on
	inspect.Range
}

// Details is a change with everything a person reads.
type Details struct {
	Change
	List  []Reviewed `json:"list"`  // newest first, at most inspect.MaxCommits
	Patch string     `json:"patch"` // unified diff, capped; Cut says so
	Range string     `json:"range"` // how the branch was rewritten, of View since a tip that is not behind this one
	// Undecided are the commits that nobody approved or rejected, newest first, of all that the change has.
	Undecided []string `json:"undecided"`
	Since     string   `json:"since"` // the tip that the diff begins at, "" for all of the change
}

// Reviewed is a commit with what was said of it.
type Reviewed struct {
	Commit
	Decided  string    `json:"decided"`  // approved, rejected or ""
	SameAs   string    `json:"same_as"`  // an approved commit with the same change; says nothing about this one
	Comments []Comment `json:"comments"` // of people
}

// Reader reads changes.
type Reader struct {
	Roots   state.Roots
	Inspect *inspect.Inspector
	Now     func() time.Time // nil: time.Now
	MaxFile int64            // bytes of a file that is read, see inspect.Request
}

// NewReader makes a reader whose inspector is the program self.
func NewReader(roots state.Roots, self string, withoutLandlock bool) *Reader {
	return &Reader{Roots: roots, Inspect: &inspect.Inspector{Self: self, WithoutLandlock: withoutLandlock, Scratch: filepath.Join(roots.Data, "gate", ".scratch"),
		Memory: filepath.Join(roots.Runtime, "look")}}
}

func (r *Reader) now() time.Time {
	if r.Now != nil {
		return r.Now().UTC()
	}
	return time.Now().UTC()
}

// repo is one verified task repository with its refs.
type repo struct {
	*Reader
	task    Task
	dir     string
	objects string // the base's
	refs    refs
	base    map[string]string // refs of the base
	not     []string          // commits of the base: what they reach is not the task's
	trunk   string            // tip of the base's branch that the task works for
}

func (r *Reader) open(t Task) (*repo, error) {
	p := &repo{Reader: r, task: t, dir: r.Roots.GateTask(t.Project, t.ID), objects: filepath.Join(r.Roots.GateBase(t.Project), "objects")}
	if _, err := os.Lstat(p.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("nothing_pushed", problem.NotFound, "task %s/%s has no repository in the gate", t.Project, t.ID)
	}
	if err := store.Verify(p.dir, p.objects); err != nil {
		return nil, err
	}
	var err error
	if p.refs, err = readRefs(p.dir); err != nil {
		return nil, fmt.Errorf("read the refs of %s: %w", t.Ref(), err)
	}
	base, err := readRefs(r.Roots.GateBase(t.Project))
	if err != nil {
		return nil, fmt.Errorf("read the refs of the gate of %s: %w", t.Project, err)
	}
	p.base, p.trunk = base.ids, base.ids[refname.Heads+t.Base]
	p.not = base.tips(refname.Heads, store.SnapshotRefs) // backups may hold what nobody accepted
	return p, nil
}

// request is what the inspector needs to know of the task. Where the task's own work begins is the
// word of the host: of its record and of the base, which no container writes. The refs of the
// task's repository could be made to hide a commit.
func (p *repo) request(op string, tips ...string) inspect.Request {
	req := inspect.Request{Op: op, Repo: p.dir, Objects: p.objects, Start: p.task.Start, Trunk: p.trunk, Not: p.not, Branches: tips,
		Identities: p.task.Identities, Paths: p.task.Paths, Now: p.now(), MaxFile: p.MaxFile, LFS: p.task.LFS}
	if p.task.Handed {
		req.Start = ""
	}
	return req
}

// tip is the commit of a branch, "" meaning the task's own.
func (p *repo) tip(branch string) (string, string, error) {
	if branch == "" {
		branch = p.task.Branch
	}
	tip := p.refs.ids[refname.Heads+branch]
	if tip == "" || refname.Check(branch) != nil {
		return branch, "", problem.New("no_such_branch", problem.NotFound, "task %s has no branch %s", p.task.Ref(), text.Show(branch)).
			WithHint("terok review %s", p.task.Ref())
	}
	return branch, tip, nil
}

// Tip returns the commit that a task's branch points to now; "" for branch means the task's own.
func (r *Reader) Tip(_ context.Context, t Task, branch string) (string, error) {
	p, err := r.open(t)
	if err != nil {
		return "", err
	}
	_, tip, err := p.tip(branch)
	return tip, err
}

// branches are the names of the branches that differ from what the base offered, the task's own first.
func (p *repo) branches() []string {
	var names []string
	for ref, id := range p.refs.ids {
		b, ok := strings.CutPrefix(ref, refname.Heads)
		if ok && id != p.refs.ids[store.OfferedRefs+b] && id != p.task.Start && refname.Check(b) == nil {
			names = append(names, b)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if (a == p.task.Branch) != (b == p.task.Branch) {
			return map[bool]int{true: -1, false: 1}[a == p.task.Branch]
		}
		return strings.Compare(a, b)
	})
	return names
}

// Queue lists what waits, task by task in the order given, the task's own branch first. Tasks
// that pushed nothing are left out. A repository that cannot be read does not hide the others:
// its error is joined to the result.
func (r *Reader) Queue(ctx context.Context, tasks ...Task) ([]Change, error) {
	looks, errs := make([]*lookup, len(tasks)), make([]error, len(tasks))
	each(len(tasks), func(i int) {
		if ctx.Err() == nil {
			looks[i], errs[i] = r.look(tasks[i])
		}
	})
	var asked []int
	var reqs []inspect.Request
	for i, l := range looks {
		if l != nil && len(l.missing) > 0 {
			asked, reqs = append(asked, i), append(reqs, l.req)
		}
	}
	answers := r.Inspect.DoAll(ctx, reqs)
	each(len(asked), func(n int) {
		i := asked[n]
		if _, err := looks[i].learn(ctx, answers[n]); err != nil {
			looks[i], errs[i] = nil, err
		}
	})
	changes := []Change{}
	for i, l := range looks {
		if l != nil {
			var found []Change
			found, errs[i] = l.changes()
			changes = append(changes, found...)
		}
		if problem.Is(errs[i], "nothing_pushed") {
			errs[i] = nil
		} else if errs[i] != nil {
			errs[i] = fmt.Errorf("%s: %w", tasks[i].Ref(), errs[i])
		}
	}
	if ctx.Err() != nil {
		return changes, ctx.Err()
	}
	return changes, errors.Join(errs...)
}

// each calls do for 0 to n-1, a few at a time.
func each(n int, do func(int)) {
	slots := make(chan struct{}, 4)
	var wait sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wait.Wait()
}

// look finds the branches of one task that differ from what the base offered, and what is known of them.
func (r *Reader) look(t Task) (*lookup, error) {
	p, err := r.open(t)
	if err != nil {
		return nil, err
	}
	names := p.branches()
	if len(names) == 0 {
		return nil, nil
	}
	return p.known(names), nil
}

// changes are the branches that hold something.
func (l *lookup) changes() ([]Change, error) {
	rec, err := LoadRecord(l.Roots, l.task.Project, l.task.ID)
	if err != nil {
		return nil, err
	}
	var out []Change
	for i, name := range l.names {
		if c := l.change(name, l.found[i], rec); c.Commits > 0 || c.FileCount > 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

func (p *repo) change(branch string, found inspect.Range, rec *Record) Change {
	return Change{Project: p.task.Project, Task: p.task.ID, Name: text.Show(p.task.Name), Agent: text.Show(p.task.Agent), Branch: branch, PushedAt: p.refs.pushed[refname.Heads+branch],
		State: rec.Branches[branch].state(found.IDs), Range: p.large(found)}
}
