package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/gate/lfs"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/ssh"
)

// LargeFiles is what a mirror has of the files that its branches keep in Git LFS (gate.lfs: proxy).
type LargeFiles struct {
	Objects int    `json:"objects"` // that the branches point to
	Missing int    `json:"missing"` // of these, not here
	Rev     uint64 `json:"rev"`     // of the mirror when it was looked at
}

// LFSFetched is what one sync did about them.
type LFSFetched struct {
	Objects int   `json:"objects"` // that came
	Bytes   int64 `json:"bytes"`
	Missing int   `json:"missing"` // that the branches point to and are not here
}

const (
	maxLFS     = 100_000 // objects that one sync asks for
	lfsReserve = 1 << 30 // bytes that stay free on the disk
	lfsTimeout = 2 * time.Hour
	keptLFS    = ".lfs" // ends the name of the directory beside a kept bundle
)

// usesLFS reports whether the default branch of a base keeps files in Git LFS: its .gitattributes
// name the filter (gitattributes(5)). Only the file at the top is read, as text: status says what
// this gate leaves out, nothing depends on it.
func (s *Store) usesLFS(ctx context.Context, base string) bool {
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: base, MaxOutput: 1 << 20, Args: []string{"cat-file", "blob", "HEAD:.gitattributes"}})
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 1 && words[0][0] != '#' {
			for _, attribute := range words[1:] {
				if attribute == "filter=lfs" {
					return true
				}
			}
		}
	}
	return false
}

// Pointers lists the LFS objects that a repository of ours points to, each once: from the files of the
// commits tips, and with walk also from those of all commits that lead to them and not to one of not.
// What is no pointer file is no object, whatever .gitattributes say.
func (s *Store) Pointers(ctx context.Context, repo string, alternates []string, walk bool, tips, not []string) ([]lfs.Object, error) {
	if len(tips) == 0 {
		return nil, nil
	}
	revs := strings.Join(tips, "\n") + "\n"
	args := []string{"rev-list", "--objects", "--no-object-names", "--filter-provided-objects",
		fmt.Sprintf("--filter=combine:object:type=blob+blob:limit=%d", lfs.MaxPointer)}
	if walk {
		for _, id := range not {
			revs += "^" + id + "\n"
		}
	} else {
		args = append(args, "--no-walk=unsorted")
	}
	blobs, err := s.Git.Run(ctx, git.Cmd{GitDir: repo, Alternates: alternates, Timeout: 10 * time.Minute, MaxOutput: 256 << 20, Stdin: strings.NewReader(revs),
		Args: append(args, "--stdin")})
	if err != nil {
		return nil, fmt.Errorf("look for LFS pointers: %w", err)
	}
	pr, pw := io.Pipe()
	found := map[string]lfs.Object{}
	parsed := make(chan error, 1)
	go func() {
		err := readPointers(pr, found)
		pr.CloseWithError(err)
		parsed <- err
	}()
	err = s.Git.Stream(ctx, git.Cmd{GitDir: repo, Alternates: alternates, Timeout: 10 * time.Minute, Stdin: bytes.NewReader(blobs),
		Args: []string{"cat-file", "--batch", "--buffer"}}, pw)
	pw.CloseWithError(err)
	if perr := <-parsed; err == nil {
		err = perr
	}
	if err != nil {
		return nil, fmt.Errorf("look for LFS pointers: %w", err)
	}
	list := slices.SortedFunc(maps.Values(found), func(a, b lfs.Object) int { return strings.Compare(a.OID, b.OID) })
	return list, nil
}

// readPointers reads the answer of git cat-file --batch.
func readPointers(r io.Reader, found map[string]lfs.Object) error {
	in := bufio.NewReader(r)
	for {
		head, err := in.ReadString('\n')
		if err == io.EOF && head == "" {
			return nil
		}
		f := strings.Fields(head)
		if err != nil || len(f) != 3 {
			return fmt.Errorf("git cat-file: unexpected line %.80q", head)
		}
		size, err := strconv.Atoi(f[2])
		if err != nil || size < 0 || size >= lfs.MaxPointer {
			return fmt.Errorf("git cat-file: unexpected line %.80q", head)
		}
		body := make([]byte, size+1)
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		if o, ok := lfs.Parse(body[:size]); ok && o.Size > 0 {
			found[o.OID] = o
		}
	}
}

