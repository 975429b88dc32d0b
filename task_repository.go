package terok

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/gate/store"
	"terok/internal/launch"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
	"terok/internal/text"
)

// source is where a task's repository comes from.
type source struct {
	mirror bool         // from the gate; false: from upstream itself, or there is none
	clone  *store.Clone // of the person, to start from; nil starts from the mirror alone
}

// addRepository tells the container where its repository is: at the gate, where the task gets one of
// its own, at the upstream, or nowhere (spec: gate.md §1).
func (a *App) addRepository(ctx context.Context, s starting, spec *launch.Spec, facts *roster.Facts) error {
	p := s.project
	if !s.source.mirror && p.Git.UpstreamURL == "" {
		return nil
	}
	human := a.human(ctx, p)
	clone := &sandbox.Clone{Branch: s.task.Branch, UserName: human.Name, UserEmail: human.Email, External: p.External()}
	facts.Branch, facts.Remote = s.task.Branch, "origin"
	if p.Online() {
		clone.Origin, clone.Start = p.Git.UpstreamURL, firstOf(s.req.Base, p.Git.DefaultBranch)
		facts.Online = true
		if !s.source.mirror && clone.Start != "" && refname.Check(clone.Start) != nil {
			return problem.New("no_such_branch", problem.Usage, "without a gate a task begins from a branch of upstream, not from %s", text.Show(clone.Start))
		}
	}
	if s.source.mirror {
		if err := a.addGate(ctx, s, spec, clone); err != nil {
			return err
		}
		facts.Gate = "origin"
		if p.Online() {
			facts.Gate = "gate"
		}
	}
	spec.Start.Clone = clone
	if clone.LFS = p.LFS() && s.source.mirror; !clone.LFS {
		// Without its files git-lfs would fail every checkout, and ask who .lfsconfig names.
		spec.Start.Env["GIT_LFS_SKIP_SMUDGE"] = "1"
	}
	return nil
}

// addGate makes the task's repository and serves it to the container.
func (a *App) addGate(ctx context.Context, s starting, spec *launch.Spec, clone *sandbox.Clone) error {
	t := s.task
	gate := a.gateStore()
	repo, err := gate.CreateTask(ctx, store.TaskSpec{Project: t.Project, ID: t.ID, Branch: t.Branch, Start: s.req.Base, Clone: s.source.clone, From: s.from, LFS: s.project.LFS()})
	if err != nil {
		return err
	}
	if _, err := a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		t.Base, t.Start = repo.From, repo.Start
		if s.from != nil {
			t.From = s.from.Task
		}
		return nil
	}); err != nil {
		return err
	}
	push := s.project.Gate.Push
	spec.Gate = &sandbox.Gate{Repo: repo.Repo, Base: repo.Base, Protected: s.project.Gate.Protected, QuotaMB: s.project.Gate.QuotaMB,
		MaxPackMB: push.MaxPackMB, MaxFileMB: push.MaxFileMB, MaxRefs: push.MaxRefs, Lenient: push.Fsck == "warn", LFS: s.project.LFS(), AllowSecrets: push.Secrets == "flag"}
	clone.URL, clone.Borrow = fmt.Sprintf("http://%s:%d/task.git", sandbox.ServiceHost, sandbox.GatePort), store.BorrowMount
	if err := a.addSubmodules(ctx, s, spec, clone); err != nil {
		return err
	}
	spec.Trusted = append(spec.Trusted, launch.Mount{
		Source: gate.ObjectsDir(t.Project), Target: store.BorrowMount, ReadOnly: true, NoExec: true})
	return nil
}

// addSubmodules serves the mirrors of listed submodules beside the task's repository, and makes git
// inside ask there. The host decides from the mirror's default branch; what the task writes into its
// own .gitmodules changes nothing of it.
func (a *App) addSubmodules(ctx context.Context, s starting, spec *launch.Spec, clone *sandbox.Clone) error {
	served, settings, err := a.servedSubmodules(ctx, s.project, clone)
	if err != nil || len(served) == 0 {
		return err
	}
	spec.Gate.Submodules, clone.Config = served, sandbox.GitConfig
	spec.Start.Files = append(spec.Start.Files, settings)
	return nil
}

// servedSubmodules are the mirrors that there are now, name → directory, and git's settings for them.
func (a *App) servedSubmodules(ctx context.Context, p *project.Project, clone *sandbox.Clone) (map[string]string, sandbox.StartFile, error) {
	none := sandbox.StartFile{}
	if len(p.Gate.Submodules) == 0 {
		return nil, none, nil
	}
	origin := clone.URL
	if clone.Origin != "" {
		origin = clone.Origin
	}
	list, err := a.gateStore().ServeSubmodules(ctx, p.Name, origin, p.SubmoduleAddresses())
	if err != nil || len(list) == 0 {
		return nil, none, err
	}
	server := fmt.Sprintf("http://%s:%d", sandbox.ServiceHost, sandbox.GatePort)
	served := map[string]string{}
	var b strings.Builder
	fmt.Fprintf(&b, "[credential %q]\n\thelper = %s guest git-credential\n", server, sandbox.GuestProgram)
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for _, m := range list {
		served[m.Name] = m.Dir
		fmt.Fprintf(&b, "[url \"%s/sub/%s.git\"]\n", server, m.Name)
		for _, u := range m.URLs {
			fmt.Fprintf(&b, "\tinsteadOf = \"%s\"\n", quote.Replace(u))
		}
	}
	return served, sandbox.StartFile{Path: sandbox.GitConfig, Mode: 0o444, Content: b.String()}, nil
}

// submodulesAtStart lets a task's next start serve the submodules that are mirrored by then: a running
// supervisor is confined to those of its own start.
func (a *App) submodulesAtStart(ctx context.Context, t *task.Task) error {
	p, err := a.projects().Get(t.Project)
	if err != nil || len(p.Gate.Submodules) == 0 {
		return nil // what is wrong with the project is said elsewhere; the task goes on as it is
	}
	path := sandbox.Path(t.Dir(a.Roots))
	f, err := sandbox.Load(path)
	if err != nil {
		return problem.New("sandbox_file", problem.Failed, "%w", err)
	}
	if f.Gate == nil || f.Start.Clone == nil {
		return nil
	}
	served, settings, err := a.servedSubmodules(ctx, p, f.Start.Clone)
	if err != nil {
		a.say("warning: submodules of %s stay as they were: %v", t.Ref(), err)
	}
	if err != nil || len(served) == 0 || maps.Equal(served, f.Gate.Submodules) {
		return nil
	}
	f.Gate.Submodules, f.Start.Clone.Config = served, sandbox.GitConfig
	if err := state.WriteJSON(path, f); err != nil {
		return err
	}
	return a.startFiles(t, settings)
}

// ungated refuses what only a gate can do for a project that has none.
func ungated(p *project.Project) error {
	if p.Git.UpstreamURL == "" {
		return problem.New("gate_disabled", problem.Usage, "project %s is online and has no upstream: there is nothing to mirror", p.Name).
			WithHint("set git.upstream_url, or remove project.security_class, in %s", p.File)
	}
	return problem.New("gate_disabled", problem.Usage, "project %s has no gate: its tasks clone from upstream (gate.enabled: false)", p.Name).
		WithHint("remove gate.enabled from %s", p.File)
}
