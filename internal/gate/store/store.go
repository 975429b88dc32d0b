// Package store keeps the repositories of the gate: per project one base, which no container
// ever writes, and per task one repository that borrows the base's objects.
//
//	gate/P/base.git        what upstream has, plus what a person accepted
//	gate/P/tasks/ID.git    what one task sees and pushes
//	gate/P/state.json      upstream address and default branch, last sync
//
// It guarantees: a repository appears complete or not at all; sync only creates branches and
// moves them forward, each by compare-and-swap, and reports everything else; a task reaches the
// objects of its base and its own, never a sibling's; a user's clone is read without touching its
// index, refs or files, and without running its hooks or filters.
//
// Refs of a base:
//
//	refs/heads/*                 what tasks start from
//	refs/tags/*                  tags of upstream, those that are no branch's name
//	refs/terok/upstream/*        upstream's branches at the last sync
//	refs/terok/upstream-tags/*   upstream's tags at the last sync
//	refs/terok/attic/*           last common tip of a branch that upstream rewrote or deleted
//
// Refs of a task's repository (refs/terok is hidden from the container):
//
//	refs/heads/*             the task's branches, beginning as the base's
//	refs/upstream/heads/*    the base's branches, read-only
//	refs/terok/base/*        the base's value last offered
//	refs/terok/start         the commit that the task began from
//	refs/terok/backup/B/*    tips of B that a push replaced
//
// It refuses repositories whose configuration, alternates or layout are not what it wrote: they
// are the only files git would obey (Verify).
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
)

// BorrowMount is where a container finds the base's objects, read-only.
const BorrowMount = "/run/terok/base/objects"

// BusyWait is how long an operation waits for another one on the same gate.
const BusyWait = 10 * time.Second

// Store works on the gates below Roots. Now and Ledger may be nil.
type Store struct {
	Roots  state.Roots
	Git    *git.Runner
	Now    func() time.Time
	Ledger audit.Recorder
	SSHEnv []string // further environment for ssh upstreams, e.g. "SSH_AUTH_SOCK=…"
}

// gateState is gate/P/state.json.
type gateState struct {
	Schema   int       `json:"schema"`
	Rev      uint64    `json:"rev"`      // counts syncs that changed the base
	Upstream string    `json:"upstream"` // "" for a gate without upstream
	Format   string    `json:"format"`   // object format: sha1 or sha256
	LastSync time.Time `json:"last_sync,omitzero"`
}

const stateSchema = 1

// ObjectsDir is the base's object directory on the host, to be mounted at BorrowMount.
func (s *Store) ObjectsDir(project string) string {
	return filepath.Join(s.Roots.GateBase(project), "objects")
}

// Upstream returns the upstream recorded for a project's gate; a missing gate is the problem
// "gate_missing".
func (s *Store) Upstream(project string) (Upstream, error) {
	st, err := s.load(project)
	if err != nil {
		return Upstream{}, err
	}
	return ParseUpstream(st.Upstream)
}

func (s *Store) statePath(project string) string {
	return filepath.Join(s.Roots.GateDir(project), "state.json")
}

func (s *Store) load(project string) (*gateState, error) {
	if err := checkComponent(project); err != nil {
		return nil, err
	}
	var st gateState
	err := state.ReadJSON(s.statePath(project), &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("gate_missing", problem.NotFound, "project %s has no gate yet", project).
			WithHint("terok project gate-sync %s", project)
	}
	if err != nil {
		return nil, err
	}
	if st.Schema > stateSchema {
		return nil, problem.New("newer_state", problem.Newer, "the gate of %s was written by a newer terok", project)
	}
	return &st, nil
}

func (s *Store) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Store) record(e audit.Event) {
	if s.Ledger != nil {
		s.Ledger.Record(e)
	}
}

// Lock takes the gate's exclusive lock: sync, promotion and deletion hold it. It waits BusyWait,
// then fails with the problem "gate_busy", which names the holder. The lock ends with unlock or
// with the process.
func (s *Store) Lock(ctx context.Context, project string) (unlock func(), err error) {
	if err := checkComponent(project); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Roots.GateDir(project), "gate")
	deadline := time.NewTimer(BusyWait)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		unlock, err = state.TryLock(path)
		if err == nil {
			// The file itself says who holds it; it is read only when a lock is refused.
			_ = os.WriteFile(path+".lock", fmt.Appendf(nil, "process %d since %s", os.Getpid(), s.now().UTC().Format(time.RFC3339)), 0o600)
			return unlock, nil
		}
		if !errors.Is(err, state.ErrLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			holder, _ := os.ReadFile(path + ".lock")
			return nil, problem.New("gate_busy", problem.Conflict, "the gate of %s is busy: %.100s works on it", project, holder).
				WithHint("try again when it is done")
		case <-tick.C:
		}
	}
}

// checkComponent keeps a name from leaving its directory.
func checkComponent(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00\n") {
		return problem.New("bad_name", problem.Usage, "%.60q is not a project or task name", name)
	}
	return nil
}

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
	"terok":     fs.ModeDir, // of a base: what the host tells the tasks' servers
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
	return nil
}

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

// makeRepo writes an empty bare repository without asking git, which would copy templates.
func makeRepo(dir, format, head string, alternates ...string) error {
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := state.MkdirAll(filepath.Join(dir, d)); err != nil {
			return err
		}
	}
	files := map[string][]byte{
		"config": config(format),
		"HEAD":   []byte("ref: refs/heads/" + head + "\n"),
	}
	if len(alternates) > 0 {
		files["objects/info/alternates"] = []byte(alternatesText(alternates))
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
