package review

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

// Record is what people decided about a task's branches: gate/P/review/ID.json. Decisions bind to
// commit ids and are never carried to other commits.
type Record struct {
	Schema   int                 `json:"schema"`
	Branches map[string]*History `json:"branches"`
}

// History is what was decided about one branch, oldest first.
type History struct {
	Approvals  []Approval  `json:"approvals,omitempty"`
	Promotions []Promotion `json:"promotions,omitempty"`
}

// Approval says that a person accepted exactly this tip and everything behind it.
type Approval struct {
	Commit string    `json:"commit"`
	At     time.Time `json:"at"`
}

// Targets of promotions.
const (
	ToClone    = "clone"
	ToUpstream = "upstream"
)

// Promotion says where a commit was brought.
type Promotion struct {
	Commit string    `json:"commit"`
	Target string    `json:"target"`
	Place  string    `json:"place"` // directory or URL
	Ref    string    `json:"ref"`   // full name
	Old    string    `json:"old"`   // what Ref was before, "" for a new branch
	At     time.Time `json:"at"`
	Undone bool      `json:"undone,omitempty"`
}

const recordSchema = 1

func recordPath(r state.Roots, project, id string) string {
	return filepath.Join(r.GateDir(project), "review", id+".json")
}

// LoadRecord reads a task's record; one that was never written is empty.
func LoadRecord(r state.Roots, project, id string) (*Record, error) {
	rec := &Record{}
	err := state.ReadJSON(recordPath(r, project, id), rec)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if rec.Schema > recordSchema {
		return nil, problem.New("newer_state", problem.Newer, "the review of %s/%s was written by a newer terok", project, id)
	}
	rec.Schema = recordSchema
	if rec.Branches == nil {
		rec.Branches = map[string]*History{}
	}
	return rec, nil
}

// UpdateRecord changes a task's record under its lock.
func UpdateRecord(r state.Roots, project, id string, change func(*Record) error) error {
	path := recordPath(r, project, id)
	unlock, err := state.Lock(path)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := LoadRecord(r, project, id)
	if err != nil {
		return err
	}
	if err := change(rec); err != nil {
		return err
	}
	return state.WriteJSON(path, rec)
}

// History returns the history of a branch, making it if need be.
func (r *Record) History(branch string) *History {
	h := r.Branches[branch]
	if h == nil {
		h = &History{}
		r.Branches[branch] = h
	}
	return h
}

// Approve adds an approval unless the commit has one.
func (h *History) Approve(commit string, at time.Time) {
	for _, a := range h.Approvals {
		if a.Commit == commit {
			return
		}
	}
	h.Approvals = append(h.Approvals, Approval{Commit: commit, At: at.UTC().Truncate(time.Second)})
}

func (r *Record) state(branch, tip string) string {
	h := r.Branches[branch]
	if h == nil {
		return Pending
	}
	for _, p := range h.Promotions {
		if p.Commit == tip && !p.Undone {
			return Promoted
		}
	}
	for _, a := range h.Approvals {
		if a.Commit == tip {
			return Approved
		}
	}
	if len(h.Approvals)+len(h.Promotions) > 0 {
		return Updated
	}
	return Pending
}
