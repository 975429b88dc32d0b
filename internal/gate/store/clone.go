package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Clone is a person's clone as the start of a task. It is read only: index, refs, objects and
// files stay as they are, and neither its hooks nor its filters run.
type Clone struct {
	Dir         string   // top of the working tree
	Uncommitted bool     // make a start commit of what is not committed
	Name, Email string   // author of that commit
	Excludes    []string // further ignore files, e.g. the person's global one
}

// Work is what a clone holds besides its HEAD.
type Work struct {
	Branch  string   // checked-out branch, "" when detached
	Head    string   // commit, "" in an empty repository
	Changed []string // paths that differ from HEAD, raw bytes
	New     []string // untracked paths that are not ignored
}

// Clean reports whether there is nothing to bring along.
func (w Work) Clean() bool { return len(w.Changed) == 0 && len(w.New) == 0 }

// Uncommitted looks at a clone through the base of project. It fails with "no_clone" where dir is
// no working tree, with "other_worktree" where its files lie elsewhere, and with "merge_in_progress" where
// paths are unmerged.
func (s *Store) Uncommitted(ctx context.Context, project string, clone Clone) (Work, error) {
	v, err := s.openClone(ctx, s.Roots.GateBase(project), nil, clone)
	if err != nil {
		return Work{}, err
	}
	defer v.close()
	return v.work(ctx)
}

// fromClone brings the start commit of a clone into the new task repository at repo.
func (s *Store) fromClone(ctx context.Context, repo, baseObjects string, c *Clone, heads map[string]string) (from, id string, err error) {
	v, err := s.openClone(ctx, repo, []string{baseObjects}, *c)
	if err != nil {
		return "", "", err
	}
	defer v.close()
	work := Work{Branch: v.branch, Head: v.head}
	if c.Uncommitted {
		if work, err = v.work(ctx); err != nil {
			return "", "", err
		}
	}
	id = work.Head
	if !work.Clean() {
		if id, err = v.commit(ctx, work); err != nil {
			return "", "", err
		}
	}
	if id == "" {
		return work.Branch, "", nil
	}
	return work.Branch, id, v.bring(ctx, id, heads)
}

// cloneView looks at a clone's files with the configuration of a repository of ours: GIT_DIR is
// ours, the index a copy, the clone's objects are borrowed for reading. So no setting of the
// clone that names a program (filters, fsmonitor, hooks) is ever read.
type cloneView struct {
	*Store
	gitDir     string   // ours
	alternates []string // of gitDir
	clone      Clone
	tmp        string // holds index and excludes
	objects    string // the clone's
	branch     string
	head       string
	seeded     bool // the index copy could be used
}

func (v *cloneView) close() { os.RemoveAll(v.tmp) }

func (s *Store) openClone(ctx context.Context, gitDir string, alternates []string, clone Clone) (*cloneView, error) {
	none := func(err error) error {
		return problem.New("no_clone", problem.Usage, "%s is no working tree of git: %w", text.Line(clone.Dir, 0), err)
	}
	if !filepath.IsAbs(clone.Dir) {
		return nil, none(errors.New("not an absolute path"))
	}
	// rev-parse runs no program of the repository, whatever its configuration.
	out, err := s.Git.Run(ctx, git.Cmd{Dir: clone.Dir, Args: []string{"rev-parse", "--path-format=absolute",
		"--show-toplevel", "--git-path", "objects", "--git-path", "index", "--git-path", "info/exclude", "--git-path", "HEAD"}})
	if err != nil {
		return nil, none(err)
	}
	paths := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(paths) != 5 {
		return nil, none(errors.New("its path contains a line break"))
	}
	// core.worktree of a downloaded repository could name the person's home.
	if real, err := filepath.EvalSymlinks(clone.Dir); err != nil || real != paths[0] {
		return nil, problem.New("other_worktree", problem.Usage, "the files of %s lie elsewhere: %s", text.Show(clone.Dir), text.Show(paths[0])).
			WithHint("git config --unset core.worktree there, if you do not know why it is set")
	}
	v := &cloneView{Store: s, gitDir: gitDir, alternates: alternates, clone: clone, objects: paths[1]}
	v.clone.Dir = paths[0]
	if out, err = s.Git.Run(ctx, git.Cmd{Dir: clone.Dir, Args: []string{"rev-parse", "--verify", "--quiet", "HEAD^{commit}"}}); err == nil {
		v.head = strings.TrimSpace(string(out))
	} else if !git.IsExit(err, 1) {
		return nil, none(err)
	}
	if data, err := readSmall(paths[4]); err == nil {
		if b, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "ref: "+refname.Heads); ok {
			v.branch = b
		}
	}
	if v.tmp, err = state.TempDir(filepath.Join(s.Roots.Data, "index"), ""); err != nil {
		return nil, err
	}
	if err := errors.Join(v.copyIndex(paths[2]), v.writeExcludes(paths[3])); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

