package promote

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Outside says why git must not open the repository that holds dir, nil where it may: the repository,
// its git directory, or what it borrows objects from lies in terok's own state, which holds the
// workspaces of tasks, or in one of writable, further directories that containers write. What a
// container can write is hostile: git would read its configuration, and a branch there shows a
// person what the task wants. It looks at the files itself, since git obeys the repository. Links
// are followed; a directory that is not there is for git to complain of.
func Outside(roots state.Roots, writable []string, dir string) error {
	top := real(dir)
	for d := top; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(filepath.Join(d, ".git")); err == nil || isGitDir(d) {
			top = d
			break
		}
		if d == "/" || d == "." {
			break
		}
	}
	gitDir, common := gitDirs(top)
	places := []string{real(dir), top, gitDir, common, real(filepath.Join(common, "objects"))}
	for line := range strings.Lines(small(filepath.Join(common, "objects", "info", "alternates"))) {
		if line = strings.TrimSpace(line); !filepath.IsAbs(line) {
			line = filepath.Join(common, "objects", line)
		}
		places = append(places, real(line))
	}
	for _, p := range places {
		for _, own := range []string{roots.Data, roots.Config, roots.Runtime} {
			if own != "" && within(p, real(own)) {
				return problem.New("hostile_clone", problem.Usage, "%s is not a clone of yours: it leads to %s in terok's own state, where tasks can write what git would obey", text.Show(dir), text.Show(p)).
					WithHint("use a clone outside of it: git clone URL DIR, then --to repo:DIR; or --to bundle:FILE")
			}
		}
		for _, w := range writable {
			if within(p, real(w)) {
				return problem.New("hostile_clone", problem.Usage, "%s is not a clone of yours alone: it leads to %s, which a project mounts writable into its containers", text.Show(dir), text.Show(p)).
					WithHint("use a clone that no container can write, or end the mount in project.yml with :ro")
			}
		}
	}
	return nil
}

// isGitDir reports what git takes for a repository without a working tree (setup.c, is_git_directory).
func isGitDir(d string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(d, name)); err != nil {
			return false
		}
	}
	return true
}

// gitDirs are the git directory of a working tree and the one that it shares with others
// (gitrepository-layout(5): a file .git, commondir); links are followed.
func gitDirs(top string) (dir, common string) {
	dir = filepath.Join(top, ".git")
	if info, err := os.Stat(dir); err != nil {
		dir = top
	} else if info.Mode().IsRegular() {
		to, _ := strings.CutPrefix(strings.TrimRight(small(dir), "\r\n"), "gitdir: ")
		if dir = to; !filepath.IsAbs(to) {
			dir = filepath.Join(top, to)
		}
	}
	dir = real(dir)
	common = dir
	if to := strings.TrimRight(small(filepath.Join(dir, "commondir")), "\r\n"); to != "" {
		if common = to; !filepath.IsAbs(to) {
			common = filepath.Join(dir, to)
		}
	}
	return dir, real(common)
}

// real is where a path leads; as far as it exists.
func real(path string) string {
	path = filepath.Clean(path)
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	if d := filepath.Dir(path); d != path {
		return filepath.Join(real(d), filepath.Base(path))
	}
	return path
}

// within reports whether a path is dir or lies in it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// small reads the beginning of a regular file, "" for anything else: a pipe must not hold us.
func small(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	var b bytes.Buffer
	_, _ = io.Copy(&b, io.LimitReader(f, 64<<10))
	return b.String()
}
