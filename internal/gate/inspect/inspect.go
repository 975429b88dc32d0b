// Package inspect reads what an agent pushed, in a process that can do nothing else.
//
// Everything in a task's repository was written by an agent, and git is a large parser. So the
// reading is done by a child of this program, `terok gate-inspect`, which gives up first: all files but
// the task's repository and its base (read-only, by Landlock), all programs but git, all sockets,
// all system calls that it does not need (seccomp), more than 60 seconds of processor time, more
// than 1 GiB of memory for itself and for each git, and files larger than 64 MiB. It is killed after
// a minute. What it says is at most 64 MiB, and is not trusted either: Inspector.Do checks every id
// and passes every string through package text, whatever the child did to it before.
//
// Git in the child is the one of package git: no configuration, attributes, filters, hooks, replace
// refs or programs of the repository, or of the person, are used. The repository of the task is read
// once, as a pack; every look is at what was indexed anew from that (take). It never writes to the two
// repositories; the one exception is OpCopy, which brings commits that a person accepted into the
// base and may write there and nowhere else.
//
// It does not judge. It reports ranges, diffs and flags, and a flag of severity Deny says that a
// change must not be promoted.
package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"terok/internal/child"
	"terok/internal/problem"
	"terok/internal/sandbox/landlock"
	"terok/internal/state"
)

// Command is the first argument that makes this program the inspector.
const Command = "gate-inspect"

// What the inspector can be asked.
const (
	OpScan      = "scan"       // numbers and flags of many branches
	OpRead      = "read"       // one branch for a person: commits, files, diff
	OpRangeDiff = "range-diff" // how a branch was rewritten: Branches are the old and the new one
	OpCopy      = "copy"       // copies Branches[0] into the base
	OpRaw       = "raw"        // the diff from View.From to Branches[0] as git prints it, unescaped: Raw
)

// Limits.
const (
	Timeout    = time.Minute // of a look
	copyTime   = 10 * time.Minute
	maxReply   = 64 << 20 // bytes of JSON
	maxRequest = 16 << 20
	cpuSeconds = 60
	maxMemory  = 1 << 30  // private memory of one process, bytes
	maxTake    = 2 << 30  // bytes of the objects that are looked at, packed
	maxScan    = 64 << 20 // bytes of diff that are looked at
	maxGraph   = 200_000  // commits of all branches of a look
	maxPatch   = 4 << 20  // bytes of diff that are shown
	maxRange   = 2000     // commits of a branch that are looked at one by one
	maxMerges  = 50       // merges that are done again
	MaxCommits = 200      // commits that are listed for showing
	maxFiles   = 2000     // files that are listed
	maxLine    = 2000     // bytes of a line that is shown
	maxBody    = 100      // lines of a commit message
)

// Request is the question, JSON on the child's stdin.
type Request struct {
	Op      string `json:"op"`
	Repo    string `json:"repo"`    // the task's repository
	Objects string `json:"objects"` // object directory of the base
	Scratch string `json:"scratch"` // empty directory for the objects that are looked at; the child may write there

	Start    string   `json:"start"`    // commit that the task began from, "" for none
	Trunk    string   `json:"trunk"`    // tip of the base's branch that the task works for, "" where that is not known
	Not      []string `json:"not"`      // further commits that the base has: what they reach is not the task's
	Branches []string `json:"branches"` // tips
	Have     []string `json:"have"`     // what the base has, where Not is something else; null: Not

	Identities []Identity `json:"identities"` // of the task's commits; empty: not judged
	Paths      []string   `json:"paths"`      // review.paths: where changes are expected; empty: anywhere
	Now        time.Time  `json:"now"`

	View View `json:"view"` // of OpRead

	LFS bool `json:"lfs"` // the gate has the files in LFS, below lfs/ of Repo and of the base

	MaxFile int64 `json:"max_file"` // bytes; larger files are not read. 0: 64 MiB, where git runs out of memory

	NumbersOnly bool `json:"numbers_only"` // of OpScan: the ids of the commits, nothing of what is in them

	WithoutLandlock bool `json:"without_landlock"` // the operator's configuration allows a kernel without it
}

// Identity is an author or committer that a task may have.
type Identity struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

// View says which diffs OpRead keeps.
type View struct {
	Commit    string   `json:"commit"`     // only this commit
	Commits   []string `json:"commits"`    // only these, at most MaxCommits; the range's files and flags are then left out
	From      string   `json:"from"`       // the diff begins at this commit instead of the range's base
	PerCommit bool     `json:"per_commit"` // the diff of each commit instead of the whole
	Stat      bool     `json:"stat"`       // no diff at all
	Globs     []string `json:"globs"`      // only these paths (Glob)
}

// Reply is the answer, JSON on the child's stdout.
type Reply struct {
	Branches []Range  `json:"branches"` // one for each of Request.Branches
	List     []Commit `json:"list"`     // OpRead: newest first, at most MaxCommits
	Text     string   `json:"text"`     // OpRangeDiff
	Error    string   `json:"error"`
}

// Range is one branch of a task: what is in it that the base has not. All strings are printable.
type Range struct {
	Base       string      `json:"base"` // commit that the diff begins at; "" when nothing is shared
	Tip        string      `json:"tip"`
	Commits    int         `json:"commits"`
	IDs        []string    `json:"ids"` // of the commits, newest first, at most 2000
	Files      []File      `json:"files"`
	FileCount  int         `json:"file_count"` // Files holds at most 2000
	Insertions int         `json:"insertions"`
	Deletions  int         `json:"deletions"`
	Flags      []Flag      `json:"flags"`
	LFS        []LargeFile `json:"lfs,omitempty"` // at most 200
	// LFSAbsent is the number of files in LFS that commits point to and the gate did not have: what they say is
	// not known.
	LFSAbsent int       `json:"lfs_absent,omitempty"`
	TipTime   time.Time `json:"tip_time"` // committer's, which the agent chose
	Cut       bool      `json:"cut"`      // the diff was too large to show whole
	// Slow: the flag too_large is there since this machine ran out of time, not for what was pushed.
	Slow bool `json:"slow,omitempty"`
}