// copyIndex takes the clone's index along: its cached file times make finding changes fast, and
// files that a filter rewrote (LFS) are known to be unchanged. The copy keeps the time of the
// original, by which git recognises entries written in the same instant.
func (v *cloneView) copyIndex(path string) error {
	src, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(v.index(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	v.seeded = true
	return errors.Join(err, dst.Close(), os.Chtimes(v.index(), time.Time{}, info.ModTime()))
}

// writeExcludes joins the clone's and the person's ignore files: what they keep out of their
// commits, secrets above all, stays out of this one.
func (v *cloneView) writeExcludes(local string) error {
	var all bytes.Buffer
	for _, path := range append([]string{local}, v.clone.Excludes...) {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		all.Write(data)
		all.WriteByte('\n')
	}
	return os.WriteFile(v.excludes(), all.Bytes(), 0o600)
}

func (v *cloneView) index() string    { return filepath.Join(v.tmp, "index") }
func (v *cloneView) excludes() string { return filepath.Join(v.tmp, "exclude") }

func (v *cloneView) cmd(args ...string) git.Cmd {
	return git.Cmd{GitDir: v.gitDir, Dir: v.clone.Dir, Args: args, Alternates: v.alternates, Timeout: 10 * time.Minute, MaxOutput: 64 << 20,
		Env: []string{"GIT_WORK_TREE=" + v.clone.Dir, "GIT_INDEX_FILE=" + v.index(), "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + quoteAlternate(v.objects)},
		Config: []string{"core.bare=false", "core.excludesFile=" + v.excludes(), "core.untrackedCache=false", "core.splitIndex=false",
			"index.sparse=false", "core.bigFileThreshold=16m", "advice.addEmbeddedRepo=false"}}
}

// quoteAlternate renders one path for GIT_ALTERNATE_OBJECT_DIRECTORIES, where ":" separates and a
// leading quote begins C-style quoting (git(1)).
func quoteAlternate(path string) string {
	if !strings.ContainsAny(path, ":\"\\") {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
}

// work compares the files with HEAD.
func (v *cloneView) work(ctx context.Context) (Work, error) {
	w := Work{Branch: v.branch, Head: v.head}
	if !v.seeded && v.head != "" {
		if _, err := v.Git.Run(ctx, v.cmd("read-tree", v.head)); err != nil {
			return w, err
		}
	}
	// Refresh fails when something changed, which is what is asked; a broken index shows below.
	_, _ = v.Git.Run(ctx, v.cmd("update-index", "-q", "--refresh"))
	unmerged, err := v.Git.Run(ctx, v.cmd("ls-files", "--unmerged", "-z"))
	if err != nil {
		return w, err
	}
	if len(unmerged) > 0 {
		return w, problem.New("merge_in_progress", problem.Conflict, "%s has unmerged paths", text.Line(v.clone.Dir, 0)).
			WithHint("finish or abort the merge first")
	}
	tree := v.head
	if tree == "" {
		if tree, err = v.emptyTree(ctx); err != nil {
			return w, err
		}
	}
	// Submodules stay as the index has them: looking into one would run git with its settings.
	out, err := v.Git.Run(ctx, v.cmd("diff-index", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty", tree))
	if err != nil {
		return w, err
	}
	w.Changed = splitZ(out)
	if out, err = v.Git.Run(ctx, v.cmd("ls-files", "--others", "--exclude-standard", "-z")); err != nil {
		return w, err
	}
	// A directory in this list is another repository inside the tree.
	w.New = slices.DeleteFunc(splitZ(out), func(p string) bool { return strings.HasSuffix(p, "/") })
	return w, nil
}

func (v *cloneView) emptyTree(ctx context.Context) (string, error) {
	out, err := v.Git.Run(ctx, v.cmd("hash-object", "-t", "tree", "--stdin"))
	return strings.TrimSpace(string(out)), err
}

// commit makes a commit of the work in the task's repository.
func (v *cloneView) commit(ctx context.Context, w Work) (string, error) {
	c := v.cmd("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
	c.Stdin = strings.NewReader(strings.Join(append(slices.Clone(w.Changed), w.New...), "\x00") + "\x00")
	if _, err := v.Git.Run(ctx, c); err != nil {
		return "", fmt.Errorf("collect uncommitted work: %w", err)
	}
	out, err := v.Git.Run(ctx, v.cmd("write-tree"))
	if err != nil {
		return "", fmt.Errorf("collect uncommitted work: %w", err)
	}
	c = v.cmd("commit-tree", strings.TrimSpace(string(out)), "-m",
		fmt.Sprintf("Uncommitted work\n\n%d changed and %d new files, as they were when the task began.", len(w.Changed), len(w.New)))
	if w.Head != "" {
		c.Args = append(c.Args, "-p", w.Head)
	}
	date := fmt.Sprintf("%d +0000", v.now().Unix())
	c.Env = append(c.Env, "GIT_AUTHOR_NAME="+v.clone.Name, "GIT_AUTHOR_EMAIL="+v.clone.Email, "GIT_AUTHOR_DATE="+date,
		"GIT_COMMITTER_NAME="+v.clone.Name, "GIT_COMMITTER_EMAIL="+v.clone.Email, "GIT_COMMITTER_DATE="+date)
	if out, err = v.Git.Run(ctx, c); err != nil {
		return "", fmt.Errorf("commit uncommitted work: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// bring copies what commit id needs and the base has not into the task's repository, as one pack:
// commits that were never pushed, and files that were staged in the clone only.
func (v *cloneView) bring(ctx context.Context, id string, heads map[string]string) error {
	var revs strings.Builder
	fmt.Fprintln(&revs, id)
	for _, tip := range heads {
		if tip == id {
			return nil
		}
		fmt.Fprintln(&revs, "^"+tip)
	}
	c := v.cmd("pack-objects", "--revs", "--quiet", "--non-empty", "--delta-base-offset", "--missing=error", filepath.Join(v.gitDir, "objects", "pack", "pack"))
	c.Config = append(c.Config, "pack.threads=2", "pack.packSizeLimit=0")
	c.Stdin = strings.NewReader(revs.String())
	if _, err := v.Git.Run(ctx, c); err != nil {
		return fmt.Errorf("copy commits of %s: %w", text.Line(v.clone.Dir, 0), err)
	}
	return nil
}

func splitZ(out []byte) []string {
	s := strings.TrimSuffix(string(out), "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}
