package terok

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"

	"terok/internal/config"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// grants are what a task may use of the vault: the provider of its agent, and every other one
// whose credential the project may use. A forge is among them only when the project's repository
// is there, unless vault.providers names it. A provider without a credential is among them, waiting
// for one, when its hosts are of no use without: a task need not be made anew for a sign-in that
// came later. What other uses share, a forge's API say, stays as it is until there is a credential.
func (a *App) grants(ctx context.Context, p *project.Project, global config.Global, set *roster.Roster, own *roster.Provider) ([]sandbox.Grant, error) {
	for _, name := range slices.Concat(p.Vault.Providers, slices.Sorted(maps.Keys(p.Vault.Policy))) {
		if _, err := set.Provider(name); err != nil {
			return nil, problem.Of(err).WithHint("edit the vault section of %s", p.File)
		}
	}
	stored, err := a.credentials(ctx, p, set, own)
	if err != nil {
		return nil, err
	}
	return grantsOf(p, global, set, own, stored, func(forge *roster.Provider) []string { return a.forgeRepos(ctx, p, forge) }), nil
}

// grantsOf chooses among the stored credentials; repos are the project's repositories at a forge.
func grantsOf(p *project.Project, global config.Global, set *roster.Roster, own *roster.Provider, stored map[string]Credential,
	repos func(forge *roster.Provider) []string) []sandbox.Grant {
	var grants []sandbox.Grant
	add := func(pr *roster.Provider) {
		c, has := stored[pr.Name]
		g := pr.Grant(p.Scope(), c.Kind, c.Public)
		g.Waiting = !has
		g.ServerFetch = p.Vault.ServerFetch == "allow"
		g.Project, g.Widen = p.Vault.Policy[pr.Name], global.Vault.AllowWiden
		if pr.Forge != "" {
			g.AllRepos, g.Repos = p.Vault.Repos == "all", repos(pr)
			if len(g.Repos) == 0 && pr != own && !slices.Contains(p.Vault.Providers, pr.Name) {
				return
			}
		}
		addGitHost(&g, p, set, pr)
		grants = append(grants, g)
	}
	if own != nil {
		add(own)
	}
	relayed := set.RelayedHosts()
	for _, pr := range set.Providers() {
		if pr == own || p.Vault.Providers != nil && !slices.Contains(p.Vault.Providers, pr.Name) {
			continue
		}
		if _, ok := stored[pr.Name]; ok || closedWithout(pr, relayed) {
			add(pr)
		}
	}
	return grants
}

// closedWithout reports whether nothing of a provider is open to a task without its credential.
func closedWithout(pr *roster.Provider, relayed []string) bool {
	return !slices.ContainsFunc(pr.Hosts(), func(host string) bool { return !slices.Contains(relayed, host) })
}

// credentials are the stored credentials that the project uses, by provider. Without a provider of
// its own a task does not need an open vault; of a closed one it gets what waits for a credential.
func (a *App) credentials(ctx context.Context, p *project.Project, set *roster.Roster, own *roster.Provider) (map[string]Credential, error) {
	if own == nil {
		if st, err := a.VaultStatus(ctx); err != nil || st.State != VaultUnlocked {
			return nil, err
		}
	}
	list, bound, err := a.authStored(ctx)
	if err != nil {
		return nil, err
	}
	stored := map[string]Credential{}
	for _, pr := range set.Providers() {
		if c := chosen(list, bound, p.Name, p.Scope(), pr.Name); c != nil {
			stored[pr.Name] = *c
		}
	}
	return stored, nil
}

// chosen is the credential that a project uses for a provider now, as the keyholder chooses it: its
// binding, else its own, else, where its scope is shared, the shared one. nil: there is none.
func chosen(stored []Credential, bound []keyholder.Binding, project, scope, provider string) *Credential {
	find := func(scope, account string) *Credential {
		for i, c := range stored {
			if c.Provider == provider && c.Scope == scope && c.Account == account {
				return &stored[i]
			}
		}
		return nil
	}
	for _, b := range bound {
		if b.Project == project && b.Provider == provider {
			return find(b.Scope, b.Account) // one that is gone is not replaced by an account nobody chose
		}
	}
	if c := find("project:"+project, store.DefaultAccount); c != nil || scope != "shared" {
		return c
	}
	return find("shared", store.DefaultAccount)
}

// hostsOf are the hosts of a provider, none of nil.
func hostsOf(p *roster.Provider) []string {
	if p == nil {
		return nil
	}
	return p.Hosts()
}

// grantedHosts are the hosts that a task reaches through the vault.
func grantedHosts(grants []sandbox.Grant) []string {
	var hosts []string
	for _, g := range grants {
		for _, r := range g.Routes {
			hosts = append(hosts, r.Host)
		}
	}
	return hosts
}

// forgeRepos are the project's repositories at a forge, "owner/name": that of its upstream, or of
// what the upstream was cloned from.
func (a *App) forgeRepos(ctx context.Context, p *project.Project, forge *roster.Provider) []string {
	upstream := p.Git.UpstreamURL
	if dir := p.UpstreamPath(); dir != "" {
		// Without an origin there is none.
		out, _ := (&git.Runner{}).Run(ctx, git.Cmd{Dir: dir, Args: []string{"config", "--get", "remote.origin.url"},
			Alternates: []string{git.AnyAlternates}})
		upstream = strings.TrimSpace(string(out))
	}
	host, repo := splitRepo(upstream)
	want := strings.TrimPrefix(forge.Host(), "api.")
	if host == "" || host != want && host != "ssh."+want && host != "altssh."+want {
		return nil
	}
	return []string{repo}
}

// splitRepo takes the URL of a repository apart: https://, ssh://, git:// or HOST:PATH.
func splitRepo(remote string) (host, repo string) {
	if u, err := url.Parse(remote); err == nil && u.Host != "" {
		host, repo = u.Hostname(), u.Path
	} else if h, path, ok := strings.Cut(remote, ":"); ok && !strings.Contains(h, "/") {
		_, name, at := strings.Cut(h, "@")
		if !at {
			name = h
		}
		host, repo = name, path
	}
	repo = strings.TrimSuffix(strings.Trim(repo, "/"), ".git")
	if !strings.Contains(repo, "/") || strings.Contains(repo, "..") || strings.ContainsFunc(repo, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", ""
	}
	return strings.ToLower(host), repo
}

// ownOnly says that a project which keeps to itself does not use what others share.
func ownOnly(scope string) string {
	if name, ok := strings.CutPrefix(scope, "project:"); ok {
		return " for project " + name + ", which uses no shared ones"
	}
	return ""
}

// signIn is the command that stores a credential of a scope.
func signIn(provider, scope string) string {
	if name, ok := strings.CutPrefix(scope, "project:"); ok {
		return "terok auth " + provider + " --project " + name
	}
	return "terok auth " + provider
}
