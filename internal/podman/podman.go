// Package podman is the one runner of podman, the program that makes terok's containers.
//
// It guarantees: podman gets a scrubbed environment and terok's own CONTAINERS_CONF, so that a
// user's containers.conf cannot weaken a container; every query has a deadline, a capped output
// and one of three outcomes — a value, ErrAbsent (podman said "no such"), or *QueryError; "the
// query failed" never looks like "absent" or "stopped". At most four queries run at once, since
// podman's lock contention makes more of them time out. Errors show the command line with
// secrets masked and podman's own words.
//
// It refuses to run podman as real root and knows nothing of a remote or machine podman.
package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"terok/internal/child"
	"terok/internal/problem"
)

const (
	// QueryTimeout is the deadline of a query.
	QueryTimeout = 30 * time.Second
	// ActionTimeout is the deadline of an action on a container; Run, Build, Import and Exec
	// have none but the context's.
	ActionTimeout = 120 * time.Second
	// maxQueries is how many queries run at once.
	maxQueries = 4
)

// ErrAbsent says that podman answered and there is no such container or image.
var ErrAbsent = errors.New("no such object")

// ExitError says that podman ran and failed: 125 is podman's own error, 126 and 127 the
// container's command or the OCI runtime (a refusing hook gives 126), other codes the command's.
type ExitError = child.ExitError

// QueryError says that podman gave no answer, so nothing is known. It is the cause inside a
// Problem "runtime_unavailable" with exit code 10.
type QueryError struct {
	What string // what was asked, e.g. "containers"
	Err  error
}

func (e *QueryError) Error() string {
	return fmt.Sprintf("podman gave no answer about %s: %v", e.What, e.Err)
}
func (e *QueryError) Unwrap() error { return e.Err }

// queryFailed wraps err as the Problem that faces print.
func queryFailed(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if problem.Is(err, "runtime_unavailable") {
		return err
	}
	return problem.New("runtime_unavailable", problem.Runtime, "%w", &QueryError{What: what, Err: err}).
		WithHint("podman info")
}

// Runner runs podman. It must not be copied after its first use.
type Runner struct {
	Path    string              // program; "" finds podman in PATH
	Conf    string              // CONTAINERS_CONF, made by WriteContainersConf; "" leaves the user's own
	Hooks   string              // directory of OCI hooks for a Conf that has to be made first; "" makes none
	Cache   string              // file that remembers Check's answer; "" asks each time
	Environ func(string) string // where the scrubbed environment comes from; nil is os.Getenv

	once    sync.Once
	queries chan struct{}
}

// Call is one podman command for which there is no method.
type Call struct {
	Args    []string
	Stdin   io.Reader
	Stdout  io.Writer // set: stdout is streamed there and not returned
	Stderr  io.Writer // stderr as it comes, besides the kept end
	Env     []string  // additions, "K=V"
	Timeout time.Duration
	Network bool // hand on the user's proxy variables: for pull and build
}

// Do runs podman and returns its stdout. A podman that cannot be started gives a Problem, one
// that fails an *ExitError.
func (r *Runner) Do(ctx context.Context, c Call) ([]byte, error) {
	path, err := r.program()
	if err != nil {
		return nil, err
	}
	if err := r.needConf(); err != nil {
		return nil, err
	}
	env := append(r.environ(c.Network), c.Env...)
	out, err := child.Run(ctx, child.Spec{Path: path, Args: c.Args, Env: env, Stdin: c.Stdin,
		Stdout: c.Stdout, Stderr: c.Stderr, Timeout: c.Timeout})
	var exit *ExitError
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &exit):
		return out, err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return out, err
	case errors.Is(err, fs.ErrNotExist):
		return nil, missing()
	}
	return nil, problem.New("runtime_unavailable", problem.Runtime, "podman cannot be started: %w", err)
}

// needConf makes a Conf that is not there: the first command of a new tree may be a question, and
// podman refuses a CONTAINERS_CONF that does not exist.
func (r *Runner) needConf() error {
	if r.Conf == "" || r.Hooks == "" {
		return nil
	}
	if _, err := os.Lstat(r.Conf); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return r.WriteContainersConf(r.Hooks)
}

// absent matches what podman 4.3 to 5.x says when a name does not exist, and only that: missing
// files, volumes or networks are failures.
var absent = regexp.MustCompile(`^Error: [^;]*(no such (container|object|image)|no container with (name or )?ID|image not known)[^;]*$`)

