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

// clone fills an empty workspace from the gate, or brings the settings of one that is there up to
// date. Objects of the base are borrowed where they are mounted, so that the size of the
// repository does not matter.
func clone(ctx context.Context, dir string, c *sandbox.Clone, env []string) error {
	if dir == "" {
		return errors.New("a clone needs a workspace")
	}
	g := gitRunner{dir: dir, env: env}
	var err error
	if g.path, err = lookPath("git", env); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		return g.settings(ctx, c)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s holds files but no repository", dir)
	}
	if err := g.run(ctx, "init", "-q", "-b", c.Branch); err != nil {
		return err
	}
	if c.Borrow != "" {
		alternates := filepath.Join(dir, ".git", "objects", "info", "alternates")
		if err := os.WriteFile(alternates, []byte(c.Borrow+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := g.settings(ctx, c); err != nil {
		return err
	}
	if err := g.run(ctx, "fetch", "-q", "--no-tags", "origin"); err != nil {
		return err
	}
	return g.run(ctx, "checkout", "-q", "-B", c.Branch, "--track", "origin/"+c.Branch)
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
	cmd := exec.CommandContext(ctx, g.path, args...)
	cmd.Dir, cmd.Env = g.dir, append(g.env, "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
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
