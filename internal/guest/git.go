package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"terok/internal/sandbox"
)

// Workspace is the task's clone while it is prepared.
type Workspace struct {
	git   gitRunner
	clone *sandbox.Clone
	fresh bool // it has no files yet
}

// unfinished marks a workspace whose files are not all there yet: a container that was killed while it was
// prepared goes on at its next start.
const unfinished = ".git/terok-unfinished"

// OpenWorkspace makes the repository of an empty workspace and fetches the gate's refs into it, or brings the
// settings of one that is there up to date. Objects of the base are borrowed where they are mounted, so
// that the size of the repository does not matter. dir must be there; env is the environment of git.
func OpenWorkspace(ctx context.Context, dir string, c *sandbox.Clone, env []string) (*Workspace, error) {
	if dir == "" {
		return nil, errors.New("a clone needs a workspace")
	}
	w := &Workspace{git: gitRunner{dir: dir, env: env}, clone: c}
	var err error
	if w.git.path, err = lookPath("git", env); err != nil {
		return nil, err
	}
	_, half := os.Lstat(filepath.Join(dir, unfinished))
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil && half != nil {
		return w, w.git.settings(ctx, c)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 && half != nil {
		return nil, fmt.Errorf("%s holds files but no repository", dir)
	}
	w.fresh = true
	if err := w.git.run(ctx, "init", "-q", "-b", c.Branch); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, unfinished), nil, 0o644); err != nil {
		return nil, err
	}
	if c.Borrow != "" {
		alternates := filepath.Join(dir, ".git", "objects", "info", "alternates")
		if err := os.WriteFile(alternates, []byte(c.Borrow+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	if err := w.git.settings(ctx, c); err != nil {
		return nil, err
	}
	if c.Borrow != "" {
		if err := w.git.baseRefs(ctx); err != nil {
			return nil, err
		}
	}
	return w, w.git.run(ctx, "fetch", "-q", "--no-tags", "origin")
}

// baseRefs sets refs/remotes/upstream/* to the branches of the base, whose objects are borrowed. What they
// reach git then takes as there: without them the fetch that follows would walk the whole history to see
// whether it is, seconds to minutes of a large project.
func (g *gitRunner) baseRefs(ctx context.Context) error {
	out, err := g.output(ctx, nil, "ls-remote", "-q", "origin", upstreamRefs+"*")
	if err != nil {
		return err
	}
	var script strings.Builder
	for line := range strings.Lines(string(out)) {
		id, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if branch, ok := strings.CutPrefix(ref, upstreamRefs); ok {
			fmt.Fprintf(&script, "update refs/remotes/upstream/%s %s\n", branch, id)
		}
	}
	// It refuses refs to objects that are not there; fetch then brings them.
	_, _ = g.output(ctx, strings.NewReader(script.String()), "update-ref", "--stdin")
	return nil
}

const upstreamRefs = "refs/upstream/heads/"

// CheckOut writes the files of a workspace that has none yet.
func (w *Workspace) CheckOut(ctx context.Context) error {
	if !w.fresh {
		return nil
	}
	if err := w.git.run(ctx, "checkout", "-q", "--force", "-B", w.clone.Branch, "--track", "origin/"+w.clone.Branch); err != nil {
		return err
	}
	return os.Remove(filepath.Join(w.git.dir, unfinished))
}

type gitRunner struct {
	path, dir string
	env       []string
}

// settings point origin to the gate and make us its credential helper.
func (g *gitRunner) settings(ctx context.Context, c *sandbox.Clone) error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return err
	}
	helper := "credential." + u.Scheme + "://" + u.Host + ".helper"
	for _, kv := range [][2]string{
		{"remote.origin.url", c.URL},
		{"remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"},
		{"user.name", c.UserName},
		{"user.email", c.UserEmail},
		{helper, sandbox.GuestProgram + " guest git-credential"},
	} {
		if kv[1] == "" {
			continue
		}
		if err := g.run(ctx, "config", "--replace-all", kv[0], kv[1]); err != nil {
			return err
		}
	}
	// The base's branches as they are now, whatever the task has done with its own.
	return g.run(ctx, "config", "--add", "remote.origin.fetch", "+refs/upstream/heads/*:refs/remotes/upstream/*")
}

func (g *gitRunner) run(ctx context.Context, args ...string) error {
	_, err := g.output(ctx, nil, args...)
	return err
}

func (g *gitRunner) output(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, g.path, args...)
	cmd.Dir, cmd.Env = g.dir, append(g.env, "GIT_TERMINAL_PROMPT=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return stdout.Bytes(), nil
}

// credentialMain is git's credential helper (gitcredentials(7)) for the gate, and for nothing else.
func credentialMain(args []string, in io.Reader, out io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: terok guest git-credential get|store|erase")
		return exitUsage
	}
	return answerCredential(args[0], in, out, func() ([]byte, error) { return os.ReadFile(tokenFile) })
}

// answerCredential gives the gate's token to git when it asks for the gate.
func answerCredential(verb string, in io.Reader, out io.Writer, token func() ([]byte, error)) int {
	asked := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(in, 64<<10))
	for lines.Scan() {
		if k, v, ok := strings.Cut(lines.Text(), "="); ok {
			asked[k] = v
		}
	}
	if verb != "get" || asked["protocol"] != "http" || asked["host"] != gateHost {
		return 0 // nothing to say
	}
	secret, err := token()
	if err != nil {
		return 0
	}
	fmt.Fprintf(out, "username=terok\npassword=%s\n", bytes.TrimSpace(secret))
	return 0
}

var gateHost = fmt.Sprintf("%s:%d", sandbox.ServiceHost, sandbox.GatePort)
