package inspect

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"terok/internal/text"
)

func sortBy[T any, K cmp.Ordered](list []T, key func(T) K) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

// looked is a commit of a range with what was found in it.
type looked struct {
	Object
	flags     flagSet
	diff      *diff // nil for merges that could not be done again
	unchecked bool  // such a merge
}

// work is one branch while it is looked at.
type work struct {
	span
	net     *diff
	flags   flagSet
	commits []*looked // newest first, at most maxRange
	slow    bool      // there was no time for all of it
	part    bool      // commits are some of the range's
	lfs     []LargeFile
	absent  map[string]bool // digests of files in LFS that were not there
}

func (p *repo) scan(ctx context.Context) (Reply, error) {
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	if p.NumbersOnly {
		return p.ids(ctx)
	}
	works, err := p.look(ctx, nil)
	if err != nil {
		return Reply{}, err
	}
	reply := Reply{Branches: []Range{}}
	for _, w := range works {
		reply.Branches = append(reply.Branches, w.branch())
	}
	return reply, nil
}

// ids lists the commits of ranges.
func (p *repo) ids(ctx context.Context) (Reply, error) {
	g, err := p.graph(ctx)
	if err != nil {
		return Reply{}, err
	}
	reply := Reply{}
	for _, tip := range p.Branches {
		s, err := p.span(ctx, g, tip)
		if err != nil {
			return Reply{}, err
		}
		reply.Branches = append(reply.Branches, (&work{span: s}).branch())
	}
	return reply, nil
}

// look reads ranges, commits and diffs of all branches; with keep, hunks are kept as the view says.
func (p *repo) look(ctx context.Context, keep *int) ([]*work, error) {
	g, err := p.graph(ctx)
	if err != nil {
		return nil, err
	}
	objects := p.objects(ctx)
	defer objects.close()
	known := map[string]*looked{} // branches share commits
	var works []*work
	for _, tip := range p.Branches {
		s, err := p.span(ctx, g, tip)
		if err != nil {
			return nil, err
		}
		w := &work{span: s}
		works = append(works, w)
		others, err := p.elsewhere(ctx, s.edges)
		if err != nil {
			return nil, err
		}
		for _, id := range others {
			w.flags.add(Warn, "other_branch", "stands on commit "+short(id))
		}
		if err := p.readCommits(objects, w, known, g); err != nil {
			return nil, err
		}
	}
	if some := p.View.Commits; len(some) > 0 {
		for _, w := range works {
			w.part = true
			w.commits = slices.DeleteFunc(w.commits, func(c *looked) bool { return !slices.Contains(some, c.ID) })
		}
	}
	if err := p.compare(ctx, objects, works, known, keep); err != nil {
		return nil, err
	}
	if err := p.large(ctx, objects, works, keep); err != nil {
		return nil, err
	}
	for _, w := range works {
		p.judge(objects, w)
	}
	return works, objects.broken
}

// readCommits reads the commit objects of a range and what their words say.
func (p *repo) readCommits(objects *objects, w *work, known map[string]*looked, g map[string]node) error {
	if w.nothing || w.orphan && w.base != "" {
		w.flags.add(Warn, "unrelated_history", "shares no commit with the project, or has a second beginning")
	}
	if len(w.span.commits) > maxRange {
		w.flags.add(Deny, "too_large", "more than 2000 commits")
	}
	for _, id := range w.span.commits[:min(len(w.span.commits), maxRange)] {
		if c := known[id]; c != nil {
			w.commits = append(w.commits, c)
			continue
		}
		body, whole, err := objects.get(id, "commit", maxCommit)
		if err != nil {
			return err
		}
		c := &looked{Object: ParseCommit(id, body)}
		if !whole {
			c.flags.add(Warn, "too_large", "message of commit "+short(id))
		}
		// Another program than git might see another history in it.
		if parents := g[id].parents; c.Odd || !slices.Equal(parents, c.Parents) {
			c.flags.add(Deny, "odd_commit", "commit "+short(id))
			c.Parents = parents
		}
		known[id] = c
		w.commits = append(w.commits, c)
	}
	for _, c := range w.commits {
		var youngest time.Time
		for _, parent := range c.Parents {
			if q := known[parent]; q != nil && q.CommitTime.After(youngest) {
				youngest = q.CommitTime
			}
		}
		c.flags.commit(&c.Object, p.Identities, p.Now, youngest)
	}
	return nil
}

