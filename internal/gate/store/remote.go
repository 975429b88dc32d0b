package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
)

// Deadlines of network operations. Stalls end earlier: http.lowSpeed… and ssh keep-alives.
const (
	listTimeout  = time.Minute
	fetchTimeout = time.Hour
)

// remote is the upstream side of a sync.
type remote struct {
	*Store
	project string
	up      Upstream
	dir     string // the base
	format  string
}

// listing is what upstream has now.
type listing struct {
	head   string            // default branch, "" when upstream does not say
	refs   map[string]string // refs/heads/* and refs/tags/*
	format string
}

func (r *remote) transport(dir string, timeout time.Duration, args ...string) git.Cmd {
	return r.Transport(r.up, dir, timeout, args...)
}

// Transport is a git command in the repository dir that may talk to upstream by its protocol and
// nothing else. The caller puts "--" before up.URL.
func (s *Store) Transport(up Upstream, dir string, timeout time.Duration, args ...string) git.Cmd {
	c := git.Cmd{GitDir: dir, Args: args, Timeout: timeout, Protocols: up.protocols(), MaxOutput: 64 << 20,
		Config: []string{"http.lowSpeedLimit=1000", "http.lowSpeedTime=30"}}
	if up.Protocol == "ssh" {
		c.Env = append([]string{"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oClearAllForwardings=yes -oPermitLocalCommand=no " +
			"-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4"}, s.SSHEnv...)
	}
	return c
}

// list asks upstream for its refs: one round trip, and a sync without changes ends there.
func (r *remote) list(ctx context.Context) (*listing, error) {
	l := &listing{refs: map[string]string{}, format: "sha1"}
	if r.up.URL == "" {
		return l, nil
	}
	if dir := r.up.Local(); dir != "" {
		if _, err := os.Stat(dir); err != nil {
			return nil, problem.New("upstream_unreachable", problem.Failed, "upstream is not there: %w", err).
				WithHint("move it back, or set git.upstream_url in project.yml")
		}
	}
	out, err := r.Git.Run(ctx, r.transport("", listTimeout, "ls-remote", "--symref", "--", r.up.URL, "HEAD", "refs/heads/*", "refs/tags/*"))
	if err != nil {
		return nil, Unreachable(r.up, err)
	}
	for line := range strings.Lines(string(out)) {
		id, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if target, ok := strings.CutPrefix(id, "ref: "+refname.Heads); ok && ref == "HEAD" {
			if refname.Check(target) == nil {
				l.head = target
			}
			continue
		}
		if !refname.IsID(id) || strings.HasSuffix(ref, "^{}") {
			continue
		}
		if len(id) == 64 {
			l.format = "sha256"
		}
		if strings.HasPrefix(ref, refname.Heads) || strings.HasPrefix(ref, "refs/tags/") {
			l.refs[ref] = id
		}
	}
	return l, nil
}

// equals reports whether the last fetch already brought all of it.
func (l *listing) equals(have refMap) bool {
	snapshot := map[string]string{}
	for b, id := range have.below("refs/terok/upstream/") {
		snapshot[refname.Heads+b] = id
	}
	for t, id := range have.below("refs/terok/upstream-tags/") {
		snapshot["refs/tags/"+t] = id
	}
	return maps.Equal(snapshot, l.refs)
}

// create makes the base beside its place and renames it when everything is there, so that an
// interrupted one never looks whole. What an earlier attempt left is removed: the lock is ours.
func (r *remote) create(ctx context.Context, l *listing) error {
	stale, err := filepath.Glob(r.dir + ".tmp-*")
	if err != nil {
		return err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := state.MkdirAll(filepath.Dir(r.dir)); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(r.dir), filepath.Base(r.dir)+".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	head := l.head
	if head == "" {
		head = "main"
	}
	if err := makeRepo(tmp, r.format, head); err != nil {
		return err
	}
	if len(l.refs) > 0 {
		if err := r.fetch(ctx, tmp); err != nil {
			return err
		}
	}
	return os.Rename(tmp, r.dir)
}

// fetch brings upstream's branches and tags into the snapshot namespaces of the repository at dir
// in one ref transaction. Objects pass fsck; the mistakes that old programs made in good faith
// are let through, since history cannot be mended.
func (r *remote) fetch(ctx context.Context, dir string) error {
	if r.up.URL == "" {
		return nil
	}
	c := r.transport(dir, fetchTimeout, "fetch", "--quiet", "--atomic", "--prune", "--no-tags", "--no-write-fetch-head",
		"--no-recurse-submodules", "--no-auto-maintenance", "--", r.up.URL,
		"+"+refname.Heads+"*:refs/terok/upstream/*", "+refs/tags/*:refs/terok/upstream-tags/*")
	c.Config = append(c.Config, "fetch.fsckObjects=true", "fetch.unpackLimit=1", "core.bigFileThreshold=16m", "pack.threads=2")
	for _, id := range git.OldMistakes {
		c.Config = append(c.Config, "fetch.fsck."+id+"=ignore")
	}
	if _, err := r.Git.Run(ctx, c); err != nil {
		return Unreachable(r.up, err)
	}
	return nil
}

// Unreachable wraps what git said about upstream, with the cure that fits the protocol.
func Unreachable(up Upstream, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return problem.New("upstream_stalled", problem.Deadline, "upstream did not answer in time: %w", err)
	}
	p := problem.New("upstream_unreachable", problem.Failed, "upstream cannot be read: %w", err)
	switch up.Protocol {
	case "ssh":
		return p.WithHint("check it with: ssh-add -l; git ls-remote %s", up.URL)
	case "https":
		return p.WithHint("an upstream that needs a sign-in works over ssh: user@host:path")
	}
	return p.WithHint("check it with: git ls-remote %s", up.URL)
}

// refMap maps full ref names to ids.
type refMap map[string]string

// below returns the refs under prefix, without it.
func (m refMap) below(prefix string) map[string]string {
	return view.Below(m, prefix)
}

// refs reads all refs of a repository of ours.
func (s *Store) refs(ctx context.Context, dir string, alternates ...string) (refMap, error) {
	objects := ""
	if len(alternates) > 0 {
		objects = alternates[0]
	}
	return view.Refs(ctx, s.Git, dir, objects)
}

// updateRefs runs one transaction of git update-ref --stdin.
func (s *Store) updateRefs(ctx context.Context, dir string, alternates []string, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	script := "start\n" + strings.Join(lines, "\n") + "\nprepare\ncommit\n"
	_, err := s.Git.Run(ctx, git.Cmd{GitDir: dir, Alternates: alternates, Stdin: strings.NewReader(script),
		Args: []string{"update-ref", "--no-deref", "--stdin"}})
	if err != nil {
		return fmt.Errorf("move refs: %w", err)
	}
	return nil
}
