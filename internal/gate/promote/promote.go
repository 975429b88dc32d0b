// Package promote carries reviewed commits out of a task's repository: into a person's clone as a
// new branch, to the gate's base, to upstream, or into files.
//
// It guarantees: what arrives is exactly the commit that the caller pinned, or one commit with
// exactly its changes (Squash), and the branch of the task still points to it at that moment; every
// commit of the range has the approval that the project asks for; nothing with a flag of severity
// Deny goes anywhere. The commits reach the base first, checked object by object in the confined
// child of package inspect, and only from there the target: git on the host opens nothing that a
// container wrote. A clone gets one ref and the receipt's note, its checked-out branch, index, files
// and configuration stay and no hook runs; upstream is moved with an explicit lease on the value
// that was seen; no tag and no other ref is pushed.
//
// Each step can be repeated. A promotion is written down as an intent before its target is touched,
// so that a killed one is finished by running it again, with the same commit and the same name; the
// target is as it was or holds exactly that commit, never anything else. What was done can be
// undone as long as nobody moved it since.
package promote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// Deadlines: copying on this machine, talking to upstream.
const (
	localTimeout = 10 * time.Minute
	pushTimeout  = time.Hour
	listTimeout  = time.Minute
)

// Promoter promotes. Now, Ledger, Receipt and Step may be nil.
type Promoter struct {
	Store  *store.Store
	Review *review.Reader
	Git    *git.Runner
	Now    func() time.Time
	Ledger audit.Recorder
	// Writable are directories of this machine that containers write; no clone lies in them.
	Writable []string
	// Receipt signs the record of a promotion that was carried out.
	Receipt func(review.Promotion, review.Change, []review.Approval) ([]byte, error)
	Step    func(name string) // called between steps, for tests that kill the process there
}

// Source is what is promoted.
type Source struct {
	Task    review.Task
	Branch  string // of the task; "" is its own
	Commit  string // full id, as it was reviewed
	By      string // reviewer
	Approve bool   // the person approves by promoting: branch-level
	Level   string // what the project asks for: "none", review.LevelBranch (or "") or review.LevelCommit
}

// Target is where it goes.
type Target struct {
	Kind         string   // review.To…
	Dir          string   // of the clone, for ToClone and ToRepo; file or directory for ToBundle and ToPatches
	Branch       string   // name without refs/heads/
	Expected     *string  // ToUpstream: the tip that was seen, "" for none; nil looks now
	AllowDefault bool     // ToUpstream, ToGate: Branch may be protected
	Protected    []string // patterns of protected branches, besides upstream's default branch
	Force        bool     // ToUpstream, ToGate: the branch may lose commits, under the lease
	Squash       *Squash
	LFS          *LFS // nil: pointers go as they are
}

// job is one promotion under way.
type job struct {
	src    Source
	dst    Target
	change review.Change
	record *review.Record
	done   review.Promotion
	again  bool // a killed promotion that is finished now
}

