package promote

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/gate/receipt"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
)

// Undo takes back the last promotion of a task that still stands. The target must be as the
// promotion left it, else the problem "promotion_moved"; a branch that is checked out stays
// ("branch_in_use"). No promotion is "nothing_promoted".
func (p *Promoter) Undo(ctx context.Context, t review.Task) (review.Promotion, error) {
	var done review.Promotion
	unlock, err := p.Store.Lock(ctx, t.Project)
	if err != nil {
		return done, err
	}
	defer unlock()
	err = review.UpdateRecord(p.Review.Roots, t.Project, t.ID, func(rec *review.Record) error {
		last := lastStanding(rec)
		if last == nil {
			return problem.New("nothing_promoted", problem.NotFound, "nothing of %s is promoted", t.Ref()).WithHint("terok review")
		}
		to, err := p.place(last.Target)
		if err != nil {
			return err
		}
		if err := to.undo(ctx, t, *last); err != nil {
			return err
		}
		p.step("moved back")
		if err := p.removeNote(ctx, t, *last); err != nil {
			return err
		}
		last.Undone = true
		done = *last
		return nil
	})
	if err == nil {
		p.note("promotion_undone", t, done)
	}
	return done, err
}

func lastStanding(rec *review.Record) *review.Promotion {
	var last *review.Promotion
	for _, h := range rec.Branches {
		for i := range h.Promotions {
			if q := &h.Promotions[i]; !q.Undone && (last == nil || !q.At.Before(last.At)) {
				last = q
			}
		}
	}
	return last
}

// ReceiptFile is where the receipt of a promotion is kept on this machine.
func ReceiptFile(r state.Roots, project string, q review.Promotion) string {
	return filepath.Join(r.ReceiptsDir(), project, q.As+"."+q.Target)
}

// notesRepo is a git command where the notes of a promotion are: the clone, or the base.
func (p *Promoter) notesRepo(t review.Task, dir string, args ...string) git.Cmd {
	c := clone(dir, args...)
	if dir == "" {
		c = p.base(t, args...)
	}
	c.Env = []string{"GIT_AUTHOR_NAME=terok", "GIT_AUTHOR_EMAIL=terok@localhost", "GIT_COMMITTER_NAME=terok", "GIT_COMMITTER_EMAIL=terok@localhost"}
	return c
}

// inNotes runs what notesRepo made.
func (p *Promoter) inNotes(ctx context.Context, dir string, c git.Cmd) ([]byte, error) {
	if dir == "" {
		return p.Git.Run(ctx, c)
	}
	return p.inClone(ctx, c)
}

// receipt signs the record of what was done and keeps it: as a note of the commit, and in the state.
func (p *Promoter) receipt(ctx context.Context, j *job, dir string) error {
	if p.Receipt == nil {
		return nil
	}
	text, err := p.Receipt(j.done, j.change, covering(j.record.History(j.src.Branch), j.change.IDs))
	if err != nil {
		return fmt.Errorf("the commits are promoted, the receipt is missing: %w", err)
	}
	if err := state.WriteFile(ReceiptFile(p.Store.Roots, j.src.Task.Project, j.done), text); err != nil {
		return err
	}
	run := func(stdin string, args ...string) (string, error) {
		c := p.notesRepo(j.src.Task, dir, args...)
		c.Stdin = strings.NewReader(stdin)
		out, err := p.inNotes(ctx, dir, c)
		return strings.TrimSpace(string(out)), err
	}
	blob, err := run(string(text), "hash-object", "-w", "--stdin")
	if err != nil {
		return fmt.Errorf("keep the receipt: %w", err)
	}
	if _, err := run("", "notes", "--ref="+receipt.NotesRef, "add", "-f", "-C", blob, j.done.As); err != nil {
		return fmt.Errorf("keep the receipt: %w", err)
	}
	j.done.Note = p.notesTip(ctx, j.src.Task, dir)
	return nil
}

// notesTip is where the notes of a repository point, "" when it has none.
func (p *Promoter) notesTip(ctx context.Context, t review.Task, dir string) string {
	out, err := p.inNotes(ctx, dir, p.notesRepo(t, dir, "rev-parse", "--verify", "--quiet", "--end-of-options", receipt.NotesRef))
	if id := strings.TrimSpace(string(out)); err == nil && refname.IsID(id) {
		return id
	}
	return ""
}

// covering are the approvals that a promotion of these commits rests on.
func covering(h *review.History, ids []string) []review.Approval {
	var out []review.Approval
	for _, a := range h.Approvals {
		for _, id := range ids {
			if a.Commit == id && h.Decided(id) == review.Approved {
				out = append(out, a)
			}
		}
	}
	return out
}

// removeNote takes the receipt's note away again. When the notes are what they were before it, their
// ref goes back there too, or goes.
func (p *Promoter) removeNote(ctx context.Context, t review.Task, q review.Promotion) error {
	if q.Note == "" {
		return nil
	}
	dir := ""
	if q.Target == review.ToClone {
		dir = q.Place
	}
	run := func(args ...string) (string, error) {
		out, err := p.inNotes(ctx, dir, p.notesRepo(t, dir, args...))
		return strings.TrimSpace(string(out)), err
	}
	if _, err := run("notes", "--ref="+receipt.NotesRef, "remove", "--ignore-missing", q.As); err != nil {
		return err
	}
	if tip := p.notesTip(ctx, t, dir); tip != "" {
		now, err := run("rev-parse", "--verify", "--end-of-options", tip+"^{tree}")
		if err != nil {
			return err
		}
		before := emptyTree(tip)
		back := []string{"update-ref", "--no-deref", "-d", receipt.NotesRef, tip}
		if q.Head != "" {
			back = []string{"update-ref", "--no-deref", receipt.NotesRef, q.Head, tip}
			if before, err = run("rev-parse", "--verify", "--end-of-options", q.Head+"^{tree}"); err != nil {
				before = "" // somebody pruned it: the notes stay as they are
			}
		}
		if now == before {
			if _, err := run(back...); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(ReceiptFile(p.Store.Roots, t.Project, q)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// emptyTree is the id of the tree without entries.
func emptyTree(like string) string {
	if len(like) == 64 {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
}
