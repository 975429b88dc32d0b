package terok

import (
	"context"
	"runtime"

	"terok/internal/image"
	"terok/internal/problem"
	"terok/internal/roster"
)

// AgentInfo is one agent of the roster and what is installed of it.
type AgentInfo struct {
	Name      string `json:"name"`
	Title     string `json:"title"`
	Pinned    string `json:"pinned"`              // version that "install" takes; "" when nothing is to install
	Installed bool   `json:"installed"`           // ready to be used
	Version   string `json:"version,omitempty"`   // of the bundle in the lock file
	Digest    string `json:"digest,omitempty"`    // of the bundle, "sha256:…"
	Bytes     int64  `json:"bytes,omitempty"`     // size of the bundle
	Directory string `json:"directory,omitempty"` // of the bundle, on the host
	Problem   string `json:"problem,omitempty"`   // why the bundle cannot be used
}

// AgentInstall installs an agent's bundle at a version ("" is the pinned one, "latest" the
// newest) and pins it in the lock file. It reports false when it was there already.
func (a *App) AgentInstall(ctx context.Context, name, version string, o ImageOptions) (image.Bundle, bool, error) {
	if err := a.KnownAgent(name); err != nil {
		return image.Bundle{}, false, err
	}
	b, err := a.builder(ctx, &o)
	if err != nil {
		return image.Bundle{}, false, err
	}
	return a.installAgent(ctx, b, name, version, o)
}

func (a *App) installAgent(ctx context.Context, b *image.Builder, name, version string, o ImageOptions) (image.Bundle, bool, error) {
	r, err := roster.Load(a.Roots)
	if err != nil {
		return image.Bundle{}, false, err
	}
	agent, err := r.Agent(name)
	if err != nil {
		return image.Bundle{}, false, err
	}
	if agent.Install.None() {
		return image.Bundle{}, false, problem.New("agent_builtin", problem.Usage, "%s needs no installation", name)
	}
	in, err := agent.Install.Resolve(runtime.GOARCH)
	if err != nil {
		return image.Bundle{}, false, problem.New("agent_unsupported", problem.Usage, "%w", err)
	}
	if version == "" {
		version = in.Version
	}
	return b.Install(ctx, image.Package{Agent: name, Package: in.Package, Version: version, Bin: in.Bin}, o.Base, o.Force)
}

// AgentBundle returns the pinned bundle of an agent, for a task to mount.
func (a *App) AgentBundle(name string) (image.Bundle, error) {
	b := &image.Builder{Roots: a.Roots}
	return b.Bundle(name)
}

// AgentList returns the agents of the roster, by name. With verify every bundle is read and
// compared with its digest.
func (a *App) AgentList(verify bool) ([]AgentInfo, error) {
	r, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	b := &image.Builder{Roots: a.Roots}
	list := []AgentInfo{}
	for _, agent := range r.Agents() {
		info := AgentInfo{Name: agent.Name, Title: agent.Title, Pinned: agent.Install.Version, Installed: agent.Install.None()}
		if !agent.Install.None() {
			x, err := b.Bundle(agent.Name)
			if err != nil && !problem.Is(err, "agent_not_installed") {
				return nil, err
			}
			if err == nil {
				info.Installed, info.Version, info.Digest, info.Bytes, info.Directory = true, x.Version, x.Digest, x.Bytes, x.Dir
				if verify {
					if err := x.Verify(); err != nil {
						info.Installed, info.Problem = false, err.Error()
					}
				}
			}
		}
		list = append(list, info)
	}
	return list, nil
}
