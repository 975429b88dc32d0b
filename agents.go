package terok

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"terok/internal/image"
	"terok/internal/problem"
	"terok/internal/roster"
)

// AgentInfo is one agent of the roster, or a runtime that agents share, and what is installed of it.
type AgentInfo struct {
	Name      string   `json:"name"`
	Title     string   `json:"title"`
	Kind      string   `json:"kind"`                // "agent" or "runtime"
	Runtime   string   `json:"runtime,omitempty"`   // that the agent runs on
	Providers []string `json:"providers"`           // that it can use, the default first
	Pinned    string   `json:"pinned"`              // version that "install" takes; "" when nothing is to install
	Installed bool     `json:"installed"`           // ready to be used
	Version   string   `json:"version,omitempty"`   // of the bundle in the lock file
	Says      string   `json:"says,omitempty"`      // what the program answered to --version
	Digest    string   `json:"digest,omitempty"`    // of the bundle, "sha256:…"
	Bytes     int64    `json:"bytes,omitempty"`     // size of the bundle
	Directory string   `json:"directory,omitempty"` // of the bundle, on the host
	Missing   string   `json:"missing,omitempty"`   // how it is installed when terok cannot
	Problem   string   `json:"problem,omitempty"`   // why the bundle cannot be used
}

// AgentInstalled is what became of one agent or runtime.
type AgentInstalled struct {
	image.Bundle
	Directory string `json:"directory"`
	Now       bool   `json:"installed_now"`    // false: it was there already
	Before    string `json:"before,omitempty"` // version that was pinned until now
	Freed     int64  `json:"freed,omitempty"`  // bytes of earlier versions that no task uses any more
	Needed    bool   `json:"needed_by_agent"`  // a runtime that came along
}

// AgentInstall installs bundles of agents and of the runtimes they need, and pins them in the lock
// file. Version is for one agent: "" is the pinned one, "latest" the newest.
func (a *App) AgentInstall(ctx context.Context, names []string, version string, o ImageOptions) ([]AgentInstalled, error) {
	if version != "" && version != "latest" && len(names) != 1 {
		return nil, problem.New("usage", problem.Usage, "a version is for one agent").WithHint("terok agents install %s --version %s", firstOf(append(names, "AGENT")...), version)
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := installable(set, name); err != nil {
			return nil, err
		}
	}
	b, err := a.builder(ctx, &o)
	if err != nil {
		return nil, err
	}
	var done []AgentInstalled
	for _, name := range names {
		list, err := installAgent(ctx, set, b, name, version, o)
		if err != nil {
			return done, err
		}
		done = append(done, list...)
	}
	return done, nil
}

// installable finds an agent that has a bundle.
func installable(set *roster.Roster, name string) (roster.Install, error) {
	agent, err := set.Agent(name)
	if err != nil {
		return roster.Install{}, err
	}
	if in := agent.Install; in.Registry != "" {
		return in, problem.New("registry_unsupported", problem.Failed, "%s is published on %s, and terok installs from the npm registry only", name, in.Registry).
			WithHint("%s", in.How).With("registry", in.Registry)
	}
	if agent.Install.None() {
		return roster.Install{}, problem.New("agent_builtin", problem.Usage, "%s needs no installation", name)
	}
	in, err := agent.Install.Resolve(runtime.GOARCH)
	if err != nil {
		return in, problem.New("agent_unsupported", problem.Usage, "%w", err)
	}
	return in, nil
}

// installAgent installs the runtime of an agent, if it has one, and the agent.
func installAgent(ctx context.Context, set *roster.Roster, b *image.Builder, name, version string, o ImageOptions) ([]AgentInstalled, error) {
	in, err := installable(set, name)
	if err != nil {
		return nil, err
	}
	var done []AgentInstalled
	one := func(name string, in roster.Install, version string, needed bool) error {
		before, _ := b.Bundle(name)
		bundle, now, err := b.Install(ctx, image.Package{Agent: name, Package: in.Package, Version: firstOf(version, in.Version), Suffix: in.Suffix,
			Bin: in.Bin, Runtime: in.Runtime, Unpack: in.Unpack}, o.Base, o.Force && !needed)
		if err != nil {
			return err
		}
		x := AgentInstalled{Bundle: bundle, Directory: bundle.Dir, Now: now, Needed: needed}
		if now && before.Version != bundle.Version {
			x.Before = before.Version
		}
		done = append(done, x)
		return nil
	}
	if r, ok := set.Runtime(in.Runtime); ok {
		if r, err = r.Resolve(runtime.GOARCH); err != nil {
			return nil, problem.New("agent_unsupported", problem.Usage, "%w", err)
		}
		if err := one(in.Runtime, r, "", true); err != nil {
			return nil, err
		}
	}
	return done, one(name, in, version, false)
}

