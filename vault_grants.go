package terok

import (
	"context"

	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
)

// grants are what a task may use of the vault: the agent's provider.
func (a *App) grants(ctx context.Context, p *project.Project, own *roster.Provider) ([]sandbox.Grant, error) {
	if own == nil {
		return nil, nil
	}
	stored, err := a.AuthList(ctx)
	if err != nil {
		return nil, err
	}
	kind := ""
	for _, c := range stored {
		if c.Provider == own.Name && c.Scope == p.Scope() {
			kind = c.Kind
		}
	}
	return []sandbox.Grant{own.Grant(p.Scope(), kind, nil)}, nil
}
