// Package review reads what tasks pushed, for a person to judge.
//
// Everything in a task's repository was written by an agent, and reading it must be harmless:
// the repository is verified before git opens it (store.Verify), git runs with an environment
// from zero, without textconv, external diff, attributes of the content, hooks, replace refs or
// any object store but the task's and its base's. Every string in the results passed package
// text, so printing them cannot drive a terminal; sizes are capped and a cut is said.
//
// A review is bound to commit ids: Change.Base and Change.Tip. It reports what is there; it does
// not decide. Only flags of severity Deny stop a promotion.
package review

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Task is whose work is reviewed.
type Task struct {
	Project string
	ID      string
	Name    string // slug
	Branch  string // the task's own branch
}

// States of a change.
const (
	Pending  = "pending"
	Approved = "approved" // a person approved exactly this tip
	Updated  = "updated"  // the tip moved since it was approved or promoted
	Promoted = "promoted" // exactly this tip was promoted
)

// Change is one branch of a task with commits that the base has not. All strings are printable.
type Change struct {
	Project    string    `json:"project"`
	Task       string    `json:"task"`
	Name       string    `json:"name"`
	Branch     string    `json:"branch"`
	State      string    `json:"state"`
	Base       string    `json:"base"` // commit that the range begins behind; "" when nothing is shared
	Tip        string    `json:"tip"`
	Commits    int       `json:"commits"`
	Files      []File    `json:"files"`
	Insertions int       `json:"insertions"`
	Deletions  int       `json:"deletions"`
	Flags      []Flag    `json:"flags"`
	TipTime    time.Time `json:"tip_time"` // committer's, which the agent chose
}

// File is one changed path.
type File struct {
	Path       string `json:"path"`
	Status     string `json:"status"` // A, M, D or T (git-diff-tree(1))
	Insertions int    `json:"insertions"`
	Deletions  int    `json:"deletions"`
	Binary     bool   `json:"binary"`
}

// Details is a change with everything a person reads.
type Details struct {
	Change
	List  []Commit `json:"list"`  // newest first, at most MaxCommits
	Patch string   `json:"patch"` // unified diff Base..Tip, capped
	Cut   bool     `json:"cut"`   // the patch was too large to show whole
}

// Commit is one commit of a change.
type Commit struct {
	ID        string    `json:"id"`
	Parents   []string  `json:"parents"`
	Author    string    `json:"author"`
	Email     string    `json:"email"`
	Time      time.Time `json:"time"`
	Committer string    `json:"committer"`
	Subject   string    `json:"subject"`
	Body      string    `json:"body"`
}

// Caps of what is shown.
const (
	MaxCommits   = 200
	maxFiles     = 2000
	maxPatch     = 4 << 20  // bytes of patch shown
	maxScan      = 64 << 20 // bytes of patch read for flags
	maxPatchLine = 2000
	maxBodyLines = 100
	readTimeout  = time.Minute
)

// Reader reads changes. Now may be nil.
type Reader struct {
	Roots state.Roots
	Git   *git.Runner
}

// repo is one verified task repository.
type repo struct {
	*Reader
	task    Task
	dir     string
	objects string // the base's
}

func (r *Reader) open(t Task) (*repo, error) {
	p := &repo{Reader: r, task: t, dir: r.Roots.GateTask(t.Project, t.ID), objects: filepath.Join(r.Roots.GateBase(t.Project), "objects")}
	if _, err := os.Lstat(p.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("nothing_pushed", problem.NotFound, "task %s/%s has no repository in the gate", t.Project, t.ID)
	}
	if err := store.Verify(p.dir, p.objects); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *repo) cmd(args ...string) git.Cmd {
	return git.Cmd{GitDir: p.dir, Args: args, Alternates: []string{p.objects}, Timeout: readTimeout,
		Config: []string{"core.bigFileThreshold=4m", "diff.renames=false", "i18n.logOutputEncoding=UTF-8"}}
}

// Queue lists what waits, task by task in the order given, the task's own branch first. Tasks
// that pushed nothing are left out. A repository that cannot be read does not hide the others:
// its error is joined to the result.
func (r *Reader) Queue(ctx context.Context, tasks ...Task) ([]Change, error) {
	changes := []Change{}
	var errs []error
	for _, t := range tasks {
		found, err := r.changes(ctx, t)
		changes = append(changes, found...)
		if err != nil && !problem.Is(err, "nothing_pushed") {
			errs = append(errs, fmt.Errorf("%s/%s: %w", t.Project, t.ID, err))
		}
		if ctx.Err() != nil {
			return changes, ctx.Err()
		}
	}
	return changes, errors.Join(errs...)
}

