package guest

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// Exit codes of the wrapper itself, as shells have them; otherwise the agent's own code is ours.
const (
	agentUsage    = 2
	agentFailed   = 1
	agentTimeout  = 124 // as timeout(1) has it
	agentNotExec  = 126
	agentNotFound = 127
)

// AgentMain is `terok guest agent [--headless | --attach | --then-shell] [--new-session] NAME
// [-- ARGUMENT…]`: it starts an agent inside the container the same way for every way of
// launching. It adds the permission mode, the instructions, the session, the authorship and the
// quiet settings, and then becomes the agent: signals and the exit code are the agent's own.
//
//	--headless     the prompt file is the agent's stdin
//	--attach       join the container's tmux session; the agent starts in it the first time
//	--then-shell   leave a shell when the agent ends (what --attach starts)
//	--new-session  do not resume the stored session
//	--scripted     be the small agent of agentscript.go; no NAME
//
// What it does is convenience for the agent and no barrier against it: everything that keeps
// the agent in is outside the container.
func AgentMain(args []string) int {
	w := wrapper{home: homeDir(), dir: sandbox.AgentDir, environ: os.Environ(), grace: agentGrace, credentials: credentialsFile}
	code, err := w.main(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
	}
	return code
}

func homeDir() string {
	if h := os.Getenv("HOME"); filepath.IsAbs(h) {
		return h
	}
	return "/home/dev"
}

// wrapper is one start of an agent. The fields are what tests relocate.
type wrapper struct {
	home    string
	dir     string // sandbox.AgentDir
	environ []string
	grace   time.Duration // between SIGTERM and SIGKILL of an agent whose time is over

	credentials string // credentialsFile

	headless, attach, thenShell, newSession, scripted bool

	name string
	args []string
}

var agentName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func (w *wrapper) parse(args []string) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		switch args[0] {
		case "--headless":
			w.headless = true
		case "--attach":
			w.attach = true
		case "--then-shell":
			w.thenShell = true
		case "--new-session":
			w.newSession = true
		case "--scripted":
			w.scripted = true
		default:
			return fmt.Errorf("guest agent: unknown flag %q", args[0])
		}
		args = args[1:]
	}
	if w.scripted {
		return nil
	}
	if len(args) == 0 || !agentName.MatchString(args[0]) {
		return errors.New("usage: terok guest agent [--headless|--attach] [--new-session] NAME [-- ARGUMENT...]")
	}
	w.name, args = args[0], args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	w.args = args
	return nil
}

func (w *wrapper) main(args []string) (int, error) {
	if err := w.parse(args); err != nil {
		return agentUsage, err
	}
	if w.scripted {
		return w.runScripted()
	}
	if w.attach {
		return w.runTmux()
	}
	spec, err := w.spec()
	if err != nil {
		return agentNotFound, err
	}
	if len(w.args) > 0 {
		if why, ok := spec.Refuse[w.args[0]]; ok {
			return agentFailed, fmt.Errorf("%s %s is refused here: %s", w.name, w.args[0], why)
		}
	}
	if err := w.wire(spec); err != nil {
		if w.thenShell {
			fmt.Fprintln(os.Stderr, "terok:", err)
			return w.shell()
		}
		return agentFailed, err
	}
	w.prepareEnv(spec)
	if err := w.writeHome(spec.Home); err != nil {
		return agentFailed, err
	}
	program, err := w.program(spec.Program)
	if err != nil {
		return agentNotFound, err
	}
	argv := append([]string{program}, w.arguments(spec)...)
	if w.headless {
		if err := w.promptAsStdin(); err != nil {
			return agentFailed, err
		}
		if spec.Timeout > 0 {
			return w.runFor(time.Duration(spec.Timeout)*time.Second, argv)
		}
	}
	if w.thenShell {
		return w.runThenShell(argv)
	}
	return w.become(argv)
}

// become replaces this process. It returns only when that failed.
func (w *wrapper) become(argv []string) (int, error) {
	err := unix.Exec(argv[0], argv, w.environ)
	if errors.Is(err, unix.ENOENT) {
		return agentNotFound, fmt.Errorf("%s is not in this container: %s is missing", w.name, argv[0])
	}
	return agentNotExec, fmt.Errorf("start %s: %w", argv[0], err)
}

func (w *wrapper) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// spec reads what the launch wrote about this agent.
func (w *wrapper) spec() (*sandbox.Agent, error) {
	data, err := readSmall(w.path("agents", w.name+".json"), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this task has no agent %q", w.name)
	}
	if err != nil {
		return nil, err
	}
	var a sandbox.Agent
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("the description of agent %s is damaged: %w", w.name, err)
	}
	return &a, nil
}

// arguments composes what the agent gets besides its own name.
func (w *wrapper) arguments(a *sandbox.Agent) []string {
	argv := slices.Clone(a.Args)
	if !a.Restricted {
		argv = append(argv, a.Permission...)
	}
	if file := w.path(filepath.Base(sandbox.Instructions)); len(a.Instructions) > 0 && exists(file) {
		argv = append(argv, fill(a.Instructions, "{file}", file)...)
	}
	if w.headless {
		argv = append(argv, a.Headless...)
	} else {
		argv = append(argv, a.Interactive...)
	}
	if len(w.args) > 0 { // what a person types by hand is theirs
		return append(argv, w.args...)
	}
	argv = append(argv, w.session(a)...)
	if !w.headless {
		argv = append(argv, w.opening(a)...)
	}
	return argv
}

