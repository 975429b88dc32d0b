package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/config"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/idn"
	"terok/internal/shield/policy"
)

// Preview is what rules would do; nothing is applied.
type Preview struct {
	Subject string          `json:"subject"` // the task, sandbox or project
	Posture control.Posture `json:"posture"`
	Rest    string          `json:"rest"` // what happens to what no rule names
	Rules   []PreviewRule   `json:"rules"`
	Targets []PreviewTarget `json:"targets"`
}

// PreviewRule is one rule with what comes of it.
type PreviewRule struct {
	control.RuleView
	Effect string  `json:"effect"` // allow, deny, outranked, expired
	By     *string `json:"by"`     // the rule that outranks it
	Change string  `json:"change"` // against what is in force: same, added, removed; "" for a project
}

// PreviewTarget is a question that was asked along.
type PreviewTarget struct {
	Target  string            `json:"target"`
	Verdict string            `json:"verdict"` // allow, deny, ask
	Tier    string            `json:"tier"`
	Rule    *control.RuleView `json:"rule"`
	Reason  string            `json:"reason"`
}

// looked are the rules that a look is about.
type looked struct {
	subject  string
	next     []policy.Rule // of today's configuration, and live verdicts
	now      []policy.Rule // in force, or from the last start
	compared bool          // now means something
	settings policy.Settings
}

