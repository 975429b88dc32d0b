package terok

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/task"
	"terok/internal/text"
	"terok/internal/vault/usage"
)

// UsageTotal is what requests to providers used.
type UsageTotal struct {
	Requests  int64   `json:"requests"`
	TokensIn  int64   `json:"tokens_in"` // with what came from caches
	TokensOut int64   `json:"tokens_out"`
	CacheRead int64   `json:"cache_read"` // part of TokensIn
	CostUSD   float64 `json:"cost_usd"`   // of the requests whose model has a price
	Unpriced  int64   `json:"unpriced"`   // of Requests: no price is known
	Estimated int64   `json:"estimated"`  // of Requests: the answer ended before it said what it used
}

// UsageLine is a total of one day, provider and model.
type UsageLine struct {
	Day      string `json:"day"` // 2006-01-02, UTC
	Provider string `json:"provider"`
	Model    string `json:"model"`
	UsageTotal
}

// BudgetLine is how far a budget is used.
type BudgetLine struct {
	Budget string  `json:"budget"` // "5 USD/task"
	Used   float64 `json:"used"`   // 1 is all of it
}

// UsageView is what a task, or a project with all tasks that it ever had, used.
type UsageView struct {
	Project string       `json:"project"`
	Task    *string      `json:"task"` // null: of the whole project
	Total   UsageTotal   `json:"total"`
	Today   UsageTotal   `json:"today"`
	Lines   []UsageLine  `json:"lines"`
	Budgets []BudgetLine `json:"budgets"`
	Tasks   []TaskUsage  `json:"tasks"` // of a project, most expensive first; [] for one task
}

// TaskUsage is the total of one task.
type TaskUsage struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
	UsageTotal
}

func totalOf(t usage.Total) UsageTotal {
	return UsageTotal{Requests: t.Requests, TokensIn: t.Input + t.CacheRead + t.CacheWrite, TokensOut: t.Output, CacheRead: t.CacheRead,
		CostUSD: float64(t.MicroUSD) / 1e6, Unpriced: t.Unpriced, Estimated: t.Estimated}
}

// Tokens is all of them.
func (t UsageTotal) Tokens() int64 { return t.TokensIn + t.TokensOut }

// Words are tokens and cost in a line, "" for nothing.
func (t UsageTotal) Words() string {
	if t.Tokens() == 0 {
		return ""
	}
	s := text.Count(t.Tokens()) + " tokens"
	if t.CostUSD > 0 {
		s += fmt.Sprintf(", $%.2f", t.CostUSD)
		if t.Unpriced > 0 {
			s += " and more" // some of it has no known price
		}
	}
	return s
}

// TaskUsageOf is what one task used, from the vault's own count.
func (a *App) TaskUsageOf(t *task.Task) (*UsageView, error) {
	return a.usageView(t.Project, t.ID)
}

// ProjectUsage is what all tasks of a project used.
func (a *App) ProjectUsage(name string) (*UsageView, error) {
	if _, err := (project.Store{Roots: a.Roots}).Get(name); err != nil {
		return nil, err
	}
	return a.usageView(name, "")
}