// opening hands the task's opening prompt to the agent, once: what was handed over is renamed, and
// a restart of the container, which writes the file anew, does not bring it back.
func (w *wrapper) opening(a *sandbox.Agent) []string {
	file, done := w.path(filepath.Base(sandbox.OpeningFile)), w.path(filepath.Base(sandbox.OpeningDone))
	if len(a.Opening) == 0 || exists(done) {
		return nil
	}
	prompt, err := readSmall(file, 128<<10)
	if err != nil || len(prompt) == 0 || os.Rename(file, done) != nil {
		return nil
	}
	return fill(a.Opening, "{prompt}", string(prompt))
}

var sessionID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{7,63}$`)

// session resumes the agent's session when it still has one, or begins one under an id of our
// choice and stores that. Agents that choose their ids themselves go on with their last. Without
// session support it adds nothing.
func (w *wrapper) session(a *sandbox.Agent) []string {
	if len(a.Resume) > 0 && len(a.NewSession) == 0 {
		if !w.newSession && w.has(a.SessionFile) {
			return a.Resume
		}
		return nil
	}
	file := w.path(w.name + "-session.txt")
	if data, err := readSmall(file, 128); err == nil && !w.newSession && len(a.Resume) > 0 {
		id := strings.TrimSpace(string(data))
		if sessionID.MatchString(id) && (a.SessionFile == "" || w.has(strings.ReplaceAll(a.SessionFile, "{id}", id))) {
			return fill(a.Resume, "{id}", id)
		}
	}
	if len(a.NewSession) == 0 {
		return nil
	}
	id := newUUID()
	if err := os.WriteFile(file, []byte(id+"\n"), 0o600); err != nil {
		return nil // a session that cannot be found again is still a session
	}
	return fill(a.NewSession, "{id}", id)
}

// has reports whether a pattern below the home directory matches something.
func (w *wrapper) has(pattern string) bool {
	found, _ := filepath.Glob(filepath.Join(w.home, pattern))
	return len(found) > 0
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// wire chooses what the agent takes with the kind of credential that the vault has for its provider.
// An agent without one is not started to fail in its own words, unless a person wants something
// particular of it.
func (w *wrapper) wire(a *sandbox.Agent) error {
	if a.Provider == "" {
		return nil
	}
	c, err := readCredentials(w.credentials)
	if err != nil {
		return fmt.Errorf("the tokens of this start: %w", err)
	}
	held, ok := c.held(a.Provider)
	wiring, usable := a.Kinds[held.Kind]
	switch {
	case usable:
		a.Env, a.Home = wiring.Env, wiring.Home
	case len(w.args) > 0:
	case !ok:
		return fmt.Errorf("the vault has no credential of %s for %s; a person must run on the host: %s (then start %s again)", a.Provider, w.name, a.SignIn, w.name)
	default:
		return fmt.Errorf("%s cannot use the credential of %s that the vault has (%s); a person must run on the host: %s", w.name, a.Provider, held.Kind, a.SignIn)
	}
	return nil
}

// prepareEnv adds the agent's quiet settings and the authorship, as git.authorship has it.
func (w *wrapper) prepareEnv(a *sandbox.Agent) {
	for k, v := range a.Env {
		w.setenv(k, w.expand(v, false))
	}
	if cwd, err := os.Getwd(); err == nil {
		w.setenv("PWD", cwd)
	}
	for role, id := range map[string]sandbox.Identity{"AUTHOR": a.Author, "COMMITTER": a.Committer} {
		if id.Name != "" {
			w.setenv("GIT_"+role+"_NAME", id.Name)
			w.setenv("GIT_"+role+"_EMAIL", id.Email)
		}
	}
}

// promptAsStdin makes the prompt file this process's stdin. A prompt never is an argument: those
// are limited to 128 KiB and every process can read them.
func (w *wrapper) promptAsStdin() error {
	f, err := os.OpenFile(w.path(filepath.Base(sandbox.PromptFile)), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("there is no prompt: %w", err)
	}
	defer f.Close()
	return unix.Dup3(int(f.Fd()), 0, 0)
}

// program resolves a name in PATH, passing over our own shims: they would call us again.
func (w *wrapper) program(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(w.getenv("PATH")) {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == w.path("bin") {
			continue
		}
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not in this container: %w", name, exec.ErrNotFound)
}

func (w *wrapper) getenv(key string) string {
	for _, kv := range w.environ {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

func (w *wrapper) setenv(key, value string) {
	w.environ = slices.DeleteFunc(slices.Clone(w.environ), func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
	w.environ = append(w.environ, key+"="+value)
}

func fill(args []string, mark, value string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, mark, value)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readSmall reads a regular file of at most max bytes; the workload may have put anything there.
func readSmall(path string, max int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > max {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, max)
	}
	data := make([]byte, fi.Size())
	n, err := f.ReadAt(data, 0)
	if err != nil && n < len(data) {
		return nil, err
	}
	return data, nil
}