// look gathers the rules of a task or sandbox (target), or of a project for a task with its usual
// agent.
func (a *App) look(target, project string) (*looked, error) {
	if project != "" {
		return a.lookProject(project)
	}
	s, err := a.shielded(target)
	if err != nil {
		return nil, err
	}
	doc, err := loadDocument(sandbox.PolicyPath(s.dir))
	if err != nil {
		return nil, problem.New("policy_unusable", problem.Failed, "%s: %w", target, err).WithHint("terok shield reload %s", target)
	}
	live, err := loadDocument(sandbox.SessionPath(s.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("policy_unusable", problem.Failed, "%s: live verdicts: %w", target, err)
	}
	l := &looked{subject: target, now: append(slices.Clone(doc.Rules), live.Rules...), compared: true, settings: doc.Settings}
	if s.file.Project == "" {
		l.next = l.now
		return l, nil
	}
	t, err := a.tasks().Get(s.file.Project, s.file.Task)
	if err != nil {
		return nil, err
	}
	today, _, err := a.taskDocument(t)
	if err != nil {
		return nil, err
	}
	l.subject, l.next, l.settings = t.Ref(), append(today.Rules, live.Rules...), today.Settings
	return l, nil
}

func (a *App) lookProject(name string) (*looked, error) {
	p, err := a.projects().Get(name)
	if err != nil {
		return nil, err
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	agent, err := set.Agent(firstOf(p.DefaultAgent, "claude"))
	if err != nil {
		return nil, err
	}
	provider, err := set.ProviderFor(agent, p.DefaultProvider)
	if err != nil {
		return nil, err
	}
	rules, err := a.taskRules(p, set, agent, hostsOf(provider), nil)
	if err != nil {
		return nil, err
	}
	return &looked{subject: name, next: rules, settings: p.ShieldSettings(settings(global))}, nil
}

// ShieldPreview says what a task would have after a reload, or a new task of a project, and how it
// would decide about targets (HOST[:PORT]). posture "" is up.
func (a *App) ShieldPreview(target, project string, posture control.Posture, targets []string) (Preview, error) {
	if posture == "" {
		posture = control.Up
	}
	if !slices.Contains([]control.Posture{control.Up, control.Down, control.DownAll, control.Quarantine}, posture) {
		return Preview{}, problem.New("posture_invalid", problem.Usage, "posture %q is not up, down, down-all or quarantine", posture)
	}
	l, err := a.look(target, project)
	if err != nil {
		return Preview{}, err
	}
	now := a.Now()
	v := Preview{Subject: l.subject, Posture: posture, Rules: []PreviewRule{}, Targets: []PreviewTarget{}, Rest: rest(posture, l.settings)}
	hosts, err := hostAddrs()
	if err != nil {
		return v, err
	}
	p := policy.New(l.next, policy.Options{Posture: policy.Posture(posture), CanAsk: l.settings.Ask && l.settings.HoldSeconds > 0, HostAddrs: hosts})
	for _, r := range p.Rules() {
		v.Rules = append(v.Rules, previewRule(p.Rules(), r, l, now))
	}
	if l.compared {
		for _, r := range policy.New(l.now, policy.Options{}).Rules() {
			if !holds(l.next, r) {
				v.Rules = append(v.Rules, PreviewRule{RuleView: ruleView(r), Effect: "none", Change: "removed"})
			}
		}
	}
	for _, text := range targets {
		t, err := decideTarget(p, text, now)
		if err != nil {
			return v, err
		}
		v.Targets = append(v.Targets, t)
	}
	return v, nil
}

func rest(p control.Posture, s policy.Settings) string {
	switch {
	case p == control.Quarantine:
		return "everything is refused, the vault and the gate as well"
	case p == control.DownAll:
		return "everything is allowed and written down, private ranges too; not the floor and what the deny tier refuses"
	case p == control.Down:
		return "public addresses are allowed and written down; private ranges, the host and what the deny tier refuses are not"
	case s.Ask && s.HoldSeconds > 0:
		return fmt.Sprintf("asked about for %d s where somebody can answer, else refused", s.HoldSeconds)
	}
	return "refused"
}

func previewRule(all []policy.Rule, r policy.Rule, l *looked, now time.Time) PreviewRule {
	v := PreviewRule{RuleView: ruleView(r), Effect: "deny"}
	if r.Allows() {
		v.Effect = "allow"
	}
	if l.compared {
		if v.Change = "same"; !holds(l.now, r) {
			v.Change = "added"
		}
	}
	if by := policy.Outranked(all, r, now, true); by != nil {
		v.Effect, v.By = "outranked", opt(by.Text+" ("+by.Tier.String()+", "+by.Source+")")
	}
	if !r.Live(now) {
		v.Effect, v.By = "expired", nil
	}
	return v
}

func holds(list []policy.Rule, r policy.Rule) bool {
	return slices.ContainsFunc(list, func(o policy.Rule) bool { return o.Tier == r.Tier && o.String() == r.String() })
}

func ruleView(r policy.Rule) control.RuleView {
	v := control.RuleView{Rule: r.Text, Tier: r.Tier.String(), Source: r.Source, Reason: r.Reason}
	if !r.Expires.IsZero() {
		v.Expires = r.Expires.UTC().Format(time.RFC3339)
	}
	return v
}

func decideTarget(p *policy.Policy, text string, now time.Time) (PreviewTarget, error) {
	t, err := parseTarget(text)
	if err != nil {
		return PreviewTarget{}, err
	}
	if t.Port == 0 {
		t.Port = 443
	}
	req := policy.Request{Port: t.Port, Proto: t.Proto, Now: now}
	if addr, err := netip.ParseAddr(t.Host); err == nil {
		req.Addr = addr
	} else {
		req.Name = strings.ToLower(strings.TrimSuffix(t.Host, "."))
	}
	d := p.Decide(req)
	v := PreviewTarget{Target: net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))), Verdict: d.Verdict.String(), Tier: d.Tier.String(), Reason: d.Reason}
	if d.Rule != nil {
		view := ruleView(*d.Rule)
		v.Rule = &view
	}
	return v, nil
}

// Resolved is what an allowed name leads to, seen from the host.
type Resolved struct {
	Name      string         `json:"name"`
	Rule      string         `json:"rule"`
	Addresses []ResolvedAddr `json:"addresses"`
	Error     *string        `json:"error"` // why it does not resolve
}

// ResolvedAddr is one address with the judgement that a connection would get.
type ResolvedAddr struct {
	Address string `json:"address"`
	Verdict string `json:"verdict"` // allow, or deny
	Range   string `json:"range"`   // "public", or what refuses it: floor, loopback, host, private, denied
	Reason  string `json:"reason"`
}

// ShieldResolve resolves every exact name that is allowed, with the host's own resolver, and says
// of each address whether it would be dialled. It needs no running container.
func (a *App) ShieldResolve(ctx context.Context, target, project string) ([]Resolved, error) {
	l, err := a.look(target, project)
	if err != nil {
		return nil, err
	}
	hosts, err := hostAddrs()
	if err != nil {
		return nil, err
	}
	rules := l.next
	if l.compared {
		rules = l.now
	}
	p := policy.New(rules, policy.Options{Posture: policy.Up, HostAddrs: hosts})
	return resolveNames(ctx, p, a.Now(), func(ctx context.Context, name string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}), nil
}

