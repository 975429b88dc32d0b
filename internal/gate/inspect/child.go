package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok/internal/gate/refname"
	"terok/internal/git"
)

// Main is the child: a Request on stdin, a Reply on stdout. Its exit code is 0, exitLimit or exitSlow
// when git ran into a limit, and 1 when there is nothing to answer with. With the argument "many" it
// is what serveMany says.
func Main(args []string) int {
	if slices.Equal(args, []string{many}) {
		if err := serveMany(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "terok gate-inspect:", err)
			return 1
		}
		return 0
	}
	reply, err := serve(os.Stdin, os.Stdout)
	if err == errStreamed {
		return 0
	}
	if code := overLimit(err); code != 0 {
		fmt.Fprintln(os.Stderr, "terok gate-inspect:", err)
		return code
	}
	if err != nil {
		reply = Reply{Error: err.Error()}
	}

	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(reply); err != nil {
		fmt.Fprintln(os.Stderr, "terok gate-inspect:", err)
		return 1
	}
	return 0
}

// errStreamed says that the answer is on stdout already.
var errStreamed = errors.New("streamed")

func serve(in io.Reader, out io.Writer) (Reply, error) {
	var req Request
	if err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&req); err != nil {
		return Reply{}, fmt.Errorf("request: %w", err)
	}
	if err := req.check(); err != nil {
		return Reply{}, err
	}
	if err := confine(req); err != nil {
		return Reply{}, err
	}
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	p := &repo{Request: req, git: &git.Runner{}}
	if req.Op == OpCopy {
		return Reply{Branches: []Range{{Tip: req.Branches[0]}}}, p.copy(context.Background())
	}
	if err := p.take(ctx); err != nil {
		return Reply{}, err
	}
	switch req.Op {
	case OpScan:
		return p.scan(ctx)
	case OpRead:
		return p.read(ctx)
	case OpRangeDiff:
		return p.rangeDiff(ctx)
	case OpRaw:
		return Reply{}, p.raw(ctx, out)
	}
	return Reply{}, fmt.Errorf("there is no %q", req.Op)
}

// raw streams the diff as git prints it, and ends with errStreamed.
func (p *repo) raw(ctx context.Context, out io.Writer) error {
	from := p.View.From
	if from == "" {
		from = emptyTree(p.Branches[0])
	}
	err := p.git.Stream(ctx, p.cmd("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
		"--ignore-submodules=none", "--src-prefix=a/", "--dst-prefix=b/", from, p.Branches[0]), out)
	if err == nil {
		err = errStreamed
	}
	return err
}

func (r *Request) check() error {
	for _, dir := range []string{r.Repo, r.Objects, r.Scratch} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, ":\x00\n") {
			return fmt.Errorf("%q is not a plain absolute path", dir)
		}
	}
	if len(r.View.Commits) > MaxCommits {
		return errors.New("more commits than are shown")
	}
	ids := slices.Concat(r.Not, r.Branches, r.Have, r.View.Commits)
	for _, id := range append(ids, r.Start, r.Trunk, r.View.Commit, r.View.From) {
		if id != "" && !refname.IsID(id) {
			return fmt.Errorf("%.80q is not a commit id", id)
		}
	}
	want := map[string]int{OpRead: 1, OpRangeDiff: 2, OpCopy: 1, OpRaw: 1}[r.Op]
	if want > 0 && len(r.Branches) != want {
		return errors.New("another number of branches")
	}
	return nil
}

// repo is what the child sees: the base, and in the scratch directory what the task has beside it.
type repo struct {
	Request
	git   *git.Runner
	held  *held // what was taken, where it is little; nil: ask git
	small bool  // only what can be held is looked at
}

// config bounds what git takes of memory and time.
func config() []string {
	return []string{"core.bigFileThreshold=4m", "diff.renames=false", "core.packedGitWindowSize=16m", "core.packedGitLimit=256m",
		"core.deltaBaseCacheLimit=64m", "merge.renameLimit=1000", "merge.directoryRenames=false"}
}

// cmd is a git that reads what take brought and the base, and writes objects to the scratch directory.
func (p *repo) cmd(args ...string) git.Cmd {
	return git.Cmd{GitDir: p.base(), Args: args, Timeout: Timeout, MaxOutput: maxScan, Config: config(),
		Env: []string{"GIT_OBJECT_DIRECTORY=" + p.Scratch, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + p.Objects}}
}

