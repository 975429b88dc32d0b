package terok

import (
	"context"

	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// grants are what a task may use of the vault: the agent's provider.
func (a *App) grants(ctx context.Context, p *project.Project, own *roster.Provider) ([]sandbox.Grant, error) {
	if own == nil {
		return nil, nil
	}
	stored, bound, err := a.authStored(ctx)
	if err != nil {
		return nil, err
	}
	kind, public := "", map[string]string(nil)
	if c := chosen(stored, bound, p.Name, p.Scope(), own.Name); c != nil {
		kind, public = c.Kind, c.Public
	}
	return []sandbox.Grant{own.Grant(p.Scope(), kind, public)}, nil
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
