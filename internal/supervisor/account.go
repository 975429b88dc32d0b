package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/vault/front"
	"terok/internal/vault/usage"
)

// warnAt is the part of a budget at which the operator is told.
const warnAt = 0.8

// deniedFor is how long a "no" to more of a budget stands before somebody is asked again.
const deniedFor = 10 * time.Minute

// account is what a task uses of its providers, and whether it may go on.
type account struct {
	book    *usage.Book
	prices  map[string]usage.Prices // by provider
	budgets []sandbox.Budget
	record  audit.Recorder
	now     func() time.Time
	ask     func(context.Context, clearance.Matter) bool // nil: nobody can be asked
	path    string                                       // of vaultState

	mu     sync.Mutex
	state  vaultState
	denied map[string]time.Time
	told   map[string]time.Time // alerts
}

// vaultState is what must outlive a worker: who crashes it must get neither a new budget nor a
// revoked token back.
type vaultState struct {
	Granted map[string]int    `json:"granted,omitempty"` // budget, of a day → how often it was granted again
	Warned  map[string]int    `json:"warned,omitempty"`  // → the last of them that was nearly used up
	Revoked map[string]string `json:"revoked,omitempty"` // handle of a phantom → why
}

// vaultStatePath is where vaultState lies, beside the rules.
func vaultStatePath(dir string) string {
	return filepath.Join(filepath.Dir(sandbox.PolicyPath(dir)), "vault.json")
}

// openAccount opens the account of a sandbox file with a vault.
func openAccount(f *sandbox.File, record audit.Recorder) (*account, error) {
	dir, task := usageDir(f), f.Task
	if task == "" {
		task = f.Key
	}
	a := &account{prices: map[string]usage.Prices{}, record: record, now: time.Now, denied: map[string]time.Time{},
		path: vaultStatePath(f.Dir)}
	for _, g := range f.Vault.Grants {
		a.prices[g.Provider] = g.Prices
	}
	for _, text := range f.Vault.Budgets {
		b, err := sandbox.ParseBudget(text)
		if err != nil {
			return nil, fmt.Errorf("budget %q: %w", text, err)
		}
		a.budgets = append(a.budgets, b)
	}
	if err := state.ReadJSON(a.path, &a.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the vault's state: %w", err)
	}
	for _, m := range []*map[string]int{&a.state.Granted, &a.state.Warned} {
		if *m == nil {
			*m = map[string]int{}
		}
	}
	if a.state.Revoked == nil {
		a.state.Revoked = map[string]string{}
	}
	var err error
	a.book, err = usage.Open(dir, task, a.now)
	return a, err
}

// usageDir is where the books lie that this task reads, and writes its own in.
func usageDir(f *sandbox.File) string {
	if f.Vault.Usage != "" {
		return f.Vault.Usage
	}
	return filepath.Join(filepath.Dir(sandbox.PolicyPath(f.Dir)), "usage")
}

// key names a budget in vaultState; that of a day is another one each day.
func (a *account) key(b sandbox.Budget) string {
	if b.Span == sandbox.PerDay {
		return b.String() + " " + usage.Day(a.now())
	}
	return b.String()
}

// save writes the state. The caller holds mu.
func (a *account) save() {
	if err := state.WriteJSON(a.path, a.state); err != nil {
		log.Printf("save the vault's state: %v", err)
	}
}

