package terok

import (
	"context"
	"path/filepath"
	"strings"

	"terok/internal/gate/forge"
	"terok/internal/gate/inspect"
	"terok/internal/gate/promote"
	"terok/internal/gate/review"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/task"
	"terok/internal/text"
)

// Promotion is what was promoted.
type Promotion = review.Promotion

// PromoteRequest says what goes where.
type PromoteRequest struct {
	Task         *task.Task
	Branch       string // of the task; "" is its own
	Commit       string // full id of the tip, as it was reviewed; nothing else is promoted
	Approve      bool   // the person approves it by this
	To           string // "clone", "gate", "upstream", "repo:PATH", "bundle:FILE", "patches:DIR"; "" is the clone where the project has one
	As           string // branch name at the target; "" is the task's slug, at upstream its branch
	Expected     *string
	AllowDefault bool // As may be protected
	Force        bool // gate, upstream: the branch may lose commits
	Squash       bool
	Message      string // of the squashed commit
	NoReceipt    bool
}

// PromotePlan is where a request leads, for showing before the person confirms.
type PromotePlan struct {
	Details    ChangeDetails `json:"details"`
	To         string        `json:"to"`
	Place      string        `json:"place"`  // directory, file or URL
	Branch     string        `json:"branch"` // at the target
	Squash     bool          `json:"squash"`
	Level      string        `json:"require_review"`
	Unapproved []string      `json:"unapproved"` // commits that need a person's word yet
}

func (a *App) promoter() *promote.Promoter {
	return &promote.Promoter{Store: a.gateStore(), Review: a.reader(), Git: &git.Runner{}, Now: a.Now, Ledger: hostLedger{a}, Writable: a.writable()}
}

// writable are the directories of this machine that projects mount writable into their containers.
func (a *App) writable() []string {
	names, _ := a.projects().Names()
	var dirs []string
	for _, name := range names {
		p, err := a.projects().Get(name)
		if err != nil {
			continue // a broken project starts no container
		}
		for _, m := range p.Run.Mounts {
			if mount, err := parseMount(m); err == nil && !mount.ReadOnly {
				dirs = append(dirs, mount.Source)
			}
		}
	}
	return dirs
}

// PlanPromote reads what a request would promote, and where to. It changes nothing.
func (a *App) PlanPromote(ctx context.Context, req PromoteRequest) (PromotePlan, error) {
	var plan PromotePlan
	p, err := a.projects().Get(req.Task.Project)
	if err != nil {
		return plan, err
	}
	dst, err := a.target(ctx, p, req)
	if err != nil {
		return plan, err
	}
	plan.To, plan.Branch, plan.Place, plan.Squash, plan.Level = dst.Kind, dst.Branch, dst.Dir, req.Squash, p.Gate.RequireReview
	switch dst.Kind {
	case review.ToUpstream:
		up, err := a.gateStore().Upstream(req.Task.Project)
		if err != nil {
			return plan, err
		}
		plan.Place = up.URL
	case review.ToGate:
		plan.Place = "the gate"
	}
	plan.Details, err = a.ReviewShow(ctx, req.Task, ReviewOptions{Branch: req.Branch})
	if err != nil {
		return plan, err
	}
	rec, err := review.LoadRecord(a.Roots, req.Task.Project, req.Task.ID)
	if err != nil {
		return plan, err
	}
	plan.Unapproved = []string{}
	if plan.Level != "none" {
		plan.Unapproved = append(plan.Unapproved, rec.History(plan.Details.Branch).Unapproved(plan.Details.IDs, plan.Level)...)
	}
	return plan, nil
}

// Promote carries out a request; req.Commit must be the branch's tip at this moment.
func (a *App) Promote(ctx context.Context, req PromoteRequest) (Promotion, error) {
	p, err := a.projects().Get(req.Task.Project)
	if err != nil {
		return Promotion{}, err
	}
	dst, err := a.target(ctx, p, req)
	if err != nil {
		return Promotion{}, err
	}
	if req.Squash {
		dst.Squash = a.squash(ctx, p, req)
	}
	pr := a.promoter()
	if p.LFS() {
		dst.LFS = &promote.LFS{URL: p.Gate.LFSURL}
		pr.Store.Progress = func(line string) { a.say("%s", line) }
		if dst.Kind == review.ToBundle || dst.Kind == review.ToPatches {
			a.say("note: of files in Git LFS a %s holds the pointers only", strings.TrimSuffix(dst.Kind, "es"))
		}
	}
	if !req.NoReceipt {
		pr.Receipt = a.signer(req.Task)
	}
	return pr.Promote(ctx, promote.Source{Task: a.reviewTask(ctx, req.Task), Branch: req.Branch, Commit: req.Commit, Approve: req.Approve,
		By: a.reviewer(ctx, req.Task.Project), Level: p.Gate.RequireReview}, dst)
}

// squash names author and committer as git.authorship has them for the agent's own commits.
func (a *App) squash(ctx context.Context, p *project.Project, req PromoteRequest) *promote.Squash {
	human := a.human(ctx, p)
	author, committer := human, human
	if set, err := roster.Load(a.Roots); err == nil {
		if agent, err := set.Agent(req.Task.Agent); err == nil {
			author, committer = roster.Authorship(p.Git.Authorship, agent.Spec.Author, human)
		}
	}
	return &promote.Squash{Message: req.Message, Author: inspect.Identity(author), Committer: inspect.Identity(committer)}
}

// UndoPromote takes back a task's last promotion that still stands.
func (a *App) UndoPromote(ctx context.Context, t *task.Task) (Promotion, error) {
	return a.promoter().Undo(ctx, a.reviewTask(ctx, t))
}

