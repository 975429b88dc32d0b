// Package store keeps the repositories of the gate: per project one base, which no container
// ever writes, and per task one repository that borrows the base's objects.
//
//	gate/P/base.git        what upstream has, plus what a person accepted
//	gate/P/tasks/ID.git    what one task sees and pushes
//	gate/P/state.json      upstream address and default branch, last sync
//	gate/P/mirror          link to the directory of base and state, where another project shares them
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
	// Access finds what reaching the upstream of a project needs; nil uses nothing.
	Access   func(ctx context.Context, project string, up Upstream) (Access, error)
	Actor    string        // in the ledger: operator, or auto for timers; "" is operator
	Stall    time.Duration // without a byte from upstream; 0 is one minute
	Progress func(string)  // gets a line about a long transfer, at most one a second; may be nil
	Fault    func(string)  // tests: called after each step of a sync with its name
}

// gateState is gate/P/state.json.
type gateState struct {
	Schema   int       `json:"schema"`
	Rev      uint64    `json:"rev"`      // counts syncs that changed the base
	Upstream string    `json:"upstream"` // "" for a gate without upstream
	Format   string    `json:"format"`   // object format: sha1 or sha256
	LastSync time.Time `json:"last_sync,omitzero"`
	Listed   time.Time `json:"listed,omitzero"` // when the last whole sync asked upstream, if all of it worked

	LastError string            `json:"last_error,omitempty"` // of the last sync; "" when it worked
	Pending   int               `json:"pending,omitempty"`    // decisions that the last sync left
	Checked   *Check            `json:"checked,omitempty"`    // what upstream had when it was last asked
	Reasons   map[string]string `json:"reasons,omitempty"`    // backup ref → why it was made
	LFS       *LargeFiles       `json:"lfs,omitempty"`        // null: gate.lfs is off, or was never synced
	GCAt      time.Time         `json:"gc_at,omitzero"`       // last gate gc
	Indexed   int64             `json:"indexed,omitempty"`    // bytes of packs that the base's bitmap was written for
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
	return filepath.Join(s.Roots.GateHome(project), "state.json")
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

func (s *Store) stall() time.Duration {
	if s.Stall > 0 {
		return s.Stall
	}
	return time.Minute
}

func (s *Store) actor() string {
	if s.Actor != "" {
		return s.Actor
	}
	return "operator"
}

// step is a fault point: a test kills the process there.
func (s *Store) step(name string) {
	if s.Fault != nil {
		s.Fault(name)
	}
}

// Lock takes the gate's exclusive lock: sync, promotion, gc and deletion hold it, and a task's lock
// is only ever taken after it. It waits BusyWait, then fails with the problem "gate_busy", which
// names the holder. The lock ends with unlock or with the process.
func (s *Store) Lock(ctx context.Context, project string) (unlock func(), err error) {
	return s.lock(ctx, project, false)
}

// lock waits as long as ctx lives when wait is set.
func (s *Store) lock(ctx context.Context, project string, wait bool) (unlock func(), err error) {
	return s.waitLock(ctx, project, wait, false, nil)
}

// errNotNeeded says that what the lock was wanted for has been done by its holder.
var errNotNeeded = errors.New("done by another process")

// waitLock gives up with errNotNeeded when done, which may be nil, is true while somebody else has the lock.
func (s *Store) waitLock(ctx context.Context, project string, wait, shared bool, done func() bool) (unlock func(), err error) {
	if err := checkComponent(project); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Roots.GateHome(project), "gate")
	var late <-chan time.Time
	if !wait {
		deadline := time.NewTimer(BusyWait)
		defer deadline.Stop()
		late = deadline.C
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try := state.TryLock
		if shared {
			try = state.TryLockShared
		}
		unlock, err = try(path)
		if err == nil && shared {
			return unlock, nil
		}
		if err == nil {
			// The file itself says who holds it; it is read only when a lock is refused.
			_ = os.WriteFile(path+".lock", fmt.Appendf(nil, "process %d since %s", os.Getpid(), s.now().UTC().Format(time.RFC3339)), 0o600)
			return unlock, nil
		}
		if !errors.Is(err, state.ErrLocked) {
			return nil, err
		}
		if done != nil && done() {
			return nil, errNotNeeded
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late:
			holder, _ := os.ReadFile(path + ".lock")
			return nil, problem.New("gate_busy", problem.Conflict, "the gate of %s is busy: %.100s works on it", project, holder).
				WithHint("try again when it is done, or wait for it: --wait")
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

// Check is what upstream had when it was last asked without fetching.
type Check struct {
	At       time.Time `json:"at"`
	Behind   int       `json:"behind"`             // branches that upstream has moved or made
	Gone     int       `json:"gone"`               // branches that upstream has deleted
	Error    string    `json:"error,omitempty"`    // why it could not be asked
	Failures int       `json:"failures"`           // in a row
	Next     time.Time `json:"next,omitzero"`      // not before
	Branches []string  `json:"branches,omitempty"` // at most 20 of those behind
	Deleted  []string  `json:"deleted,omitempty"`  // at most 20 of those gone
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