// compare runs the comparisons that the branches need, in one git or two: each commit with its parent,
// each merge with the merge that git would have made, each branch with its base.
func (p *repo) compare(ctx context.Context, objects *objects, works []*work, known map[string]*looked, keep *int) error {
	var list, plain []*diff
	if err := p.mergeAgain(ctx, works); err != nil {
		return err
	}
	wanted := func(name string) bool {
		return len(p.View.Globs) == 0 || slices.ContainsFunc(p.View.Globs, func(g string) bool { return Glob(g, name) })
	}
	done := map[string]bool{}
	for _, w := range works {
		from := w.base
		if p.View.From != "" {
			from = p.View.From
		}
		if len(w.commits) == 0 || w.commits[0].Tree == "" {
			continue
		}
		if w.part {
			w.net = &diff{}
		} else if only := w.commits[0]; len(w.commits) == 1 && slices.Equal(only.Parents, []string{from}) && only.diff == nil && !done[only.ID] {
			// What a single commit changes is what the branch changes.
			w.net = commitDiff(only.ID, from)
			only.diff, w.net.onAdded = w.net, only.flags.added
			done[only.ID] = true
		} else {
			old, err := p.treeOf(objects, from, w.tip)
			if err != nil {
				return err
			}
			w.net = treeDiff(old, only.Tree)
		}
		if keep != nil && !p.View.PerCommit && p.View.Commit == "" && !p.View.Stat {
			w.net.keep, w.net.wanted = keep, wanted
		}
		// What a merge brings that was not done again shows in the whole only.
		if w.unchecked() {
			w.net.onAdded = w.flags.added
		}
		switch {
		case w.part: // nobody looks at the whole
		case keep != nil || w.net.onAdded != nil:
			list = append(list, w.net)
		default:
			plain = append(plain, w.net)
		}
		for _, c := range w.commits {
			if done[c.ID] {
				continue
			}
			done[c.ID] = true
			switch {
			case c.diff != nil: // a merge, made ready by mergeAgain
			case len(c.Parents) == 1:
				c.diff = commitDiff(c.ID, c.Parents[0])
			case len(c.Parents) == 0 && c.Tree != "":
				c.diff = treeDiff(emptyTree(c.ID), c.Tree)
			default:
				continue
			}
			c.diff.onAdded = c.flags.added
			list = append(list, c.diff)
		}
		for _, c := range w.commits {
			if c.diff != nil {
				c.diff.sums = keep != nil
			}
			if keep != nil && c.diff != nil && (p.View.PerCommit || p.View.Commit == c.ID) {
				c.diff.keep, c.diff.wanted = keep, wanted
			}
		}
	}
	more, err := p.patched(ctx, list)
	if err == nil && !more {
		// What branches change as a whole is only counted: stacked branches repeat each other.
		more, err = p.diffs(ctx, plain, counts...)
	}
	slow := ctx.Err() != nil
	for _, w := range works {
		if w.slow = slow; slow {
			w.flags.add(Deny, "too_large", "not everything was looked at: it took more than a minute")
		} else if more {
			w.flags.add(Deny, "too_large", "not everything was looked at: more than 64 MiB of diff")
		}
	}
	if slow || more {
		err = nil
	}
	return err
}

// treeOf is the tree of a commit, the empty one for none. Comparing trees gives each comparison a head
// of its own in git's answer; a commit may be compared twice.
func (p *repo) treeOf(objects *objects, commit, like string) (string, error) {
	if commit == "" {
		return emptyTree(like), nil
	}
	body, _, err := objects.get(commit, "commit", maxCommit)
	if err != nil {
		return "", err
	}
	tree := ParseCommit(commit, body).Tree
	if tree == "" {
		return "", fmt.Errorf("commit %.12s cannot be read", commit)
	}
	return tree, nil
}