// resolveNames asks lookup about eight names at a time, five seconds for each.
func resolveNames(ctx context.Context, p *policy.Policy, now time.Time, lookup func(context.Context, string) ([]netip.Addr, error)) []Resolved {
	out := []Resolved{}
	for _, r := range p.Rules() {
		if r.Allows() && r.Plain() && r.Live(now) && !slices.ContainsFunc(out, func(o Resolved) bool { return o.Name == r.Target() }) {
			out = append(out, Resolved{Name: r.Target(), Rule: r.Text, Addresses: []ResolvedAddr{}})
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range out {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			addrs, err := lookup(ctx, out[i].Name+".") // absolute: no search list of the host
			if err != nil {
				out[i].Error = opt(lookupError(err))
				return
			}
			for _, addr := range addrs {
				out[i].Addresses = append(out[i].Addresses, judge(p, out[i].Name, out[i].Rule, addr.Unmap(), now))
			}
			slices.SortFunc(out[i].Addresses, func(x, y ResolvedAddr) int { return strings.Compare(x.Address, y.Address) })
		})
	}
	wg.Wait()
	return out
}

func lookupError(err error) string {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return d.Err // without the resolver's address
	}
	return err.Error()
}

// judge says what a connection to a name would get at one of its addresses. The port is the first
// that the name's rule opens.
func judge(p *policy.Policy, name, rule string, addr netip.Addr, now time.Time) ResolvedAddr {
	v := ResolvedAddr{Address: addr.String(), Verdict: "deny"}
	port, proto := firstPort(rule)
	d := p.Decide(policy.Request{Name: name, Port: port, Proto: proto, Now: now})
	v.Reason, v.Range = d.Reason, string(policy.RangeDenied)
	if d.Verdict != policy.Allow {
		return v
	}
	err := p.CheckDial(d, name, addr, port)
	refused, is := errors.AsType[*policy.DialError](err)
	switch {
	case err == nil:
		v.Verdict, v.Range = "allow", "public"
		if policy.PrivateAddr(addr) {
			v.Range = "private" // and a rule opens it
		}
	case is:
		v.Range, v.Reason = string(refused.Class), refused.Message
	}
	return v
}

// firstPort reads the first port of a rule in canonical form.
func firstPort(rule string) (uint16, string) {
	target, _, _ := strings.Cut(rule, " ")
	proto := "tcp"
	if t, ok := strings.CutSuffix(target, "/udp"); ok {
		target, proto = t, "udp"
	}
	i := strings.LastIndexByte(target, ':')
	end := i + 1
	for end < len(target) && '0' <= target[end] && target[end] <= '9' {
		end++
	}
	if n, err := strconv.ParseUint(target[i+1:end], 10, 16); i >= 0 && err == nil && n > 0 {
		return uint16(n), proto
	}
	return 443, proto
}

// hostAddrs are the addresses of the host's interfaces, which no rule but an override opens.
func hostAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("the host's own addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

// hostName brings a typed host into the form that policy knows.
func hostName(s string) (string, error) {
	name, err := idn.Name(s)
	if err != nil {
		return "", problem.New("usage", problem.Usage, "%w", err)
	}
	return name, nil
}

// ShieldRules lists the rules of a container in the order of decision: of its supervisor, or, when
// it does not run, those that are written down for it (running is false then).
func (a *App) ShieldRules(ctx context.Context, target string) (rules []control.RuleView, running bool, err error) {
	s, err := a.shielded(target)
	if err != nil {
		return nil, false, err
	}
	rules, err = s.client().Rules(ctx)
	if !errors.Is(err, control.ErrNoSupervisor) {
		return append([]control.RuleView{}, rules...), true, s.explain(err)
	}
	doc, err := loadDocument(sandbox.PolicyPath(s.dir))
	if err != nil {
		return nil, false, problem.New("policy_unusable", problem.Failed, "%s: %w", target, err).WithHint("terok shield reload %s", target)
	}
	live, err := loadDocument(sandbox.SessionPath(s.dir))
	if err != nil && !os.IsNotExist(err) {
		return nil, false, problem.New("policy_unusable", problem.Failed, "%s: live verdicts: %w", target, err)
	}
	out := []control.RuleView{}
	for _, r := range policy.New(append(doc.Rules, live.Rules...), policy.Options{}).Rules() {
		out = append(out, ruleView(r))
	}
	return out, false, nil
}