// syncLFS brings the LFS objects of the branches that a sync is about to offer, before it does, and of
// what is new in their history. A server that has not all of them is a note, one that cannot be used an
// error of the report; the sync goes on in any case.
func (s *Store) syncLFS(ctx context.Context, project string, up Upstream, c *classifier, o Options) (*LargeFiles, error) {
	heads := c.before.below(refname.Heads)
	tips := slices.Concat(slices.Collect(maps.Values(heads)), slices.Collect(maps.Values(c.upstream)))
	have := lfs.Of(c.dir)
	have.Sweep("")
	want, err := s.Pointers(ctx, c.dir, nil, false, tips, nil)
	if err != nil {
		return nil, err
	}
	var old []string
	for _, id := range heads {
		old = append(old, id)
	}
	state := &LargeFiles{Objects: len(want)}
	if len(old) > 0 { // of the first sync history would be everything there ever was
		recent, err := s.Pointers(ctx, c.dir, nil, true, slices.Collect(maps.Values(c.upstream)), old)
		if err != nil {
			return nil, err
		}
		want = append(want, recent...)
	}
	todo := lacking(want, have)
	if len(todo) == 0 {
		return state, nil
	}
	got := &LFSFetched{}
	c.rep.LFS = got
	if o.lfsFrom != "" { // of the base that is made anew
		if _, err := (lfs.Local{Dir: o.lfsFrom}).Fetch(ctx, todo, have, func(lfs.Object) {}); err != nil {
			return nil, err
		}
	}
	report, err := s.fetchLFS(ctx, project, up, o.LFSURL, lacking(todo, have), have, got)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		c.rep.Errors = append(c.rep.Errors, "files in LFS could not be fetched: "+text.Line(err.Error(), 300))
	}
	for _, f := range report.Failed[:min(len(report.Failed), 5)] {
		c.rep.Errors = append(c.rep.Errors, fmt.Sprintf("LFS object %.12s: %s", f.OID, f.Why))
	}
	state.Missing = len(lacking(want[:state.Objects], have))
	if got.Missing = len(lacking(todo, have)); err == nil && len(report.Missing) > 0 {
		c.rep.Notes = append(c.rep.Notes, fmt.Sprintf("%d files in LFS are not on the LFS server, such as %.12s: they stay pointers", len(report.Missing), report.Missing[0].OID))
	}
	return state, nil
}

// lacking are the objects, each once, that a directory has not.
func lacking(want []lfs.Object, have lfs.Dir) []lfs.Object {
	seen := map[string]bool{}
	var list []lfs.Object
	for _, o := range want {
		if !seen[o.OID] && !have.Has(o) {
			list = append(list, o)
		}
		seen[o.OID] = true
	}
	return list
}

// fetchLFS brings objects from upstream's LFS server.
func (s *Store) fetchLFS(ctx context.Context, project string, up Upstream, address string, todo []lfs.Object, into lfs.Dir, got *LFSFetched) (lfs.Report, error) {
	if len(todo) == 0 {
		return lfs.Report{}, nil
	}
	if len(todo) > maxLFS {
		return lfs.Report{}, fmt.Errorf("%d of them are more than one sync fetches (%d)", len(todo), maxLFS)
	}
	free, err := into.Free(lfsReserve)
	if err != nil {
		return lfs.Report{}, err
	}
	sum := int64(0)
	for _, o := range todo {
		if o.Size > free-sum {
			return lfs.Report{}, fmt.Errorf("the disk of the gate has no room for them: %s can be written", text.Size(uint64(max(free, 0))))
		}
		sum += o.Size
	}
	ctx, cancel := context.WithTimeout(ctx, lfsTimeout)
	defer cancel()
	peer, done, err := s.lfsPeer(ctx, project, up, address, lfs.Download)
	if err != nil {
		return lfs.Report{}, err
	}
	defer done()
	return peer.Fetch(ctx, todo, into, s.lfsProgress("fetched", len(todo), func(o lfs.Object) { got.Objects, got.Bytes = got.Objects+1, got.Bytes+o.Size }))
}