// Promote brings src to dst and records approval and promotion. A tip that is not src.Commit any
// more is the problem "tip_moved" (exit 7), a frozen task or project "gate_frozen", missing approvals "not_reviewed", a flag "flag_denied",
// a clone's branch of that name "branch_exists", a clone that a container can write "hostile_clone", upstream moved since "lease_lost".
func (p *Promoter) Promote(ctx context.Context, src Source, dst Target) (review.Promotion, error) {
	if src.Branch == "" {
		src.Branch = src.Task.Branch
	}
	if err := refname.Check(dst.Branch); err != nil {
		return review.Promotion{}, problem.New("bad_branch", problem.Usage, "%s is not a usable branch name: %w", text.Show(dst.Branch), err).WithHint("use --as NAME")
	}
	if !refname.IsID(src.Commit) {
		return review.Promotion{}, problem.New("bad_commit", problem.Usage, "a full commit id is needed, as terok review --json shows it")
	}
	unlock, err := p.Store.Lock(ctx, src.Task.Project)
	if err != nil {
		return review.Promotion{}, err
	}
	defer unlock()
	if err := p.Store.Thawed(src.Task.Project, src.Task.ID); err != nil {
		return review.Promotion{}, err
	}
	j := &job{src: src, dst: dst}
	to, err := p.place(dst.Kind)
	if err != nil {
		return j.done, err
	}
	if j.record, err = review.LoadRecord(p.Review.Roots, src.Task.Project, src.Task.ID); err != nil {
		return j.done, err
	}
	if q := p.standing(ctx, j, to); q != nil {
		return *q, p.release(ctx, src.Task)
	}
	if err := p.check(ctx, j); err != nil {
		return j.done, err
	}
	j.done = review.Promotion{Commit: src.Commit, As: src.Commit, Target: dst.Kind, By: src.By, Base: j.change.Base, Commits: j.change.IDs}
	if i := j.record.History(src.Branch).Intent; i != nil && j.same(i, to) {
		j.again, j.done.As, j.done.Old, j.done.Head = true, i.As, i.Old, i.Head
	}
	if err := to.look(ctx, j); err != nil {
		return j.done, err
	}
	return j.done, p.carry(ctx, j, to)
}

// carry is the part that changes something.
func (p *Promoter) carry(ctx context.Context, j *job, to place) error {
	if j.src.Approve {
		if err := p.approve(j); err != nil {
			return err
		}
	}
	p.step("approved")
	if err := p.copy(ctx, j); err != nil {
		return err
	}
	p.step("copied")
	large, err := p.gather(ctx, j)
	if err != nil {
		return err
	}
	p.step("gathered")
	if j.dst.Squash != nil && !j.again {
		if err := p.squash(ctx, j); err != nil {
			return err
		}
	}
	if !j.again {
		j.done.Head = p.notesTip(ctx, j.src.Task, to.notes(j))
	}
	if err := p.intend(j, &j.done); err != nil {
		return err
	}
	p.step("intended")
	if err := p.deliver(ctx, j, large); err != nil {
		return err
	}
	p.step("delivered")
	if err := to.act(ctx, j); err != nil {
		if problem.Of(err).Exit == problem.Conflict { // nothing was changed: somebody was faster
			err = errors.Join(err, p.intend(j, nil))
		}
		return err
	}
	p.step("acted")
	if err := p.receipt(ctx, j, to.notes(j)); err != nil {
		return err
	}
	p.step("noted")
	j.done.At = p.now()
	err = p.update(j, func(h *review.History) {
		h.Intent = nil
		h.Promotions = append(h.Promotions, j.done)
	})
	p.step("recorded")
	p.note("promoted", j.src.Task, j.done)
	return errors.Join(err, p.release(ctx, j.src.Task))
}

// check holds the pin: the branch is where the person saw it, nothing in it is denied, and
// everything in it is approved.
func (p *Promoter) check(ctx context.Context, j *job) error {
	var err error
	j.change, j.record, err = p.Review.Range(ctx, j.src.Task, j.src.Branch, j.src.Commit)
	if err != nil {
		return err
	}
	if j.change.Commits > len(j.change.IDs) {
		return problem.New("too_large", problem.Conflict, "%d commits are more than can be reviewed", j.change.Commits).WithHint("ask the task for fewer")
	}
	for _, f := range j.change.Flags {
		if f.Severity == review.Deny {
			return problem.New("flag_denied", problem.Conflict, "this change is not promoted: %s in %s", strings.ReplaceAll(f.Code, "_", " "), strings.Join(f.Where, ", ")).
				WithHint("terok review reject %s -m …", j.src.Task.Words(j.src.Branch))
		}
	}
	return p.reviewed(j)
}

