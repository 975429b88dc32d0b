// Package problem is the one shape of an error that a user reads: what is wrong, in words, and
// the command that cures it. Inside terok errors are wrapped with %w; where the cure is known a
// Problem is put around them, and the faces print it and exit with its code.
package problem

import (
	"errors"
	"fmt"
	"syscall"
)

// Exit codes of the command line, stable across minor versions (spec: cli.md §3).
const (
	OK          = 0
	Failed      = 1   // operation failed, unclassified
	Usage       = 2   // usage or invalid configuration
	Setup       = 3   // setup needed
	Newer       = 4   // state written by a newer version
	Manual      = 5   // a manual step is needed
	NotFound    = 6   // project, task, image or key not found
	Conflict    = 7   // wrong state, ambiguous prefix, already exists, lock held
	Locked      = 8   // vault locked or not provisioned
	Declined    = 9   // declined at a prompt, or a prompt was needed without a terminal
	Runtime     = 10  // container runtime unavailable or its query failed
	Attention   = 11  // done, with warnings that need attention
	Deadline    = 12  // deadline exceeded
	AgentFailed = 20  // headless agent finished with a non-zero exit
	Interrupted = 130 // SIGINT
	Terminated  = 143 // SIGTERM
)

// Problem is an error with a cure.
type Problem struct {
	Code    string         // closed set, snake_case, e.g. "task_not_found"
	Message string         // one sentence without trailing period
	Hint    string         // a command the user can run, or a short sentence; may be empty
	Exit    int            // exit code of the command line
	Details map[string]any // further facts for --json; may be nil
	Err     error          // cause; may be nil
}

// New makes a Problem; the message is formatted as by fmt.Errorf, so %w keeps a cause.
func New(code string, exit int, format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{Code: code, Message: err.Error(), Exit: exit, Err: errors.Unwrap(err)}
}

// WithHint sets the cure and returns p.
func (p *Problem) WithHint(format string, args ...any) *Problem {
	p.Hint = fmt.Sprintf(format, args...)
	return p
}

// With adds one fact for --json and returns p.
func (p *Problem) With(key string, value any) *Problem {
	if p.Details == nil {
		p.Details = map[string]any{}
	}
	p.Details[key] = value
	return p
}

func (p *Problem) Error() string { return p.Message }

func (p *Problem) Unwrap() error { return p.Err }

// Of finds the Problem in err's chain; an error without one becomes an unclassified failure, or
// disk_full where that was the cause.
// It returns nil for nil.
func Of(err error) *Problem {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		if err.Error() == p.Message {
			return p
		}
		q := *p
		q.Message = err.Error() // keep what wrapping added
		return &q
	}
	p := &Problem{Code: "failed", Message: err.Error(), Exit: Failed, Err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		p.Code, p.Hint = "disk_full", "make room, then run the same command again"
	}
	return p
}

// Is reports whether err carries a Problem with this code.
func Is(err error, code string) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Code == code
}