// usageView reads one book, or all of a project.
func (a *App) usageView(name, id string) (*UsageView, error) {
	dir := a.Roots.UsageDir(name)
	ids := []string{id}
	v := &UsageView{Project: name, Lines: []UsageLine{}, Budgets: []BudgetLine{}, Tasks: []TaskUsage{}}
	everything, err := usageBooks(dir)
	if err != nil {
		return nil, err
	}
	if id == "" {
		ids = everything
	} else {
		v.Task = &id
	}
	type key struct{ day, provider, model string }
	sums := map[key]*usage.Total{}
	var all, today usage.Total
	day := usage.Day(a.Now())
	for _, id := range ids {
		var own usage.Total
		err := usage.Read(usage.Path(dir, id), func(e usage.Entry) error {
			own.Add(e)
			all.Add(e)
			if e.Day == day {
				today.Add(e)
			}
			k := key{e.Day, text.Line(e.Provider, 40), text.Line(e.Model, 64)}
			if sums[k] == nil {
				sums[k] = &usage.Total{}
			}
			sums[k].Add(e)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("usage: %w", err)
		}
		if v.Task == nil {
			_, err := a.tasks().Get(name, id)
			v.Tasks = append(v.Tasks, TaskUsage{ID: id, Deleted: err != nil, UsageTotal: totalOf(own)})
		}
	}
	v.Total, v.Today = totalOf(all), totalOf(today)
	for k, t := range sums {
		v.Lines = append(v.Lines, UsageLine{k.day, k.provider, k.model, totalOf(*t)})
	}
	slices.SortFunc(v.Lines, func(x, y UsageLine) int {
		return cmp.Or(cmp.Compare(y.Day, x.Day), cmp.Compare(x.Provider, y.Provider), cmp.Compare(x.Model, y.Model))
	})
	slices.SortFunc(v.Tasks, func(x, y TaskUsage) int {
		return cmp.Or(cmp.Compare(y.CostUSD, x.CostUSD), cmp.Compare(y.Tokens(), x.Tokens()), cmp.Compare(x.ID, y.ID))
	})
	return v, a.budgetLines(v, name, dir, day, everything, all)
}

// budgetLines fills in how far the project's budgets are used.
func (a *App) budgetLines(v *UsageView, name, dir, day string, everything []string, own usage.Total) error {
	p, err := project.Store{Roots: a.Roots}.Get(name)
	if err != nil || len(p.Vault.Budget) == 0 {
		return nil // a project.yml that cannot be read has no budgets to show
	}
	var all, today usage.Total
	for _, id := range everything {
		t, d, err := usage.Sum(usage.Path(dir, id), day)
		if err != nil {
			return fmt.Errorf("usage: %w", err)
		}
		all.Plus(t)
		today.Plus(d)
	}
	for _, b := range p.Vault.Budget {
		total := map[sandbox.Span]usage.Total{sandbox.PerTask: own, sandbox.PerProject: all, sandbox.PerDay: today}[b.Span]
		if b.Span == sandbox.PerTask && v.Task == nil {
			continue
		}
		v.Budgets = append(v.Budgets, BudgetLine{b.String(), usage.Used(b, total)})
	}
	return nil
}

// usageBooks are the ids of the tasks that have a book, deleted ones as well.
func usageBooks(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".jsonl"); ok && e.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// TaskRevoke makes a running task's tokens worth nothing until its next start; provider "" means
// all of them. With now, requests in flight are cut.
func (a *App) TaskRevoke(ctx context.Context, t *task.Task, provider string, now bool, via string) ([]string, error) {
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return nil, err
	}
	if c == nil || !c.Running() {
		return nil, problem.New("task_not_running", problem.Conflict, "task %s is not running, so it has no tokens: each start makes new ones", t.Ref())
	}
	s, err := a.shielded(t.Ref())
	if err != nil {
		return nil, err
	}
	r, err := s.client().RevokeCredentials(ctx, control.Revocation{Provider: provider, Now: now, Via: via})
	if err != nil {
		return nil, s.explain(err)
	}
	for _, p := range r.Providers {
		a.note("vault_revoked", map[string]string{"project": t.Project, "task": t.ID, "provider": p})
	}
	return r.Providers, nil
}

// GateRotation is what came of GateRotate.
type GateRotation struct {
	Task      string `json:"task"`
	Running   bool   `json:"running"`   // false: there was no token, the next start makes one
	Rotated   bool   `json:"rotated"`   // the old token is refused
	Delivered bool   `json:"delivered"` // git in the container has the new one
}

// GateRotate gives a running task a new token for its gate; the one of before is refused from then on.
func (a *App) GateRotate(ctx context.Context, t *task.Task, via string) (GateRotation, error) {
	out := GateRotation{Task: t.Ref()}
	c, err := a.taskContainer(ctx, t)
	if err != nil || c == nil || !c.Running() {
		return out, err
	}
	out.Running = true
	s, err := a.shielded(t.Ref())
	if err != nil {
		return out, err
	}
	r, err := s.client().RotateGateToken(ctx, control.Rotation{Via: via})
	if e, ok := errors.AsType[*control.Error](err); ok && e.Code == "not_found" {
		return out, problem.New("older_supervisor", problem.Conflict, "the supervisor of %s is of an older terok and cannot do that", t.Ref()).
			WithHint("terok task restart %s", t.Ref())
	}
	if err != nil {
		return out, s.explain(err)
	}
	out.Rotated, out.Delivered = true, r.Delivered
	a.note("gate_token_rotated", map[string]string{"project": t.Project, "task": t.ID})
	return out, nil
}

// CredentialQuery selects what a task did with its credentials.
type CredentialQuery struct {
	Provider string    // "": every one
	Since    time.Time // zero: from the beginning
	Last     int       // only the last n; 0: all
}

// TaskCredentialAudit calls fn for what a task did with its credentials, from its ledger.
func (a *App) TaskCredentialAudit(t *task.Task, q CredentialQuery, fn func(audit.Event) error) error {
	f := audit.Filter{Since: q.Since, Ev: EventKinds["vault"]}
	var tail []audit.Event
	err := audit.Read(sandbox.LedgerPath(t.Dir(a.Roots)), f, func(e audit.Event) error {
		if q.Provider != "" && e.Provider != q.Provider {
			return nil
		}
		if q.Last == 0 {
			return fn(e)
		}
		if tail = append(tail, e); len(tail) >= 2*q.Last {
			tail = append(tail[:0], tail[len(tail)-q.Last:]...)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range tail[max(0, len(tail)-q.Last):] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