func (p *Promoter) reviewed(j *job) error {
	if j.src.Level == "none" {
		return nil
	}
	h := *j.record.History(j.src.Branch)
	if j.src.Approve {
		h.Approvals = append(slices.Clone(h.Approvals), review.Approval{Commit: j.src.Commit, Level: review.LevelBranch, At: p.now(), LFSAbsent: j.change.LFSAbsent})
	}
	left := h.Unapproved(j.change.IDs, j.src.Level)
	if len(left) == 0 {
		if h.Unseen(j.change.IDs) > j.change.LFSAbsent {
			return problem.New("lfs_unseen", problem.Conflict, "files in Git LFS came after these commits were approved: nobody saw what is in them").
				WithHint("terok review show %[1]s, then terok review approve %[1]s --sha %[2]s", j.src.Task.Words(j.src.Branch), j.src.Commit)
		}
		return nil
	}
	list := []string{}
	for _, id := range left[:min(len(left), 5)] {
		list = append(list, id[:12])
	}
	if len(left) > 5 {
		list = append(list, "…")
	}
	cure := "terok review approve " + j.src.Task.Words(j.src.Branch) + " --sha " + j.src.Commit
	if j.src.Level == review.LevelCommit {
		cure = "terok review walk " + j.src.Task.Words(j.src.Branch)
	}
	return problem.New("not_reviewed", problem.Conflict, "%d of %d commits are not approved: %s", len(left), len(j.change.IDs), strings.Join(list, ", ")).
		WithHint("%s", cure).With("commits", left)
}

func (p *Promoter) approve(j *job) error {
	return p.update(j, func(h *review.History) {
		h.Approve(review.Approval{Commit: j.src.Commit, Level: review.LevelBranch, By: j.src.By, At: p.now(), LFSAbsent: j.change.LFSAbsent})
	})
}

// update changes the branch's history, and the job's copy of it.
func (p *Promoter) update(j *job, change func(*review.History)) error {
	return review.UpdateRecord(p.Review.Roots, j.src.Task.Project, j.src.Task.ID, func(rec *review.Record) error {
		change(rec.History(j.src.Branch))
		j.record = rec
		return nil
	})
}

func (p *Promoter) intend(j *job, what *review.Promotion) error {
	var intent *review.Promotion
	if what != nil {
		clone := *what
		clone.At = p.now()
		intent = &clone
	}
	return p.update(j, func(h *review.History) { h.Intent = intent })
}

// same reports whether q is a promotion of the same commit to the same place. One that was killed goes
// on with what it had decided.
func (j *job) same(q *review.Promotion, to place) bool {
	where, ref := to.name(j)
	return q.Commit == j.src.Commit && q.Target == j.dst.Kind && q.Place == where && q.Ref == ref && (q.As != q.Commit) == (j.dst.Squash != nil)
}

// standing is the promotion that a repeated one would make again, when it is done and its target still
// as it left it.
func (p *Promoter) standing(ctx context.Context, j *job, to place) *review.Promotion {
	h := j.record.History(j.src.Branch)
	for i := range h.Promotions {
		if q := &h.Promotions[i]; !q.Undone && j.same(q, to) {
			if tip, err := to.at(ctx, j); err == nil && tip == q.As {
				return q
			}
		}
	}
	return nil
}

// Intended is the branch name of a killed promotion of this commit, "" when there was none.
func (p *Promoter) Intended(src Source, kind string) string {
	rec, err := review.LoadRecord(p.Review.Roots, src.Task.Project, src.Task.ID)
	if err != nil {
		return ""
	}
	branch := src.Branch
	if branch == "" {
		branch = src.Task.Branch
	}
	h := rec.Branches[branch]
	if h == nil || h.Intent == nil || h.Intent.Commit != src.Commit || h.Intent.Target != kind {
		return ""
	}
	return strings.TrimPrefix(h.Intent.Ref, refname.Heads)
}

const incoming = "refs/terok/incoming/"

