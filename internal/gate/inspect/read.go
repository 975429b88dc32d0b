package inspect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"terok/internal/text"
)

// read looks at one branch for a person.
func (p *repo) read(ctx context.Context) (Reply, error) {
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	keep := maxPatch
	works, err := p.look(ctx, &keep)
	if err != nil {
		return Reply{}, err
	}
	w := works[0]
	reply := Reply{Branches: []Range{w.branch()}, List: []Commit{}}
	for _, c := range w.commits {
		if p.View.Commit != "" && p.View.Commit != c.ID {
			continue
		}
		if len(reply.List) == MaxCommits {
			break
		}
		reply.List = append(reply.List, c.show(p.View))
	}
	if p.View.Commit != "" && len(reply.List) == 0 {
		return Reply{}, fmt.Errorf("commit %.12s is not one of the branch's own", p.View.Commit)
	}
	return reply, nil
}

func (c *looked) show(v View) Commit {
	subject, body, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	out := Commit{ID: c.ID, Parents: c.Parents, Author: text.Show(c.Author), Email: text.Show(c.Email), Time: c.Time, Committer: text.Show(c.Committer),
		CommitterEmail: text.Show(c.CommitterEmail), CommitTime: c.CommitTime, Signature: "none", Subject: text.Prose(subject, 0),
		Body: text.ProseBlock(strings.TrimSpace(body), maxBody, maxLine), Files: []File{}}
	if c.Signed {
		out.Signature = "not verified"
	}
	if c.diff != nil {
		out.Files, out.Insertions, out.Deletions, _ = c.diff.files()
		if len(c.Parents) == 1 {
			out.PatchID = patchID(c.diff)
		}
	}
	out.Flags = c.flags.list()
	return out
}

// patchID names a change whatever commit it is in: paths, modes and the lines of its hunks without
// the places of these, like git-patch-id(1).
func patchID(d *diff) string {
	all := sha256.New()
	for _, e := range d.entries {
		fmt.Fprintf(all, "%s %s %q ", e.oldMode, e.newMode, e.path)
		if e.sum == nil { // binary, or a mode only
			fmt.Fprintf(all, "%s %s\n", e.oldID, e.newID)
			continue
		}
		fmt.Fprintf(all, "%x\n", e.sum.Sum(nil))
	}
	return hex.EncodeToString(all.Sum(nil))
}

// rangeDiff shows how the commits of a branch were rewritten (git-range-diff(1)).
func (p *repo) rangeDiff(ctx context.Context) (Reply, error) {
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	g, err := p.graph(ctx)
	if err != nil {
		return Reply{}, err
	}
	reply := Reply{}
	var ranges []string
	for _, tip := range p.Branches {
		s, err := p.span(ctx, g, tip)
		if err != nil {
			return Reply{}, err
		}
		reply.Branches = append(reply.Branches, Range{Tip: tip, Base: s.base, Commits: len(s.commits), IDs: s.commits[:min(len(s.commits), maxRange)]})
		if s.base == "" {
			ranges = append(ranges, tip)
			continue
		}
		ranges = append(ranges, s.base+".."+tip)
	}
	if slices.ContainsFunc(ranges, func(r string) bool { return !strings.Contains(r, "..") }) {
		return Reply{}, fmt.Errorf("one of the two shares no commit with the project: they cannot be compared")
	}
	out, err := p.git.Run(ctx, p.cmd(append([]string{"range-diff", "--no-color", "--creation-factor=75", "--no-ext-diff", "--no-textconv"}, ranges...)...))
	if err != nil {
		return Reply{}, err
	}
	differ, err := p.differ(ctx, reply.Branches[0], reply.Branches[1])
	if err != nil {
		return Reply{}, err
	}
	reply.Text = text.Block(string(out), 50_000, maxLine) + differ
	return reply, nil
}

// differ lists the files that two versions of a branch leave in another state, of those that either of
// them changes. git range-diff compares the text of patches: it passes over merges, and takes two binary
// files, and two that are large, for the same.
func (p *repo) differ(ctx context.Context, old, now Range) (string, error) {
	from := func(r Range) *diff { return commitDiff(r.Tip, r.Base) }
	was, is, between := from(old), from(now), commitDiff(now.Tip, old.Tip)
	for _, d := range []*diff{was, is, between} { // one by one: two of them begin alike
		if more, err := p.diffs(ctx, []*diff{d}); err != nil || more {
			return "more files than are compared\n", err
		}
	}
	touched := map[string]bool{}
	for _, d := range []*diff{was, is} {
		for _, e := range d.entries {
			touched[e.path] = true
		}
	}
	var b strings.Builder
	n := 0
	for _, e := range between.entries {
		if !touched[e.path] {
			continue // the base moved
		}
		if n++; n <= maxFiles {
			fmt.Fprintf(&b, "    %c %s\n", e.status, text.Show(e.path))
		}
	}
	if n == 0 {
		return "", nil
	}
	return fmt.Sprintf("files that are not as they were (%d):\n", n) + b.String(), nil
}
