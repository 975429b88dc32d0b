package review

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
	"terok/internal/problem"
	"terok/internal/text"
)

// backupRefs are tips that a push replaced (package store).
const backupRefs = "refs/terok/backup/"

// ShowOptions choose what of a branch is read.
type ShowOptions struct {
	Branch string // "" is the task's own
	View          // Commit may be an abbreviation
	// Since is "last", the tip that was decided on last; a commit id, at least 4 digits; or a branch, of the
	// task or of the gate, from whose tip the diff is wanted, whatever lies between.
	Since string
}

// Show reads one branch of a task: commits, files, flags and the diff. A branch without commits of
// its own is the problem "nothing_pushed", a commit that is not in it "no_such_commit".
func (r *Reader) Show(ctx context.Context, t Task, o ShowOptions) (Details, error) {
	p, err := r.open(t)
	if err != nil {
		return Details{}, err
	}
	branch, tip, err := p.tip(o.Branch)
	if err != nil {
		return Details{}, err
	}
	rec, err := LoadRecord(p.Roots, t.Project, t.ID)
	if err != nil {
		return Details{}, err
	}
	req := p.request(inspect.OpRead, tip)
	req.View = o.View
	if o.Commit != "" {
		if req.View.Commit, err = p.commit(ctx, branch, o.Commit); err != nil {
			return Details{}, err
		}
	}
	d := Details{}
	if o.Since != "" {
		var named bool
		if d.Since, named, err = p.since(ctx, branch, o.Since, rec); err != nil {
			return Details{}, err
		}
		if !named {
			if d.Range, err = p.rewritten(ctx, d.Since, tip); err != nil {
				return Details{}, err
			}
		}
		if d.Range == "" {
			req.View.From = d.Since
		}
	}
	reply, err := p.Inspect.Do(ctx, req)
	if err != nil {
		return Details{}, err
	}
	h := rec.Branches[branch]
	d.Change = p.change(branch, reply.Branches[0], rec)
	if d.Commits == 0 && d.FileCount == 0 {
		return Details{}, problem.New("nothing_pushed", problem.NotFound, "task %s pushed nothing to %s", t.Ref(), branch).WithHint("terok review")
	}
	d.List, d.Undecided = []Reviewed{}, []string{}
	for _, id := range d.IDs {
		if h == nil || h.Decided(id) == "" {
			d.Undecided = append(d.Undecided, id)
		}
	}
	for _, c := range reply.List {
		d.List = append(d.List, h.reviewed(c))
	}
	if d.Since != "" && d.Range == "" {
		if i := slices.IndexFunc(d.List, func(c Reviewed) bool { return c.ID == d.Since }); i >= 0 {
			d.List = d.List[:i]
		}
	}
	if !o.Stat && !o.PerCommit && o.View.Commit == "" && len(o.Commits) == 0 {
		d.Patch = Unified(Chosen(d.Files, o.Globs))
	}
	return d, nil
}

func (h *History) reviewed(c Commit) Reviewed {
	out := Reviewed{Commit: c, Comments: []Comment{}}
	if h == nil {
		return out
	}
	out.Decided, out.SameAs = h.Decided(c.ID), h.SameChange(c.ID, c.PatchID)
	for _, remark := range h.Comments {
		if remark.Commit == c.ID {
			out.Comments = append(out.Comments, remark)
		}
	}
	return out
}

// ids are the commits of a branch, newest first.
func (p *repo) ids(ctx context.Context, branch string) (inspect.Range, error) {
	found, err := p.numbers(ctx, []string{branch})
	if err != nil {
		return inspect.Range{}, err
	}
	return found[0], nil
}

// commit finds the one commit of a branch that an abbreviation names.
func (p *repo) commit(ctx context.Context, branch, word string) (string, error) {
	r, err := p.ids(ctx, branch)
	if err != nil {
		return "", err
	}
	return oneOf(r.IDs, word, branch)
}

func oneOf(ids []string, word, where string) (string, error) {
	word = strings.ToLower(word)
	if len(word) < 4 || strings.Trim(word, "0123456789abcdef") != "" {
		return "", problem.New("bad_commit", problem.Usage, "%.60q is not a commit id: at least 4 hexadecimal digits are needed", word)
	}
	var hits []string
	for _, id := range ids {
		if strings.HasPrefix(id, word) {
			hits = append(hits, id)
		}
	}
	switch len(hits) {
	case 0:
		return "", problem.New("no_such_commit", problem.NotFound, "%s has no commit %.40s of its own", where, word).WithHint("terok review show TASK")
	case 1:
		return hits[0], nil
	}
	return "", problem.New("ambiguous_commit", problem.Conflict, "%.40s is the beginning of %d commits", word, len(hits))
}

