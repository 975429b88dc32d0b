package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/git"
)

// Git makes a file, and a lock beside it, of every ref that it creates, and pack-refs removes them again:
// minutes for the 50 000 branches of a first sync. A new base, which nobody else sees yet, gets them as one
// packed-refs instead.

// bulkRefs is the number of new refs from which a new base is filled that way.
const bulkRefs = 1000

// fetchBulk brings what was listed into the new base at dir, and then the refs of the snapshot at once. It
// reports false where git has to do it, ref by ref: few refs, odd names, an earlier attempt, or an upstream
// that moved since it was listed.
func (r *remote) fetchBulk(ctx context.Context, dir string, l *listing, specs ...string) (bool, error) {
	have, err := readRefs(dir)
	if err != nil || len(l.refs) < bulkRefs || len(have.below(SnapshotRefs))+len(have.below(snapshotTags)) > 0 {
		return false, err
	}
	all, ids := maps.Clone(have), map[string]bool{}
	for ref, id := range l.refs {
		if b, ok := strings.CutPrefix(ref, refname.Heads); ok {
			all[SnapshotRefs+b] = id
		} else {
			all[snapshotTags+strings.TrimPrefix(ref, "refs/tags/")] = id
		}
		ids[id] = true
	}
	if !packable(all) {
		return false, nil
	}
	if err := r.fetchWith(ctx, dir, []string{"--dry-run"}, specs...); err != nil { // objects, and no refs
		return false, err
	}
	// What was fetched is what upstream has by now. That everything which was listed is here, with all it
	// needs, is asked as git does after a fetch.
	tips := strings.Join(slices.Sorted(maps.Keys(ids)), "\n") + "\n"
	_, err = r.Git.Run(ctx, git.Cmd{GitDir: dir, Timeout: fetchTimeout, Stdin: strings.NewReader(tips),
		Args: []string{"rev-list", "--objects", "--stdin", "--not", "--all", "--quiet"}})
	if err != nil {
		return false, ctx.Err()
	}
	return packAll(dir, all)
}

// applyBulk creates refs of a new base at once. It reports false where git has to do it: lines that do more
// than create, and names that git would refuse.
func (c *classifier) applyBulk(lines []string) (bool, error) {
	if !c.rep.Created || len(lines) < bulkRefs {
		return false, nil
	}
	all := maps.Clone(c.before)
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "create" || all[f[1]] != "" {
			return false, nil
		}
		all[f[1]] = f[2]
	}
	if !packable(all) {
		return false, nil
	}
	if ok, err := c.allCommits(all); !ok || err != nil {
		return false, err
	}
	return packAll(c.dir, all)
}

// allCommits reports whether every branch is a commit, as git demands of whoever moves one.
func (c *classifier) allCommits(refs map[string]string) (bool, error) {
	ids := map[string]bool{}
	for ref, id := range refs {
		if strings.HasPrefix(ref, refname.Heads) {
			ids[id] = true
		}
	}
	out, err := c.Git.Run(c.ctx, git.Cmd{GitDir: c.dir, Args: []string{"cat-file", "--batch-check=%(objecttype)"}, Timeout: fetchTimeout,
		Stdin: strings.NewReader(strings.Join(slices.Sorted(maps.Keys(ids)), "\n") + "\n")})
	return err == nil && string(out) == strings.Repeat("commit\n", len(ids)), err
}

// packable reports whether git could create all of these refs: what upstream says is not to be trusted, and
// packed-refs would hold any name, also one that is the directory of another.
func packable(refs map[string]string) bool {
	for ref, id := range refs {
		rest, ok := strings.CutPrefix(ref, "refs/")
		if !ok || !refname.IsID(id) || refname.IsZero(id) {
			return false
		}
		for _, ns := range []string{SnapshotRefs, snapshotTags, refname.Heads, "refs/tags/"} {
			if name, ok := strings.CutPrefix(ref, ns); ok {
				rest = name
			}
		}
		if refname.Check(rest) != nil {
			return false
		}
		for dir := filepath.Dir(ref); len(dir) > len("refs"); dir = filepath.Dir(dir) {
			if refs[dir] != "" {
				return false
			}
		}
	}
	return true
}

// packAll writes packed-refs (gitrepository-layout(5)) under git's own lock; false where that is taken, by a
// process that was killed. Tags are not peeled there; the next pack-refs does it.
func packAll(dir string, refs map[string]string) (done bool, err error) {
	path := filepath.Join(dir, "packed-refs")
	f, err := os.OpenFile(path+".lock", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w := bufio.NewWriter(f)
	_, _ = w.WriteString("# pack-refs with: sorted \n") // errors of w show at Flush
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		fmt.Fprintf(w, "%s %s\n", refs[ref], ref)
	}
	if err = errors.Join(w.Flush(), f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".lock", path)
	}
	if err != nil {
		_ = os.Remove(path + ".lock")
	}
	return err == nil, err
}
