package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/text"
)

// projectFor finds the project of a request, or makes one for the repository at Dir.
func (a *App) projectFor(req RunRequest) (*project.Project, error) {
	if req.Project != "" {
		return a.projects().Get(req.Project)
	}
	top, err := repositoryTop(req.Dir)
	if err != nil {
		return nil, err
	}
	p, err := a.projects().ForDir(top)
	if err != nil || p != nil {
		return p, err
	}
	name := a.projects().NameFor(top)
	p, err = a.projects().Create(project.Spec{Name: name, Upstream: top, Agent: req.Agent})
	if err != nil {
		return nil, err
	}
	a.say("project %s made for %s (%s)", name, top, p.File)
	a.note("project_created", map[string]string{"project": name})
	a.suggestProfiles(p)
	return p, nil
}

// ProjectHere is the name of the project whose repository holds dir, or "".
func (a *App) ProjectHere(dir string) (string, error) {
	top, err := repositoryTop(dir)
	if err != nil {
		return "", err
	}
	p, err := a.projects().ForDir(top)
	if err != nil || p == nil {
		return "", err
	}
	return p.Name, nil
}

// repositoryTop finds the work tree that holds dir by looking for .git; git itself is not asked,
// since it would obey the repository's configuration.
func repositoryTop(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", problem.New("no_such_directory", problem.Usage, "%w", err)
	}
	for d := abs; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(filepath.Join(d, ".git")); err == nil {
			return d, nil
		}
		if d == "/" {
			return "", problem.New("not_a_repository", problem.Usage, "%s is not inside a git repository", abs).
				WithHint("git init %s, or name a project: terok task run PROJECT", abs)
		}
	}
}

// gateReady makes the project's base repository, or brings it up to date, and looks at the
// person's clone. Without a mirror a gatekeeping project cannot start a task; an online one then
// takes upstream itself, since its tasks reach that anyway.
func (a *App) gateReady(ctx context.Context, p *project.Project, req RunRequest) (source, error) {
	var none source
	if !p.Gated() {
		if req.Carry == "yes" {
			return none, problem.New("no_clone", problem.Usage, "project %s has no clone on this machine to carry work from", p.Name)
		}
		return none, nil
	}
	gate := a.gateStore()
	if err := a.placeGate(gate, p); err != nil {
		return none, err
	}
	_, err := os.Lstat(a.Roots.GateBase(p.Name))
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && p.Git.UpstreamURL != "" {
		a.say("mirroring %s …", p.Git.UpstreamURL)
	}
	// Init also waits for another run that is just making it, and goes on after one that was killed.
	if p.LFS() {
		gate.Progress = func(line string) { a.say("%s", line) }
	}
	rep, err := gate.SyncWith(ctx, p.Name, p.Git.UpstreamURL, syncOptions(p, GateSyncOptions{Wait: true}))
	switch {
	case err == nil || problem.Is(err, "sync_partial"):
		if rep.LFS != nil && rep.LFS.Missing > 0 {
			a.say("note: %d files in Git LFS could not be had and stay pointers (terok project gate-sync %s says why)", rep.LFS.Missing, p.Name)
		}
	case p.Online() && unreached(err):
		how := "the task begins with the mirror as it is"
		if missing {
			how = "the task clones from upstream itself"
		}
		a.say("note: %s; %s", text.Line(err.Error(), 300), how)
		if missing {
			return none, nil
		}
	case missing:
		e := problem.Of(err)
		if e.Hint != "" {
			e.Hint += "; then: "
		}
		return none, e.WithHint("%sterok project gate-sync %s", e.Hint, p.Name)
	default:
		return none, err
	}
	if len(p.Gate.Submodules) > 0 {
		var rep GateReport
		if err := a.syncSubmodules(ctx, gate, p, false, &rep); err != nil {
			return none, err
		}
		for _, note := range rep.Notes {
			a.say("note: %s", note)
		}
	}
	found := source{mirror: true}
	a.upkeep(ctx, p)
	path := p.UpstreamPath()
	if path == "" || req.Base != "" {
		return found, nil
	}
	clone := store.Clone{Dir: path, Excludes: a.globalIgnores(ctx)}
	clone.Name, clone.Email = a.gitIdentity(ctx)
	work, err := gate.Uncommitted(ctx, p.Name, clone)
	if problem.Is(err, "no_clone") {
		return found, nil // a bare repository
	}
	if err != nil {
		return found, err
	}
	if !work.Clean() {
		n := len(work.Changed) + len(work.New)
		carry := req.Carry == "yes"
		if req.Carry == "" && a.Confirm != nil {
			if carry, err = a.Confirm(fmt.Sprintf("%s has uncommitted work in %d files. Start from it (your clone is not touched)?", path, n)); err != nil {
				return found, err
			}
		}
		if !carry {
			a.say("note: uncommitted work in %d files is not part of the task (--carry takes it along)", n)
		}
		clone.Uncommitted = carry
	}
	found.clone = &clone
	return found, nil
}

// unreached reports whether a sync failed because upstream could not be asked, not because something
// about the mirror is wrong.
func unreached(err error) bool {
	p := problem.Of(err)
	return p.Exit == problem.Locked || problem.Is(err, "upstream_unreachable") || problem.Is(err, "upstream_stalled") || problem.Is(err, "host_key_unknown")
}

// handover finds the task whose work a new one begins with: word is TASK:BRANCH, or TASK where the
// gate has no branch of that name. It returns nil for everything else.
func (a *App) handover(ctx context.Context, p *project.Project, word string) (*store.Handover, error) {
	name, branch, colon := strings.Cut(word, ":")
	if word == "" || !p.Gated() {
		return nil, nil
	}
	if !colon {
		has, err := a.gateStore().HasBranch(ctx, p.Name, word)
		if err != nil || has {
			return nil, err
		}
	}
	t, err := a.tasks().Resolve(p.Name, name)
	if err != nil {
		if !colon {
			return nil, nil // CreateTask says that there is no such branch
		}
		return nil, err
	}
	if t.Project != p.Name {
		return nil, problem.New("other_project", problem.Usage, "task %s belongs to another project than %s", t.Ref(), p.Name)
	}
	return &store.Handover{Task: t.ID, Branch: branch, Own: t.Branch}, nil
}

// human is the operator's git identity: the project's, else that of the clone, else none.
func (a *App) human(ctx context.Context, p *project.Project) sandbox.Identity {
	id := sandbox.Identity{Name: p.Git.HumanName, Email: p.Git.HumanEmail}
	if id.Name == "" || id.Email == "" {
		name, email := a.gitIdentity(ctx)
		id.Name, id.Email = firstOf(id.Name, name, "terok operator"), firstOf(id.Email, email, "operator@localhost")
	}
	return id
}

// gitIdentity is what the person's own git would sign commits with.
func (a *App) gitIdentity(ctx context.Context) (name, email string) {
	home := a.Environ("HOME")
	for _, file := range []string{
		filepath.Join(home, ".gitconfig"),
		filepath.Join(firstOf(a.Environ("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "git", "config"),
	} {
		get := func(key string) string {
			out, err := (&git.Runner{}).Run(ctx, git.Cmd{Args: []string{"config", "--no-includes", "--file", file, "--get", key}})
			if err != nil {
				return ""
			}
			return text.Line(strings.TrimSpace(string(out)), 200)
		}
		name, email = firstOf(name, get("user.name")), firstOf(email, get("user.email"))
	}
	return name, email
}
