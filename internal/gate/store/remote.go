package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Deadlines of network operations; Store.Stall ends them earlier when nothing comes.
const (
	listTimeout  = time.Minute
	fetchTimeout = time.Hour
)

// remote is the upstream side of a sync.
type remote struct {
	*Store
	conn     *Connection
	up       Upstream
	dir      string // the base
	format   string
	branches []string // only these; empty: all
	skip     string   // file of object ids that pass git's checks unseen, "" for none
}

// listing is what upstream has now.
type listing struct {
	head   string            // default branch, "" when upstream does not say
	refs   map[string]string // refs/heads/* and refs/tags/*
	format string
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
	args := []string{"ls-remote", "--symref", "--", r.up.URL, "HEAD"}
	if len(r.branches) == 0 {
		args = append(args, "refs/heads/*", "refs/tags/*")
	}
	for _, b := range r.branches {
		args = append(args, refname.Heads+b)
	}
	out, err := r.Git.Run(ctx, r.conn.Cmd("", min(listTimeout, r.stall()), args...))
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
func (l *listing) equals(have refMap, branches []string) bool {
	snapshot := map[string]string{}
	for b, id := range have.below(SnapshotRefs) {
		if len(branches) == 0 || slices.Contains(branches, b) {
			snapshot[refname.Heads+b] = id
		}
	}
	if len(branches) == 0 {
		for t, id := range have.below(snapshotTags) {
			snapshot["refs/tags/"+t] = id
		}
	}
	return maps.Equal(snapshot, l.refs)
}

// create makes the base beside its place and renames it when everything is there, so that an
// interrupted one never looks whole. An earlier attempt goes on with the objects it has.
func (r *remote) create(ctx context.Context, l *listing, o Options) (err error) {
	tmp := r.dir + ".tmp"
	old, err := filepath.Glob(tmp + "-*") // of earlier versions
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return err
	}
	defer func() {
		if packs, _ := filepath.Glob(filepath.Join(tmp, "objects", "pack", "*.pack")); err != nil && len(packs) == 0 {
			err = errors.Join(err, os.RemoveAll(tmp)) // nothing to go on with
		}
	}()
	if err := r.prepare(ctx, tmp, l, o); err != nil {
		return err
	}
	if len(l.refs) > 0 {
		specs := []string{"+" + refname.Heads + "*:" + SnapshotRefs + "*", "+refs/tags/*:" + snapshotTags + "*"}
		done, err := r.fetchBulk(ctx, tmp, l, specs...)
		if err == nil && !done {
			err = r.fetch(ctx, tmp, specs...)
		}
		if err != nil {
			return err
		}
	}
	if err := r.dropRefs(ctx, tmp, seedRefs); err != nil {
		return err
	}
	r.step("created")
	if err := os.Rename(tmp, r.dir); err != nil {
		return err
	}
	r.step("renamed")
	return nil
}

// prepare makes the empty repository at tmp and fills it from what this machine has.
func (r *remote) prepare(ctx context.Context, tmp string, l *listing, o Options) error {
	was, _ := readSmall(filepath.Join(tmp, "config"))
	if Verify(tmp) != nil || !bytes.Equal(was, config(r.format)) { // absent, or of another kind
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		head := l.head
		if head == "" {
			head = "main"
		}
		if err := makeRepo(tmp, r.format, head); err != nil {
			return err
		}
	} else {
		view.SweepLocks(tmp, r.now())
		half, _ := filepath.Glob(filepath.Join(tmp, "objects", "pack", "tmp_*")) // the pattern is valid
		for _, f := range half {
			_ = os.Remove(f)
		}
	}
	r.step("prepared")
	for _, from := range []struct{ flag, path string }{{"--from-bundle", o.Bundle}, {"--reference", o.Reference}} {
		if from.path == "" {
			continue
		}
		c := git.Cmd{GitDir: tmp, Timeout: fetchTimeout, Protocols: []string{"file"}, Args: []string{"fetch", "--quiet", "--no-tags",
			"--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--", from.path, "+refs/*:" + seedRefs + "*"}}
		c.Config = append(append(c.Config, fsckConfig()...), r.skipConfig()...)
		if _, err := r.Git.Run(ctx, c); err != nil {
			return problem.New("bad_seed", problem.Failed, "%s %s cannot be used: %w", from.flag, text.Line(from.path, 0), err).
				WithHint("git bundle verify FILE, or leave the flag out")
		}
	}
	return nil
}

