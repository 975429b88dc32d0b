// Package child runs one program of the host and waits for it. It is the common ground of the
// runners of podman and git, and of the gate, which starts this program as its inspector.
//
// It guarantees: the environment is exactly what the caller lists; the child has a process group
// of its own, and when the context ends the whole group gets SIGTERM and, after a grace, SIGKILL;
// captured output has a cap, and going over it is an error, never a silent cut; the end of stderr
// is kept, escaped for a terminal, and becomes part of the error together with the command line,
// in which values that may be secret are masked.
package child

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/text"
)

const (
	// MaxOutput is the default cap of captured output, in bytes.
	MaxOutput = 16 << 20
	// maxStderr is how much of the end of stderr is kept, in bytes.
	maxStderr = 8 << 10
	// grace is what a group has between SIGTERM and SIGKILL. Podman uses it to leave its
	// critical sections, so that its database stays whole.
	grace = 5 * time.Second
	// PipeGrace is how long, after that, a descendant that left the group may keep our pipes open.
	PipeGrace = time.Second
)

// ErrTooLarge says that the child printed more than the cap; what it printed is not returned.
var ErrTooLarge = errors.New("printed more than the limit")

// Spec is one child.
type Spec struct {
	Path      string        // absolute path of the program
	Args      []string      // without the program's own name
	Dir       string        // working directory; "" means "/"
	Env       []string      // the whole environment, "K=V"
	Stdin     io.Reader     // nil is /dev/null
	Stdout    io.Writer     // nil captures; set, nothing is captured and there is no cap
	Stderr    io.Writer     // gets stderr as it comes, besides the kept end; may be nil
	Timeout   time.Duration // 0 is no deadline but the context's
	Grace     time.Duration // between SIGTERM and SIGKILL; 0 is 5 s
	MaxOutput int64         // cap of captured stdout, in bytes; 0 means MaxOutput
	Limits    []Limit       // what the child and everything it starts may use; none by default
	// Start calls start, from a thread whose confinement the child is to inherit (clone(2) copies that of
	// the calling thread); nil calls it here.
	Start func(start func() error) error
}

// Limit is one resource limit, soft and hard (getrlimit(2)).
type Limit struct {
	Resource int    // unix.RLIMIT_CPU, unix.RLIMIT_AS, …
	Max      uint64 // in the unit of the resource
}

// ExitError says that the program ran and failed, or was stopped at its deadline.
type ExitError struct {
	Command string // the command line, secrets masked, escaped for a terminal
	Code    int    // exit code; -1 when a signal ended it
	Stderr  string // end of stderr, escaped for a terminal; may be empty
	Err     error  // *exec.ExitError, context error or ErrTooLarge
}

func (e *ExitError) Error() string {
	why := e.Err.Error()
	if e.Stderr != "" {
		why += ": " + e.Stderr
	}
	return e.Command + ": " + why
}

func (e *ExitError) Unwrap() error { return e.Err }

// Run starts the child, waits for its end and returns what it printed. A program that cannot be
// started gives the error of os/exec; one that fails an *ExitError; output is returned with both.
func Run(ctx context.Context, s Spec) ([]byte, error) {
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, s.Path, s.Args...)
	cmd.Dir = s.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = s.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would inherit ours
	}
	cmd.Stdin = s.Stdin
	limit := s.MaxOutput
	if limit <= 0 {
		limit = MaxOutput
	}
	captured := &cappedBuffer{limit: limit}
	cmd.Stdout = captured
	if s.Stdout != nil {
		cmd.Stdout = s.Stdout
	}
	kept := &tail{}
	cmd.Stderr = kept
	if s.Stderr != nil {
		cmd.Stderr = io.MultiWriter(kept, s.Stderr)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	grace := cmp.Or(s.Grace, grace)
	var kill *time.Timer
	cmd.Cancel = func() error {
		pid := cmd.Process.Pid
		kill = time.AfterFunc(grace, func() { _ = syscall.Kill(-pid, syscall.SIGKILL) })
		return syscall.Kill(-pid, syscall.SIGTERM)
	}
	// A grandchild that keeps our pipes open must not keep us waiting.
	cmd.WaitDelay = grace + PipeGrace
	start := s.Start
	if start == nil {
		start = func(f func() error) error { return f() }
	}
	err := start(cmd.Start)
	if err == nil {
		// The child runs already; what it has used until here is little, and what it starts later
		// inherits the limits.
		for _, l := range s.Limits {
			if lerr := unix.Prlimit(cmd.Process.Pid, l.Resource, &unix.Rlimit{Cur: l.Max, Max: l.Max}, nil); lerr != nil && !errors.Is(lerr, unix.ESRCH) {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				return nil, fmt.Errorf("limit %s: %w", Show(s.Path, s.Args), lerr)
			}
		}
		err = cmd.Wait()
	}
	if kill != nil {
		kill.Stop()
	}
	if cmd.Process == nil {
		return nil, err
	}
	if ctx.Err() != nil {
		// The leader is gone; whatever it left in its group goes too.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil && cmd.ProcessState.Success():
		return captured.Bytes(), nil
	case captured.over:
		err = ErrTooLarge
	case ctx.Err() != nil:
		err = fmt.Errorf("%w (stopped after %s)", ctx.Err(), s.Timeout)
		if s.Timeout <= 0 || errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err()
		}
	}
	return captured.Bytes(), &ExitError{
		Command: Show(s.Path, s.Args), Code: cmd.ProcessState.ExitCode(), Stderr: kept.String(), Err: err}
}

// cappedBuffer refuses what goes over its limit, which ends the child by SIGPIPE.
type cappedBuffer struct {
	bytes.Buffer
	limit int64
	over  bool
}

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if int64(b.Len())+int64(len(p)) > b.limit {
		b.over = true
		return 0, ErrTooLarge
	}
	return b.Buffer.Write(p)
}

// ReadFrom hides the promoted method: io.Copy would use it and pass the limit by.
func (b *cappedBuffer) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxStderr; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String returns the kept lines joined by "; ", each made safe for a terminal.
func (t *tail) String() string {
	var lines []string
	for line := range strings.Lines(string(t.b)) {
		// Progress is drawn over itself; what stands at the end is what a terminal shows.
		line = strings.TrimRight(line, "\r\n")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line = strings.TrimSpace(text.Line(line, 1024)); line != "" {
			lines = append(lines, line)
		}
	}
	if n := len(lines); n > 12 {
		lines = lines[n-12:]
	}
	return strings.Join(lines, "; ")
}
