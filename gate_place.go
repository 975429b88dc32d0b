package terok

import (
	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/project"
)

// placeGate makes a project's mirror lie where gate.path says. Projects that share one must have the
// same upstream: otherwise each sync would take the other's branches for deleted ones.
func (a *App) placeGate(s *store.Store, p *project.Project) error {
	names, err := a.projects().Names()
	if err != nil {
		return err
	}
	home := a.gateHome(p)
	for _, name := range names {
		q, err := a.projects().Get(name)
		if err != nil || name == p.Name || !q.Gated() || !store.SameDir(a.gateHome(q), home) {
			continue // a broken project syncs nothing
		}
		mine, err1 := store.ParseUpstream(p.Git.UpstreamURL)
		theirs, err2 := store.ParseUpstream(q.Git.UpstreamURL)
		if err1 != nil || err2 != nil || mine.URL != theirs.URL {
			return problem.New("gate_share_conflict", problem.Usage, "projects %s and %s share the gate at %s and have different upstreams: %s and %s",
				p.Name, name, home, orNone(mine), orNone(theirs)).WithHint("edit gate.path or git.upstream_url in %s", p.File)
		}
	}
	return s.Place(p.Name, p.GateHome())
}

// gateHome is the directory in which the configuration puts a project's mirror.
func (a *App) gateHome(p *project.Project) string {
	return firstOf(p.GateHome(), a.Roots.GateDir(p.Name))
}

func orNone(u store.Upstream) string { return firstOf(u.String(), "none") }
