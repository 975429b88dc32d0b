package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"net/netip"
	"path/filepath"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/dns"
	"terok/internal/shield/policy"
	"terok/internal/shield/proxy"
	"terok/internal/state"
)

// egress fills in what settings say about names, datagrams and budgets.
func (s *service) egress(cfg *proxy.Config, set policy.Settings) {
	s.datagrams = newDatagrams(s.link, set.Synthetic)
	s.processes = newProcesses(s.link)
	cfg.Datagrams, cfg.Known = s.datagrams.open, s.table.All()
	cfg.Own = serviceNets()
	cfg.Budgets, cfg.OverBudget = set.Budgets, s.overBudget
	if len(set.Budgets) > 0 {
		cfg.Spent = readSpent(spentPath(s.hand.File.Dir))
	}
	s.resolver.Resolved = func(name string, a netip.Addr) { s.proxy.Resolved(name, a) }
	if set.IPv6 && s.hand.V6 {
		s.resolver.IPv6, cfg.Range6 = true, dns.V6Range
	}
}

// serviceNets are where service addresses lie.
func serviceNets() []netip.Prefix {
	return []netip.Prefix{serviceNet(), netip.PrefixFrom(netip.MustParseAddr(sandbox.ServiceHost6), 64).Masked()}
}

// overBudget says what a used up budget's project wants: an answer, or quarantine.
func (s *service) overBudget(ctx context.Context, b proxy.Breach) bool {
	if b.Budget.Breach == policy.BreachQuarantine {
		_, err := s.SetPosture(ctx, control.PostureChange{Posture: control.Quarantine, Actor: "budget",
			Reason: "the egress budget " + b.Budget.String() + " is used up"})
		if err != nil {
			log.Printf("quarantine over a budget: %v", err)
		}
		return false
	}
	if s.askBudget == nil {
		return false
	}
	return s.askBudget(ctx, b)
}

// spentPath is where the budgets' counters outlive a worker: who crashes it must not get a new
// budget.
func spentPath(dir string) string {
	return filepath.Join(filepath.Dir(sandbox.PolicyPath(dir)), "budget.json")
}

// readSpent reads the counters; what cannot be read begins anew, as in a new container.
func readSpent(path string) []proxy.Spent {
	var spent []proxy.Spent
	if err := state.ReadJSON(path, &spent); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Printf("budgets: %v", err)
		return nil
	}
	return spent
}

// keepSpent writes the counters as they change.
func (s *service) keepSpent(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	var saved string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		spent := s.proxy.Spent()
		data, err := json.Marshal(spent)
		if err != nil || len(spent) == 0 || string(data) == saved {
			continue
		}
		if err := state.WriteJSON(spentPath(s.hand.File.Dir), spent); err != nil {
			log.Printf("save budgets: %v", err)
			continue
		}
		saved = string(data)
	}
}
