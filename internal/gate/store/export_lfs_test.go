package store

import (
	"context"
	"os"

	"terok/internal/gate/lfs"
)

// FetchLFS asks an upstream's LFS server as a sync does.
func (s *Store) FetchLFS(ctx context.Context, up Upstream, objects []lfs.Object) (lfs.Report, error) {
	dir, err := os.MkdirTemp("", "lfs-")
	if err != nil {
		return lfs.Report{}, err
	}
	defer os.RemoveAll(dir)
	return s.fetchLFS(ctx, "webshop", up, "", objects, lfs.Of(dir), &LFSFetched{})
}