// AgentUpdate brings installed agents to the versions that this terok was tested with, or to the
// newest, and removes earlier versions that no task uses. Without names it is all that are
// installed. Running tasks keep what they have.
func (a *App) AgentUpdate(ctx context.Context, names []string, latest bool, o ImageOptions) ([]AgentInstalled, error) {
	list, err := a.AgentList(false)
	if err != nil {
		return nil, err
	}
	installed := func(name string) bool {
		return slices.ContainsFunc(list, func(i AgentInfo) bool { return i.Name == name && i.Directory != "" })
	}
	for _, name := range names {
		if err := a.KnownAgent(name); err != nil {
			return nil, err
		}
		if !installed(name) {
			return nil, problem.New("agent_not_installed", problem.NotFound, "the agent %s is not installed", name).WithHint("terok agents install %s", name)
		}
	}
	if len(names) == 0 {
		for _, i := range list {
			if i.Kind == "agent" && installed(i.Name) {
				names = append(names, i.Name)
			}
		}
	}
	version := ""
	if latest {
		version = "latest"
		o.Force = true // what is newest today is for the registry to say
	}
	if len(names) == 0 {
		return nil, nil
	}
	done, err := a.AgentInstall(ctx, names, version, o)
	if err != nil {
		return done, err
	}
	used, err := a.bundlesInUse()
	if err != nil {
		return done, err
	}
	b := &image.Builder{Roots: a.Roots, Progress: a.Progress}
	for i := range done {
		if done[i].Freed, err = b.Sweep(ctx, done[i].Agent, used); err != nil {
			return done, err
		}
	}
	return done, nil
}

// AgentRemove removes an agent's bundles and unpins it; a runtime that no other agent needs goes
// with it. It refuses while a task uses one of them. It returns the bytes that were freed.
func (a *App) AgentRemove(ctx context.Context, name string) (int64, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return 0, err
	}
	agent, err := set.Agent(name)
	if err != nil {
		return 0, err
	}
	b := &image.Builder{Roots: a.Roots, Progress: a.Progress}
	if _, err := b.Bundle(name); err != nil {
		return 0, err
	}
	used, err := a.bundlesInUse()
	if err != nil {
		return 0, err
	}
	freed, err := b.Remove(ctx, name, used)
	if err != nil || agent.Install.Runtime == "" {
		return freed, err
	}
	list, err := b.Bundles()
	if err != nil || slices.ContainsFunc(list, func(x image.Bundle) bool { return x.Runtime == agent.Install.Runtime }) {
		return freed, err
	}
	more, err := b.Remove(ctx, agent.Install.Runtime, used)
	if problem.Is(err, "bundle_in_use") {
		err = nil // by a task whose agent was removed in an earlier version
	}
	return freed + more, err
}

// bundlesInUse maps the directories of bundles to the tasks that have them mounted.
func (a *App) bundlesInUse() (map[string][]string, error) {
	list, err := a.tasks().List()
	if err != nil {
		return nil, err
	}
	used := map[string][]string{}
	for _, e := range list {
		for _, dir := range e.Bundles {
			dir = filepath.Clean(dir)
			used[dir] = append(used[dir], e.Ref())
		}
	}
	return used, nil
}

// AgentBundle returns the pinned bundle of an agent, for a task to mount.
func (a *App) AgentBundle(name string) (image.Bundle, error) {
	b := &image.Builder{Roots: a.Roots}
	return b.Bundle(name)
}

// agentBundles are the bundle of an agent and that of its runtime; none when there is nothing to
// install.
func (a *App) agentBundles(agent *roster.Agent) ([]image.Bundle, error) {
	if agent.Install.None() {
		return nil, nil
	}
	var list []image.Bundle
	for _, name := range []string{agent.Name, agent.Install.Runtime} {
		if name == "" {
			continue
		}
		b, err := a.AgentBundle(name)
		if err != nil {
			if p := problem.Of(err); p.Code == "agent_not_installed" {
				return nil, p.WithHint("terok agents install %s", agent.Name)
			}
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// AgentList returns the agents of the roster and the runtimes that are installed, by name. With
// verify every bundle is read and compared with its digest.
func (a *App) AgentList(verify bool) ([]AgentInfo, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	b := &image.Builder{Roots: a.Roots}
	bundles, err := b.Bundles()
	if err != nil {
		return nil, err
	}
	fill := func(info *AgentInfo) {
		i := slices.IndexFunc(bundles, func(x image.Bundle) bool { return x.Agent == info.Name })
		if i < 0 {
			return
		}
		x, err := b.Bundle(info.Name)
		if err != nil {
			return // its directory is gone
		}
		info.Installed, info.Version, info.Says, info.Digest, info.Bytes, info.Directory = true, x.Version, x.Says, x.Digest, x.Bytes, x.Dir
		if verify {
			if err := x.Verify(); err != nil {
				info.Installed, info.Problem = false, err.Error()
			}
		}
	}
	list := []AgentInfo{}
	for _, agent := range set.Agents() {
		in := agent.Install
		info := AgentInfo{Name: agent.Name, Title: agent.Title, Kind: "agent", Runtime: in.Runtime, Pinned: in.Version, Providers: []string{},
			Installed: in.None() && in.Registry == ""}
		if in.Registry != "" {
			info.Missing = fmt.Sprintf("from %s: %s", in.Registry, in.How)
		}
		for _, p := range set.ProvidersFor(agent) {
			info.Providers = append(info.Providers, p.Name)
		}
		fill(&info)
		list = append(list, info)
	}
	for _, x := range bundles {
		if r, ok := set.Runtime(x.Agent); ok {
			info := AgentInfo{Name: x.Agent, Title: "runtime of agents", Kind: "runtime", Pinned: r.Version, Providers: []string{}}
			fill(&info)
			list = append(list, info)
		}
	}
	slices.SortStableFunc(list, func(x, y AgentInfo) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}
