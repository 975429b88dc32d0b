package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/audit"
	"terok/internal/gate/view"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// config is the whole configuration of our repositories. It repeats what every call passes,
// because git drops command-line configuration when it starts itself in another repository
// (fetch from a path).
func config(format string) []byte {
	version, extensions := 0, ""
	if format == "sha256" {
		version, extensions = 1, "[extensions]\n\tobjectFormat = sha256\n"
	}
	return fmt.Appendf(nil, `[core]
	repositoryformatversion = %d
	bare = true
	filemode = true
	logAllRefUpdates = false
	hooksPath = /dev/null
	fsmonitor = false
	useReplaceRefs = false
	attributesFile = /dev/null
	alternateRefsCommand = true
[gc]
	auto = 0
[maintenance]
	auto = false
[transfer]
	hideRefs = refs/terok
[uploadpack]
	allowFilter = true
%s`, version, extensions)
}

// layout lists what git reads from the top of a repository of ours.
var layout = map[string]fs.FileMode{
	"HEAD": 0, "config": 0, "packed-refs": 0, "packed-refs.lock": 0, "packed-refs.new": 0, "HEAD.lock": 0,
	"objects": fs.ModeDir, "refs": fs.ModeDir,
	"task.lock": 0,          // view.Lock
	"lfs":       fs.ModeDir, // objects of Git LFS (package lfs)
	"terok":     fs.ModeDir, // of a base: what the host tells the tasks' servers
}

// checked is Verify of a base; one that was changed is frozen, so that no task pushes on top of it.
func (s *Store) checked(project, base string) error {
	err := Verify(base)
	if problem.Is(err, "store_corrupt") {
		_ = state.WriteFile(view.FrozenFile(base, ""), []byte("the base is not as terok wrote it"))
		s.record(audit.Event{Project: project, Ev: "gate_corrupt", Actor: s.actor(), Reason: text.Line(err.Error(), 300)})
	}
	return err
}

// Verify says whether the repository at dir is still the one that terok wrote, borrowing from
// exactly the object directories in alternates: git obeys a repository's config, hooks, commondir,
// worktree and attributes files, and a supervisor that was taken over from inside the container
// could have planted one. The error is the problem "store_corrupt".
func Verify(dir string, alternates ...string) error {
	corrupt := func(format string, args ...any) error {
		return problem.New("store_corrupt", problem.Failed, "the repository %s is not as terok wrote it: "+format, append([]any{dir}, args...)...).
			WithHint("do not open it with git; delete the task, or move the directory away")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		want, ok := layout[e.Name()]
		if !ok || e.Type() != want {
			return corrupt("unexpected entry %.60q", e.Name())
		}
	}
	got, err := readSmall(filepath.Join(dir, "config"))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, config("sha1")) && !bytes.Equal(got, config("sha256")) {
		return corrupt("its configuration was changed")
	}
	got, err = readSmall(filepath.Join(dir, "objects", "info", "alternates"))
	if errors.Is(err, fs.ErrNotExist) {
		got, err = nil, nil
	}
	if err != nil {
		return err
	}
	if string(got) != alternatesText(alternates) {
		return corrupt("it borrows objects from elsewhere")
	}
	if len(alternates) == 0 {
		return nil // a base, which no container can write
	}
	for _, top := range []string{"refs", "objects", "lfs"} {
		odd, err := oddEntry(filepath.Join(dir, top), 0)
		if err != nil {
			return err
		}
		if odd != "" {
			return corrupt("%.200q is no file and no directory", odd)
		}
	}
	return nil
}

// oddEntry finds what is neither a directory nor a regular file below dir, "" for nothing. A link
// there would lead the host's git to the refs and packs of the base, or of another task.
func oddEntry(dir string, depth int) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // gone meanwhile
	}
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Type().IsRegular():
		case !e.IsDir() || depth == maxDepth:
			return path, nil
		default:
			if odd, err := oddEntry(path, depth+1); err != nil || odd != "" {
				return odd, err
			}
		}
	}
	return "", nil
}

const maxDepth = 100 // directories below refs; a name has 200 bytes

func alternatesText(dirs []string) string {
	if len(dirs) == 0 {
		return ""
	}
	return strings.Join(dirs, "\n") + "\n"
}

// readSmall reads a regular file of at most 64 KiB without following a link.
func readSmall(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > 64<<10 {
		return nil, fmt.Errorf("%s is not a small regular file", path)
	}
	return os.ReadFile(path)
}