// since finds the earlier tip that a person means; named says that it is the tip of a branch.
func (p *repo) since(ctx context.Context, branch, word string, rec *Record) (id string, named bool, err error) {
	if word == "last" {
		if h := rec.Branches[branch]; h != nil && h.Last() != "" {
			return h.Last(), false, nil
		}
		return "", false, problem.New("not_reviewed", problem.NotFound, "%s of %s was not reviewed before", branch, p.task.Ref()).WithHint("terok review show %s", p.task.Words(branch))
	}
	ids := []string{}
	if r, err := p.ids(ctx, branch); err == nil {
		ids = append(ids, r.IDs...)
	}
	for ref, id := range p.refs.ids { // tips that a push replaced
		if ref == refname.Heads+branch || strings.HasPrefix(ref, backupRefs+branch+"/") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	id, err = oneOf(slices.Compact(ids), word, branch)
	if err == nil || problem.Is(err, "ambiguous_commit") {
		return id, false, err
	}
	for _, ids := range []map[string]string{p.refs.ids, p.base} {
		if tip := ids[refname.Heads+word]; tip != "" && refname.Check(word) == nil {
			return tip, true, nil
		}
	}
	if problem.Is(err, "bad_commit") {
		err = problem.New("no_such_branch", problem.NotFound, "%s is neither a commit of %s, at least 4 digits of its id, nor a branch of the task or of the gate", text.Show(word), branch)
	}
	return "", false, err
}

// rewritten is how a branch changed from one tip to another; "" when the old one is simply behind.
func (p *repo) rewritten(ctx context.Context, old, tip string) (string, error) {
	found, err := p.numbersOf(ctx, tip)
	if err != nil {
		return "", err
	}
	if slices.Contains(found.IDs, old) || found.Base == old {
		return "", nil
	}
	reply, err := p.Inspect.Do(ctx, p.request(inspect.OpRangeDiff, old, tip))
	if err != nil {
		return "", err
	}
	if reply.Text == "" {
		return fmt.Sprintf("%s and %s hold the same commits\n", short(old), short(tip)), nil
	}
	return reply.Text, nil
}

func (p *repo) numbersOf(ctx context.Context, tip string) (inspect.Range, error) {
	reply, err := p.Inspect.Do(ctx, p.request(inspect.OpScan, tip))
	if err != nil {
		return inspect.Range{}, err
	}
	return reply.Branches[0], nil
}

// Range is the branch as a promotion needs it: its commits, newest first, and its flags. The tip
// must still be commit, else the problem is "tip_moved".
func (r *Reader) Range(ctx context.Context, t Task, branch, commit string) (Change, *Record, error) {
	p, err := r.open(t)
	if err != nil {
		return Change{}, nil, err
	}
	name, tip, err := p.tip(branch)
	if err != nil {
		return Change{}, nil, err
	}
	if tip != commit {
		return Change{}, nil, TipMoved(t, name, commit, tip)
	}
	found, err := p.ids(ctx, name)
	if err != nil {
		return Change{}, nil, err
	}
	rec, err := LoadRecord(p.Roots, t.Project, t.ID)
	if err != nil {
		return Change{}, nil, err
	}
	c := p.change(name, found, rec)
	if c.Commits == 0 {
		return c, rec, problem.New("nothing_pushed", problem.NotFound, "task %s pushed nothing to %s", t.Ref(), name).WithHint("terok review")
	}
	return c, rec, nil
}

// TipMoved is the refusal of a decision about what is not there any more.
func TipMoved(t Task, branch, commit, tip string) error {
	return problem.New("tip_moved", problem.Conflict, "%s is at %.12s now, not at %.12s: the task pushed since you looked",
		branch, tip, commit).WithHint("terok review show %s --since %.12s", t.Words(branch), commit).With("tip", tip)
}

// Copy brings a commit of a task, with what it needs, into the project's base. It is the confined
// child that reads the task's repository and checks every object; the base gets no ref by it.
func (r *Reader) Copy(ctx context.Context, t Task, commit string) error {
	p, err := r.open(t)
	if err != nil {
		return err
	}
	req := p.request(inspect.OpCopy, commit)
	req.Start = "" // the base may lack it
	_, err = r.Inspect.Do(ctx, req)
	return err
}

// Recount lists the commits of a range again, newest first, from the base alone: what was copied.
func (r *Reader) Recount(ctx context.Context, t Task, commit string) ([]string, error) {
	p, err := r.open(t)
	if err != nil {
		return nil, err
	}
	req := p.request(inspect.OpScan, commit)
	req.Repo = r.Roots.GateBase(t.Project)
	req.Objects = filepath.Join(req.Repo, "objects")
	req.NumbersOnly = true
	reply, err := r.Inspect.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	return reply.Branches[0].IDs, nil
}

// Raw is the diff of a branch as git prints it, for programs. It must never reach a terminal.
func (r *Reader) Raw(ctx context.Context, t Task, o ShowOptions) ([]byte, error) {
	p, err := r.open(t)
	if err != nil {
		return nil, err
	}
	branch, tip, err := p.tip(o.Branch)
	if err != nil {
		return nil, err
	}
	found, err := p.ids(ctx, branch)
	if err != nil {
		return nil, err
	}
	req := p.request(inspect.OpRaw, tip)
	req.View.From = found.Base
	return p.Inspect.Raw(ctx, req)
}
