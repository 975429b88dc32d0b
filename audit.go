package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"terok/internal/audit"
	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/task"
)

// AuditVerify checks the hash chains of ledgers: of the one at path, or, with an empty path, of
// the host's and of every task's and sandbox's. It returns a report for each ledger; a chain that
// does not hold is Report.Break in it and the problem "ledger_broken" beside the reports.
func (a *App) AuditVerify(ctx context.Context, path string) ([]audit.Report, error) {
	paths := []string{path}
	if path == "" {
		var err error
		if paths, err = a.ledgers(); err != nil {
			return nil, err
		}
	}
	reports := []audit.Report{}
	var broken []audit.Report
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := audit.Verify(p)
		if errors.Is(err, fs.ErrNotExist) {
			if path == "" {
				continue // deleted meanwhile
			}
			return nil, problem.New("ledger_not_found", problem.NotFound, "there is no ledger at %s", p).
				WithHint("terok audit verify")
		}
		if err != nil {
			return nil, problem.New("ledger_unreadable", problem.Failed, "cannot read the ledger %s: %w", p, err)
		}
		reports = append(reports, r)
		if r.Break != nil {
			broken = append(broken, r)
		}
	}
	if len(broken) == 0 {
		return reports, nil
	}
	b := broken[0].Break
	p := problem.New("ledger_broken", problem.Failed, "%s:%d: %s", b.File, b.Line, b.Reason)
	if len(broken) > 1 {
		p.Message += fmt.Sprintf(" (broken ledgers in all: %d)", len(broken))
	}
	return reports, p.WithHint("keep the file, and compare it with a backup or a receipt")
}

// ledgers are the ledgers of the host and of every task and sandbox.
func (a *App) ledgers(more ...string) ([]string, error) {
	var paths []string
	for _, pattern := range append([]string{
		a.Roots.HostLedger(),
		sandbox.LedgerPath(a.Roots.TaskDir("*", "*")),
		sandbox.LedgerPath(a.Roots.SandboxDir("*")),
	}, more...) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	return paths, nil
}

// trimLedgers keeps all ledgers together, those of deleted tasks too, within audit.max_total. What
// cannot be trimmed does not stop a launch.
func (a *App) trimLedgers(g config.Global) {
	limit := g.Audit.MaxTotal.Bytes()
	if limit == 0 {
		return
	}
	paths, err := a.ledgers(sandbox.LedgerPath(filepath.Join(a.Roots.ArchiveDir(), "*", "*")))
	if err == nil {
		var gone int64
		if gone, err = audit.Trim(paths, limit); gone > 0 {
			a.note("ledgers_trimmed", map[string]string{"bytes": fmt.Sprint(gone)})
		}
	}
	if err != nil {
		a.say("warning: old ledgers could not be trimmed: %v", err)
	}
}

// trafficNames is how many names a task's traffic has, most bytes first.
const trafficNames = 20

// taskTraffic sums up, by name, what a task moved and what was refused, over all its starts.
func (a *App) taskTraffic(t *task.Task) (audit.Traffic, error) {
	sum := audit.Traffic{}
	err := audit.Read(sandbox.LedgerPath(t.Dir(a.Roots)), audit.Filter{}, func(e audit.Event) error { sum.Add(e); return nil })
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return sum, err
}