// changes lists the branches of one task that differ from what the base offered.
func (r *Reader) changes(ctx context.Context, t Task) ([]Change, error) {
	p, err := r.open(t)
	if err != nil {
		return nil, err
	}
	refs, err := p.refs(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for ref, id := range refs {
		b, ok := strings.CutPrefix(ref, refname.Heads)
		if ok && id != refs[store.OfferedRefs+b] && id != refs[store.StartRef] && refname.Check(b) == nil {
			names = append(names, b)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if (a == t.Branch) != (b == t.Branch) {
			return map[bool]int{true: -1, false: 1}[a == t.Branch]
		}
		return strings.Compare(a, b)
	})
	var out []Change
	for _, b := range names {
		c, err := p.change(ctx, b, refs)
		if err != nil {
			return out, err
		}
		if c.Commits > 0 || len(c.Files) > 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

func (p *repo) refs(ctx context.Context) (map[string]string, error) {
	out, err := p.Git.Run(ctx, p.cmd("for-each-ref", "--format=%(objectname) %(refname)", refname.Heads, "refs/terok/"))
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if id, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			refs[ref] = id
		}
	}
	return refs, nil
}

// Tip returns the commit that a task's branch points to now; "" for branch means the task's own.
func (r *Reader) Tip(ctx context.Context, t Task, branch string) (string, error) {
	p, err := r.open(t)
	if err != nil {
		return "", err
	}
	if branch == "" {
		branch = t.Branch
	}
	refs, err := p.refs(ctx)
	if err != nil {
		return "", err
	}
	tip := refs[refname.Heads+branch]
	if tip == "" || refname.Check(branch) != nil {
		return "", problem.New("no_such_branch", problem.NotFound, "task %s/%s has no branch %s", t.Project, t.ID, text.Show(branch)).
			WithHint("terok review")
	}
	return tip, nil
}

// Show reads one branch of a task: commits, files, flags and the diff. branch "" is the task's
// own. A branch without commits of its own is the problem "nothing_pushed".
func (r *Reader) Show(ctx context.Context, t Task, branch string) (Details, error) {
	p, err := r.open(t)
	if err != nil {
		return Details{}, err
	}
	if branch == "" {
		branch = t.Branch
	}
	refs, err := p.refs(ctx)
	if err != nil {
		return Details{}, err
	}
	if refs[refname.Heads+branch] == "" || refname.Check(branch) != nil {
		_, err := r.Tip(ctx, t, branch)
		return Details{}, err
	}
	c, scan, err := p.scan(ctx, branch, refs, maxPatch)
	if err != nil {
		return Details{}, err
	}
	if c.Commits == 0 && len(c.Files) == 0 {
		return Details{}, problem.New("nothing_pushed", problem.NotFound, "task %s/%s pushed nothing to %s", t.Project, t.ID, branch).
			WithHint("terok review")
	}
	d := Details{Change: c, Cut: scan.cut, Patch: text.Block(string(scan.shown), 1<<20, maxPatchLine)}
	d.List, err = p.commits(ctx, c)
	return d, err
}

func (p *repo) change(ctx context.Context, branch string, refs map[string]string) (Change, error) {
	c, _, err := p.scan(ctx, branch, refs, 0)
	return c, err
}

// scan reads one branch: range, numbers, files and flags, and keeps show bytes of the patch.
func (p *repo) scan(ctx context.Context, branch string, refs map[string]string, show int) (Change, *patchScan, error) {
	t := p.task
	c := Change{Project: t.Project, Task: t.ID, Name: text.Show(t.Name), Branch: branch, Tip: refs[refname.Heads+branch], Files: []File{}, Flags: []Flag{}}
	scan := &patchScan{keep: show}
	start := refs[store.StartRef]
	if start != "" {
		out, err := p.Git.Run(ctx, p.cmd("merge-base", start, c.Tip))
		if err != nil && !git.IsExit(err, 1) {
			return c, scan, err
		}
		c.Base = strings.TrimSpace(string(out))
	}
	var flags flagSet
	if c.Base == "" && start != "" {
		flags.add(Warn, "unrelated_history", "shares no commit with the project")
	}
	if err := p.log(ctx, &c, refs, &flags); err != nil {
		return c, scan, err
	}
	if err := p.files(ctx, &c, &flags); err != nil {
		return c, scan, err
	}
	scan.flags = &flags
	if err := p.patch(ctx, c, scan); err != nil {
		return c, scan, err
	}
	c.Flags = flags.list()
	rec, err := LoadRecord(p.Roots, t.Project, t.ID)
	if err != nil {
		return c, scan, err
	}
	c.State = rec.state(branch, c.Tip)
	return c, scan, nil
}

// from is the tree or commit that diffs begin at.
func (c Change) from() string {
	if c.Base != "" {
		return c.Base
	}
	if len(c.Tip) == 64 {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904" // the empty tree
}

// log counts the commits, and looks at what their messages and names are made of.
func (p *repo) log(ctx context.Context, c *Change, refs map[string]string, flags *flagSet) error {
	args := []string{"rev-list", "--no-commit-header", "--max-count=" + strconv.Itoa(5000), "--format=%H %P%n%ct%n%an <%ae>%n%cn <%ce>%n%B%x00"}
	args = append(args, p.exclude(c, refs)...)
	out, err := p.Git.Run(ctx, p.cmd(args...))
	if err != nil {
		return err
	}
	for record := range strings.SplitSeq(string(out), "\x00") {
		record = strings.TrimLeft(record, "\n")
		if record == "" {
			continue
		}
		c.Commits++
		head, rest, _ := strings.Cut(record, "\n")
		ids := strings.Fields(head)
		when, rest, _ := strings.Cut(rest, "\n")
		if len(ids) > 0 && ids[0] == c.Tip {
			if sec, err := strconv.ParseInt(when, 10, 64); err == nil {
				c.TipTime = time.Unix(sec, 0).UTC()
			}
		}
		if len(ids) > 2 {
			flags.add(Info, "merge", "merge commit "+short(ids[0]))
		}
		flags.content("commit "+short(ids[0]), rest, false)
	}
	return nil
}

// exclude are the revision arguments of a change: its tip without what the base already has.
func (p *repo) exclude(c *Change, refs map[string]string) []string {
	args := []string{c.Tip, "--not"}
	if c.Base != "" {
		args = append(args, c.Base)
	}
	seen := map[string]bool{}
	for ref, id := range refs {
		if strings.HasPrefix(ref, store.OfferedRefs) && !seen[id] && len(seen) < 1000 {
			seen[id] = true
			args = append(args, id)
		}
	}
	return args
}

func short(id string) string { return id[:min(len(id), 7)] }

// files reads names, modes and line counts.
func (p *repo) files(ctx context.Context, c *Change, flags *flagSet) error {
	out, err := p.Git.Run(ctx, p.cmd("diff-tree", "-r", "-z", "--raw", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv",
		"--no-color", "--ignore-submodules=none", c.from(), c.Tip))
	if errors.Is(err, git.ErrTooLarge) {
		flags.add(Deny, "too_large", "more files than can be shown")
		return nil
	}
	if err != nil {
		return err
	}
	fields := strings.Split(string(out), "\x00")
	index := map[string]int{}
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		if strings.HasPrefix(f, ":") && i+1 < len(fields) {
			i++
			raw := strings.Fields(f[1:])
			if len(raw) != 5 {
				return fmt.Errorf("git diff-tree: unexpected line %.80q", f)
			}
			flags.path(fields[i], raw[0], raw[1])
			if len(c.Files) < maxFiles {
				index[fields[i]] = len(c.Files)
				c.Files = append(c.Files, File{Path: text.Show(fields[i]), Status: raw[4][:1]})
			}
			continue
		}
		parts := strings.SplitN(f, "\t", 3)
		if len(parts) != 3 {
			continue
		}
		ins, err1 := strconv.Atoi(parts[0])
		del, err2 := strconv.Atoi(parts[1])
		c.Insertions, c.Deletions = c.Insertions+ins, c.Deletions+del
		binary := err1 != nil || err2 != nil
		if binary {
			flags.add(Info, "binary", parts[2])
		}
		if n, ok := index[parts[2]]; ok {
			c.Files[n].Insertions, c.Files[n].Deletions, c.Files[n].Binary = ins, del, binary
		}
	}
	return nil
}

// commits reads the newest commits of a change for showing.
func (p *repo) commits(ctx context.Context, c Change) ([]Commit, error) {
	refs, err := p.refs(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"rev-list", "--no-commit-header", "--max-count=" + strconv.Itoa(MaxCommits), "--format=%H%x00%P%x00%an%x00%ae%x00%at%x00%cn%x00%B%x00"}
	out, err := p.Git.Run(ctx, p.cmd(append(args, p.exclude(&c, refs)...)...))
	if err != nil {
		return nil, err
	}
	fields := strings.Split(string(out), "\x00")
	list := []Commit{}
	for ; len(fields) >= 7; fields = fields[7:] {
		sec, _ := strconv.ParseInt(fields[4], 10, 64)
		subject, body, _ := strings.Cut(strings.TrimSpace(fields[6]), "\n")
		list = append(list, Commit{
			ID: strings.TrimSpace(fields[0]), Parents: strings.Fields(fields[1]), Author: text.Show(fields[2]), Email: text.Show(fields[3]),
			Time: time.Unix(sec, 0).UTC(), Committer: text.Show(fields[5]), Subject: text.Prose(subject, 0),
			Body: text.ProseBlock(strings.TrimSpace(body), maxBodyLines, maxPatchLine)})
	}
	return list, nil
}
