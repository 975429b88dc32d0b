package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"terok/internal/config"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/idn"
	"terok/internal/shield/policy"
	"terok/internal/state"
	"terok/internal/task"
)

// taskRules are the policy of a task: hosts that the vault relays are denied except through the
// vault, the task's own among them, then what the project says, the person asked for and the agent
// needs.
func (a *App) taskRules(p *project.Project, set *roster.Roster, agent *roster.Agent, own []string, allow []string) ([]policy.Rule, error) {
	rules, err := p.Rules()
	if err != nil {
		return nil, err
	}
	add := func(tier policy.Tier, rule, source string) error {
		r, err := parseRule(rule, tier, source)
		if err != nil {
			return problem.New("rule_invalid", problem.Usage, "%w", err).WithHint("e.g. --allow registry.npmjs.org:443")
		}
		rules = append(rules, r)
		return nil
	}
	for _, host := range relayed(set, own) {
		if err := add(policy.Denied, "-"+host, policy.RelaySource); err != nil {
			return nil, err
		}
	}
	for _, text := range allow {
		if err := add(policy.Project, text, "--allow"); err != nil {
			return nil, err
		}
	}
	for _, text := range agent.Egress {
		if err := add(policy.Agent, text, "agent "+agent.Name); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// relayed are the hosts that only the vault may reach: of the task's own providers, and of every
// other one, so that nobody else's key carries data out through them.
func relayed(set *roster.Roster, own []string) []string {
	hosts := append(slices.Clone(own), set.RelayedHosts()...)
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// parseRule reads a rule that a person typed.
func parseRule(text string, tier policy.Tier, source string) (policy.Rule, error) {
	ascii, err := idn.Rule(text)
	if err != nil {
		return policy.Rule{}, err
	}
	r, err := policy.ParseRule(ascii, tier, source)
	if e, ok := errors.AsType[*policy.RuleError](err); ok {
		return r, fmt.Errorf("%s %q: column %d: %s", source, text, e.Column, e.Message)
	}
	return r, err
}

// taskDocument is what a task's policy.json would be if it were made now, from today's
// configuration.
func (a *App) taskDocument(t *task.Task) (policy.Document, *project.Project, error) {
	var none policy.Document
	p, err := a.projects().Get(t.Project)
	if err != nil {
		return none, nil, err
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return none, nil, err
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return none, nil, err
	}
	agent, err := set.Agent(t.Agent)
	if err != nil {
		return none, nil, err
	}
	provider, err := set.ProviderFor(agent, t.Provider)
	if err != nil {
		return none, nil, err
	}
	own := hostsOf(provider)
	if f, err := sandbox.Load(sandbox.Path(t.Dir(a.Roots))); err == nil && f.Vault != nil {
		own = grantedHosts(f.Vault.Grants)
	}
	rules, err := a.taskRules(p, set, agent, own, t.Allow)
	if err != nil {
		return none, nil, err
	}
	return policy.Document{Settings: p.ShieldSettings(settings(global)), Rules: rules}, p, nil
}

// useRules says what a person should know about rules that are used from now on, and begins the
// life of overrides that name no end.
func (a *App) useRules(p *project.Project, rules []policy.Rule) error {
	now := a.Now()
	for i := range rules {
		r := &rules[i]
		switch {
		case !r.Live(now):
			a.say("warning: %s: %s ended at %s and has no effect", r.Source, r.Text, r.Expires.Format(time.RFC3339))
		case r.Tier == policy.Override && r.Range():
			a.say("warning: %s: the override opens a range, %s, until %s", r.Source, r.Target(), r.Expires.Format(time.RFC3339))
		}
	}
	return p.Begin()
}

// Reloaded is what a reload of one task or sandbox did.
type Reloaded struct {
	Target  string   `json:"target"`
	Applied bool     `json:"applied"` // false: it does not run, and uses the new rules from its next start
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Expired []string `json:"expired"` // in the configuration, without effect
}

// refreshPolicy writes a task's policy.json anew from today's configuration; a running supervisor
// does not know yet. Two commands at the same time write one after the other.
func (a *App) refreshPolicy(t *task.Task) (Reloaded, error) {
	v := Reloaded{Target: t.Ref(), Added: []string{}, Removed: []string{}, Expired: []string{}}
	path := sandbox.PolicyPath(t.Dir(a.Roots))
	unlock, err := state.LockFor(path, 10*time.Second)
	if err != nil {
		return v, err
	}
	defer unlock()
	doc, p, err := a.taskDocument(t)
	if err != nil {
		return v, err
	}
	if err := a.useRules(p, doc.Rules); err != nil {
		return v, err
	}
	data, err := policy.EncodeDocument(doc)
	if err != nil {
		return v, problem.New("policy_invalid", problem.Usage, "%w", err)
	}
	// An unreadable old one differs in everything.
	old, _ := loadDocument(path)
	now := a.Now()
	v.Added, v.Removed = without(doc.Rules, old.Rules, now), without(old.Rules, doc.Rules, now)
	for i := range doc.Rules {
		if !doc.Rules[i].Live(now) {
			v.Expired = append(v.Expired, doc.Rules[i].Text)
		}
	}
	return v, state.WriteFile(path, data)
}

// without lists the live rules of one list that the other has not.
func without(list, other []policy.Rule, now time.Time) []string {
	out := []string{}
	for i := range list {
		r := &list[i]
		if r.Live(now) && !slices.ContainsFunc(other, func(o policy.Rule) bool { return o.Tier == r.Tier && o.String() == r.String() }) {
			out = append(out, r.String())
		}
	}
	return out
}

func loadDocument(path string) (policy.Document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return policy.Document{}, err
	}
	return policy.DecodeDocument(data)
}

// ShieldReload makes a task use today's configuration, at once if it runs; what is no longer
// allowed is cut before it returns. A sandbox reads its own policy again.
func (a *App) ShieldReload(ctx context.Context, target string) (Reloaded, error) {
	s, err := a.shielded(target)
	if err != nil {
		return Reloaded{}, err
	}
	v := Reloaded{Target: target, Added: []string{}, Removed: []string{}, Expired: []string{}}
	if s.file.Project != "" {
		t, err := a.tasks().Get(s.file.Project, s.file.Task)
		if err != nil {
			return v, err
		}
		if v, err = a.refreshPolicy(t); err != nil {
			return v, err
		}
	}
	switch _, err := s.client().Reload(ctx); {
	case err == nil:
		v.Applied = true
	case !errors.Is(err, control.ErrNoSupervisor):
		return v, s.explain(err)
	}
	return v, nil
}

// ShieldReloadProject does it for every task of a project that has ever started. It goes on after
// an error; the problem names the tasks that failed.
func (a *App) ShieldReloadProject(ctx context.Context, name string) ([]Reloaded, error) {
	if _, err := a.projects().Get(name); err != nil {
		return nil, err
	}
	entries, err := a.tasks().List(name)
	if err != nil {
		return nil, err
	}
	out := []Reloaded{}
	var failed error
	for _, e := range entries {
		if _, err := os.Lstat(sandbox.Path(a.Roots.TaskDir(e.Project, e.ID))); errors.Is(err, fs.ErrNotExist) {
			continue // never started: it will begin with today's rules
		}
		v, err := a.ShieldReload(ctx, e.Project+"/"+e.ID)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s/%s: %w", e.Project, e.ID, err))
			continue
		}
		out = append(out, v)
	}
	if failed != nil {
		return out, problem.New("reload_incomplete", problem.Failed, "not every task uses the new rules: %w", failed).
			WithHint("terok shield reload --project %s", name)
	}
	return out, nil
}

// ProjectRule is what a change of a project's rules did.
type ProjectRule struct {
	Project string     `json:"project"`
	File    string     `json:"file"`
	Rule    string     `json:"rule"`
	Changed bool       `json:"changed"` // false: the file said so already
	Tasks   []Reloaded `json:"tasks"`   // that were reached
}

// ShieldProject writes a rule ("+example.org:443" or "-example.org", markers allowed) into a
// project's configuration, or takes it out, and makes its tasks use it at once. An allow that a
// deny tier outranks is refused: code rule_outranked, exit 7.
func (a *App) ShieldProject(ctx context.Context, name, rule string, remove bool) (ProjectRule, error) {
	v := ProjectRule{Project: name, Tasks: []Reloaded{}}
	p, err := a.projects().Get(name)
	if err != nil {
		return v, err
	}
	v.File = p.File
	tier := policy.Project
	if len(rule) > 0 && rule[0] == '-' {
		tier = policy.Denied
	}
	r, err := parseRule(rule, tier, "rule")
	if err != nil {
		return v, problem.New("rule_invalid", problem.Usage, "%w", err).WithHint("terok shield allow --help")
	}
	v.Rule = r.Text
	if !remove {
		if err := a.projectOutranked(p, r); err != nil {
			return v, err
		}
	}
	if remove {
		v.Changed, err = a.projects().RemoveRule(name, r.String())
	} else {
		v.Changed, err = a.projects().AddRule(name, r.String())
	}
	if err != nil {
		return v, err
	}
	if remove && !v.Changed {
		return v, problem.New("rule_not_found", problem.NotFound, "%s has no rule %s", p.File, r.Text).
			WithHint("terok project show %s", name)
	}
	if v.Changed {
		a.note("project_rule", map[string]string{"project": name, "rule": r.String(), "removed": fmt.Sprint(remove)})
	}
	v.Tasks, err = a.ShieldReloadProject(ctx, name)
	return v, err
}

// projectOutranked refuses an allow that would decide nothing in any task of the project.
func (a *App) projectOutranked(p *project.Project, r policy.Rule) error {
	rules, err := p.Rules()
	if err != nil {
		return err
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return err
	}
	// The same target in shield.deny gives way: the last word about one target holds.
	rules = slices.DeleteFunc(rules, func(x policy.Rule) bool { return x.Tier == policy.Denied && x.Text[1:] == r.Text[1:] })
	for _, host := range relayed(set, nil) {
		x, err := policy.ParseRule("-"+host, policy.Denied, policy.RelaySource)
		if err != nil {
			return err
		}
		rules = append(rules, x)
	}
	by := policy.Outranked(rules, r, a.Now(), true)
	if by == nil {
		return nil
	}
	e := problem.New("rule_outranked", problem.Conflict, "%s would have no effect: the %s rule %q (%s) comes first", r.Text, by.Tier, by.Text, by.Source)
	if by.Source == policy.RelaySource {
		return e.WithHint("agents reach it through the vault: terok auth; or open it for a while with shield.override in %s", p.File)
	}
	return e.WithHint("take that rule out, or open the host for a while with shield.override in %s", p.File)
}
