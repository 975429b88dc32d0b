package roster

import (
	"maps"
	"slices"

	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
	"terok/internal/vault/usage"
)

// Provider is a service with one credential, reached through one or more hosts.
type Provider struct {
	Name   string
	Title  string
	Routes []sandbox.Route         // the first is the main one
	Auth   map[string]sandbox.Auth // by kind of credential: sandbox.APIKey, OAuth, PAT
	Kinds  []string                // the kinds of Auth, the usual one first
	Serves map[string]string       // protocol → path that it stands below
	KeyURL string                  // where a person gets a key

	// Refresh is where an OAuth credential is had and refreshed, nil when there is none. Without a
	// client id it only tells where; client ids of the built-in ones are those of the vendors' own
	// programs, whose sign-ins they refresh.
	Refresh *oauth.Endpoint

	SignIn   *SignIn           // with a vendor's program; nil when there is none
	Prefixes map[string]string // how credentials begin → their kind; empty: not known

	AltHeaders []string // further headers in which clients send the phantom
	Query      []string // query parameters in which clients send the phantom
	Forge      string   // sandbox.GitHub, sandbox.GitLab or ""

	// SharedDomain: the host serves more than the API that the credential is for, so relaying it
	// for one task is no reason to close it for the others.
	SharedDomain bool

	Prices usage.Prices // of models, by name

	DefaultModel  string // for agents that have no choice of their own
	FallbackModel string
}

// Host is the provider's main host.
func (p *Provider) Host() string { return p.Routes[0].Host }

// Hosts are all hosts of the provider.
func (p *Provider) Hosts() []string {
	var hosts []string
	for _, r := range p.Routes {
		hosts = append(hosts, r.Host)
	}
	return hosts
}

// Grant lets a task use the provider's credential of a scope ("shared" or "project:NAME"). Kind
// is that of the stored credential and public its public data; "" is the provider's usual one.
func (p *Provider) Grant(scope, kind string, public map[string]string) sandbox.Grant {
	if _, ok := p.Auth[kind]; !ok {
		kind = p.Kinds[0]
	}
	g := sandbox.Grant{
		Provider: p.Name, Scope: scope, Kind: kind, Public: maps.Clone(public),
		Auth: make(map[string]sandbox.Auth, len(p.Auth)), Serves: maps.Clone(p.Serves), Prices: maps.Clone(p.Prices),
		AltHeaders: slices.Clone(p.AltHeaders), Query: slices.Clone(p.Query), Forge: p.Forge,
	}
	for kind, a := range p.Auth {
		a.Set, a.Add, a.Env, a.Files = maps.Clone(a.Set), maps.Clone(a.Add), maps.Clone(a.Env), slices.Clone(a.Files)
		g.Auth[kind] = a
	}
	for _, r := range p.Routes {
		r.Policy = slices.Clone(r.Policy)
		g.Routes = append(g.Routes, r)
	}
	return g
}