// lfsProgress says how far a transfer is, at most once a second.
func (s *Store) lfsProgress(what string, of int, count func(lfs.Object)) func(lfs.Object) {
	var mu sync.Mutex
	last, n, bytes := time.Now(), 0, int64(0)
	return func(o lfs.Object) {
		mu.Lock()
		defer mu.Unlock()
		n, bytes = n+1, bytes+o.Size
		if count(o); s.Progress != nil && time.Since(last) > time.Second {
			last = time.Now()
			s.Progress(fmt.Sprintf("%s %d of %d files in LFS, %s", what, n, of, text.Size(uint64(bytes))))
		}
	}
}

// lfsPeer is where the LFS objects of an upstream are: at the address that the operator gave, else at
// the place that follows from the upstream's own address, and never where a repository says.
func (s *Store) lfsPeer(ctx context.Context, project string, up Upstream, address, operation string) (lfs.Peer, func(), error) {
	if address != "" {
		at, err := ParseUpstream(address)
		if err != nil || at.Protocol != "https" {
			return nil, nil, problem.New("bad_lfs_url", problem.Usage, "gate.lfs_url is not https://HOST/PATH")
		}
		return s.lfsServer(ctx, project, at, at.URL)
	}
	switch up.Protocol {
	case "https":
		return s.lfsServer(ctx, project, up, strings.TrimSuffix(strings.TrimSuffix(up.URL, "/"), ".git")+".git/info/lfs")
	case "ssh":
		return s.lfsBySSH(ctx, project, up, operation)
	case "file":
		dir, err := s.LFSOf(ctx, up.Local())
		return lfs.Local{Dir: dir}, func() {}, err
	}
	return nil, nil, errors.New("the project has no upstream")
}

// LFSOf is the directory of LFS objects of a person's repository on this machine. No program of it runs.
func (s *Store) LFSOf(ctx context.Context, dir string) (lfs.Dir, error) {
	out, err := s.Git.Run(ctx, git.Cmd{Dir: dir, Args: []string{"rev-parse", "--path-format=absolute", "--git-common-dir"}})
	if err != nil {
		return "", err
	}
	common := strings.TrimSuffix(string(out), "\n")
	if !filepath.IsAbs(common) || strings.Contains(common, "\n") {
		return "", errors.New("its path contains a line break")
	}
	return lfs.Of(common), nil
}

// lfsServer is the LFS server at an address, with what the vault has for at's host.
func (s *Store) lfsServer(ctx context.Context, project string, at Upstream, address string) (lfs.Peer, func(), error) {
	conn, err := s.Connect(ctx, project, at)
	if err != nil {
		return nil, nil, err
	}
	server := &lfs.Server{URL: address, Stall: s.stall()}
	if err := trust(server, conn.access.Authorities); err != nil {
		conn.Close()
		return nil, nil, err
	}
	login := conn.access.Login
	if u, err := url.Parse(address); err == nil && len(login.Password) > 0 && login.Protocol == u.Scheme && login.Host == u.Host {
		server.User, server.Password = login.Username, bytes.Clone(login.Password)
	}
	return server, func() { server.Close(); conn.Close() }, nil
}