// copy brings the commits into the base, under a ref that keeps them there until the end, and
// compares the range again with what was reviewed.
func (p *Promoter) copy(ctx context.Context, j *job) error {
	t := j.src.Task
	base := p.Store.Roots.GateBase(t.Project)
	if err := store.Verify(base); err != nil {
		return err
	}
	if err := p.Review.Copy(ctx, t, j.src.Commit); err != nil {
		return err
	}
	if _, err := p.Git.Run(ctx, p.base(t, "update-ref", "--no-deref", incoming+t.ID+"/"+j.src.Commit, j.src.Commit)); err != nil {
		return err
	}
	ids, err := p.Review.Recount(ctx, t, j.src.Commit)
	if err != nil {
		return err
	}
	if !slices.Equal(ids, j.change.IDs) {
		return problem.New("range_changed", problem.Conflict, "what was copied is not what was reviewed: %d commits, not %d", len(ids), len(j.change.IDs)).
			WithHint("terok review show %s", t.Words(j.src.Branch))
	}
	return nil
}

// release lets go of everything that promotions of this task kept in the base.
func (p *Promoter) release(ctx context.Context, t review.Task) error {
	out, err := p.Git.Run(ctx, p.base(t, "for-each-ref", "--format=delete %(refname)", incoming+t.ID+"/"))
	if err != nil || len(out) == 0 {
		return err
	}
	c := p.base(t, "update-ref", "--no-deref", "--stdin")
	c.Stdin = strings.NewReader(string(out))
	_, err = p.Git.Run(ctx, c)
	return err
}

// base is a git command in the project's base, which holds only what was checked.
func (p *Promoter) base(t review.Task, args ...string) git.Cmd {
	return git.Cmd{GitDir: p.Store.Roots.GateBase(t.Project), Args: args, Timeout: localTimeout}
}

func (p *Promoter) step(name string) {
	if p.Step != nil {
		p.Step(name)
	}
}

func (p *Promoter) now() time.Time {
	if p.Now != nil {
		return p.Now().UTC()
	}
	return time.Now().UTC()
}

func (p *Promoter) note(ev string, t review.Task, q review.Promotion) {
	if p.Ledger != nil {
		p.Ledger.Record(audit.Event{Project: t.Project, Task: t.ID, Ev: ev, Actor: "operator", Ref: q.Ref, Old: q.Old, New: q.As,
			Detail: map[string]string{"target": q.Target, "place": text.Line(q.Place, 0), "reviewed": q.Commit}})
	}
}

// Record is the ledger's line about a decision that is no promotion.
func (p *Promoter) Record(ev string, t review.Task, branch string, commits []string, detail map[string]string) {
	if p.Ledger == nil {
		return
	}
	for _, id := range commits {
		p.Ledger.Record(audit.Event{Project: t.Project, Task: t.ID, Ev: ev, Actor: "operator", Ref: refname.Heads + branch, New: id, Detail: detail})
	}
}

// place is a kind of target.
type place interface {
	name(j *job) (place, ref string)
	at(ctx context.Context, j *job) (string, error) // the commit that is there now, "" for none
	look(ctx context.Context, j *job) error         // before anything is changed: fills Place, Ref and Old
	act(ctx context.Context, j *job) error          // can be repeated
	notes(j *job) string                            // git directory or clone that gets the receipt as a note
	undo(ctx context.Context, t review.Task, q review.Promotion) error
}

func (p *Promoter) place(kind string) (place, error) {
	switch kind {
	case review.ToClone:
		return toClone{p}, nil
	case review.ToRepo:
		return toRepo{p}, nil
	case review.ToGate:
		return toGate{p}, nil
	case review.ToUpstream:
		return toUpstream{p}, nil
	case review.ToBundle:
		return toBundle{p}, nil
	case review.ToPatches:
		return toPatches{p}, nil
	}
	return nil, problem.New("usage", problem.Usage, "%q is no target: clone, gate, upstream, repo:PATH, bundle:FILE or patches:DIR", kind)
}
