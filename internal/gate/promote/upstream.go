package promote

import (
	"context"
	"strings"

	"terok/internal/child"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// toUpstream pushes exactly the commit under a lease: forward only, unless the person forces it.
type toUpstream struct{ *Promoter }

func (p toUpstream) name(j *job) (string, string) {
	up, _ := p.Store.Upstream(j.src.Task.Project) // look tells the error
	return up.URL, refname.Heads + j.dst.Branch
}
func (p toUpstream) notes(*job) string { return "" }

func (p toUpstream) at(ctx context.Context, j *job) (string, error) {
	up, err := p.Store.Upstream(j.src.Task.Project)
	if err != nil {
		return "", err
	}
	_, ref := p.name(j)
	_, tip, err := p.observe(ctx, j.src.Task.Project, up, ref)
	return tip, err
}

func (p toUpstream) look(ctx context.Context, j *job) error {
	up, err := p.Store.Upstream(j.src.Task.Project)
	if err != nil {
		return err
	}
	j.done.Place, j.done.Ref = p.name(j)
	if up.URL == "" {
		return problem.New("no_upstream", problem.Usage, "project %s has no upstream", j.src.Task.Project)
	}
	head, seen, err := p.observe(ctx, j.src.Task.Project, up, j.done.Ref)
	if err != nil {
		return err
	}
	if err := protected(j, j.done.Ref == head, "upstream"); err != nil {
		return err
	}
	if j.again && seen == j.done.As {
		return nil // pushed before the kill
	}
	now := seen
	if j.dst.Expected != nil {
		seen = *j.dst.Expected
		if seen != "" && !refname.IsID(seen) {
			return problem.New("bad_commit", problem.Usage, "the expected tip is not a full commit id")
		}
		if seen != now {
			return leaseLost(j.src.Task.Project, j.done.Ref)
		}
	}
	j.done.Old = seen
	return nil
}

// protected refuses branches that need a second word.
func protected(j *job, isDefault bool, where string) error {
	switch {
	case j.dst.AllowDefault:
		return nil
	case isDefault:
		return problem.New("protected_branch", problem.Conflict, "%s is the default branch of the %s", j.dst.Branch, where).
			WithHint("to move it all the same: --as %s --allow-protected", child.Quote(j.dst.Branch))
	case refname.Protected(j.dst.Branch, j.dst.Protected):
		return problem.New("protected_branch", problem.Conflict, "%s is protected (gate.protected)", j.dst.Branch).
			WithHint("to move it all the same: --as %s --allow-protected", child.Quote(j.dst.Branch))
	}
	return nil
}

func (p toUpstream) act(ctx context.Context, j *job) error {
	up, err := store.ParseUpstream(j.done.Place)
	if err != nil {
		return err
	}
	if j.again {
		if _, seen, err := p.observe(ctx, j.src.Task.Project, up, j.done.Ref); err != nil || seen == j.done.As {
			return err
		}
	}
	if j.done.Old != "" && !j.dst.Force {
		if err := p.forward(ctx, j, "upstream's "+j.dst.Branch); err != nil {
			return err
		}
	}
	if err := p.push(ctx, j.src.Task, up, j.done.Ref, j.done.As, j.done.Old); err != nil {
		return err
	}
	p.step("pushed")
	return p.Store.InStep(ctx, j.src.Task.Project, j.dst.Branch, j.done.As)
}

// observe reads upstream's default branch and the tip of ref, "" when there is none.
func (p *Promoter) observe(ctx context.Context, project string, up store.Upstream, ref string) (head, tip string, err error) {
	conn, err := p.Store.Connect(ctx, project, up)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	out, err := p.Git.Run(ctx, conn.Cmd("", listTimeout, "ls-remote", "--symref", "--", up.URL, "HEAD", ref))
	if err != nil {
		return "", "", store.Unreachable(up, err)
	}
	head, tip = parseListing(string(out), ref)
	return head, tip, nil
}

// parseListing reads git ls-remote --symref: the branch that HEAD names, and the id of ref.
func parseListing(out, ref string) (head, tip string) {
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if target, ok := strings.CutPrefix(id, "ref: "); ok && name == "HEAD" {
			head = target
		} else if name == ref && refname.IsID(id) {
			tip = id
		}
	}
	return head, tip
}

// forward refuses to take commits away from a branch: a lease alone would allow it.
func (p *Promoter) forward(ctx context.Context, j *job, what string) error {
	_, err := p.Git.Run(ctx, p.base(j.src.Task, "merge-base", "--is-ancestor", j.done.Old, j.done.As))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return problem.New("not_fast_forward", problem.Conflict, "%s has commits that %.12s does not contain", what, j.done.As).
		WithHint("terok project gate-sync %s, then let the task merge it; or --as NAME; or --force-with-lease", j.src.Task.Project)
}

