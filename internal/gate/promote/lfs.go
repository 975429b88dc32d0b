package promote

import (
	"context"

	"terok/internal/gate/lfs"
	"terok/internal/gate/review"
)

// LFS says that files in Git LFS go with the commits that point to them.
type LFS struct {
	URL string // of upstream's LFS server; "": what follows from the upstream's own address
}

// gather brings the files of the promoted commits in Git LFS into the base, where they wait like the
// commits themselves. A bundle and patches hold pointers only.
func (p *Promoter) gather(ctx context.Context, j *job) ([]lfs.Object, error) {
	if j.dst.LFS == nil || j.dst.Kind == review.ToBundle || j.dst.Kind == review.ToPatches {
		return nil, nil
	}
	return p.Store.GatherLFS(ctx, j.src.Task.Project, j.src.Task.ID, j.src.Commit, j.dst.LFS.URL)
}

// deliver brings them to the target, before its ref moves: who fetches that finds them.
func (p *Promoter) deliver(ctx context.Context, j *job, objects []lfs.Object) error {
	switch j.dst.Kind {
	case review.ToUpstream:
		if len(objects) == 0 {
			return nil
		}
		return p.Store.SendLFS(ctx, j.src.Task.Project, j.dst.LFS.URL, objects)
	case review.ToClone, review.ToRepo:
		return p.Store.GiveLFS(ctx, j.src.Task.Project, j.dst.Dir, objects)
	}
	return nil
}