// named is Do for commands that take one name and run nothing of a container, so that stderr is
// podman's alone: there "no such" becomes ErrAbsent. Exec and Run must not use it, a container
// could print the words.
func (r *Runner) named(ctx context.Context, c Call) ([]byte, error) {
	out, err := r.Do(ctx, c)
	if exit, ok := errors.AsType[*ExitError](err); ok && exit.Code == 125 && saysAbsent(exit.Stderr) {
		err = fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return out, err
}

// saysAbsent looks at the last line: warnings may come before it.
func saysAbsent(stderr string) bool {
	if i := strings.LastIndex(stderr, "; "); i >= 0 {
		stderr = stderr[i+2:]
	}
	return absent.MatchString(stderr)
}

// query runs a read-only command under the semaphore.
func (r *Runner) query(ctx context.Context, what string, args ...string) ([]byte, error) {
	r.once.Do(func() { r.queries = make(chan struct{}, maxQueries) })
	select {
	case r.queries <- struct{}{}:
		defer func() { <-r.queries }()
	case <-ctx.Done():
		return nil, queryFailed(what, ctx.Err())
	}
	out, err := r.named(ctx, Call{Args: args, Timeout: QueryTimeout})
	if err != nil && !errors.Is(err, ErrAbsent) {
		return nil, queryFailed(what, err)
	}
	return out, err
}

// Command prepares a podman command with the scrubbed environment and no stdio: for callers that
// give it a terminal of their own. Everything else goes through the methods.
func (r *Runner) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := r.program()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = r.environ(false)
	if term := r.getenv("TERM"); term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	cmd.Dir = "/"
	return cmd, nil
}

// Unshare runs argv inside podman's user namespace, where the caller is uid 0 and the sub-ids
// are mapped; it streams to the given writers. A failing program gives an *ExitError.
func (r *Runner) Unshare(ctx context.Context, argv []string, stdout, stderr io.Writer) error {
	_, err := r.Do(ctx, Call{Args: append([]string{"unshare", "--"}, argv...), Stdout: stdout, Stderr: stderr})
	return err
}

func missing() error {
	return problem.New("runtime_unavailable", problem.Runtime, "podman is not installed; terok needs podman 4.3 or newer, set up for rootless use").
		WithHint("sudo apt install podman uidmap slirp4netns   (or your distribution's podman)")
}

// program finds podman as a shell would: in PATH, and without one in the system's directories.
func (r *Runner) program() (string, error) {
	if r.Path != "" {
		return r.Path, nil
	}
	dirs := r.absolutePath()
	if len(dirs) == 0 {
		dirs = systemPath
	}
	for _, dir := range dirs {
		if p, err := exec.LookPath(filepath.Join(dir, "podman")); err == nil {
			return p, nil
		}
	}
	return "", missing()
}

func (r *Runner) getenv(key string) string {
	if r.Environ != nil {
		return r.Environ(key)
	}
	return os.Getenv(key)
}

// path is PATH without relative entries, plus the system's: newuidmap, crun and mount helpers
// may be in sbin.
func (r *Runner) path() string {
	return strings.Join(append(r.absolutePath(), systemPath...), ":")
}

var systemPath = []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"}

func (r *Runner) absolutePath() []string {
	var dirs []string
	for _, d := range strings.Split(r.getenv("PATH"), ":") {
		if filepath.IsAbs(d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// environ is podman's whole environment. Nothing else of ours reaches podman, conmon or the
// hooks; CONTAINERS_CONF_OVERRIDE and CONTAINER_HOST in particular would undo our settings.
func (r *Runner) environ(network bool) []string {
	env := []string{"PATH=" + r.path(), "LANG=C.UTF-8"}
	add := func(key, value string) {
		if value != "" {
			env = append(env, key+"="+value)
		}
	}
	for _, key := range []string{"HOME", "USER", "LOGNAME", "DBUS_SESSION_BUS_ADDRESS", "CONTAINERS_STORAGE_CONF",
		"CONTAINERS_REGISTRIES_CONF", "CONTAINERS_HELPER_BINARY_DIR", "REGISTRY_AUTH_FILE"} {
		add(key, r.getenv(key))
	}
	home := r.getenv("HOME")
	add("XDG_CONFIG_HOME", r.podmansOwn("XDG_CONFIG_HOME", filepath.Join(home, ".config")))
	add("XDG_DATA_HOME", r.podmansOwn("XDG_DATA_HOME", filepath.Join(home, ".local/share")))
	add("XDG_RUNTIME_DIR", r.runtimeDir())
	if r.Conf != "" {
		add("CONTAINERS_CONF", r.Conf)
	} else {
		add("CONTAINERS_CONF", r.getenv("CONTAINERS_CONF"))
	}
	if network {
		for _, key := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
			"SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"} {
			add(key, r.getenv(key))
		}
	}
	return env
}

// podmansOwn decides whether podman gets an XDG directory: the user's containers and images stay
// where they are when only terok's tree is relocated, so the variable is handed on unless podman
// has its directory below the default instead.
func (r *Runner) podmansOwn(key, fallback string) string {
	dir := r.getenv(key)
	if !filepath.IsAbs(dir) {
		return ""
	}
	if _, err := os.Lstat(filepath.Join(dir, "containers")); err == nil {
		return dir
	}
	if _, err := os.Lstat(filepath.Join(fallback, "containers")); err == nil {
		return ""
	}
	return dir
}

// runtimeDir is the login session's directory where there is one: podman's pause process and its
// mounts live there, and a second one beside it would not see them.
func (r *Runner) runtimeDir() string {
	dir := fmt.Sprintf("/run/user/%d", os.Getuid())
	var fi fs.FileInfo
	fi, err := os.Lstat(dir)
	if err == nil && fi.IsDir() && ownedByUs(fi) {
		return dir
	}
	return r.getenv("XDG_RUNTIME_DIR")
}
