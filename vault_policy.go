package terok

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"terok/internal/audit"
	"terok/internal/config"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/vault/endpoint"
)

// VaultRoute is one host through which a provider is reached.
type VaultRoute struct {
	Provider string   `json:"provider"`
	Host     string   `json:"host"`
	Port     uint16   `json:"port"`
	Upstream string   `json:"upstream"` // "" when requests go to the host itself
	Kinds    []string `json:"kinds"`    // of credentials
	Serves   []string `json:"serves"`   // protocols
	Forge    string   `json:"forge"`    // "github", "gitlab" or ""
	Rules    []string `json:"rules"`
	Default  string   `json:"default"` // for requests that no rule matches
}

// VaultRoutes lists where credentials go.
func (a *App) VaultRoutes() ([]VaultRoute, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	for _, p := range set.Problems() {
		a.say("warning: %v", p)
	}
	routes := []VaultRoute{}
	for _, p := range set.Providers() {
		routes = append(routes, routesOf(p)...)
	}
	return routes, nil
}

func routesOf(p *roster.Provider) []VaultRoute {
	serves := []string{}
	for _, protocol := range []string{sandbox.AnthropicMessages, sandbox.OpenAIResponses, sandbox.OpenAIChat} {
		if p.Serves[protocol] != "" {
			serves = append(serves, protocol)
		}
	}
	var routes []VaultRoute
	for _, r := range p.Routes {
		routes = append(routes, VaultRoute{Provider: p.Name, Host: r.Host, Port: r.Port, Upstream: r.Upstream, Kinds: p.Kinds, Serves: serves,
			Forge: p.Forge, Rules: append([]string{}, r.Policy...), Default: cmp.Or(r.Default, "deny")})
	}
	return routes
}

// VaultPolicy is what tasks of a project may ask of a provider.
type VaultPolicy struct {
	Provider    string       `json:"provider"`
	Project     string       `json:"project"` // "" without one
	Routes      []VaultRoute `json:"routes"`
	Rules       []string     `json:"rules"`        // of the project, before those of the routes
	Widen       bool         `json:"widen"`        // they can open something
	ServerFetch bool         `json:"server_fetch"` // requests may make the provider call addresses
	Repos       string       `json:"repos"`        // "project" or "all"; "" where there are none
}

// VaultPolicy says what tasks may ask of a provider; project "" is none.
func (a *App) VaultPolicy(provider, project string) (VaultPolicy, error) {
	_, v, err := a.vaultPolicy(provider, project)
	return v, err
}

func (a *App) vaultPolicy(provider, project string) (*roster.Provider, VaultPolicy, error) {
	v := VaultPolicy{Project: project, Rules: []string{}}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, v, err
	}
	p, err := set.Credential(provider)
	if err != nil {
		return nil, v, err
	}
	v.Provider, v.Routes = p.Name, routesOf(p)
	if p.Forge != "" {
		v.Repos = "project"
	}
	if project == "" {
		return p, v, nil
	}
	pr, err := a.projects().Get(project)
	if err != nil {
		return nil, v, err
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, v, err
	}
	v.Rules = append(v.Rules, pr.Vault.Policy[p.Name]...)
	v.Widen, v.ServerFetch = global.Vault.AllowWiden, pr.Vault.ServerFetch == "allow"
	if p.Forge != "" {
		v.Repos = cmp.Or(pr.Vault.Repos, "project")
	}
	return p, v, nil
}

// VaultVerdict is what the endpoint policy says about one request.
type VaultVerdict struct {
	Provider string `json:"provider"`
	Host     string `json:"host"`
	Method   string `json:"method"`
	Path     string `json:"path"`
	Action   string `json:"action"` // allow, deny, local, token or substitute
	Rule     string `json:"rule"`   // that decided; "" for the default
	Source   string `json:"source"` // provider, project or path
	Note     string `json:"note"`   // what else is judged, "" for nothing
}

// VaultPolicyTest judges a request as a task's front would before it reads the body. Target is a
// path of the provider's main host, or https://HOST/PATH. A refusal is the problem path_denied
// (exit 1) beside the verdict.
func (a *App) VaultPolicyTest(project, provider, method, target string) (VaultVerdict, error) {
	v := VaultVerdict{Method: strings.ToUpper(method), Path: target}
	p, pol, err := a.vaultPolicy(provider, project)
	if err != nil {
		return v, err
	}
	v.Provider = p.Name
	u, err := url.Parse(target)
	if err != nil || !strings.HasPrefix(u.EscapedPath(), "/") {
		return v, problem.New("usage", problem.Usage, "%q is neither /PATH nor https://HOST/PATH", target).
			WithHint("terok vault policy test %s %s POST /v1/messages", project, provider)
	}
	v.Host = cmp.Or(u.Hostname(), p.Host())
	i := slices.IndexFunc(p.Routes, func(r sandbox.Route) bool { return r.Host == v.Host })
	if i < 0 {
		return v, problem.New("host_unknown", problem.Usage, "%s is not reached at %s", p.Name, v.Host).
			WithHint("one of: %s", strings.Join(p.Hosts(), ", "))
	}
	v.Path = u.EscapedPath()
	path, ok := endpoint.Parse(&url.URL{Path: u.Path, RawPath: u.RawPath}, p.Forge != "")
	if !ok {
		v.Action, v.Source = "deny", "path"
		return v, problem.New("bad_target", problem.Failed, "the path can be read in more than one way, and is refused (400)")
	}
	layers := endpoint.Layers{Widen: pol.Widen}
	if layers.Base, err = endpoint.New(p.Routes[i].Policy, p.Routes[i].Default); err != nil {
		return v, err
	}
	if len(pol.Rules) > 0 {
		if layers.Project, err = endpoint.New(pol.Rules, "allow"); err != nil {
			return v, err
		}
	}
	action, by, byProject := layers.Decide(v.Method, path)
	v.Action, v.Source = string(action), "provider"
	if byProject {
		v.Source = "project"
	}
	if by != nil {
		v.Rule = by.String()
	}
	if action == endpoint.Deny {
		return v, problem.New("path_denied", problem.Failed, "%s %s is refused", v.Method, v.Path)
	}
	if p.Forge != "" && pol.Repos == "project" && v.Method != "GET" && v.Method != "HEAD" {
		v.Note = "only in the project's repository"
	}
	return v, nil
}