// judge adds what needs the whole branch.
func (p *repo) judge(objects *objects, w *work) {
	for _, c := range w.commits {
		if c.diff != nil {
			for i := range c.diff.entries {
				c.flags.entry(&c.diff.entries[i], p.Paths)
			}
		}
		w.flags.join(&c.flags)
	}
	if w.net == nil {
		return
	}
	p.collisions(objects, w)
	for i := range w.net.entries {
		e := &w.net.entries[i]
		if w.unchecked() {
			w.flags.entry(e, p.Paths)
		}
		if e.binary && e.huge == 0 && e.newMode != "000000" && e.newMode != "160000" {
			data, whole, err := objects.get(e.newID, "blob", largeFile)
			if err == nil && data != nil && !whole {
				w.flags.add(Info, "large_file", e.path)
			}
			if disguised(data) {
				w.flags.add(Warn, "disguised_text", e.path)
			}
		} else if len(e.patch) > largeFile {
			w.flags.add(Info, "large_file", e.path)
		}
	}
}

// unchecked reports whether a merge in it was not done again.
func (w *work) unchecked() bool {
	return slices.ContainsFunc(w.commits, func(c *looked) bool { return c.unchecked })
}

const largeFile = 1 << 20 // bytes

// maxCollisions bounds how many directories are looked into for names that differ in case only.
const maxCollisions = 200

// collisions finds added names that differ from others in letter case only: on a file system that
// ignores case one of them replaces the other.
func (p *repo) collisions(objects *objects, w *work) {
	dirs := map[string]map[string][]string{} // directory → folded name → names
	for _, e := range w.net.entries {
		if e.status != 'A' {
			continue
		}
		for name := e.path; name != "." && name != "/"; name = path.Dir(name) {
			dir := path.Dir(name)
			names, ok := dirs[dir]
			if !ok && len(dirs) == maxCollisions {
				break
			}
			if !ok {
				at := w.tip + ":"
				if dir != "." {
					at += dir
				}
				tree, _, err := objects.get(at, "tree", maxTree)
				if err != nil {
					return
				}
				names = map[string][]string{}
				for _, n := range treeNames(tree, len(w.tip)/2) {
					names[strings.ToLower(n)] = append(names[strings.ToLower(n)], n)
				}
				dirs[dir] = names
			}
			if same := names[strings.ToLower(path.Base(name))]; len(same) > 1 {
				w.flags.add(Warn, "case_collision", path.Join(dir, same[0])+" and "+same[1])
			}
		}
	}
}

func (w *work) branch() Range {
	b := Range{Slow: w.slow, Base: w.base, Tip: w.tip, Commits: len(w.span.commits), IDs: w.span.commits[:min(len(w.span.commits), maxRange)], Files: []File{}}
	if w.net != nil {
		b.Files, b.Insertions, b.Deletions, b.Cut = w.net.files()
		b.FileCount = len(w.net.entries)
	}
	if len(w.commits) > 0 {
		b.TipTime = w.commits[0].CommitTime
	}
	b.Flags, b.LFS, b.LFSAbsent = w.flags.list(), w.lfs, len(w.absent)
	return b
}

// files are the changed files for showing.
func (d *diff) files() (list []File, ins, del int, cut bool) {
	list = []File{}
	for _, e := range d.entries {
		ins, del, cut = ins+e.ins, del+e.del, cut || e.cut
		if len(list) == maxFiles {
			cut = cut || d.keep != nil
			continue
		}
		list = append(list, File{Path: text.Show(e.path), Status: string(e.status), OldMode: e.oldMode, NewMode: e.newMode,
			Insertions: e.ins, Deletions: e.del, Binary: e.binary, TooLarge: e.huge, Patch: text.Block(string(e.patch), 1<<20, maxLine), Cut: e.cut, LFS: e.large.text()})
	}
	return list, ins, del, cut
}
