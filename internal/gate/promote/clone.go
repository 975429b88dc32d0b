package promote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// toClone makes a new branch in a person's clone. Objects first, without any ref; then the ref,
// only if there is none of that name: nothing the clone has can move.
type toClone struct{ *Promoter }

func (p toClone) name(j *job) (string, string) { return j.dst.Dir, refname.Heads + j.dst.Branch }
func (p toClone) notes(j *job) string          { return j.dst.Dir }
func (p toClone) at(ctx context.Context, j *job) (string, error) {
	_, ref := p.name(j)
	return p.refOf(ctx, j.dst.Dir, ref)
}

func (p toClone) look(ctx context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	if err := p.isClone(ctx, j.dst.Dir); err != nil {
		return err
	}
	tip, err := p.refOf(ctx, j.dst.Dir, j.done.Ref)
	if err != nil {
		return err
	}
	if tip != "" && !(j.again && tip == j.done.As) {
		return branchExists(j.dst)
	}
	return nil
}

func (p toClone) act(ctx context.Context, j *job) error {
	if tip, err := p.refOf(ctx, j.dst.Dir, j.done.Ref); err != nil || tip == j.done.As {
		return err
	}
	if err := p.fetch(ctx, j); err != nil {
		return err
	}
	p.step("fetched")
	zero := strings.Repeat("0", len(j.done.As))
	if _, err := p.inClone(ctx, clone(j.dst.Dir, "update-ref", "--no-deref", "-m", promoted(j.src.Task), j.done.Ref, j.done.As, zero)); err != nil {
		if tip, there := p.refOf(ctx, j.dst.Dir, j.done.Ref); there == nil && tip != "" {
			return branchExists(j.dst)
		}
		return fmt.Errorf("make branch %s in %s: %w", j.dst.Branch, text.Show(j.dst.Dir), err)
	}
	return nil
}

func promoted(t review.Task) string { return "terok: promoted from " + t.Ref() }

// fetch brings the objects of the commit from the base, and no ref.
func (p *Promoter) fetch(ctx context.Context, j *job) error {
	c := clone(j.dst.Dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
		"--", p.Store.Roots.GateBase(j.src.Task.Project), j.done.As)
	c.Protocols = []string{"file"}
	c.Config = append(c.Config, "protocol.version=2", "fetch.fsckObjects=true", "fetch.prune=false", "fetch.pruneTags=false",
		"fetch.writeCommitGraph=false", "fetch.unpackLimit=100", "core.bigFileThreshold=16m")
	if _, err := p.inClone(ctx, c); err != nil {
		return fmt.Errorf("copy commits into %s: %w", text.Show(j.dst.Dir), err)
	}
	return nil
}

func branchExists(dst Target) error {
	return problem.New("branch_exists", problem.Conflict, "%s has a branch %s already", text.Show(dst.Dir), dst.Branch).WithHint("use --as NAME")
}

// clone is a git command in a person's clone: trusted, but its hooks and programs do not run.
func clone(dir string, args ...string) git.Cmd {
	return git.Cmd{Dir: dir, Args: args, Timeout: localTimeout}
}

// inClone runs git in a person's clone, unless that is not only theirs.
func (p *Promoter) inClone(ctx context.Context, c git.Cmd) ([]byte, error) {
	if err := Outside(p.Store.Roots, p.Writable, c.Dir); err != nil {
		return nil, err
	}
	return p.Git.Run(ctx, c)
}

// refOf is where a ref of a clone points, "" when there is none.
func (p *Promoter) refOf(ctx context.Context, dir, ref string) (string, error) {
	out, err := p.inClone(ctx, clone(dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref))
	if git.IsExit(err, 1) {
		return "", nil
	}
	return strings.TrimSpace(string(out)), err
}

func (p *Promoter) isClone(ctx context.Context, dir string) error {
	if !filepath.IsAbs(dir) {
		return problem.New("no_clone", problem.Usage, "%s is not an absolute path", text.Show(dir))
	}
	if _, err := os.Stat(dir); err != nil {
		return problem.New("no_clone", problem.NotFound, "the clone is not there: %w", err)
	}
	if _, err := p.inClone(ctx, clone(dir, "rev-parse", "--git-dir")); problem.Is(err, "hostile_clone") {
		return err
	} else if err != nil {
		return problem.New("no_clone", problem.NotFound, "%s is no git repository: %w", text.Show(dir), err)
	}
	return nil
}

