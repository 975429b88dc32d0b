package supervisor

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/vault/usage"
)

// accountFile is a sandbox file with a vault and budgets.
func accountFile(dir string, budgets ...string) *sandbox.File {
	return &sandbox.File{Key: "webshop-k3v9p", Project: "webshop", Task: "k3v9p", Dir: dir, Vault: &sandbox.Vault{
		Budgets: budgets, Usage: filepath.Join(dir, "usage"),
		Grants: []sandbox.Grant{{Provider: "anthropic", Prices: map[string]sandbox.Price{"m": {Input: 1, Output: 10}}}}}}
}

type events struct{ list []audit.Event }

func (e *events) Record(ev audit.Event) { e.list = append(e.list, ev) }

func (e *events) count(ev, reason string) (n int) {
	for _, x := range e.list {
		if x.Ev == ev && strings.Contains(x.Reason, reason) {
			n++
		}
	}
	return n
}

// A budget warns once at 80 %, then asks; yes grants it once more, no and nobody do not, and all of
// that outlives the worker. spec/vault.md §10: 41.
func TestBudgets(t *testing.T) {
	dir := t.TempDir()
	var seen events
	start := func() *account {
		a, err := openAccount(accountFile(dir, "1000 tokens/task", "1 USD/day"), &seen)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := start()
	use := func(n int64) int64 { return a.used("anthropic", "m", usage.Tokens{Input: n}, false) }
	if cost := use(700); cost != 700 || seen.count("vault_budget", "") != 0 {
		t.Errorf("%d %+v", cost, seen.list)
	}
	use(200)
	use(50)
	if seen.count("vault_budget", "90 % used") != 1 || seen.count("vault_budget", "") != 1 {
		t.Errorf("%+v", seen.list)
	}
	if err := a.admit(t.Context(), "anthropic"); err != nil {
		t.Error(err)
	}
	use(200)
	if err := a.admit(t.Context(), "anthropic"); err == nil || !strings.Contains(err.Error(), "1k tokens/task") {
		t.Errorf("nobody there: %v", err)
	}
	a.close()

	a = start() // killed or not: the next worker knows
	asked := 0
	answer := true
	a.ask = func(_ context.Context, m clearance.Matter) bool {
		asked++
		if m.Kind != control.VaultBudget || m.Host != "1k tokens of this task" {
			t.Errorf("%+v", m)
		}
		return answer
	}
	if err := a.admit(t.Context(), "anthropic"); err != nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	a.close()
	a = start()
	if err := a.admit(t.Context(), "anthropic"); err != nil {
		t.Errorf("what was granted is gone: %v", err)
	}
	a.ask = func(context.Context, clearance.Matter) bool { asked++; return false }
	a.used("anthropic", "m", usage.Tokens{Input: 900}, true)
	for range 3 {
		if err := a.admit(t.Context(), "anthropic"); err == nil {
			t.Error("a no is a yes")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	a.now = func() time.Time { return time.Now().Add(2 * deniedFor) }
	if err := a.admit(t.Context(), "anthropic"); err == nil || asked != 3 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	if total := a.book.Total(sandbox.PerTask); total.Requests != 5 || total.Estimated != 1 || total.Sum() != 2050 {
		t.Errorf("%+v", total)
	}
	a.close()
}

// A model without a price counts its tokens, and no money.
func TestUnpricedModel(t *testing.T) {
	a, err := openAccount(accountFile(t.TempDir()), audit.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if cost := a.used("anthropic", "new", usage.Tokens{Output: 5}, false); cost != 0 {
		t.Error(cost)
	}
	if total := a.book.Total(sandbox.PerTask); total.Unpriced != 1 || total.Output != 5 {
		t.Errorf("%+v", total)
	}
}

// The project's other tasks count for its budgets.
func TestProjectBudget(t *testing.T) {
	dir := t.TempDir()
	f := accountFile(dir, "1000 tokens/project")
	a, err := openAccount(f, audit.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	other, err := usage.Open(f.Vault.Usage, "other", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Add(usage.Entry{Provider: "anthropic", Requests: 1, Tokens: usage.Tokens{Input: 2000}}); err != nil {
		t.Fatal(err)
	}
	if err := a.admit(t.Context(), "anthropic"); err == nil {
		t.Error("the other task's tokens do not count")
	}
}

// The question of a used up budget reaches whoever answers, and the answer the request.
func TestVaultBudgetAsks(t *testing.T) {
	s := cleared(t, policy.DefaultSettings())
	a, err := openAccount(accountFile(t.TempDir(), "10 tokens/task"), audit.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	a.ask = s.docket.Decide
	a.used("anthropic", "m", usage.Tokens{Input: 15}, false)
	defer s.docket.Answer()()
	got := make(chan error, 2)
	for range 2 { // two requests wait for one answer
		go func() { got <- a.admit(t.Context(), "anthropic") }()
	}
	var r control.Request
	for ctx := t.Context(); r.Held != 2 && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if all := s.docket.Requests(); len(all) > 0 {
			r = all[0]
		}
	}
	if r.Kind != control.VaultBudget || r.State != control.RequestOpen {
		t.Errorf("%+v", r)
	}
	if _, err := s.Verdict(t.Context(), control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto, Choice: control.ChoiceOnce}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if n := a.state.Granted["10 tokens/task"]; n != 1 {
		t.Errorf("granted %d times", n)
	}
}