// File is one changed path.
type File struct {
	Path       string `json:"path"`
	Status     string `json:"status"`   // A, M, D or T (git-diff-tree(1))
	OldMode    string `json:"old_mode"` // octal, 000000 for none
	NewMode    string `json:"new_mode"`
	Insertions int    `json:"insertions"`
	Deletions  int    `json:"deletions"`
	Binary     bool   `json:"binary"`
	Patch      string `json:"patch,omitempty"` // hunks, printable
	Cut        bool   `json:"cut,omitempty"`   // of Patch
	// TooLarge is the size in bytes of a file that is too large to be read; Binary is set too.
	TooLarge int64 `json:"too_large,omitempty"`
	// LFS is there where the file is a pointer to a text in Git LFS: how that text changed.
	LFS *LargeText `json:"lfs,omitempty"`
}

// Commit is one commit of a range.
type Commit struct {
	ID             string    `json:"id"`
	Parents        []string  `json:"parents"`
	Author         string    `json:"author"`
	Email          string    `json:"email"`
	Time           time.Time `json:"time"`
	Committer      string    `json:"committer"`
	CommitterEmail string    `json:"committer_email"`
	CommitTime     time.Time `json:"commit_time"`
	Signature      string    `json:"signature"` // "none" or "not verified"
	Subject        string    `json:"subject"`
	Body           string    `json:"body"`
	Flags          []Flag    `json:"flags"`
	Files          []File    `json:"files"`
	Insertions     int       `json:"insertions"`
	Deletions      int       `json:"deletions"`
	PatchID        string    `json:"patch_id"` // equal for commits with the same change; "" for merges
}

// Inspector starts children.
type Inspector struct {
	Self            string // this program
	WithoutLandlock bool   // the operator accepts a kernel without Landlock
	Scratch         string // directory below which scratch directories are made
	Memory          string // the same for small looks at many tasks, where there is one in memory; "" is Scratch
}

// Do asks a child. A child that ran into a limit gives the problem "too_large", or "too_slow" where a
// faster machine, or this one at another time, might do it.
func (i *Inspector) Do(ctx context.Context, req Request) (Reply, error) {
	var reply Reply
	out, err := i.run(ctx, req)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(out, &reply); err != nil {
		return Reply{}, fmt.Errorf("the inspector's answer: %w", err)
	}
	if reply.Error != "" {
		return Reply{}, fmt.Errorf("look at what was pushed: %s", printable(reply.Error))
	}
	if err := reply.answers(req); err != nil {
		return Reply{}, fmt.Errorf("the inspector's answer: %w", err)
	}
	return reply, nil
}

// Raw is a diff as git prints it. It must never reach a terminal.
func (i *Inspector) Raw(ctx context.Context, req Request) ([]byte, error) {
	req.Op = OpRaw
	return i.run(ctx, req)
}

func (i *Inspector) run(ctx context.Context, req Request) ([]byte, error) {
	if err := landlock.Missing(landlock.ABI()); err != nil && !i.WithoutLandlock {
		return nil, problem.New("no_landlock", problem.Setup, "what agents pushed is not read unconfined: %w", err).WithHint("%s", landlock.Cure)
	}
	req.WithoutLandlock = i.WithoutLandlock
	dir, err := state.TempDir(i.Scratch, ".look-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	req.Scratch = filepath.Join(dir, "objects")
	if err := os.Mkdir(req.Scratch, 0o700); err != nil {
		return nil, err
	}
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	timeout := Timeout
	if req.Op == OpCopy {
		timeout = copyTime
	}
	out, err := child.Run(ctx, child.Spec{Path: i.Self, Args: []string{Command}, Stdin: bytes.NewReader(data),
		Env: []string{"PATH=/usr/bin:/bin"}, Timeout: timeout, MaxOutput: maxReply})
	if err == nil {
		return out, nil
	}
	if exit, ok := errors.AsType[*child.ExitError](err); ok && ctx.Err() == nil {
		if stopped := stopped(exit); stopped != nil {
			return nil, stopped
		}
	}
	return nil, fmt.Errorf("look at what was pushed: %w", err)
}

// stopped is the problem of a child that a limit ended, nil for any other end.
func stopped(e *child.ExitError) error {
	code, limit := "too_slow", "60 seconds of processor time, 1 GiB of memory"
	switch {
	case errors.Is(e, child.ErrTooLarge):
		code, limit = "too_large", "64 MiB of output"
	case errors.Is(e, context.DeadlineExceeded):
		limit = "60 seconds"
	case e.Code == exitLimit:
		code, limit = "too_large", "200,000 commits, 2 GiB of objects, 1 GiB of memory"
	case e.Code >= 0 && e.Code != exitSlow:
		return nil
	}
	return problem.New(code, problem.Failed, "too large to show: the inspector was stopped (%s)", limit).
		WithHint("ask the task for smaller commits, or look inside its container: terok login TASK")
}

// TooMuch reports whether an error of Do says that a limit was reached.
func TooMuch(err error) bool { return problem.Is(err, "too_large") || problem.Is(err, "too_slow") }