func (p toClone) undo(ctx context.Context, _ review.Task, q review.Promotion) error {
	branch := strings.TrimPrefix(q.Ref, refname.Heads)
	if err := p.isClone(ctx, q.Place); err != nil {
		return err
	}
	out, err := p.inClone(ctx, clone(q.Place, "worktree", "list", "--porcelain"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if strings.TrimSpace(line) == "branch "+q.Ref {
			return problem.New("branch_in_use", problem.Conflict, "%s is checked out in %s", branch, text.Show(q.Place)).
				WithHint("git -C %s switch -", text.Show(q.Place))
		}
	}
	return p.moveBack(ctx, q, branch)
}

// moveBack puts a ref of a clone where it was before the promotion.
func (p *Promoter) moveBack(ctx context.Context, q review.Promotion, branch string) error {
	tip, err := p.refOf(ctx, q.Place, q.Ref)
	switch {
	case err != nil:
		return err
	case tip == q.Old:
		return nil // the person, or a killed undo, did it already
	case tip != q.As:
		return moved(branch, q.Place)
	}
	args := []string{"update-ref", "--no-deref", "-d", q.Ref, q.As}
	if q.Old != "" {
		args = []string{"update-ref", "--no-deref", q.Ref, q.Old, q.As}
	}
	if _, err := p.inClone(ctx, clone(q.Place, args...)); err != nil {
		return moved(branch, q.Place)
	}
	return nil
}

func moved(branch, place string) error {
	return problem.New("promotion_moved", problem.Conflict, "%s in %s has moved since it was promoted; it stays", branch, text.Show(place))
}

// Name proposes a branch name for a clone: the task's slug, with a number when it is taken.
func (p *Promoter) Name(ctx context.Context, dir, slug string) (string, error) {
	if refname.Check(slug) != nil {
		slug = "terok"
	}
	for n := 1; n < 100; n++ {
		name := slug
		if n > 1 {
			name = fmt.Sprintf("%s-%d", slug, n)
		}
		tip, err := p.refOf(ctx, dir, refname.Heads+name)
		if problem.Is(err, "hostile_clone") {
			return "", err
		}
		if err != nil {
			return "", problem.New("no_clone", problem.NotFound, "%s is no git repository: %w", text.Show(dir), err)
		}
		if tip == "" {
			return name, nil
		}
	}
	return "", problem.New("branch_exists", problem.Conflict, "%s has ninety-nine branches like %s", text.Show(dir), slug).WithHint("use --as NAME")
}

// IsBare reports whether the repository at dir has no working tree.
func (p *Promoter) IsBare(ctx context.Context, dir string) (bool, error) {
	if _, err := os.Stat(dir); err != nil {
		return false, problem.New("no_clone", problem.NotFound, "the clone is not there: %w", err)
	}
	out, err := p.inClone(ctx, clone(dir, "rev-parse", "--is-bare-repository"))
	if problem.Is(err, "hostile_clone") {
		return false, err
	}
	if err != nil {
		return false, errors.Join(p.isClone(ctx, dir), err)
	}
	return strings.TrimSpace(string(out)) == "true", nil
}

// toRepo moves a remote-tracking ref of any clone: refs/remotes/terok/ID/BRANCH, and nothing else.
// It is a look, so it moves with every promotion and may lose commits.
type toRepo struct{ *Promoter }

func (p toRepo) name(j *job) (string, string) {
	return j.dst.Dir, "refs/remotes/terok/" + j.src.Task.ID + "/" + j.dst.Branch
}

func (p toRepo) at(ctx context.Context, j *job) (string, error) {
	_, ref := p.name(j)
	return p.refOf(ctx, j.dst.Dir, ref)
}

// notes: the base; of the clone only that one ref changes.
func (p toRepo) notes(*job) string { return "" }

func (p toRepo) look(ctx context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	if err := p.isClone(ctx, j.dst.Dir); err != nil {
		return err
	}
	tip, err := p.refOf(ctx, j.dst.Dir, j.done.Ref)
	if !j.again {
		j.done.Old = tip
	}
	return err
}

func (p toRepo) act(ctx context.Context, j *job) error {
	if tip, err := p.refOf(ctx, j.dst.Dir, j.done.Ref); err != nil || tip == j.done.As {
		return err
	}
	if err := p.fetch(ctx, j); err != nil {
		return err
	}
	p.step("fetched")
	old := j.done.Old
	if old == "" {
		old = strings.Repeat("0", len(j.done.As))
	}
	_, err := p.inClone(ctx, clone(j.dst.Dir, "update-ref", "--no-deref", "-m", promoted(j.src.Task), j.done.Ref, j.done.As, old))
	return err
}

func (p toRepo) undo(ctx context.Context, _ review.Task, q review.Promotion) error {
	if err := p.isClone(ctx, q.Place); err != nil {
		return err
	}
	return p.moveBack(ctx, q, strings.TrimPrefix(q.Ref, "refs/remotes/"))
}