// trust makes a server believe the operator's authorities beside those of the system.
func trust(server *lfs.Server, authorities []byte) error {
	if len(authorities) == 0 {
		return nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(authorities)
	server.Roots = roots
	return nil
}

// lfsBySSH asks the ssh server of upstream for its LFS server, as git-lfs does
// (docs/api/server-discovery.md), over the ssh of a fetch: its key, its pinned host keys.
func (s *Store) lfsBySSH(ctx context.Context, project string, up Upstream, operation string) (lfs.Peer, func(), error) {
	at, user, ok := ssh.ServerOfURL(up.URL)
	if !ok || strings.HasPrefix(at.Host, "-") || strings.HasPrefix(user, "-") {
		return nil, nil, errors.New("no ssh server can be read from the upstream's address")
	}
	conn, err := s.Connect(ctx, project, up)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	dest := at.Host
	if user != "" {
		dest = user + "@" + dest
	}
	c := conn.Cmd("", min(listTimeout, s.stall()))
	c.MaxOutput = 64 << 10
	out, err := s.Git.SSH(ctx, c, dest, strconv.Itoa(at.Port), "git-lfs-authenticate "+sshPath(up.URL)+" "+operation)
	if err != nil {
		return nil, nil, problem.New("lfs_unknown", problem.Failed, "the upstream's ssh server does not say where its LFS server is (git-lfs-authenticate): %w", err).
			WithHint("set gate.lfs_url in project.yml")
	}
	answer, err := lfs.ReadAction(out)
	if err != nil {
		return nil, nil, problem.New("lfs_unknown", problem.Failed, "what the upstream's ssh server answers to git-lfs-authenticate is not understood").
			WithHint("set gate.lfs_url in project.yml")
	}
	server := &lfs.Server{URL: answer.Href, Header: answer.Header, Stall: s.stall(), Beside: at.Host}
	web, err := s.Connect(ctx, project, Upstream{URL: answer.Href, Protocol: "https"}) // for the operator's authorities
	if err == nil {
		err = trust(server, web.access.Authorities)
		web.Close()
	}
	return server, server.Close, err
}

// sshPath is the path of an ssh address as git gives it to the server, quoted for its shell.
func sshPath(address string) string {
	path := ""
	if rest, ok := strings.CutPrefix(address, "ssh://"); ok {
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	} else if end := strings.Index(address, "]:"); end > 0 {
		path = address[end+2:]
	} else {
		_, path, _ = strings.Cut(address, ":")
	}
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

// lfsSource is where a new task's own commits come from, "" where the base has all of them.
func (s *Store) lfsSource(ctx context.Context, spec TaskSpec) lfs.Dir {
	switch {
	case !spec.LFS:
	case spec.From != nil:
		return lfs.Of(s.Roots.GateTask(spec.Project, spec.From.Task))
	case spec.Clone != nil && spec.Start == "":
		if dir, err := s.LFSOf(ctx, spec.Clone.Dir); err == nil {
			return dir
		}
	}
	return ""
}

// bringLFS copies the objects that a new task's commits point to from where they come from.
func (s *Store) bringLFS(ctx context.Context, repo, base string, tips []string, from lfs.Dir) error {
	want, err := s.Pointers(ctx, repo, []string{filepath.Join(base, "objects")}, false, tips, nil)
	if err != nil {
		return err
	}
	_, err = lfs.Local{Dir: from}.Fetch(ctx, lacking(want, lfs.Of(base)), lfs.Of(repo), func(lfs.Object) {})
	return err // what is not there stays a pointer
}

// gcTaskLFS drops uploaded objects that no commit of the task points to any more.
func (s *Store) gcTaskLFS(ctx context.Context, repo, objects string, keep time.Duration) error {
	have := lfs.Of(repo)
	if n, _, err := have.Usage(); n == 0 || err != nil {
		return err
	}
	refs, err := readRefs(repo)
	if err != nil {
		return err
	}
	used, err := s.Pointers(ctx, repo, []string{objects}, true, slices.Collect(maps.Values(refs)), slices.Collect(maps.Values(refs.below(view.Upstream))))
	if err != nil {
		return err
	}
	_, _, err = have.Prune(named(used), s.now().Add(-keep), false)
	return err
}

// gcBaseLFS drops objects of the base that no ref of it and no task's branch points to. One that is
// fetched again is there again.
func (s *Store) gcBaseLFS(ctx context.Context, base string, tasks []string, keep time.Duration) error {
	have, objects := lfs.Of(base), filepath.Join(base, "objects")
	if n, _, err := have.Usage(); n == 0 || err != nil {
		return err
	}
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	used, err := s.Pointers(ctx, base, nil, false, slices.Collect(maps.Values(refs)), nil)
	for _, t := range tasks {
		p, id, _ := strings.Cut(t, "/")
		repo := s.Roots.GateTask(p, id)
		if err == nil {
			err = Verify(repo, objects)
		}
		if err == nil {
			refs, err = readRefs(repo)
		}
		if err != nil {
			return err
		}
		more, perr := s.Pointers(ctx, repo, []string{objects}, false, slices.Collect(maps.Values(refs)), nil)
		used, err = append(used, more...), perr
	}
	if err != nil {
		return err
	}
	_, _, err = have.Prune(named(used), s.now().Add(-keep), false)
	return err
}

func named(list []lfs.Object) map[string]bool {
	names := map[string]bool{}
	for _, o := range list {
		names[o.OID] = true
	}
	return names
}
