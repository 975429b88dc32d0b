package review

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
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
	Rejections []Rejection `json:"rejections,omitempty"`
	Comments   []Comment   `json:"comments,omitempty"`
	Outside    []Outside   `json:"outside,omitempty"`
	Promotions []Promotion `json:"promotions,omitempty"`
	// Intent is a promotion that was begun and not written down as done: its process was killed.
	Intent *Promotion `json:"intent,omitempty"`
}

// Levels of approvals.
const (
	LevelBranch = "branch" // this tip and everything behind it
	LevelCommit = "commit" // this commit alone
)

// Approval says that a person accepted a commit.
type Approval struct {
	Commit  string    `json:"commit"`
	PatchID string    `json:"patch_id,omitempty"` // for saying "the same change"; never for deciding
	Level   string    `json:"level"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Note    string    `json:"note,omitempty"`
	// LFSAbsent is how many files in Git LFS of the branch were not in the gate then, so that nobody saw them.
	LFSAbsent int `json:"lfs_absent,omitempty"`
}

// Rejection says that a person refused a commit, and why.
type Rejection struct {
	Commit string    `json:"commit"`
	Level  string    `json:"level"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// Comment is a remark on a commit.
type Comment struct {
	Commit string    `json:"commit"`
	Text   string    `json:"text"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// Outside is what somebody wrote at the forge, and a person let into the task. It is a stranger's text:
// printable and bounded, and nothing else is known of it.
type Outside struct {
	Review string    `json:"review"` // as the forge writes it, e.g. "#42"
	URL    string    `json:"url"`
	Author string    `json:"author"`
	Path   string    `json:"path,omitempty"`
	Line   int       `json:"line,omitempty"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
}

// Bounds of what is kept from outside, for one branch: the newest.
const (
	maxOutside     = 200
	maxOutsideText = 256 << 10 // bytes
)

// TakeOutside adds what is not there yet and returns how much that was.
func (h *History) TakeOutside(list []Outside) (added int) {
	for _, o := range list {
		if !slices.Contains(h.Outside, o) {
			h.Outside = append(h.Outside, o)
			added++
		}
	}
	slices.SortStableFunc(h.Outside, func(a, b Outside) int { return a.At.Compare(b.At) })
	size := 0
	for i := len(h.Outside) - 1; i >= 0; i-- {
		if size += len(h.Outside[i].Text); size > maxOutsideText || len(h.Outside)-i > maxOutside {
			h.Outside = h.Outside[i+1:]
			break
		}
	}
	return added
}

// Targets of promotions.
const (
	ToClone    = "clone"    // a new branch of the person's clone
	ToGate     = "gate"     // a branch of the base: what tasks start from
	ToUpstream = "upstream" // pushed
	ToRepo     = "repo"     // a remote-tracking ref of any clone: refs/remotes/terok/ID/BRANCH
	ToBundle   = "bundle"   // a file, see git-bundle(1)
	ToPatches  = "patches"  // a directory of mail patches, see git-am(1)
)

// Promotion says where a commit was brought.
type Promotion struct {
	Commit  string    `json:"commit"` // that was reviewed
	As      string    `json:"as"`     // commit that arrived: Commit, or the squashed one
	Target  string    `json:"target"`
	Place   string    `json:"place"` // directory, file, or URL without credentials
	Ref     string    `json:"ref"`   // full name, "" for files
	Old     string    `json:"old"`   // what Ref was before, "" for a new branch
	By      string    `json:"by"`    // reviewer
	Head    string    `json:"head"`  // of the clone's notes before the receipt, "" for none
	Note    string    `json:"note"`  // the commit of refs/notes/terok that holds the receipt; "" without one
	Base    string    `json:"base"`  // the reviewed range begins behind it
	Commits []string  `json:"commits"`
	At      time.Time `json:"at"`
	Undone  bool      `json:"undone,omitempty"`
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

// Approve adds an approval, unless the same stands already, nothing was rejected since and no file in LFS came.
func (h *History) Approve(a Approval) {
	v := h.last(a.Commit, a.Level)
	if v.approved && !slices.ContainsFunc(h.Rejections, func(r Rejection) bool { return !r.At.Before(v.at) }) &&
		h.Unseen([]string{a.Commit}) <= a.LFSAbsent {
		return
	}
	a.At = h.stamp(a.At)
	h.Approvals = append(h.Approvals, a)
}

// Unseen is how many files in LFS were not in the gate when a person last approved one of these commits.
func (h *History) Unseen(ids []string) int {
	for _, a := range slices.Backward(h.Approvals) {
		if slices.Contains(ids, a.Commit) {
			return a.LFSAbsent
		}
	}
	return 0
}

// Reject adds a rejection.
func (h *History) Reject(r Rejection) {
	r.At = h.stamp(r.At)
	h.Rejections = append(h.Rejections, r)
}

// stamp is the time of a new word: after every other, also when the clock was set back, since the last
// word counts.
func (h *History) stamp(at time.Time) time.Time {
	at = at.UTC().Truncate(time.Microsecond)
	after := func(other time.Time) {
		if !at.After(other) {
			at = other.Add(time.Microsecond)
		}
	}
	for _, a := range h.Approvals {
		after(a.At)
	}
	for _, r := range h.Rejections {
		after(r.At)
	}
	return at
}

// verdict is the last word on one commit.
type verdict struct {
	approved, rejected bool
	level              string
	at                 time.Time
}

func (h *History) verdict(commit string) verdict { return h.last(commit, "") }

// last is the last word on a commit at one level, or at any with "". Of words of the same time, as
// records of before have them, the rejection is the last.
func (h *History) last(commit, level string) verdict {
	var v verdict
	for _, a := range h.Approvals {
		if a.Commit == commit && (level == "" || a.Level == level) && !a.At.Before(v.at) {
			v = verdict{approved: true, level: a.Level, at: a.At}
		}
	}
	for _, r := range h.Rejections {
		if r.Commit == commit && (level == "" || r.Level == level) && !r.At.Before(v.at) {
			v = verdict{rejected: true, level: r.Level, at: r.At}
		}
	}
	return v
}

// Decided reports what a person said of exactly this commit: "approved", "rejected" or "".
func (h *History) Decided(commit string) string {
	switch v := h.verdict(commit); {
	case v.approved:
		return Approved
	case v.rejected:
		return Rejected
	}
	return ""
}

// Unapproved lists which of the commits of a range, newest first, nobody approved: at level branch
// an approval of the tip covers all but what was rejected since, and so do approvals of each; at
// level commit each commit needs its own.
func (h *History) Unapproved(ids []string, level string) []string {
	left := []string{}
	for _, id := range ids {
		v := h.verdict(id)
		if level != LevelCommit {
			v = h.among(ids, id)
		}
		if !v.approved || level == LevelCommit && !slices.ContainsFunc(h.Approvals, func(a Approval) bool { return a.Commit == id && a.Level == LevelCommit }) {
			left = append(left, id)
		}
	}
	return left
}

// among is the last word on a commit of a range whose tip comes first: what was said of the whole
// branch at that tip counts for each of its commits, unless something was said of the commit since.
func (h *History) among(ids []string, id string) verdict {
	v, whole := h.verdict(id), h.last(ids[0], LevelBranch)
	if v == (verdict{}) || v.at.Before(whole.at) {
		return whole
	}
	return v
}

// state is what stands of a branch whose commits are ids, the tip first. A branch that was rejected
// as a whole waits again once there is something on top.
func (h *History) state(ids []string) string {
	if h == nil || len(ids) == 0 {
		return Pending
	}
	tip := ids[0]
	if slices.ContainsFunc(h.Promotions, func(p Promotion) bool { return p.Commit == tip && !p.Undone }) {
		return Promoted
	}
	switch {
	case slices.ContainsFunc(ids, func(id string) bool {
		v := h.among(ids, id)
		return v.rejected && (v.level == LevelCommit || h.verdict(tip).rejected)
	}):
		return Rejected
	case len(h.Unapproved(ids, LevelBranch)) == 0:
		return Approved
	}
	if len(h.Approvals)+len(h.Rejections)+len(h.Promotions) > 0 && h.verdict(tip) == (verdict{}) {
		return Updated
	}
	return Pending
}

// Last is the tip that was looked at last: approved, rejected or promoted. "" for none.
func (h *History) Last() string {
	var last string
	var at time.Time
	note := func(commit string, t time.Time) {
		if !t.Before(at) {
			last, at = commit, t
		}
	}
	for _, a := range h.Approvals {
		note(a.Commit, a.At)
	}
	for _, r := range h.Rejections {
		note(r.Commit, r.At)
	}
	for _, p := range h.Promotions {
		note(p.Commit, p.At)
	}
	return last
}

// SameChange says which approved commit has the same change as a commit that nobody approved: a
// hint for the reader. It approves nothing.
func (h *History) SameChange(commit, patchID string) string {
	if h == nil || patchID == "" || h.verdict(commit) != (verdict{}) {
		return ""
	}
	for _, a := range h.Approvals {
		if a.PatchID == patchID && a.Commit != commit {
			return a.Commit
		}
	}
	return ""
}

// short is the beginning of an id for sentences.
func short(id string) string { return id[:min(len(id), 7)] }

// clip bounds what a person writes into a record.
func clip(s string) string {
	const most = 4000
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}