// Learned is a refused request with the rule that would let it through.
type Learned struct {
	Provider string `json:"provider"`
	Host     string `json:"host"`
	Method   string `json:"method"`
	Path     string `json:"path"` // an example
	Reason   string `json:"reason"`
	Count    int    `json:"count"`
	Rule     string `json:"rule"` // "" where no rule helps: another repository
}

// maxLearned bounds what is learned from a ledger that a hostile workload filled.
const maxLearned = 500

// VaultPolicyLearn folds the requests of a task that its front refused by path.
func (a *App) VaultPolicyLearn(target string) ([]Learned, error) {
	s, err := a.shielded(target)
	if err != nil {
		return nil, err
	}
	by := map[string]*Learned{}
	err = audit.Read(sandbox.LedgerPath(s.dir), audit.Filter{}, func(e audit.Event) error {
		path := e.Detail["path"]
		if e.Ev != "vault_request" || path == "" || e.Verdict != "deny" {
			return nil
		}
		l := Learned{Provider: e.Provider, Host: e.Name, Method: e.Method, Path: path, Reason: e.Reason}
		if e.Reason == "path_denied" {
			if r, err := endpoint.ParseRule("allow " + e.Method + " " + general(path)); err == nil {
				l.Rule = r.String()
			}
		}
		key := strings.Join([]string{l.Provider, l.Host, l.Method, general(path), l.Reason}, "\x00")
		if known := by[key]; known != nil {
			known.Count++
		} else if len(by) < maxLearned {
			l.Count = 1
			by[key] = &l
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := []Learned{}
	for _, l := range by {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(x, y Learned) int {
		return cmp.Or(strings.Compare(x.Provider, y.Provider), cmp.Compare(y.Count, x.Count), strings.Compare(x.Path, y.Path), strings.Compare(x.Method, y.Method))
	})
	return out, nil
}

var idSegment = regexp.MustCompile(`^([0-9]+|[0-9a-fA-F-]{16,}|[A-Za-z]+_[0-9A-Za-z]{12,})$`)

// general writes the segments of a path that are ids as "*".
func general(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if idSegment.MatchString(p) {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

// verifyVault is what the probe of `terok verify` tries at a provider; false when its phantom is
// in no variable.
func verifyVault(g *sandbox.Grant) (control.VerifyVault, bool) {
	v := control.VerifyVault{Provider: g.Provider, Host: g.Routes[0].Host, Env: slices.Sorted(maps.Keys(g.Auth[g.Kind].Env)),
		Method: "GET", Open: "/terok-verify", DeniedMethod: "POST", Denied: "/terok-verify-denied", Forge: g.Forge, Confined: g.Forge != "" && !g.AllRepos}
	p, err := endpoint.New(g.Routes[0].Policy, g.Routes[0].Default)
	if err != nil {
		return v, false
	}
	concrete := strings.NewReplacer("/**", "", "*", "x")
	open, denied := false, false
	for _, r := range p.Rules() {
		path := concrete.Replace(r.Pattern)
		method := "GET"
		if len(r.Methods) > 0 {
			method = r.Methods[0]
		}
		q, ok := endpoint.ParseString(path, g.Forge != "")
		if !ok {
			continue
		}
		switch a, _ := p.Decide(method, q); {
		case a == endpoint.Allow && !open:
			v.Method, v.Open, open = method, path, true
		case a == endpoint.Deny && r.Action == endpoint.Deny && !denied:
			v.DeniedMethod, v.Denied, denied = method, path, true
		}
	}
	if !g.ServerFetch {
		for _, protocol := range []string{sandbox.AnthropicMessages, sandbox.OpenAIResponses, sandbox.OpenAIChat} {
			base, ok := g.Serves[protocol]
			if !ok {
				continue
			}
			path := strings.TrimSuffix(base, "/") + map[string]string{sandbox.AnthropicMessages: "/v1/messages", sandbox.OpenAIResponses: "/responses",
				sandbox.OpenAIChat: "/chat/completions"}[protocol]
			if q, ok := endpoint.ParseString(path, false); ok {
				if a, _ := p.Decide("POST", q); a == endpoint.Allow {
					v.Fetch = path
					break
				}
			}
		}
	}
	return v, len(v.Env) > 0
}