// target fills in where a request goes: the person's clone where the project's upstream is one.
func (a *App) target(ctx context.Context, p *project.Project, req PromoteRequest) (promote.Target, error) {
	kind, rest, hasRest := strings.Cut(req.To, ":")
	dst := promote.Target{Kind: kind, Branch: req.As, Expected: req.Expected, Force: req.Force,
		AllowDefault: req.AllowDefault || p.Gate.Promote.AllowProtected, Protected: p.Gate.Protected}
	if p.Git.DefaultBranch != "" {
		dst.Protected = append([]string{p.Git.DefaultBranch}, dst.Protected...)
	}
	pr := a.promoter()
	src := promote.Source{Task: review.Task{Project: req.Task.Project, ID: req.Task.ID, Branch: req.Task.Branch}, Branch: req.Branch, Commit: req.Commit}
	own := firstOf(ownName(req), req.Task.Name)
	switch kind {
	case review.ToRepo, review.ToBundle, review.ToPatches:
		var err error
		if dst.Dir, err = filepath.Abs(rest); err != nil || rest == "" {
			return dst, problem.New("usage", problem.Usage, "--to %s needs a path: %s:PATH", kind, kind)
		}
		if real, err := filepath.EvalSymlinks(dst.Dir); err == nil && kind == review.ToRepo {
			dst.Dir = real
		}
		dst.Branch = firstOf(dst.Branch, own)
		return dst, nil
	case review.ToGate:
		dst.Branch = firstOf(dst.Branch, own)
		return dst, nil
	}
	if hasRest {
		return dst, problem.New("usage", problem.Usage, "--to takes clone, gate, upstream, repo:PATH, bundle:FILE or patches:DIR, not %q", text.Line(req.To, 60))
	}
	dir := p.UpstreamPath()
	if dir != "" {
		bare, err := pr.IsBare(ctx, dir)
		if err != nil {
			return dst, err
		}
		if bare {
			dir = ""
		}
	}
	switch {
	case dst.Kind == "" && dir != "":
		dst.Kind = review.ToClone
	case dst.Kind == "":
		dst.Kind = review.ToUpstream
	case dst.Kind == review.ToClone && dir == "":
		return dst, problem.New("no_clone", problem.Usage, "project %s was not made from a clone", p.Name).WithHint("use --to upstream, or --to repo:PATH")
	case dst.Kind == review.ToUpstream && dir != "":
		dst.Kind = review.ToClone // the clone is the upstream
	case dst.Kind != review.ToClone && dst.Kind != review.ToUpstream:
		return dst, problem.New("usage", problem.Usage, "--to takes clone, gate, upstream, repo:PATH, bundle:FILE or patches:DIR, not %q", text.Line(req.To, 60))
	}
	if dst.Branch == "" { // a promotion that was killed goes on under the name that it had
		dst.Branch = pr.Intended(src, dst.Kind)
	}
	if dst.Kind == review.ToUpstream {
		dst.Branch = firstOf(dst.Branch, template(p.Gate.Promote.BranchTemplate, req))
		return dst, nil
	}
	var err error
	if dst.Dir, err = filepath.EvalSymlinks(dir); err != nil {
		return dst, problem.New("no_clone", problem.NotFound, "the clone is not there: %w", err)
	}
	if dst.Branch == "" {
		dst.Branch, err = pr.Name(ctx, dst.Dir, own)
	}
	return dst, err
}

func template(t string, req PromoteRequest) string {
	return strings.NewReplacer("{task}", req.Task.ID, "{name}", req.Task.Name, "{branch}", firstOf(req.Branch, req.Task.Branch)).Replace(t)
}

// ownName is the name of a branch that is not the task's own, "" otherwise.
func ownName(req PromoteRequest) string {
	if req.Branch == req.Task.Branch {
		return ""
	}
	return req.Branch
}

// OpenedReview is a review at the upstream's forge.
type OpenedReview struct {
	URL     string `json:"url"`
	Opened  bool   `json:"opened"`  // false: there was no token, the URL is where a person opens it
	Command string `json:"command"` // that opens it with the forge's own program
}

// OpenReview opens a review for a branch that was promoted to upstream. Without a token for the
// forge in the vault it returns the page on which a person does it.
func (a *App) OpenReview(ctx context.Context, t *task.Task, done Promotion, d ChangeDetails) (OpenedReview, error) {
	p, err := a.projects().Get(t.Project)
	if err != nil {
		return OpenedReview{}, err
	}
	repo, err := forge.Parse(done.Place, p.Git.Forge)
	if err != nil {
		return OpenedReview{}, err
	}
	into := firstOf(p.Git.DefaultBranch, t.Base, "main")
	v := forge.Review{Branch: strings.TrimPrefix(done.Ref, "refs/heads/"), Into: into, Title: t.Name}
	if n := len(d.List); n > 0 {
		v.Title, v.Body = d.List[n-1].Subject, d.List[n-1].Body
	}
	v.Body = strings.TrimSpace(v.Body + "\n\nTerok-Task: " + t.Ref() + "\nTerok-Reviewed: " + done.Commit)
	out := OpenedReview{URL: repo.CompareURL(v), Command: repo.Command(v)}
	token, err := a.forgeToken(ctx, p, repo)
	if err != nil || len(token) == 0 {
		return out, err
	}
	defer clear(token)
	client := forge.Client{HTTP: a.ForgeHTTP}
	out.URL, err = client.Open(ctx, repo, v, string(token))
	out.Opened = err == nil
	return out, err
}