// admit says whether the task may send one more request. When a budget is used up it asks, while
// the request waits, and a yes grants the budget once more.
func (a *account) admit(ctx context.Context, _ string) error {
	for _, b := range a.budgets {
		for !a.within(b) {
			if err := a.more(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *account) within(b sandbox.Budget) bool {
	used := usage.Used(b, a.book.Total(b.Span))
	a.mu.Lock()
	defer a.mu.Unlock()
	return used < float64(1+a.state.Granted[a.key(b)])
}

// more asks for the budget once more.
func (a *account) more(ctx context.Context, b sandbox.Budget) error {
	key := a.key(b)
	refused := fmt.Errorf("the budget of %s is used up; a person can grant it once more on the host: terok clearance", b)
	a.mu.Lock()
	asked, before := a.denied[key], a.state.Granted[key]
	a.mu.Unlock()
	if !asked.IsZero() && a.now().Sub(asked) < deniedFor {
		return refused
	}
	whose := map[sandbox.Span]string{sandbox.PerTask: "this task", sandbox.PerProject: "all tasks of the project", sandbox.PerDay: "the project's tasks today"}
	ok := a.ask != nil && a.ask(ctx, clearance.Matter{Kind: control.VaultBudget, Host: b.Amount() + " of " + whose[b.Span],
		Names: []string{b.String(), spent(a.book.Total(b.Span))}})
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case ok && a.state.Granted[key] == before: // the first of the requests that waited
		a.state.Granted[key]++
		delete(a.denied, key)
		a.save()
		a.record.Record(audit.Event{Ev: "vault_budget", Actor: "operator", Verdict: "allow", Reason: "granted once more", Rule: b.String(),
			Count: uint64(a.state.Granted[key])})
	case ok:
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		if a.ask != nil && asked.IsZero() || a.now().Sub(asked) >= deniedFor {
			a.record.Record(audit.Event{Ev: "vault_budget", Actor: "auto", Verdict: "deny", Reason: "used up", Rule: b.String()})
		}
		a.denied[key] = a.now()
		return refused
	}
	return nil
}

// spent is a total in words.
func spent(t usage.Total) string {
	s := fmt.Sprintf("%d tokens in %d requests", t.Sum(), t.Requests)
	if t.MicroUSD > 0 {
		s += ", " + strconv.FormatFloat(float64(t.MicroUSD)/1e6, 'f', 2, 64) + " USD"
	}
	return s
}

// used writes down what a request used, and tells once when a budget is nearly used up.
func (a *account) used(provider, model string, t usage.Tokens, estimated bool) int64 {
	e := usage.Entry{Provider: provider, Model: model, Requests: 1, Tokens: t}
	cost, priced := a.prices[provider].Cost(model, t)
	e.MicroUSD = cost
	if !priced {
		e.Unpriced = 1
	}
	if estimated {
		e.Estimated = 1
	}
	if err := a.book.Add(e); err != nil {
		log.Print(err)
	}
	for _, b := range a.budgets {
		part := usage.Used(b, a.book.Total(b.Span))
		a.mu.Lock()
		key := a.key(b)
		granted := 1 + a.state.Granted[key]
		tell := part >= warnAt*float64(granted) && a.state.Warned[key] < granted
		if tell {
			a.state.Warned[key] = granted
			a.save()
		}
		a.mu.Unlock()
		if tell {
			a.record.Record(audit.Event{Ev: "vault_budget", Actor: "auto", Reason: fmt.Sprintf("%.0f %% used", 100*part/float64(granted)), Rule: b.String()})
		}
	}
	return cost
}

func (a *account) close() {
	if err := a.book.Close(); err != nil {
		log.Printf("usage: %v", err)
	}
}

// revoked brings back what was revoked before this worker began.
func (a *account) revoked(f *front.Front, phantoms map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for provider, phantom := range phantoms {
		if why := a.state.Revoked[front.Handle(phantom)]; why != "" {
			f.Revoke(provider, why, false)
		}
	}
}

// askOwner is how long the keyholder may take to say whose a phantom is. The request waits for it.
const askOwner = 2 * time.Second

// strayed raises the alert about a whole phantom of somebody else that this container used, and
// says whose it is: its owner, if a running container has it, is told and revokes it.
func (s *service) strayed(ctx context.Context, token string) (owner string) {
	ctx, cancel := context.WithTimeout(ctx, askOwner)
	defer cancel()
	owner, err := s.session.Owner(ctx, token)
	if err != nil { // a locked vault: then the token opens nothing either
		log.Printf("whose a token is: %v", err)
	}
	if !s.account.fresh("stray " + owner) {
		return owner
	}
	e := audit.Event{Ev: "vault_leak", Actor: "workload", Reason: front.LeakForeign, Detail: map[string]string{"grant": front.Handle(token)}}
	if owner != "" {
		e.Detail["owner"] = owner
	}
	s.ledger.Record(e)
	return owner
}

// betrayed revokes a phantom of this container that another one used.
func (s *service) betrayed(phantom, by string) {
	for provider, own := range s.hand.Phantoms {
		if own == phantom && len(s.revoke(provider, "it leaked to another container", true)) > 0 {
			s.ledger.Record(audit.Event{Ev: "vault_leak", Actor: "auto", Provider: provider, Reason: "phantom_leaked", Verdict: "deny",
				Detail: map[string]string{"grant": front.Handle(phantom), "user": by}})
		}
	}
}

// pushed is told of a whole phantom in what the workload pushed, which the gate refused. Whoever puts a
// token where it is published does not know what it is, or wants it found: the container's own is
// revoked until its next start, that of another one as if it had been used here.
func (s *service) pushed(token string) {
	for provider, own := range s.hand.Phantoms {
		if own != token || s.front == nil {
			continue
		}
		if len(s.revoke(provider, "it was in a push", true)) > 0 {
			s.ledger.Record(audit.Event{Ev: "vault_leak", Actor: "workload", Provider: provider, Reason: front.LeakInPush, Verdict: "deny",
				Detail: map[string]string{"grant": front.Handle(token)}})
		}
		return
	}
	if s.session != nil && s.account != nil {
		s.strayed(context.Background(), token)
	}
}

// fresh is true once in leakEvery for the same key.
func (a *account) fresh(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if at, known := a.told[key]; known && now.Sub(at) < leakEvery {
		return false
	}
	if a.told == nil || len(a.told) >= 256 {
		a.told = map[string]time.Time{}
	}
	a.told[key] = now
	return true
}

// revoke makes phantoms worth nothing, also for the next worker, and returns whose were good.
func (s *service) revoke(provider, why string, now bool) []string {
	done := s.front.Revoke(provider, why, now)
	s.account.mu.Lock()
	defer s.account.mu.Unlock()
	for _, p := range done {
		s.account.state.Revoked[front.Handle(s.hand.Phantoms[p])] = why
	}
	s.account.save()
	return done
}

// RevokeCredentials makes the task's phantoms worth nothing until the container's next start.
func (s *service) RevokeCredentials(ctx context.Context, c control.Revocation) (control.Revoked, error) {
	if s.front == nil {
		return control.Revoked{}, problem.New("no_credentials", problem.NotFound, "this container has no credentials")
	}
	if _, known := s.hand.Phantoms[c.Provider]; c.Provider != "" && !known {
		return control.Revoked{}, problem.New("no_credentials", problem.NotFound, "this container has no credential of %q; it has %s", c.Provider,
			strings.Join(slices.Sorted(maps.Keys(s.hand.Phantoms)), ", "))
	}
	// Those of providers without a credential go too, and are not worth a word.
	told := s.told(ctx)
	done := s.revoke(c.Provider, "by the operator", c.Now)
	done = slices.DeleteFunc(done, func(p string) bool { return p != c.Provider && !told[p] })
	for _, p := range done {
		s.ledger.Record(audit.Event{Ev: "vault_revoked", Actor: "operator", Provider: p, Reason: "user", Via: c.Via,
			Detail: map[string]string{"grant": front.Handle(s.hand.Phantoms[p])}})
	}
	slices.Sort(done)
	return control.Revoked{Providers: append([]string{}, done...)}, nil
}

// told are the providers whose tokens programs here were told of, as far as can be known now.
func (s *service) told(ctx context.Context) map[string]bool {
	told := map[string]bool{}
	now := s.held(ctx)
	for _, h := range now.Held {
		told[h.Provider] = true
	}
	for _, g := range s.hand.File.Vault.Grants {
		told[g.Provider] = told[g.Provider] || !now.Known && !g.Waiting
	}
	return told
}
