package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Place makes a project's mirror lie in home, which other projects may share; "" is the project's
// own directory. It is asked before each sync, and refuses to leave a mirror that the project has
// already: code gate_path_differs. Home must be empty, absent, or a gate's; nobody else may be able
// to write there, since tasks begin from what it holds.
func (s *Store) Place(project, home string) error {
	if err := checkComponent(project); err != nil {
		return err
	}
	own := s.Roots.GateDir(project)
	if home == "" || SameDir(home, own) {
		home = own
	} else if err := gateDirectory(home); err != nil {
		return err
	}
	now := s.Roots.GateHome(project)
	if SameDir(now, home) {
		return nil
	}
	unlock, err := state.Lock(filepath.Join(own, "place"))
	if err != nil {
		return err
	}
	defer unlock()
	tasks, err := s.Tasks(project)
	if err != nil {
		return err
	}
	_, err = os.Lstat(filepath.Join(now, "base.git"))
	switch {
	case len(tasks) > 0:
		return problem.New("gate_path_differs", problem.Conflict, "tasks of %s borrow from its mirror at %s, and gate.path says %s", project, text.Line(now, 0), text.Line(home, 0)).
			WithHint("terok task delete %s/%s, with --keep-commits to keep what was not promoted", project, tasks[0])
	case now == own && err == nil && len(s.sharing(project)) == 1:
		return problem.New("gate_path_differs", problem.Conflict, "project %s has a mirror at %s, and gate.path says %s", project, text.Line(now, 0), text.Line(home, 0)).
			WithHint("move %s away, then the same again", filepath.Join(now, "base.git"))
	}
	link := s.Roots.GateLink(project)
	if home == own {
		return os.Remove(link)
	}
	tmp := link + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(home, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

// SameDir reports whether two paths name one directory, also over symbolic links.
func SameDir(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// gateDirectory makes a directory for a mirror, or judges the one that is there.
func gateDirectory(home string) error {
	if err := state.MkdirAll(home); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return problem.New("gate_path_unsafe", problem.Usage, "gate.path %s "+format, append([]any{text.Line(home, 0)}, args...)...).
			WithHint("name a new directory, or that of another project's gate (terok gate path)")
	}
	var st unix.Stat_t
	if err := unix.Lstat(home, &st); err != nil {
		return fmt.Errorf("gate.path %s: %w", text.Line(home, 0), err)
	}
	entries, err := os.ReadDir(home)
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return bad("is no directory")
	case int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return bad("can be written by others")
	}
	for _, e := range entries {
		if name, _, _ := strings.Cut(e.Name(), "."); !gateParts[name] {
			return bad("holds something else, such as %s", text.Line(e.Name(), 60))
		}
	}
	return nil
}

// gateParts are what a project's own gate directory holds, up to the first dot: the mirror, and the rest.
var gateParts = map[string]bool{"base": true, "state": true, "gate": true, "sub": true,
	"tasks": true, "review": true, "reviews": true, "mirror": true, "place": true, "fsck-skip": true}

// sharing lists the projects whose mirror is this project's, itself among them. A project that was
// deleted does not count.
func (s *Store) sharing(project string) []string {
	home := s.Roots.GateHome(project)
	list := []string{project}
	entries, _ := os.ReadDir(filepath.Dir(s.Roots.GateDir(project))) // absent: nobody
	for _, e := range entries {
		name := e.Name()
		if name == project || checkComponent(name) != nil || !SameDir(s.Roots.GateHome(name), home) {
			continue
		}
		if _, err := os.Lstat(s.Roots.ProjectFile(name)); err == nil {
			list = append(list, name)
		}
	}
	return list
}

// borrowers are the tasks that use the objects of a project's mirror, "project/id".
func (s *Store) borrowers(project string) ([]string, error) {
	var all []string
	for _, p := range s.sharing(project) {
		ids, err := s.Tasks(p)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			all = append(all, p+"/"+id)
		}
	}
	return all, nil
}

// Remove deletes a project's gate. The mirror stays while another project uses it; kept names one.
func (s *Store) Remove(project string) (kept string, err error) {
	if err := checkComponent(project); err != nil {
		return "", err
	}
	own, home := s.Roots.GateDir(project), s.Roots.GateHome(project)
	if others := s.sharing(project)[1:]; len(others) > 0 {
		kept = others[0]
	}
	mirror := func(name string) bool {
		part, _, _ := strings.Cut(name, ".")
		return part == "base" || part == "state" || part == "gate" || part == "sub"
	}
	if home != own && kept == "" {
		if err := removeEntries(home, mirror); err != nil {
			return "", err
		}
		_ = os.Remove(home) // where nothing else is in it
	}
	if home == own && kept != "" {
		return kept, removeEntries(own, func(name string) bool { return !mirror(name) })
	}
	return kept, os.RemoveAll(own)
}

func removeEntries(dir string, which func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if which(e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