// seedRefs tell the first fetch what is there already.
const seedRefs = "refs/terok/seed/"

// dropRefs deletes a namespace.
func (s *Store) dropRefs(ctx context.Context, dir, prefix string) error {
	refs, err := readRefs(dir)
	if err != nil {
		return err
	}
	var script []string
	for name, id := range refs.below(prefix) {
		script = append(script, "delete "+prefix+name+" "+id)
	}
	return s.updateRefs(ctx, dir, nil, script...)
}

// fetchStaged brings upstream's branches and tags into the staging namespaces and returns them. Only what
// differs from the last sync is staged: each staged ref is a file, made and removed.
func (r *remote) fetchStaged(ctx context.Context, l *listing, before refMap) (heads, tags map[string]string, err error) {
	if r.up.URL == "" {
		return nil, nil, nil
	}
	for _, left := range []string{stagedRefs, stagedTags} { // by a killed sync; they could be in the way of other names
		if len(before.below(left)) == 0 {
			continue
		}
		if err := r.dropRefs(ctx, r.dir, left); err != nil {
			return nil, nil, err
		}
		maps.DeleteFunc(before, func(ref, _ string) bool { return strings.HasPrefix(ref, left) })
	}
	if few := l.news(before); len(r.branches) == 0 && few != nil {
		err := r.fetch(ctx, r.dir, few...)
		if err == nil {
			return r.staged(l, before)
		}
		if !strings.Contains(err.Error(), "couldn't find remote ref") { // one is gone since it was listed
			return nil, nil, err
		}
	}
	specs := []string{"+" + refname.Heads + "*:" + stagedRefs + "*", "+refs/tags/*:" + stagedTags + "*"}
	if len(r.branches) > 0 {
		specs = nil
		for _, b := range r.branches {
			specs = append(specs, "+"+refname.Heads+b+":"+stagedRefs+b)
		}
	}
	if err := r.fetch(ctx, r.dir, specs...); err != nil {
		return nil, nil, err
	}
	heads, tags, err = r.staged(nil, before)
	if len(r.branches) > 0 {
		tags = before.below(snapshotTags)
	}
	return heads, tags, err
}

// fewNews is up to how many refs are fetched by name.
const fewNews = 500

// news are the refspecs that stage what was listed and the last sync had not, nil when they are too many to
// name.
func (l *listing) news(before refMap) []string {
	specs := []string{}
	for ref, id := range l.refs {
		if b, ok := strings.CutPrefix(ref, refname.Heads); ok && before[SnapshotRefs+b] != id {
			specs = append(specs, "+"+ref+":"+stagedRefs+b)
		}
		if t, ok := strings.CutPrefix(ref, "refs/tags/"); ok && before[snapshotTags+t] != id {
			specs = append(specs, "+"+ref+":"+stagedTags+t)
		}
		if len(specs) > fewNews {
			return nil
		}
	}
	slices.Sort(specs)
	return specs
}

// staged reads what was fetched, over what was listed and not fetched, and notes it in before, so that
// classify deletes it when it is done.
func (r *remote) staged(l *listing, before refMap) (heads, tags map[string]string, err error) {
	refs, err := readRefs(r.dir)
	if err != nil {
		return nil, nil, err
	}
	for ref, id := range refs {
		if strings.HasPrefix(ref, stagedRefs) || strings.HasPrefix(ref, stagedTags) {
			before[ref] = id
		}
	}
	heads, tags = map[string]string{}, map[string]string{}
	if l != nil {
		heads, tags = refMap(l.refs).below(refname.Heads), refMap(l.refs).below("refs/tags/")
	}
	maps.Copy(heads, refs.below(stagedRefs))
	maps.Copy(tags, refs.below(stagedTags))
	return heads, tags, nil
}

func fsckConfig() []string {
	config := []string{"fetch.fsckObjects=true", "fetch.unpackLimit=1", "core.bigFileThreshold=16m", "pack.threads=2"}
	for _, id := range git.OldMistakes {
		config = append(config, "fetch.fsck."+id+"=ignore")
	}
	return config
}

// skipConfig names the objects that the operator lets through (fsck.skipList, git-config(1)).
func (r *remote) skipConfig() []string {
	if r.skip == "" {
		return nil
	}
	return []string{"fetch.fsck.skipList=" + r.skip}
}

