package store

import (
	"context"

	"terok/internal/gate/refname"
	"terok/internal/problem"
)

// Accept moves a branch of the base to what a person accepted, and shows it to the tasks: new ones
// may start there, running ones see it at their next fetch. old is the tip that was seen, "" for a
// new branch; new "" deletes it. A tip that is replaced and not contained in new is kept under
// refs/terok/backup. The caller holds the lock (Lock). A branch that moved is the problem
// "lease_lost".
func (s *Store) Accept(ctx context.Context, project, branch, old, new string) error {
	base := s.Roots.GateBase(project)
	if err := Verify(base); err != nil {
		return err
	}
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	if refs[refname.Heads+branch] != old {
		return problem.New("lease_lost", problem.Conflict, "%s of the gate moved meanwhile; nothing was changed", branch).
			WithHint("terok project show %s", project)
	}
	lines := []string{moveLine(refname.Heads+branch, old, new)}
	if old != "" {
		if forward, err := (&classifier{Store: s, ctx: ctx, dir: base}).isAncestor(old, new); new == "" || err != nil || !forward {
			if backup := s.backupRef(branch, old); refs[backup] == "" {
				lines = append(lines, moveLine(backup, "", old))
			}
		}
	}
	if err := s.updateRefs(ctx, base, nil, lines...); err != nil {
		return err
	}
	return s.publish(ctx, project)
}

// InStep writes down that upstream has branch at tip, because we just put it there: the next sync
// has nothing to do. The caller holds the lock.
func (s *Store) InStep(ctx context.Context, project, branch, tip string) error {
	base := s.Roots.GateBase(project)
	refs, err := readRefs(base)
	if err != nil {
		return err
	}
	line := moveLine(SnapshotRefs+branch, refs[SnapshotRefs+branch], tip)
	if err := s.updateRefs(ctx, base, nil, line); err != nil {
		return err
	}
	old := refs[refname.Heads+branch]
	switch {
	case old == tip:
		return nil
	case tip == "" && old == "":
		return nil
	case old != "" && tip != "":
		if forward, err := (&classifier{Store: s, ctx: ctx, dir: base}).isAncestor(old, tip); err != nil || !forward {
			return err // the gate has more: the next sync says so
		}
	}
	return s.Accept(ctx, project, branch, old, tip)
}

// moveLine is the line of git update-ref --stdin that moves a ref from old to new; "" is none.
func moveLine(ref, old, new string) string {
	switch {
	case new == "" && old == "":
		return "verify " + ref
	case new == "":
		return "delete " + ref + " " + old
	case old == "":
		return "create " + ref + " " + new
	}
	return "update " + ref + " " + new + " " + old
}
