package terok

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/audit"
	"terok/internal/gate/promote"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/task"
)

// What the gate's methods return.
type (
	GateReport    = store.Report
	GateChange    = store.Change
	Change        = review.Change
	ChangeDetails = review.Details
	Promotion     = review.Promotion
)

// PromoteRequest says what goes where.
type PromoteRequest struct {
	Task         *task.Task
	Branch       string  // of the task; "" is its own
	Commit       string  // full id of the tip, as it was reviewed; nothing else is promoted
	To           string  // "clone", "upstream", or "" for the clone where the project has one
	As           string  // branch name at the target; "" is the task's slug, at upstream its branch
	Expected     *string // upstream: the tip that was seen there, "" for none; nil looks now
	AllowDefault bool    // upstream: As may be the default branch
}

// PromotePlan is where a request leads, for showing before the person confirms.
type PromotePlan struct {
	Details ChangeDetails `json:"details"`
	To      string        `json:"to"`     // clone or upstream
	Place   string        `json:"place"`  // directory or URL
	Branch  string        `json:"branch"` // at the target
}

// hostLedger records what a person did, in the host's ledger; a failure is a warning.
type hostLedger struct{ app *App }

// Record implements audit.Recorder.
func (l hostLedger) Record(e audit.Event) {
	if err := audit.AppendOne(l.app.Roots.HostLedger(), e); err != nil {
		fmt.Fprintf(l.app.Progress, "warning: the host ledger could not be written: %v\n", err)
	}
}

func (a *App) reader() *review.Reader { return &review.Reader{Roots: a.Roots, Git: &git.Runner{}} }

func (a *App) promoter() *promote.Promoter {
	return &promote.Promoter{Store: a.gateStore(), Review: a.reader(), Git: &git.Runner{}, Now: a.Now, Ledger: hostLedger{a}}
}

// sshEnv lets ssh upstreams use the person's agent.
func (a *App) sshEnv() []string {
	if sock := a.Environ("SSH_AUTH_SOCK"); filepath.IsAbs(sock) {
		return []string{"SSH_AUTH_SOCK=" + sock}
	}
	return nil
}

// globalIgnores are the person's own ignore files (gitignore(5)): what they never commit is not
// carried into a task either.
func (a *App) globalIgnores(ctx context.Context) []string {
	home := a.Environ("HOME")
	config := firstOf(a.Environ("XDG_CONFIG_HOME"), filepath.Join(home, ".config"))
	files := []string{filepath.Join(config, "git", "ignore")}
	for _, f := range []string{filepath.Join(config, "git", "config"), filepath.Join(home, ".gitconfig")} {
		out, err := (&git.Runner{}).Run(ctx, git.Cmd{Args: []string{"config", "--file", f, "--get", "core.excludesFile"}})
		if path := strings.TrimSpace(string(out)); err == nil && path != "" {
			if rest, ok := strings.CutPrefix(path, "~/"); ok {
				path = filepath.Join(home, rest)
			}
			if filepath.IsAbs(path) {
				files = append(files, path)
			}
		}
	}
	return files
}

// GateSync brings a project's base repository up to date with its upstream, making it first if
// need be. Rewrites and deletions upstream are in Report.Pending and not applied.
func (a *App) GateSync(ctx context.Context, project string) (GateReport, error) {
	p, err := a.projects().Get(project)
	if err != nil {
		return GateReport{}, err
	}
	return a.gateStore().Init(ctx, project, p.Git.UpstreamURL)
}

func reviewTask(t *task.Task) review.Task {
	return review.Task{Project: t.Project, ID: t.ID, Name: t.Name, Branch: t.Branch}
}

// ReviewQueue lists what waits for a person in the given projects, none meaning all; with all,
// promoted changes are listed too. What could be read is returned beside an error.
func (a *App) ReviewQueue(ctx context.Context, all bool, projects ...string) ([]Change, error) {
	entries, err := a.tasks().List(projects...)
	if err != nil {
		return nil, err
	}
	var tasks []review.Task
	for _, e := range entries {
		if e.Err == nil {
			tasks = append(tasks, reviewTask(&e.Task))
		}
	}
	return a.queue(ctx, all, tasks...)
}

// ReviewTask is ReviewQueue for one task.
func (a *App) ReviewTask(ctx context.Context, t *task.Task) ([]Change, error) {
	return a.queue(ctx, true, reviewTask(t))
}

