package terok

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/shield/profile"
)

// Harvested is something that a container tried and was refused, as a proposal for shield.allow.
// Counts are what the ledger has: a floor, since it folds repetitions.
type Harvested struct {
	Host      string    `json:"host"`
	Ports     []uint16  `json:"ports"` // none: it was only looked up
	Proto     string    `json:"proto"`
	Count     uint64    `json:"count"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	Tier      string    `json:"tier"` // that refused it
	Risk      []string  `json:"risk"`
	Rule      *string   `json:"rule"` // the proposal; null where no allow would help
	Why       string    `json:"why"`  // why there is none, or "allowed by now"
	Already   bool      `json:"already_allowed"`
}

// Harvest folds the refusals in a container's ledger into proposals: those that a rule could open
// first, then by count. It needs no running container.
func (a *App) Harvest(target string) ([]Harvested, error) {
	s, err := a.shielded(target)
	if err != nil {
		return nil, err
	}
	var folds folds
	err = audit.Read(sandbox.LedgerPath(s.dir), audit.Filter{}, func(e audit.Event) error { folds.add(e); return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := a.look(target, "")
	if err != nil {
		return nil, err
	}
	out := folds.propose(l.next, a.Now())
	slices.SortStableFunc(out, func(x, y Harvested) int {
		rank := func(h Harvested) int {
			if h.Rule == nil {
				return 1
			}
			return 0
		}
		return cmp.Or(rank(x)-rank(y), cmp.Compare(y.Count, x.Count), strings.Compare(x.Host, y.Host))
	})
	return out, nil
}

// refusals are the events of a ledger that a harvest is about, with what was refused in them.
var refusals = []string{"name_blocked", "name_denied", "flow_blocked", "flow_denied", "flow_private", "dns_rebind", "name_mismatch"}

// maxFolds bounds a harvest: a hostile workload can fill its ledger with names.
const maxFolds = 2000

type foldKey struct{ host, proto string }

// folds are refusals by host and protocol.
type folds struct {
	order []foldKey
	by    map[foldKey]*Harvested
}

func (f *folds) add(e audit.Event) {
	if !slices.Contains(refusals, e.Ev) || e.Verdict == "allow" {
		return
	}
	host := firstOf(e.Name, e.IP)
	if e.Ev == "name_mismatch" {
		host = e.Detail["second"] // the connection's own name was allowed
	}
	proto := "tcp"
	if e.Proto == "udp" {
		proto = "udp"
	}
	k := foldKey{host, proto}
	h := f.by[k]
	if h == nil {
		if host == "" || len(f.order) >= maxFolds {
			return
		}
		if f.by == nil {
			f.by = map[foldKey]*Harvested{}
		}
		h = &Harvested{Host: host, Proto: proto, Ports: []uint16{}, FirstSeen: e.TS, Risk: []string{}}
		f.by[k] = h
		f.order = append(f.order, k)
	}
	if e.Port == 0 || e.Proto == "dns" { // looked up; the connection has a line of its own
		if h.Count == 0 {
			h.LastSeen = e.TS
		}
		return
	}
	if !slices.Contains(h.Ports, e.Port) && len(h.Ports) < 64 {
		h.Ports = append(h.Ports, e.Port)
		slices.Sort(h.Ports)
	}
	h.Count += max(e.Count, 1)
	h.LastSeen = e.TS
	h.Tier = firstOf(e.Tier, h.Tier)
}

// propose makes a rule of each, and says where none would help. What came from the container
// becomes a rule only through the grammar, which knows no other bytes than those of names.
func (f *folds) propose(rules []policy.Rule, now time.Time) []Harvested {
	out := []Harvested{}
	p := policy.New(rules, policy.Options{Posture: policy.Up})
	for _, k := range f.order {
		h := *f.by[k]
		if h.Count == 0 {
			h.Count = 1
		}
		text := h.Host
		a, err := netip.ParseAddr(h.Host)
		isAddr := err == nil
		if isAddr && a.Is6() {
			text = "[" + text + "]"
		}
		ports := h.Ports
		if len(ports) == 0 {
			ports = []uint16{443}
		}
		var list []string
		for _, port := range ports {
			list = append(list, strconv.Itoa(int(port)))
		}
		text += ":" + strings.Join(list, ",")
		if h.Proto == "udp" {
			text += "/udp"
		}
		h.Risk = append([]string{}, profile.Risk(h.Host)...)
		r, err := policy.ParseRule("+"+text, policy.Project, "harvest")
		if e, ok := errors.AsType[*policy.RuleError](err); ok {
			h.Why = e.Message
		} else if !isAddr && (!r.Plain() || r.Target() != strings.ToLower(h.Host)) {
			h.Why = "not one host" // a "name" that reads as a wildcard, as options, or as the host's loopback
		} else if by := policy.Outranked(rules, r, now, true); by != nil {
			h.Why = fmt.Sprintf("the %s rule %q (%s) comes first", by.Tier, by.Text, by.Source)
		} else if allOpen(p, r, ports, now) {
			h.Why, h.Already = "allowed by now", true
		} else {
			h.Rule = opt(strings.TrimPrefix(r.Text, "+"))
		}
		out = append(out, h)
	}
	return out
}

// allOpen tells whether every port is allowed already.
func allOpen(p *policy.Policy, r policy.Rule, ports []uint16, now time.Time) bool {
	for _, port := range ports {
		q := policy.Request{Port: port, Proto: "tcp", Now: now}
		if strings.Contains(r.Text, "/udp") {
			q.Proto = "udp"
		}
		if a, err := netip.ParseAddr(r.Target()); err == nil {
			q.Addr = a
		} else {
			q.Name = r.Target()
		}
		if p.Decide(q).Verdict != policy.Allow {
			return false
		}
	}
	return true
}

// HarvestPromotion is what a promoted harvest left.
type HarvestPromotion struct {
	Project string      `json:"project"`
	File    string      `json:"file"`
	Rules   []string    `json:"rules"`
	Tasks   []Reloaded  `json:"tasks"`
	Rest    []Harvested `json:"rest"` // that was not chosen
}

// PromoteHarvest writes chosen proposals of a task into its project's shield.allow, after a
// question, and makes the project's tasks use them. choose names hosts or rules of the harvest;
// "all" stands for every proposal without a risk.
func (a *App) PromoteHarvest(ctx context.Context, target string, choose []string) (HarvestPromotion, error) {
	v := HarvestPromotion{Rules: []string{}, Tasks: []Reloaded{}, Rest: []Harvested{}}
	s, err := a.shielded(target)
	if err != nil {
		return v, err
	}
	if s.file.Project == "" {
		return v, problem.New("no_project", problem.Usage, "%s belongs to no project", target).WithHint("terok shield allow %s RULE", target)
	}
	p, err := a.projects().Get(s.file.Project)
	if err != nil {
		return v, err
	}
	v.Project, v.File = p.Name, p.File
	found, err := a.Harvest(target)
	if err != nil {
		return v, err
	}
	picked, rest, err := pick(found, choose)
	if err != nil {
		return v, err
	}
	v.Rest = rest
	if a.Confirm == nil {
		return v, problem.New("needs_answer", problem.Declined, "writing into %s needs a confirmation", p.File).
			WithHint("terok shield harvest %s --promote %s --yes", target, strings.Join(choose, " --promote "))
	}
	var lines []string
	for _, h := range picked {
		line := *h.Rule
		if len(h.Risk) > 0 {
			line += " (" + strings.Join(h.Risk, ", ") + ")"
		}
		lines = append(lines, line)
	}
	ok, err := a.Confirm(fmt.Sprintf("Allow for every task of %s: %s?", p.Name, strings.Join(lines, ", ")))
	if err != nil {
		return v, err
	}
	if !ok {
		return v, problem.New("declined", problem.Declined, "nothing was written")
	}
	for _, h := range picked {
		if _, err := a.projects().AddRule(p.Name, "+"+*h.Rule); err != nil {
			return v, err
		}
		v.Rules = append(v.Rules, *h.Rule)
		a.note("project_rule", map[string]string{"project": p.Name, "rule": "+" + *h.Rule, "harvest": target})
	}
	v.Tasks, err = a.ShieldReloadProject(ctx, p.Name)
	return v, err
}

// pick finds what is chosen in a harvest.
func pick(found []Harvested, choose []string) (picked, rest []Harvested, err error) {
	used := map[int]bool{}
	for _, word := range choose {
		hit := false
		for i, h := range found {
			all := word == "all" && h.Rule != nil && len(h.Risk) == 0
			named := word == h.Host || h.Rule != nil && word == *h.Rule
			if !all && !named {
				continue
			}
			hit = true
			if h.Rule == nil {
				return nil, nil, problem.New("not_promotable", problem.Conflict, "%s cannot be allowed: %s", word, h.Why)
			}
			if !used[i] {
				used[i] = true
				picked = append(picked, h)
			}
		}
		if !hit && word == "all" {
			return nil, nil, problem.New("nothing_harvested", problem.NotFound, "no proposal is without a risk")
		}
		if !hit {
			return nil, nil, problem.New("not_harvested", problem.NotFound, "%q is not in the harvest", word)
		}
	}
	rest = []Harvested{}
	for i, h := range found {
		if !used[i] {
			rest = append(rest, h)
		}
	}
	return picked, rest, nil
}

// RiskOf says what allowing a rule's target can mean; see package profile.
func RiskOf(rule string) []string {
	r, err := parseRule(rule, policy.Session, "rule")
	if err != nil {
		return nil
	}
	return profile.Risk(strings.TrimPrefix(strings.TrimPrefix(r.Target(), "*"), "."))
}
