package terok

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/task"
	"terok/internal/text"
)

// DiffOptions choose what terok diff compares.
type DiffOptions struct {
	Branch      string
	Base        string   // commit id to begin at; "" is where the task's range begins
	Worktree    bool     // the task's files as they are now, committed or not
	SinceReview bool     // what came since the last decision
	Globs       []string // only these paths
	Stat        bool     // no hunks
}

// Diff is what differs.
type Diff struct {
	Task    string       `json:"task"`
	Branch  string       `json:"branch"`
	From    string       `json:"from"`
	To      string       `json:"to"` // commit, or "worktree"
	Files   []ReviewFile `json:"files"`
	Patch   string       `json:"patch"`
	Range   string       `json:"range"` // of SinceReview, when the branch was rewritten
	Cut     bool         `json:"cut"`
	Changed bool         `json:"changed"`
}

// Diff compares a task's work with what it began from. Nothing of it is read unconfined: commits by
// the inspector, files of the workspace inside the task's own container or a throw-away one.
func (a *App) Diff(ctx context.Context, t *task.Task, o DiffOptions) (Diff, error) {
	if o.Worktree {
		return a.worktreeDiff(ctx, t, o)
	}
	opts := ReviewOptions{Branch: o.Branch, View: review.View{Globs: o.Globs, Stat: o.Stat}}
	if o.SinceReview {
		opts.Since = "last"
	}
	if o.Base != "" {
		opts.Since = o.Base
	}
	d, err := a.ReviewShow(ctx, t, opts)
	if err != nil {
		return Diff{}, err
	}
	out := Diff{Task: t.Ref(), Branch: d.Branch, From: firstOf(d.Since, d.Base), To: d.Tip, Files: d.Files, Patch: d.Patch, Range: d.Range, Cut: d.Cut}
	out.Changed = d.FileCount > 0 || d.Range != ""
	return out, nil
}

// DiffRaw is the diff of a branch as git prints it, unescaped: for programs, never for a terminal.
func (a *App) DiffRaw(ctx context.Context, t *task.Task, branch string) ([]byte, error) {
	return a.reader().Raw(ctx, a.reviewTask(ctx, t), ReviewOptions{Branch: branch})
}

// worktreeScript compares the files of /workspace with a commit, untracked ones included, without
// writing to the workspace: a copy of the index and new objects go to a temporary directory. It
// runs inside a container: what the repository's configuration starts there, starts there.
const worktreeScript = `set -e
cd /workspace
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/objects"
[ ! -e .git/index ] || cp .git/index "$tmp/index"
export GIT_OPTIONAL_LOCKS=0 GIT_INDEX_FILE="$tmp/index" GIT_OBJECT_DIRECTORY="$tmp/objects" GIT_NO_REPLACE_OBJECTS=1 GIT_PAGER=cat
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$PWD/.git/objects:/run/terok/base/objects"
g() { git --git-dir=/workspace/.git --work-tree=/workspace -c core.fsmonitor=false -c core.hooksPath=/dev/null -c safe.directory='*' -c core.quotePath=true "$@"; }
g add -A . 2>/dev/null || g add -A --ignore-errors . || true
g diff --cached --no-ext-diff --no-textconv --no-color --no-renames --src-prefix=a/ --dst-prefix=b/ "$1" --
`

const (
	worktreeTime = 2 * time.Minute
	maxWorktree  = 16 << 20 // bytes of diff
)

// worktreeDiff looks at files that nobody committed. Host git never runs in a workspace: its
// configuration, hooks, filters and alternates are the task's.
func (a *App) worktreeDiff(ctx context.Context, t *task.Task, o DiffOptions) (Diff, error) {
	from := firstOf(o.Base, t.Start)
	if from == "" {
		return Diff{}, problem.New("nothing_pushed", problem.NotFound, "%s has no repository", t.Ref())
	}
	if o.SinceReview {
		rec, err := review.LoadRecord(a.Roots, t.Project, t.ID)
		if err != nil {
			return Diff{}, err
		}
		from = firstOf(rec.History(firstOf(o.Branch, t.Branch)).Last(), from)
	}
	argv := []string{"/bin/sh", "-c", worktreeScript, "sh", from}
	raw, err := a.inWorkspace(ctx, t, argv)
	if err != nil {
		return Diff{}, err
	}
	out := Diff{Task: t.Ref(), Branch: t.Branch, From: from, To: "worktree", Files: []ReviewFile{}}
	for _, f := range review.ParseUnified(raw) {
		if review.Wanted(o.Globs, f.Path) {
			if o.Stat {
				f.Patch = ""
			}
			out.Files = append(out.Files, f)
		}
	}
	out.Patch, out.Changed = review.Unified(out.Files), len(out.Files) > 0
	return out, nil
}

// inWorkspace runs a command where the workspace is: in the task's container while that runs, else
// in a throw-away one without network, credentials and capabilities, the workspace read-only.
func (a *App) inWorkspace(ctx context.Context, t *task.Task, argv []string) (string, error) {
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return "", err
	}
	out := &capped{limit: maxWorktree}
	if c != nil && c.Running() {
		_, err = a.pod().Exec(ctx, c.ID, argv, podman.ExecOptions{Stdout: out, Timeout: worktreeTime})
	} else {
		err = a.besideWorkspace(ctx, t, argv, out)
	}
	if out.over {
		return "", problem.New("too_large", problem.Failed, "too large to show: more than 16 MiB differ").WithHint("terok login %s", t.Ref())
	}
	if exit, ok := errors.AsType[*podman.ExitError](err); ok {
		return "", problem.New("diff_failed", problem.Failed, "the container could not compare its files: %s", text.Line(exit.Stderr, 300)).
			WithHint("terok login %s", t.Ref())
	}
	return out.b.String(), err
}

func (a *App) besideWorkspace(ctx context.Context, t *task.Task, argv []string, out *capped) error {
	if t.ImageID == "" {
		return problem.New("container_gone", problem.Conflict, "%s never ran", t.Ref())
	}
	workspace := filepath.Join(t.Dir(a.Roots), "workspace")
	objects := a.gateStore().ObjectsDir(t.Project)
	for _, dir := range []string{workspace, objects} {
		if strings.ContainsAny(dir, ":,\n") {
			return fmt.Errorf("%q cannot be mounted", dir)
		}
	}
	args := []string{"run", "--rm", "--network", "none", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--userns", "keep-id:uid=1000,gid=1000",
		"--user", "1000:1000", "--read-only", "--tmpfs", "/tmp:size=1g,mode=1777", "--pids-limit", "256", "--systemd=false", "--http-proxy=false", "--no-healthcheck", "--image-volume=ignore", "--entrypoint", "", "--log-driver", "none", "--pull", "never",
		"--label", sandbox.LabelManaged + "=look", "--env", "HOME=/tmp", "--env", "TMPDIR=/tmp",
		"--volume", workspace + ":/workspace:ro", "--volume", objects + ":" + store.BorrowMount + ":ro", t.ImageID}
	if _, err := a.pod().Ready(ctx, a.Roots.HooksDir()); err != nil {
		return err
	}
	_, err := a.pod().Do(ctx, podman.Call{Args: append(args, argv...), Stdout: out, Timeout: worktreeTime})
	return err
}

// capped keeps output up to a limit; what goes over it ends the command.
type capped struct {
	b     strings.Builder
	limit int
	over  bool
}

func (c *capped) Write(p []byte) (int, error) {
	if c.b.Len()+len(p) > c.limit {
		c.over = true
		return 0, errors.New("more output than is shown")
	}
	return c.b.Write(p)
}
