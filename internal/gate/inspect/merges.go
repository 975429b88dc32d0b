package inspect

import (
	"context"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/git"
)

// mergeAgain does every merge of the ranges again, as git would without a person, into the scratch
// directory. What differs from that is the agent's own and is looked at like a commit: a merge
// without conflicts that holds more than its parents is an evil one.
func (p *repo) mergeAgain(ctx context.Context, works []*work) error {
	done := 0
	for _, w := range works {
		for _, c := range w.commits {
			if len(c.Parents) < 2 || c.diff != nil {
				continue
			}
			where := "merge " + short(c.ID)
			c.flags.add(Info, "merge", where)
			if len(c.Parents) > 2 {
				c.flags.add(Warn, "octopus_merge", where)
				c.leave()
				continue
			}
			if done++; done > maxMerges {
				c.flags.add(Warn, "merge_unchecked", where)
				c.leave()
				continue
			}
			tree, clean, err := p.automatic(ctx, c.Parents[0], c.Parents[1])
			if err != nil {
				return err
			}
			switch {
			case tree == "":
				c.flags.add(Warn, "merge_unchecked", where)
				c.leave()
			case tree != c.Tree && c.Tree != "":
				c.diff = treeDiff(tree, c.Tree)
				if clean {
					c.flags.add(Warn, "evil_merge", where)
				} else {
					c.flags.add(Info, "merge_resolved", where)
				}
			}
		}
	}
	return nil
}

// leave shows a merge that is not done again by all that it changes of its first parent: what its other
// parents bring, and what it holds besides.
func (c *looked) leave() {
	c.unchecked, c.diff = true, commitDiff(c.ID, c.Parents[0])
}

// automatic is the tree of the merge of two commits, and whether it was without conflict; "" when
// there is none: a git before 2.38, or histories without a common beginning.
func (p *repo) automatic(ctx context.Context, a, b string) (tree string, clean bool, err error) {
	out, err := p.git.Run(ctx, p.cmd("merge-tree", "--write-tree", "--no-messages", a, b))
	if err != nil && !git.IsExit(err, 1) {
		if git.IsExit(err, 128) || git.IsExit(err, 129) {
			return "", false, nil
		}
		return "", false, err
	}
	tree, _, _ = strings.Cut(string(out), "\n")
	if !refname.IsID(tree) {
		return "", false, nil
	}
	return tree, err == nil, nil
}