// push moves ref at upstream from old to commit; commit "" deletes it, old "" means that it must
// not exist. Without the lease another push in between would be lost.
func (p *Promoter) push(ctx context.Context, t review.Task, up store.Upstream, ref, commit, old string) error {
	conn, err := p.Store.Connect(ctx, t.Project, up)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.Cmd(p.Store.Roots.GateBase(t.Project), pushTimeout, "push", "--porcelain", "--atomic", "--no-verify", "--no-follow-tags", "--no-signed",
		"--recurse-submodules=no", "--force-with-lease="+ref+":"+old, "--", up.URL, commit+":"+ref)
	out, err := p.Git.Run(ctx, c)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	if problem := pushFailure(string(out), t.Project, ref); problem != nil {
		return problem
	}
	return store.Unreachable(up, err)
}

// pushFailure reads why git push --porcelain failed, nil when it does not say.
func pushFailure(out, project, ref string) error {
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "!") {
			continue
		}
		if strings.Contains(line, "(stale info)") || strings.Contains(line, "(fetch first)") {
			return leaseLost(project, ref)
		}
		fields := strings.Split(strings.TrimSpace(line), "\t")
		return problem.New("push_rejected", problem.Failed, "upstream refused: %s", text.Show(fields[len(fields)-1]))
	}
	return nil
}

func leaseLost(project, ref string) error {
	return problem.New("lease_lost", problem.Conflict, "upstream's %s moved meanwhile; nothing was changed", strings.TrimPrefix(ref, refname.Heads)).
		WithHint("terok project gate-sync %s", project)
}

func (p toUpstream) undo(ctx context.Context, t review.Task, q review.Promotion) error {
	up, err := store.ParseUpstream(q.Place)
	if err != nil {
		return err
	}
	branch := strings.TrimPrefix(q.Ref, refname.Heads)
	if _, seen, err := p.observe(ctx, t.Project, up, q.Ref); err != nil {
		return err
	} else if seen == q.Old {
		return p.Store.InStep(ctx, t.Project, branch, q.Old)
	}
	err = p.push(ctx, t, up, q.Ref, q.Old, q.As)
	if problem.Is(err, "lease_lost") {
		return moved(branch, q.Place)
	}
	if err != nil {
		return err
	}
	return p.Store.InStep(ctx, t.Project, branch, q.Old)
}

// toGate moves a branch of the base: new tasks start there, running ones see it.
type toGate struct{ *Promoter }

func (p toGate) name(j *job) (string, string) {
	return p.Store.Roots.GateBase(j.src.Task.Project), refname.Heads + j.dst.Branch
}
func (p toGate) notes(*job) string { return "" }

func (p toGate) at(ctx context.Context, j *job) (string, error) {
	_, ref := p.name(j)
	return p.tip(ctx, j.src.Task, ref)
}

func (p toGate) tip(ctx context.Context, t review.Task, ref string) (string, error) {
	out, err := p.Git.Run(ctx, p.base(t, "rev-parse", "--verify", "--quiet", "--end-of-options", ref))
	if git.IsExit(err, 1) {
		return "", nil
	}
	return strings.TrimSpace(string(out)), err
}

func (p toGate) look(ctx context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	tip, err := p.tip(ctx, j.src.Task, j.done.Ref)
	if err != nil || j.again && tip == j.done.As {
		return err
	}
	j.done.Old = tip
	head, err := p.Git.Run(ctx, p.base(j.src.Task, "symbolic-ref", "HEAD"))
	if err != nil {
		return err
	}
	return protected(j, tip != "" && strings.TrimSpace(string(head)) == j.done.Ref, "gate")
}

func (p toGate) act(ctx context.Context, j *job) error {
	tip, err := p.tip(ctx, j.src.Task, j.done.Ref)
	if err != nil || tip == j.done.As {
		return err
	}
	if j.done.Old != "" && !j.dst.Force {
		if err := p.forward(ctx, j, "the gate's "+j.dst.Branch); err != nil {
			return err
		}
	}
	return p.Store.Accept(ctx, j.src.Task.Project, j.dst.Branch, j.done.Old, j.done.As)
}

func (p toGate) undo(ctx context.Context, t review.Task, q review.Promotion) error {
	branch := strings.TrimPrefix(q.Ref, refname.Heads)
	tip, err := p.tip(ctx, t, q.Ref)
	if err != nil || tip == q.Old {
		return err
	}
	if tip != q.As {
		return moved(branch, "the gate")
	}
	return p.Store.Accept(ctx, t.Project, branch, q.As, q.Old)
}
