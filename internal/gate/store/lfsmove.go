package store

import (
	"context"
	"maps"
	"slices"

	"terok/internal/gate/lfs"
	"terok/internal/problem"
	"terok/internal/text"
)

// GatherLFS brings the LFS objects of a commit of the base, and of those that lead to it and that
// upstream has not, into the base: from the task that pushed them, or from upstream's LFS server. One
// that is nowhere is the problem "lfs_missing". It returns all of them, can be repeated, and makes
// nothing visible: no ref of the base points to them yet. The caller holds the lock.
func (s *Store) GatherLFS(ctx context.Context, project, task, commit, address string) ([]lfs.Object, error) {
	base := s.Roots.GateBase(project)
	refs, err := readRefs(base)
	if err != nil {
		return nil, err
	}
	all, err := s.Pointers(ctx, base, nil, true, []string{commit}, slices.Collect(maps.Values(refs.below(SnapshotRefs))))
	if err != nil {
		return nil, err
	}
	have := lfs.Of(base)
	report, err := lfs.Local{Dir: lfs.Of(s.Roots.GateTask(project, task))}.Fetch(ctx, lacking(all, have), have, func(lfs.Object) {})
	if err != nil {
		return nil, err
	}
	if err := failed(report); err != nil {
		return nil, err
	}
	if missing := lacking(all, have); len(missing) > 0 {
		if up, err := s.Upstream(project); err == nil && up.URL != "" { // of an older time than the mirror has
			_, _ = s.fetchLFS(ctx, project, up, address, missing, have, &LFSFetched{}) // what it did is looked at
		}
	}
	if missing := lacking(all, have); len(missing) > 0 {
		return nil, problem.New("lfs_missing", problem.Conflict, "%d files in Git LFS that these commits point to are nowhere, such as %.12s (%s)",
			len(missing), missing[0].OID, text.Size(uint64(missing[0].Size))).WithHint("inside the task: git lfs push --all origin; then the same again")
	}
	return all, nil
}

// SendLFS gives objects of the base to upstream's LFS server, those that it has not.
func (s *Store) SendLFS(ctx context.Context, project, address string, objects []lfs.Object) error {
	if len(objects) == 0 {
		return nil
	}
	up, err := s.Upstream(project)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lfsTimeout)
	defer cancel()
	peer, done, err := s.lfsPeer(ctx, project, up, address, lfs.Upload)
	if err != nil {
		return err
	}
	defer done()
	report, err := peer.Send(ctx, objects, lfs.Of(s.Roots.GateBase(project)), s.lfsProgress("sent", len(objects), func(lfs.Object) {}))
	if err != nil {
		return problem.New("lfs_not_sent", problem.Failed, "files in Git LFS cannot be sent; no commit was: %w", err).WithHint("try again, or set gate.lfs_url in project.yml")
	}
	return failed(report)
}

// GiveLFS copies objects of the base into a person's repository on this machine.
func (s *Store) GiveLFS(ctx context.Context, project, dir string, objects []lfs.Object) error {
	if len(objects) == 0 {
		return nil
	}
	to, err := s.LFSOf(ctx, dir)
	if err != nil {
		return err
	}
	report, err := lfs.Local{Dir: to}.Send(ctx, objects, lfs.Of(s.Roots.GateBase(project)), func(lfs.Object) {})
	if err != nil {
		return err
	}
	return failed(report)
}

// failed is the first failure of a report, as a problem.
func failed(r lfs.Report) error {
	if len(r.Failed) == 0 {
		return nil
	}
	return problem.New("lfs_not_sent", problem.Failed, "%d files in Git LFS cannot be copied; no commit was: %.12s: %s", len(r.Failed), r.Failed[0].OID, r.Failed[0].Why).
		WithHint("try again")
}
