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
	"regexp"
	"runtime"
	"strconv"
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

// OpenWorkspace makes the repository of an empty workspace and fetches the gate's refs into it, or
// upstream's where there is no gate, or brings the settings of one that is there up to date. Objects of the base are borrowed where they are mounted, so
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
	return w, w.git.fetch(ctx, c)
}

// baseRefs sets refs/remotes/NAME/* to the branches of the base, whose objects are borrowed. What they
// reach git then takes as there: without them the fetch that follows would walk the whole history to see
// whether it is, seconds to minutes of a large project.
func (g *gitRunner) baseRefs(ctx context.Context, remote, name string) error {
	out, err := g.output(ctx, nil, "ls-remote", "-q", remote, upstreamRefs+"*")
	if err != nil {
		return err
	}
	var script strings.Builder
	for line := range strings.Lines(string(out)) {
		id, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if branch, ok := strings.CutPrefix(ref, upstreamRefs); ok {
			fmt.Fprintf(&script, "update refs/remotes/%s/%s %s\n", name, branch, id)
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
	if err := w.git.begin(ctx, w.clone); err != nil {
		return err
	}
	return os.Remove(filepath.Join(w.git.dir, unfinished))
}

// Remotes of a workspace.
const (
	origin   = "origin"   // the gate, or the upstream where the task reaches it
	gate     = "gate"     // beside such an origin
	external = "external" // the upstream's address, with no way to it
)

// gateName is the remote that the gate is.
func gateName(c *sandbox.Clone) string {
	if c.Origin != "" {
		return gate
	}
	return origin
}

// fetch brings the refs that a new workspace begins with.
func (g *gitRunner) fetch(ctx context.Context, c *sandbox.Clone) error {
	if c.URL == "" {
		return g.run(ctx, "fetch", "-q", origin)
	}
	remote, known := gateName(c), "upstream"
	if remote == gate {
		known = origin
	}
	if c.Borrow != "" {
		if err := g.baseRefs(ctx, remote, known); err != nil {
			return err
		}
	}
	if err := g.run(ctx, "fetch", "-q", "--no-tags", remote); err != nil || remote == origin {
		return err
	}
	// What upstream had at the last sync, so that nothing has to come from there.
	return g.run(ctx, "fetch", "-q", "--no-tags", remote, "+"+upstreamRefs+"*:refs/remotes/origin/*")
}

// begin checks the task's branch out where it begins; where that has no commit yet, the task makes
// the first one. The branch is pushed to, and pulled from, origin.
func (g *gitRunner) begin(ctx context.Context, c *sandbox.Clone) error {
	ref := "refs/remotes/" + gateName(c) + "/" + c.Branch
	named := false // it must be there
	if c.URL == "" {
		if named = c.Start != ""; named {
			ref = "refs/remotes/origin/" + c.Start
		} else {
			ref = "refs/remotes/origin/HEAD"
			// It fails for an empty repository, and for a HEAD that names nothing.
			_ = g.run(ctx, "remote", "set-head", origin, "--auto")
		}
	}
	if c.URL != "" && c.Origin == "" { // the usual way, in one step
		err := g.checkout(ctx, "-B", c.Branch, "--track", origin+"/"+c.Branch)
		if err == nil || g.run(ctx, "rev-parse", "-q", "--verify", ref) == nil {
			return err
		}
	} else if named || g.run(ctx, "rev-parse", "-q", "--verify", ref) == nil {
		if err := g.checkout(ctx, "--no-track", "-B", c.Branch, ref); err != nil {
			return err
		}
	}
	if err := g.run(ctx, "config", "branch."+c.Branch+".remote", origin); err != nil {
		return err
	}
	return g.run(ctx, "config", "branch."+c.Branch+".merge", "refs/heads/"+c.Branch)
}

// checkout writes the files of a branch. Inflating them is most of a large workspace's start, so every
// processor that the container may use takes its part (git-config(1), checkout.workers).
func (g *gitRunner) checkout(ctx context.Context, args ...string) error {
	workers := "checkout.workers=" + strconv.Itoa(min(runtime.GOMAXPROCS(0), maxWorkers))
	return g.run(ctx, append([]string{"-c", workers, "checkout", "-q", "--force"}, args...)...)
}

const maxWorkers = 8 // more of them only get into each other's way at the disk

type gitRunner struct {
	path, dir string
	env       []string
}

// settings point the remotes to gate and upstream and make us the gate's credential helper.
func (g *gitRunner) settings(ctx context.Context, c *sandbox.Clone) error {
	list := [][2]string{{"user.name", c.UserName}, {"user.email", c.UserEmail}}
	remote := func(name, address string) {
		list = append(list, [2]string{"remote." + name + ".url", address}, [2]string{"remote." + name + ".fetch", "+refs/heads/*:refs/remotes/" + name + "/*"})
	}
	if c.Origin != "" {
		remote(origin, c.Origin)
		if u, err := url.Parse(c.Origin); err == nil && u.Scheme == "https" {
			list = append(list, [2]string{"credential.https://" + u.Host + ".helper", sandbox.GuestProgram + " guest git-credential"})
		}
	}
	if c.External != "" {
		remote(external, c.External)
	}
	if c.URL != "" {
		helper, err := helperKey(c.URL)
		if err != nil {
			return err
		}
		remote(gateName(c), c.URL)
		list = append(list, [2]string{helper, sandbox.GuestProgram + " guest git-credential"})
	}
	if c.Config != "" { // submodules are cloned by gits of their own, which read nothing of this repository
		if err := g.run(ctx, "config", "--global", "--replace-all", "include.path", c.Config, "^"+regexp.QuoteMeta(c.Config)+"$"); err != nil {
			return err
		}
	}
	for _, kv := range list {
		if kv[1] == "" {
			continue
		}
		if err := g.run(ctx, "config", "--replace-all", kv[0], kv[1]); err != nil {
			return err
		}
	}
	if err := g.largeFiles(ctx, c); err != nil {
		return err
	}
	if c.URL == "" || c.Origin != "" {
		return nil
	}
	// The base's branches as they are now, whatever the task has done with its own.
	return g.run(ctx, "config", "--add", "remote.origin.fetch", "+refs/upstream/heads/*:refs/remotes/upstream/*")
}

// helperKey is where git's configuration names a helper for the server of a URL.
func helperKey(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	return "credential." + u.Scheme + "://" + u.Host + ".helper", nil
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

// credentialMain is git's credential helper (gitcredentials(7)) for the gate and, where the vault
// relays it, for the upstream's git server: what it gives are this start's token and phantom.
func credentialMain(args []string, in io.Reader, out io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: terok guest git-credential get|store|erase")
		return exitUsage
	}
	return answerCredential(args[0], in, out, os.ReadFile)
}

// answerCredential gives git what it asks for, and is silent about every other server.
func answerCredential(verb string, in io.Reader, out io.Writer, read func(string) ([]byte, error)) int {
	asked := fields(in)
	if verb != "get" {
		return 0
	}
	if asked["protocol"] == "http" && asked["host"] == gateHost {
		if secret, err := read(tokenFile); err == nil {
			fmt.Fprintf(out, "username=terok\npassword=%s\n", bytes.TrimSpace(secret))
		}
		return 0
	}
	data, err := read(sandbox.UpstreamLogin)
	if err != nil {
		return 0 // nothing to say
	}
	if have := fields(bytes.NewReader(data)); have["protocol"] == asked["protocol"] && have["host"] == asked["host"] && have["host"] != "" {
		fmt.Fprintf(out, "username=%s\npassword=%s\n", have["username"], have["password"])
	}
	return 0
}

// fields reads lines of KEY=VALUE.
func fields(in io.Reader) map[string]string {
	m := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(in, 64<<10))
	for lines.Scan() {
		if k, v, ok := strings.Cut(lines.Text(), "="); ok {
			m[k] = v
		}
	}
	return m
}

var gateHost = fmt.Sprintf("%s:%d", sandbox.ServiceHost, sandbox.GatePort)
