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
//	p, err := r.Choose(a, "", stored)      // the provider of this start
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

	// Providers are roster names in order of preference; Wires say how the agent is pointed to
	// them, and to any other that serves a protocol it speaks. Without both it needs no credential.
	Providers []string
	Wires     []Wire
	Models    map[string]string // provider → model, where neither side has a default

	Egress []string // further rules in policy grammar, tier agent, e.g. "+example.org:443"
	Stream string   // form of the headless output: one of package transcript's, or "plain"

	// Unrestricted and Restricted are variables of the two modes, besides Spec.Env and
	// Spec.Permission. CannotAsk is an agent that has no mode in which it asks.
	Unrestricted map[string]string
	Restricted   map[string]string
	CannotAsk    bool

	// Guide is where the agent looks for instructions, below sandbox.AgentDir; "": it is told the
	// usual file (Spec.Instructions), or they are in its administrative settings.
	Guide string

	// Managed are the agent's administrative settings, which outrank those of a repository and of
	// the home directory. They are mounted read-only: also root of the container cannot change them.
	Managed []Managed

	Spec sandbox.Agent // how the wrapper in the container starts it; Name and Program are filled in
}

// Managed is one file of administrative settings. "{instructions}" in it is the text of the
// instructions as a quoted string, "{wire}" what the provider's wire fills in.
type Managed struct {
	Path         string // inside the container: /etc/DIRECTORY/FILE
	Unrestricted string // content for a task in which the agent does not ask; "" is no file
	Restricted   string // content for a task in which it does; "" is no file
}

// Install says which npm package holds an agent. Scripts of the package are never run. In all
// strings but Version "{arch}" is x64 or arm64 and "{machine}" x86_64 or aarch64.
type Install struct {
	Package string
	Version string // exact version of the pin
	Suffix  string // hangs behind the version of a package that publishes each machine's program so
	Bin     string // program inside the bundle, relative
	Runtime string // name of the runtime that runs Bin, "" when Bin is a program
	Unpack  bool   // the program unpacks itself into its home directory when it starts first

	// Registry is a registry that terok cannot install from: the agent is expected in the image,
	// and How says how it gets there.
	Registry string
	How      string
}

// None reports whether there is nothing to install.
func (i Install) None() bool { return i.Package == "" }

// machine is a GOARCH in the words of npm and of compilers.
func machine(goarch string) (arch, triple string, ok bool) {
	switch goarch {
	case "amd64":
		return "x64", "x86_64", true
	case "arm64":
		return "arm64", "aarch64", true
	}
	return "", "", false
}

// Resolve replaces "{arch}" for a GOARCH. It fails for a machine the package is not made for.
func (i Install) Resolve(goarch string) (Install, error) {
	if all := i.Package + i.Suffix + i.Bin; !strings.Contains(all, "{arch}") && !strings.Contains(all, "{machine}") {
		return i, nil
	}
	arch, triple, ok := machine(goarch)
	if !ok {
		return i, fmt.Errorf("%s is not published for %s", i.Package, goarch)
	}
	r := strings.NewReplacer("{arch}", arch, "{machine}", triple)
	for _, s := range []*string{&i.Package, &i.Suffix, &i.Bin} {
		*s = r.Replace(*s)
	}
	return i, nil
}

// Runtime finds a runtime that agents share. It is installed and mounted like an agent.
func (r *Roster) Runtime(name string) (Install, bool) {
	in, ok := runtimes()[name]
	return in, ok
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
	if p := r.providers[name]; p != nil {
		var users []string
		for _, a := range r.Agents() {
			if slices.Contains(r.ProvidersFor(a), p) {
				users = append(users, a.Name)
			}
		}
		if len(users) > 0 {
			return nil, problem.New("agent_unknown", problem.Usage, "%s is a provider, not an agent", name).
				WithHint("terok run %s --provider %s", strings.Join(users, "|"), name).With("agents", names)
		}
	}
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

// ProviderFor is the named provider, or "" the default one of an agent; nil when it needs none.
func (r *Roster) ProviderFor(a *Agent, name string) (*Provider, error) {
	if name != "" {
		return r.Provider(name)
	}
	if len(a.Providers) == 0 {
		return nil, nil
	}
	return r.Provider(a.Providers[0])
}

// Credential resolves the word of `terok auth NAME`: a provider, or an agent, which stands for
// its default provider.
func (r *Roster) Credential(name string) (*Provider, error) {
	if a := r.agents[name]; a != nil && r.broken["agents/"+name] == nil {
		if p, err := r.ProviderFor(a, ""); p != nil || err != nil {
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

// Program is the absolute path of an agent's program inside the container, or a name to look up,
// and what comes before its other arguments.
func (a *Agent) Program() (program string, args []string, err error) {
	if a.Install.None() {
		return a.Command, nil, nil
	}
	path := func(name string, in Install) string {
		if in, err = in.Resolve(runtime.GOARCH); err != nil {
			err = problem.New("agent_unsupported", problem.Usage, "%w", err)
		}
		return sandbox.BundleMount + "/" + name + "/" + in.Bin
	}
	program = path(a.Name, a.Install)
	if r, ok := runtimes()[a.Install.Runtime]; ok && err == nil {
		return path(a.Install.Runtime, r), []string{program}, err
	}
	return program, nil, err
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
