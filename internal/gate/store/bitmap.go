package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/git"
	"terok/internal/state"
	"terok/internal/text"
)

// A base has a bitmap: an index over all its packs that knows which objects a commit reaches
// (gitformat-bitmap(5)). A task is then cloned without a walk of the history, and the largest pack goes
// out as it lies on the disk. It is an aid and never the truth: packs that came after it are looked at as
// if it were not there, and without it everything works as before, slower.

// bitmapFrom is the size of a base, in bytes of packs, from which a bitmap is worth its time.
const bitmapFrom = 1 << 20

// bitmapDue reports whether the bitmap leaves out more than a fifth of the packs; covered is how many bytes
// it was written for. So what bitmaps cost stays in proportion to what came from upstream.
func bitmapDue(base string, covered int64) bool {
	total, _ := packBytes(base)
	if total < bitmapFrom {
		return false
	}
	_, err := os.Lstat(filepath.Join(base, "objects", "pack", "multi-pack-index"))
	return err != nil || total-covered > covered/4
}

// packBytes is the size of all packs of a repository, and the name of the largest.
func packBytes(dir string) (total int64, largest string) {
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "pack-*.pack")) // the pattern is valid
	var most int64
	for _, p := range packs {
		info, err := os.Lstat(p)
		if err != nil {
			continue // gone meanwhile
		}
		total += info.Size()
		if info.Size() > most {
			most, largest = info.Size(), filepath.Base(p)
		}
	}
	return total, largest
}

// baseIndex switches on what baseConfig of package git switches off: whoever removes packs of a base must
// see that an index names them, and takes it away first.
var baseIndex = []string{"core.multiPackIndex=true", "pack.writeBitmapLookupTable=true"}

// writeBitmap writes the bitmap of a base and returns the bytes of packs that it covers, 0 where it is not
// worth it. The caller holds the gate's lock. A process that is killed here leaves the old one, or none.
func (s *Store) writeBitmap(ctx context.Context, base string) (covered int64, err error) {
	total, largest := packBytes(base)
	if total < bitmapFrom {
		return 0, nil
	}
	dir := filepath.Join(base, "objects", "pack")
	switch info, err := os.Lstat(filepath.Join(dir, "multi-pack-index.lock")); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, err
	case s.now().Sub(info.ModTime()) < staleIndex:
		return 0, nil // of a git whose terok was killed: it finishes, or is dead and a later sync goes on
	default:
		if err := os.Remove(filepath.Join(dir, info.Name())); err != nil {
			return 0, err
		}
	}
	half, _ := filepath.Glob(filepath.Join(dir, "tmp_bitmap_*"))
	for _, f := range half {
		if info, err := os.Lstat(f); err == nil && s.now().Sub(info.ModTime()) >= staleIndex {
			_ = os.Remove(f)
		}
	}
	if s.Progress != nil && total > 64<<20 {
		s.Progress("indexing for fast clones")
	}
	c := git.Cmd{GitDir: base, Timeout: time.Hour, Config: append(baseIndex, packConfig...)}
	if _, _, loose := sizeOf(filepath.Join(base, "objects")); loose > 0 { // a bitmap is about packs that miss nothing
		c.Args = []string{"repack", "-d", "-l", "-n", "-q"}
		if _, err := s.Git.Run(ctx, c); err != nil {
			return 0, err
		}
		total, _ = packBytes(base)
	}
	// Git sends the preferred pack as it is; of several only newer ones do.
	c.Args = []string{"multi-pack-index", "write", "--bitmap", "--no-progress", "--preferred-pack=" + strings.TrimSuffix(largest, ".pack") + ".idx"}
	_, err = s.Git.Run(ctx, c)
	return total, err
}

// staleIndex is the age from which a lock of git's on the index is what a killed process left.
const staleIndex = 2 * time.Hour

// refreshBitmap is the end of a sync: what fails here is a note, since nothing is missing but speed.
func (s *Store) refreshBitmap(ctx context.Context, project string, st *gateState, rep *Report) {
	base := s.Roots.GateBase(project)
	if !bitmapDue(base, st.Indexed) {
		return
	}
	covered, err := s.writeBitmap(ctx, base)
	if err == nil && covered != st.Indexed {
		st.Indexed = covered
		err = state.WriteJSON(s.statePath(project), st)
	}
	if err != nil {
		rep.Notes = append(rep.Notes, fmt.Sprintf("clones of tasks stay slower, their index could not be written: %s", text.Line(err.Error(), 200)))
	}
	s.step("indexed")
}
