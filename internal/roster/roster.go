// Package roster holds agents and providers as data: which programs terok can run, how each is
// installed, started, kept quiet and spoken to without a person, and through which provider
// routes it reaches its model.
//
// Built-in entries live in agents.go and providers.go. A user adds entries, or changes single
// keys of the built-in ones, with agents/NAME.yml and providers/NAME.yml below the
// configuration root. A file that is wrong takes out its own entry only: asking for that entry
// returns the file's error, every other entry keeps working, and Problems lists what is wrong.
//
// The roster holds no secret and touches neither network nor container. No other package knows
// an agent by its name; what differs between agents is a field here.
//
//	r, err := roster.Load(roots)
//	a, err := r.Agent("claude")            // Problem agent_unknown with a suggestion
//	p, err := r.ProviderFor(a)             // the first provider it can use
//	prep, err := a.Prepare(p, roster.Launch{Prompt: "…"})
package roster

import (
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"

	"terok/internal/problem"
	"terok/internal/sandbox"
)

// Agent is one program that terok can run as an agent.
type Agent struct {
	Name    string  // [a-z][a-z0-9-]*, also the file stem of a user's entry
	Title   string  // for people, e.g. "Claude Code"
	Install Install // zero when Command is expected in the image
	Command string  // program: a path below the bundle when Install is set, else a name in PATH

	Providers []string // roster names, the first is the default; empty: needs no credential
	Egress    []string // further rules in policy grammar, tier agent, e.g. "+example.org:443"
	Stream    string   // form of the headless output: "claude" or "plain"

	// Managed are the agent's administrative settings, which outrank those of a repository and of
	// the home directory. They are mounted read-only: also root of the container cannot change them.
	Managed []Managed

	Spec sandbox.Agent // how the wrapper in the container starts it; Name and Program are filled in
}

// Managed is one file of administrative settings.
type Managed struct {
	Path         string // inside the container: /etc/DIRECTORY/FILE
	Unrestricted string // content for a task in which the agent does not ask; "" is no file
	Restricted   string // content for a task in which it does; "" is no file
}

// Install says which npm package holds an agent. Scripts of the package are never run.
type Install struct {
	Package string // may hold "{arch}": x64 or arm64
	Version string // exact version of the pin
	Bin     string // program inside the bundle, relative; may hold "{arch}"
}

// None reports whether there is nothing to install.
func (i Install) None() bool { return i.Package == "" }

// Resolve replaces "{arch}" for a GOARCH. It fails for a machine the package is not made for.
func (i Install) Resolve(goarch string) (Install, error) {
	if !strings.Contains(i.Package+i.Bin, "{arch}") {
		return i, nil
	}
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[goarch]
	if !ok {
		return i, fmt.Errorf("%s is not published for %s", i.Package, goarch)
	}
	i.Package = strings.ReplaceAll(i.Package, "{arch}", arch)
	i.Bin = strings.ReplaceAll(i.Bin, "{arch}", arch)
	return i, nil
}

// Roster is the set of known agents and providers. It is read-only after Load.
type Roster struct {
	agents    map[string]*Agent
	providers map[string]*Provider
	broken    map[string]error // "agents/NAME" or "providers/NAME" → why the entry cannot be used
}

// Agents lists the usable agents by name.
func (r *Roster) Agents() []*Agent { return sorted(r.agents) }

// Providers lists the usable providers by name.
func (r *Roster) Providers() []*Provider { return sorted(r.providers) }

// RelayedHosts are the hosts that serve nothing but what a credential is for. A host that a
// provider shares with other uses (Provider.SharedDomain) is none, whoever else is there.
func (r *Roster) RelayedHosts() []string {
	shared := map[string]bool{}
	for _, p := range r.Providers() {
		for _, host := range p.Hosts() {
			shared[host] = shared[host] || p.SharedDomain
		}
	}
	return slices.DeleteFunc(keys(shared), func(host string) bool { return shared[host] })
}

// Problems lists what is wrong with the user's files, in stable order.
func (r *Roster) Problems() []error {
	keys := make([]string, 0, len(r.broken))
	for k := range r.broken {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	errs := make([]error, len(keys))
	for i, k := range keys {
		errs[i] = r.broken[k]
	}
	return errs
}

// Agent finds an agent. An unknown name is a Problem "agent_unknown" (exit 2) that suggests the
// nearest; a name whose file is wrong returns that file's error.
func (r *Roster) Agent(name string) (*Agent, error) {
	if err := r.broken["agents/"+name]; err != nil {
		return nil, err
	}
	if a := r.agents[name]; a != nil {
		return a, nil
	}
	names := keys(r.agents)
	return nil, problem.New("agent_unknown", problem.Usage, "no agent %q; there are: %s", name, strings.Join(names, ", ")).
		WithHint("%s", suggest(name, names, "terok agents list")).With("agents", names)
}

// Provider finds a provider. An unknown name is a Problem "provider_unknown" (exit 2).
func (r *Roster) Provider(name string) (*Provider, error) {
	if err := r.broken["providers/"+name]; err != nil {
		return nil, err
	}
	if p := r.providers[name]; p != nil {
		return p, nil
	}
	names := keys(r.providers)
	return nil, problem.New("provider_unknown", problem.Usage, "no provider %q; there are: %s", name, strings.Join(names, ", ")).
		WithHint("%s", suggest(name, names, "terok agents list")).With("providers", names)
}

// ProviderFor is the default provider of an agent, nil when it needs none.
func (r *Roster) ProviderFor(a *Agent) (*Provider, error) {
	if len(a.Providers) == 0 {
		return nil, nil
	}
	return r.Provider(a.Providers[0])
}

// Credential resolves the word of `terok auth NAME`: a provider, or an agent, which stands for
// its default provider.
func (r *Roster) Credential(name string) (*Provider, error) {
	if a := r.agents[name]; a != nil && r.broken["agents/"+name] == nil {
		if p, err := r.ProviderFor(a); p != nil || err != nil {
			return p, err
		}
		return nil, problem.New("agent_needs_no_credential", problem.Usage, "%s needs no credential", name)
	}
	if _, ok := r.providers[name]; ok || r.broken["providers/"+name] != nil {
		return r.Provider(name)
	}
	names := append(keys(r.agents), keys(r.providers)...)
	return nil, problem.New("provider_unknown", problem.Usage, "no agent or provider %q; there are: %s", name, strings.Join(names, ", ")).
		WithHint("%s", suggest(name, names, "terok agents list")).With("choices", names)
}

// Program is the absolute path of an agent's program inside the container.
func (a *Agent) Program() (string, error) {
	if a.Install.None() {
		return a.Command, nil
	}
	in, err := a.Install.Resolve(runtime.GOARCH)
	if err != nil {
		return "", problem.New("agent_unsupported", problem.Usage, "%w", err)
	}
	return sandbox.BundleMount + "/" + a.Name + "/" + in.Bin, nil
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, k := range keys(m) {
		out = append(out, m[k])
	}
	return out
}

func keys[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
