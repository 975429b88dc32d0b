package inspect

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

// hugeFile is from how many bytes on a file is left out where git ran out of memory: it takes files
// whole that are added or deleted, even those of which it only says that they are binary.
const hugeFile = 64 << 20

// Bounds of looks around files that are left out.
const (
	maxHugeDiffs = 20  // comparisons, each of them one git
	maxHugePaths = 500 // of one comparison
)

// patched runs all comparisons with their patches. Files that are too large for git are entries with a
// size and without a patch; everything else is there.
func (p *repo) patched(ctx context.Context, list []*diff) (more bool, err error) {
	if p.MaxFile > 0 {
		return p.around(ctx, list, p.MaxFile)
	}
	room := map[*int]int{}
	for _, d := range list {
		if d.keep != nil {
			room[d.keep] = *d.keep
		}
	}
	more, err = p.diffs(ctx, list, patches...)
	if overLimit(err) != exitLimit {
		return more, err
	}
	for _, d := range list {
		d.entries = nil
	}
	for keep, n := range room {
		*keep = n
	}
	return p.around(ctx, list, hugeFile)
}

// around compares everything but files larger than most bytes.
func (p *repo) around(ctx context.Context, list []*diff, most int64) (more bool, err error) {
	raw := make([]*diff, len(list))
	for i, d := range list {
		raw[i] = &diff{line: d.line, head: d.head}
	}
	if more, err := p.diffs(ctx, raw); more || err != nil {
		return more, err
	}
	sizes, err := p.sizes(ctx, raw)
	if err != nil {
		return false, err
	}
	var plain, special []*diff
	left := map[*diff][]string{} // paths that are left out
	all := map[*diff]*diff{}
	for i, d := range list {
		for n := range raw[i].entries {
			e := &raw[i].entries[n]
			if e.huge = max(sizes[e.oldID], sizes[e.newID]); e.huge <= most {
				e.huge = 0
				continue
			}
			e.binary = true
			left[d] = append(left[d], ":(top,exclude,literal)"+e.path)
		}
		if len(left[d]) == 0 {
			plain = append(plain, d)
			continue
		}
		special, all[d] = append(special, d), raw[i]
	}
	if more, err := p.diffs(ctx, plain, patches...); more || err != nil {
		return more, err
	}
	for n, d := range special {
		if n == maxHugeDiffs || len(left[d]) > maxHugePaths {
			return true, nil
		}
		if more, err := p.diffs(ctx, []*diff{d}, append(slices.Clone(patches), append([]string{"--"}, left[d]...)...)...); more || err != nil {
			return more, err
		}
		seen := map[string]entry{}
		for _, e := range d.entries {
			seen[e.path] = e
		}
		d.entries = nil
		for _, e := range all[d].entries {
			if e.huge == 0 {
				e = seen[e.path]
			}
			d.entries = append(d.entries, e)
		}
	}
	return false, nil
}

// sizes asks git for the sizes of all files that differ.
func (p *repo) sizes(ctx context.Context, list []*diff) (map[string]int64, error) {
	sizes := map[string]int64{}
	var in strings.Builder
	for _, d := range list {
		for _, e := range d.entries {
			for id, mode := range map[string]string{e.oldID: e.oldMode, e.newID: e.newMode} {
				if _, known := sizes[id]; known || mode == "000000" || mode == "160000" {
					continue
				}
				sizes[id] = 0
				in.WriteString(id + "\n")
			}
		}
	}
	c := p.cmd("cat-file", "--batch-check=%(objectname) %(objectsize)")
	c.Stdin = strings.NewReader(in.String())
	out, err := p.git.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		id, size, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil { // else it is missing, which git says when it compares
			sizes[id] = n
		}
	}
	return sizes, nil
}