func (a *App) queue(ctx context.Context, all bool, tasks ...review.Task) ([]Change, error) {
	changes, err := a.reader().Queue(ctx, tasks...)
	waiting := []Change{}
	for _, c := range changes {
		if all || c.State != review.Promoted {
			waiting = append(waiting, c)
		}
	}
	return waiting, err
}

// ReviewShow reads one branch of a task, "" meaning its own: commits, files, flags, diff.
func (a *App) ReviewShow(ctx context.Context, t *task.Task, branch string) (ChangeDetails, error) {
	return a.reader().Show(ctx, reviewTask(t), branch)
}

// ReviewApprove records that the person accepts exactly this commit as the tip of a branch.
func (a *App) ReviewApprove(ctx context.Context, t *task.Task, branch, commit string) error {
	return a.promoter().Approve(ctx, promote.Source{Task: reviewTask(t), Branch: branch, Commit: commit})
}

// PlanPromote reads what a request would promote, and where to. It changes nothing.
func (a *App) PlanPromote(ctx context.Context, req PromoteRequest) (PromotePlan, error) {
	var plan PromotePlan
	dst, err := a.target(ctx, req)
	if err != nil {
		return plan, err
	}
	plan.To, plan.Branch, plan.Place = dst.Kind, dst.Branch, dst.Dir
	if dst.Kind == review.ToUpstream {
		up, err := a.gateStore().Upstream(req.Task.Project)
		if err != nil {
			return plan, err
		}
		plan.Place = up.URL
	}
	plan.Details, err = a.ReviewShow(ctx, req.Task, req.Branch)
	return plan, err
}

// Promote carries out a request; req.Commit must be the branch's tip at this moment.
func (a *App) Promote(ctx context.Context, req PromoteRequest) (Promotion, error) {
	dst, err := a.target(ctx, req)
	if err != nil {
		return Promotion{}, err
	}
	return a.promoter().Promote(ctx, promote.Source{Task: reviewTask(req.Task), Branch: req.Branch, Commit: req.Commit}, dst)
}

// UndoPromote takes back a task's last promotion that still stands.
func (a *App) UndoPromote(ctx context.Context, t *task.Task) (Promotion, error) {
	return a.promoter().Undo(ctx, reviewTask(t))
}

// target fills in where a request goes: the person's clone where the project's upstream is one.
func (a *App) target(ctx context.Context, req PromoteRequest) (promote.Target, error) {
	dst := promote.Target{Kind: req.To, Branch: req.As, Expected: req.Expected, AllowDefault: req.AllowDefault}
	p, err := a.projects().Get(req.Task.Project)
	if err != nil {
		return dst, err
	}
	pr := a.promoter()
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
		return dst, problem.New("no_clone", problem.Usage, "project %s was not made from a clone", p.Name).WithHint("use --to upstream")
	case dst.Kind == review.ToUpstream && dir != "":
		dst.Kind = review.ToClone // the clone is the upstream
	case dst.Kind != review.ToClone && dst.Kind != review.ToUpstream:
		return dst, problem.New("usage", problem.Usage, "--to takes clone or upstream, not %q", dst.Kind)
	}
	if dst.Kind == review.ToUpstream {
		if dst.Branch == "" {
			dst.Branch = firstOf(req.Branch, req.Task.Branch)
		}
		return dst, nil
	}
	if dst.Dir, err = filepath.EvalSymlinks(dir); err != nil {
		return dst, problem.New("no_clone", problem.NotFound, "the clone is not there: %w", err)
	}
	if dst.Branch == "" {
		dst.Branch, err = pr.Name(ctx, dst.Dir, firstOf(ownName(req), req.Task.Name))
	}
	return dst, err
}

// ownName is the name of a branch that is not the task's own, "" otherwise.
func ownName(req PromoteRequest) string {
	if req.Branch == req.Task.Branch {
		return ""
	}
	return req.Branch
}

// HomeRelative shows a path below the person's home with a tilde.
func (a *App) HomeRelative(path string) string {
	if home := a.Environ("HOME"); filepath.IsAbs(home) {
		if rest, ok := strings.CutPrefix(path, filepath.Clean(home)+string(os.PathSeparator)); ok {
			return "~/" + rest
		}
	}
	return path
}