// skipFile writes the list for git, or takes it away, and returns its path.
func (s *Store) skipFile(project string, ids []string) (string, error) {
	path := filepath.Join(s.Roots.GateDir(project), "fsck-skip")
	if len(ids) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		return "", nil
	}
	return path, state.WriteFile(path, []byte(strings.Join(ids, "\n")+"\n"))
}

// fetch moves refs of the repository at dir in one transaction. Objects pass fsck; the mistakes
// that old programs made in good faith are let through, since history cannot be mended. A transfer
// in which nothing happens for Store.Stall ends.
func (r *remote) fetch(ctx context.Context, dir string, specs ...string) error {
	return r.fetchWith(ctx, dir, nil, specs...)
}

func (r *remote) fetchWith(ctx context.Context, dir string, flags []string, specs ...string) error {
	c := r.conn.Cmd(dir, fetchTimeout, "fetch", "--progress", "--atomic", "--no-tags", "--no-write-fetch-head",
		"--no-recurse-submodules", "--no-auto-maintenance")
	if len(r.branches) == 0 {
		c.Args = append(c.Args, "--prune")
	}
	if len(specs) == 0 {
		return nil // upstream only deleted
	}
	c.Args = append(append(c.Args, flags...), "--stdin", "--", r.up.URL)
	c.Stdin = strings.NewReader(strings.Join(specs, "\n") + "\n")
	c.Config = append(append(c.Config, fsckConfig()...), r.skipConfig()...)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := &stallWatch{limit: r.stall(), cancel: cancel, progress: r.Progress}
	watch.timer = time.AfterFunc(watch.limit, func() { cancel(errStalled) })
	defer watch.timer.Stop()
	c.Stderr = watch
	_, err := r.Git.Run(ctx, c)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	if err != nil {
		return Unreachable(r.up, err)
	}
	return nil
}

var errStalled = errors.New("nothing came from it")

// stallWatch cancels a transfer whose progress stands still.
type stallWatch struct {
	limit    time.Duration
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	progress func(string)
	last     time.Time
}

func (w *stallWatch) Write(p []byte) (int, error) {
	w.timer.Reset(w.limit)
	if now := time.Now(); w.progress != nil && now.Sub(w.last) > time.Second {
		w.last = now
		lines := strings.FieldsFunc(string(p), func(r rune) bool { return r == '\r' || r == '\n' })
		if len(lines) > 0 {
			w.progress(strings.TrimSpace(text.Line(lines[len(lines)-1], 120)))
		}
	}
	return len(p), nil
}

// Unreachable wraps what git said about upstream, with the cure that fits the protocol.
func Unreachable(up Upstream, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errStalled) || strings.Contains(err.Error(), "Operation too slow") {
		return problem.New("upstream_stalled", problem.Deadline, "upstream %s did not answer in time: %w", up, err).
			WithHint("try again later; what came until now is kept")
	}
	if id := refusedObject(err.Error()); id != "" {
		return problem.New("upstream_object_refused", problem.Failed, "upstream has an object that git's checks refuse; nothing was taken over: %w", err).
			WithHint("look at it in your own clone: git cat-file -p %s; if it is wanted, in project.yml: gate: {fsck_skip: [%s]}", id, id)
	}
	p := problem.New("upstream_unreachable", problem.Failed, "upstream cannot be read: %w", err)
	switch up.Protocol {
	case "ssh":
		return p.WithHint("check it with: ssh-add -l; git ls-remote %s", up)
	case "https":
		return p.WithHint("an upstream that needs a sign-in works over ssh: user@host:path")
	}
	return p.WithHint("check it with: git ls-remote %s", up)
}

// refusedObject finds the object in what git says when fsck refuses one ("error: object ID: msgId:
// …"), "" when it says something else.
func refusedObject(words string) string {
	_, rest, ok := strings.Cut(words, "error: object ")
	id, _, found := strings.Cut(rest, ": ")
	if !ok || !found || len(id) != 40 && len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// refMap maps full ref names to ids.
type refMap map[string]string

// below returns the refs under prefix, without it.
func (m refMap) below(prefix string) map[string]string {
	return view.Below(m, prefix)
}

// readRefs reads all refs of a repository of ours.
func readRefs(dir string) (refMap, error) { return view.Refs(dir) }

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
