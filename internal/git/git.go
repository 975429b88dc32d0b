// Package git is the one runner of git on the host.
//
// Repositories that a container can push to are hostile, and so is every repository that a
// person clones. This package guarantees for each call:
//
//   - the environment is built from zero: no inherited GIT_* variable, no system, user or global
//     configuration, no attributes file, no prompt, no pager, no editor, an empty HOME;
//   - configuration that could run a program (hooks, fsmonitor, external diff, credential
//     helpers, gpg, ssh) is overridden in command scope, which outranks the repository's own;
//   - replace refs are ignored, missing objects are never fetched lazily, attributes come from
//     the empty tree where git can do that, paths are literal;
//   - no transport at all is allowed unless the call lists it;
//   - objects are borrowed only from the directories that the call lists;
//   - a deadline, a cap on captured output, and a process group that is killed as a whole.
//
// What it refuses to know: worktrees. Callers use plumbing on git directories and never check out
// what they did not write (spec: gate.md §12).
package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"terok/internal/child"
	"terok/internal/problem"
)

// ExitError says that git ran and failed; Code is its exit code, Stderr its escaped words.
type ExitError = child.ExitError

// ErrTooLarge says that captured output passed the cap of the call.
var ErrTooLarge = child.ErrTooLarge

// Timeout is the deadline of a call that sets none.
const Timeout = 60 * time.Second

// Runner runs git. The zero value finds git in the fixed search path.
type Runner struct {
	Path string // absolute path of git; "" looks in /usr/local/bin, /usr/bin, /bin
	// Start starts the processes of this runner, see child.Spec; nil is the usual way.
	Start func(start func() error) error
}

// Cmd is one call of git.
type Cmd struct {
	GitDir     string        // the repository (GIT_DIR); "" for commands that need none
	Dir        string        // working directory; "" means GitDir or "/"
	Args       []string      // without "git"; put --end-of-options before what others chose
	Stdin      io.Reader     // nil is empty
	Env        []string      // additions, "K=V"; they win over the built environment
	Config     []string      // additional configuration, "key=value"; it wins over the built one
	Protocols  []string      // transports this call may use: "file", "https", "ssh"; none by default
	Alternates []string      // object directories GitDir may borrow from; AnyAlternates leaves it to git
	Timeout    time.Duration // 0 means Timeout; negative means the context's deadline only
	MaxOutput  int64         // cap of captured output in bytes; 0 means 16 MiB
	Stderr     io.Writer     // gets raw stderr (progress) as it comes; may be nil
	Limits     []child.Limit // resource limits of git and what it starts
}

// AnyAlternates as the only element of Cmd.Alternates says that the repository is the user's own
// and borrows from where it likes. Never use it for a repository that a container pushes to.
const AnyAlternates = "*"

// Run runs git and returns its stdout. A failing git gives an *ExitError.
func (r *Runner) Run(ctx context.Context, c Cmd) ([]byte, error) {
	return r.run(ctx, c, nil)
}

// Stream runs git with stdout going to w, without a cap: for packs and archives. A failing git
// gives an *ExitError; what was written to w until then is not to be trusted.
func (r *Runner) Stream(ctx context.Context, c Cmd, w io.Writer) error {
	_, err := r.run(ctx, c, w)
	return err
}

func (r *Runner) run(ctx context.Context, c Cmd, w io.Writer) ([]byte, error) {
	path, err := r.program()
	if err != nil {
		return nil, err
	}
	if err := c.checkAlternates(); err != nil {
		return nil, err
	}
	timeout := c.Timeout
	switch {
	case timeout == 0:
		timeout = Timeout
	case timeout < 0:
		timeout = 0
	}
	dir := c.Dir
	if dir == "" {
		dir = c.GitDir
	}
	return child.Run(ctx, child.Spec{
		Path: path, Args: c.Args, Dir: dir, Env: c.environ(), Stdin: c.Stdin,
		Stdout: w, Stderr: c.Stderr, Timeout: timeout, MaxOutput: c.MaxOutput,
		Limits: c.Limits, Start: r.Start,
	})
}

// searchPath is where git and the programs it starts (ssh) are found; fixed, so that nothing in
// the caller's directory or PATH can stand in for them.
var searchPath = []string{"/usr/local/bin", "/usr/bin", "/bin"}

// Program is the git that is run, an absolute path.
func (r *Runner) Program() (string, error) { return r.program() }

func (r *Runner) program() (string, error) {
	if r.Path != "" {
		return r.Path, nil
	}
	for _, dir := range searchPath {
		if p, err := exec.LookPath(dir + "/git"); err == nil {
			return p, nil
		}
	}
	return "", problem.New("git_missing", problem.Setup, "git is not installed").
		WithHint("install git 2.34 or newer, e.g. sudo apt install git")
}

// IsExit reports whether git ended with this exit code.
func IsExit(err error, code int) bool {
	var e *ExitError
	return errors.As(err, &e) && e.Code == code
}

var versionText = regexp.MustCompile(`^git version (\d+)\.(\d+)`)

// Version returns major and minor version of git, and a Problem when it is older than 2.34 or
// missing. Between 2.34 and 2.38 merges cannot be done again: review flags them as unchecked and
// promotions do not squash them.
func (r *Runner) Version(ctx context.Context) (major, minor int, err error) {
	out, err := r.Run(ctx, Cmd{Args: []string{"version"}, Timeout: 10 * time.Second})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, problem.New("git_missing", problem.Setup, "git is not there: %w", err).WithHint("install git 2.34 or newer")
	}
	if err != nil {
		return 0, 0, err
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("git says of its version: %.60q", out)
	}
	major, _ = strconv.Atoi(string(m[1]))
	minor, _ = strconv.Atoi(string(m[2]))
	if major < 2 || major == 2 && minor < 34 {
		return major, minor, problem.New("git_too_old", problem.Setup, "git %d.%d is too old: terok needs 2.34", major, minor).
			WithHint("install git 2.34 or newer")
	}
	return major, minor, nil
}

// joinProtocols is the value of GIT_ALLOW_PROTOCOL; the empty value allows none.
func joinProtocols(p []string) string { return strings.Join(p, ":") }

// SSH runs a command on an ssh server, with the ssh and the options that git would use for c: those of
// the GIT_SSH_COMMAND of its environment, a line of the shell. The server is "user@host" or "host" and
// never begins with a dash. It returns what the command printed.
func (r *Runner) SSH(ctx context.Context, c Cmd, server, port, command string) ([]byte, error) {
	ssh := ""
	env := c.environ()
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "GIT_SSH_COMMAND="); ok {
			ssh = v
		}
	}
	args := []string{"-c", ssh + ` "$@"`, "ssh"}
	if port != "" {
		args = append(args, "-p", port)
	}
	return child.Run(ctx, child.Spec{Path: "/bin/sh", Args: append(args, "--", server, command), Env: env, Timeout: c.Timeout, MaxOutput: c.MaxOutput})
}