// node is a commit of the task in the graph.
type node struct {
	parents []string
	order   int // of rev-list, newest first
}

// graph reads which commits the base has not, for all tips at once.
func (p *repo) graph(ctx context.Context) (map[string]node, error) {
	if g := p.held.graph(p.Branches, p.Start, p.Not, p.baseHas); g != nil {
		return g, nil
	}
	c := p.cmd("rev-list", "--parents", "--topo-order", "--stdin", "--max-count="+strconv.Itoa(maxGraph))
	c.Stdin = strings.NewReader(revs(p.Branches, append([]string{p.Start}, p.Not...)))
	out, err := p.git.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	return parseGraph(string(out), maxGraph)
}

// parseGraph reads git rev-list --parents --max-count=limit. At the limit the graph is useless: a
// commit that was cut off would pass for one of the base.
func parseGraph(out string, limit int) (map[string]node, error) {
	g := map[string]node{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			g[f[0]] = node{parents: f[1:], order: len(g)}
		}
	}
	if len(g) >= limit {
		return nil, errGraph
	}
	return g, nil
}

// span is the range of one branch.
type span struct {
	tip     string
	base    string // where diffs begin
	commits []string
	orphan  bool     // a root commit is in it
	nothing bool     // shares nothing with the base
	edges   []string // commits of the base on which it stands
}

// span walks from a tip to where the base begins.
func (p *repo) span(ctx context.Context, g map[string]node, tip string) (span, error) {
	s := span{tip: tip}
	seen, edge := map[string]bool{}, map[string]bool{}
	for todo := []string{tip}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n, ours := g[id]
		switch {
		case !ours:
			edge[id] = true
			continue
		case seen[id]:
			continue
		}
		seen[id] = true
		s.commits = append(s.commits, id)
		s.orphan = s.orphan || len(n.parents) == 0
		todo = append(todo, n.parents...)
	}
	sortBy(s.commits, func(id string) int { return g[id].order })
	s.edges = slices.Sorted(maps.Keys(edge))
	var err error
	switch len(edge) {
	case 0:
		s.nothing = p.Start != "" || len(p.Not) > 0
	case 1:
		for s.base = range edge {
		}
	default:
		s.base, err = p.join(ctx, s.edges)
	}
	return s, err
}

// join finds where the diff of a branch begins that meets the base in several commits: a task that
// merged upstream meets it where it began and where it merged. The commit that contains the others
// is the one; else the best common ancestor.
func (p *repo) join(ctx context.Context, ids []string) (string, error) {
	ids = ids[:min(len(ids), 100)]
	out, err := p.git.Run(ctx, p.cmd(append([]string{"merge-base", "--independent"}, ids...)...))
	if err != nil && !git.IsExit(err, 1) {
		return "", err
	}
	if tops := strings.Fields(string(out)); len(tops) == 1 {
		return tops[0], nil
	}
	out, err = p.git.Run(ctx, p.cmd(append([]string{"merge-base", "--octopus"}, ids...)...))
	if err != nil && !git.IsExit(err, 1) {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

// maxEdges bounds where a branch may meet the base.
const maxEdges = 20

// elsewhere finds where a branch stands on commits of the base that are not of the branch that the task
// works for. They are not reviewed with it, and a promotion would bring them along.
func (p *repo) elsewhere(ctx context.Context, edges []string) ([]string, error) {
	var found []string
	if p.Trunk == "" {
		return nil, nil
	}
	for _, id := range edges[:min(len(edges), maxEdges)] {
		if id == p.Start || id == p.Trunk {
			continue
		}
		_, err := p.git.Run(ctx, p.cmd("merge-base", "--is-ancestor", id, p.Trunk))
		if git.IsExit(err, 1) {
			found = append(found, id)
		} else if err != nil {
			return nil, err
		}
	}
	if len(edges) > maxEdges {
		found = append(found, edges[maxEdges:]...)
	}
	return found, nil
}

// emptyTree is what diffs of a branch begin at that shares nothing with the base.
func emptyTree(like string) string {
	if len(like) == 64 {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
}

// within is how long the child takes at most on the wall, a little less than its parent waits.
const within = Timeout - 5*time.Second
