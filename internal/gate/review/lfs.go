package review

import (
	"slices"

	"terok/internal/gate/inspect"
	"terok/internal/gate/lfs"
)

// large says of the files in LFS that a change points to whether they are in the gate, and flags those
// that are not: who checks the change out would have a pointer, and promotion refuses it.
func (p *repo) large(found inspect.Range) inspect.Range {
	if !p.task.LFS || len(found.LFS) == 0 {
		return found
	}
	own, base := lfs.Of(p.dir), lfs.Of(p.Roots.GateBase(p.task.Project))
	missing := inspect.Flag{Code: "lfs_missing", Severity: inspect.Warn, Where: []string{}}
	found.LFS = slices.Clone(found.LFS)
	for i := range found.LFS {
		f := &found.LFS[i]
		f.State = inspect.LFSHere
		if f.Size > 0 && (f.Content == "" || !own.Has(f.Object) && !base.Has(f.Object)) { // not there, or another one
			f.State = inspect.LFSMissing
			if missing.Count++; len(missing.Where) < maxMissing {
				missing.Where = append(missing.Where, f.Path)
			}
		}
	}
	if missing.Count > 0 {
		at := slices.IndexFunc(found.Flags, func(f inspect.Flag) bool { return f.Severity == inspect.Info })
		if at < 0 {
			at = len(found.Flags)
		}
		found.Flags = slices.Insert(slices.Clone(found.Flags), at, missing)
	}
	return found
}

const maxMissing = 20 // that are named
