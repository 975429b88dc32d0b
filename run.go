package terok

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/image"
	"terok/internal/launch"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
	"terok/internal/task"
	"terok/internal/text"
)

// RunRequest says what to run where.
type RunRequest struct {
	Agent      string // roster name; "" is the project's default, else claude
	Provider   string // roster name; "" is the project's default if the agent can use it, else what a credential is stored for
	Project    string // "" is found, or made, from Dir
	Dir        string // inside the repository to work on
	Prompt     string
	Headless   bool          // run the prompt to its end without a person; else the agent begins with it
	Model      string        // "" is the agent's own choice
	Timeout    time.Duration // of a headless run, whole seconds; 0 is no limit
	Name       string        // of the task; "" draws one
	Base       string        // branch or commit to begin from, or TASK[:BRANCH]; "" is the clone's HEAD, or the project's default
	Allow      []string      // rules for this task, policy grammar
	Restricted bool          // the agent asks before it acts, and there is no sudo
	Carry      string        // uncommitted work in the clone: "yes", "no", "" asks where somebody can answer, else no
}

// launch is what the agent has to know of the request.
func (req RunRequest) launch() roster.Launch {
	return roster.Launch{Headless: req.Headless, Prompt: req.Prompt, Model: req.Model, Timeout: req.Timeout, Restricted: req.Restricted}
}

// checked finds an agent that can do what is asked.
func checked(set *roster.Roster, name string, req RunRequest) (*roster.Agent, error) {
	agent, err := set.Agent(name)
	if err != nil {
		return nil, err
	}
	if req.Provider != "" {
		if _, err := set.Choose(agent, req.Provider, nil); err != nil {
			return nil, err
		}
	}
	return agent, agent.Check(req.launch())
}

// Run makes a task and starts its container; it returns once the agent is at work. Whatever is
// missing (project, base image, agent, credential) is offered where somebody can answer and is
// otherwise an error with the command that cures it. A task whose start fails is removed again.
func (a *App) Run(ctx context.Context, req RunRequest) (*TaskView, error) {
	if err := a.notPanicked(); err != nil {
		return nil, err
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	if req.Agent != "" { // before a project is made for a request that cannot be
		if _, err := checked(set, req.Agent, req); err != nil {
			return nil, err
		}
	}
	p, err := a.projectFor(req)
	if err != nil {
		return nil, err
	}
	agent, err := checked(set, firstOf(req.Agent, p.DefaultAgent, "claude"), req)
	if err != nil {
		return nil, err
	}
	provider, err := a.chooseProvider(ctx, set, agent, p, req.Provider)
	if err != nil {
		return nil, err
	}
	if _, err := a.taskRules(p, set, agent, hostsOf(provider), req.Allow); err != nil { // before anything is made
		return nil, err
	}
	imageID, bundles, err := a.ensureImage(ctx, p.Image.BaseImage, agent)
	if err != nil {
		return nil, err
	}
	if provider != nil {
		if err := a.needCredential(ctx, provider, p); err != nil {
			return nil, err
		}
	}
	grants, err := a.grants(ctx, p, global, set, provider)
	if err != nil {
		return nil, err
	}
	rules, err := a.taskRules(p, set, agent, grantedHosts(grants), req.Allow)
	if err != nil {
		return nil, err
	}
	source, err := a.gateReady(ctx, p, req)
	if err != nil {
		return nil, err
	}
	from, err := a.handover(ctx, p, req.Base)
	if err != nil {
		return nil, err
	}

	mode := task.Interactive
	if req.Headless {
		mode = task.Headless
	}
	t, err := a.tasks().Create(p.Name, req.Name, func(t *task.Task) {
		t.Mode, t.Agent, t.Model, t.Unrestricted, t.Allow = mode, agent.Name, req.Model, !req.Restricted, req.Allow
		t.Phase = task.Launching
		for _, b := range bundles {
			t.Bundles = append(t.Bundles, b.Dir)
		}
		if provider != nil {
			t.Provider = provider.Name
		}
		t.Launch = task.Launch{ID: launchID(), PID: os.Getpid(), PIDStart: task.ProcessStart(os.Getpid()), StartedAt: a.Now().UTC()}
	})
	if err != nil {
		return nil, err
	}
	release, err := a.tasks().Operate(t.Project, t.ID)
	if err != nil {
		return nil, err
	}
	err = a.start(ctx, starting{p, global, t, agent, provider, grants, rules, bundles, imageID, source, from, req})
	release()
	if err != nil {
		// What was made for a task that never ran goes again; the reason is the error.
		clean := context.WithoutCancel(ctx)
		if derr := a.DeleteTask(clean, t); derr != nil {
			return nil, fmt.Errorf("%w (and what was made could not be removed: %v)", err, derr)
		}
		// A hint that names a log of the task must name where the log is now.
		if p, ok := errors.AsType[*problem.Problem](err); ok {
			p.Hint = strings.ReplaceAll(p.Hint, t.Dir(a.Roots), a.archivePlace(t))
		}
		return nil, err
	}
	if t, err = a.tasks().Get(t.Project, t.ID); err != nil {
		return nil, err
	}
	a.pollSoon(t.Project)
	return a.TaskStatus(ctx, t)
}

// KnownAgent reports whether there is such an agent; "" is the default one.
func (a *App) KnownAgent(name string) error {
	if name == "" {
		return nil
	}
	set, err := roster.Load(a.Roots)
	if err == nil {
		_, err = set.Agent(name)
	}
	return err
}

// starting is what start needs; everything in it has been checked.
type starting struct {
	project  *project.Project
	global   config.Global
	task     *task.Task
	agent    *roster.Agent
	provider *roster.Provider
	grants   []sandbox.Grant
	rules    []policy.Rule
	bundles  []image.Bundle // the agent's and its runtime's
	image    string
	source   source
	from     *store.Handover // nil: not another task's work
	req      RunRequest
}

// start makes the task's repository and container.
func (a *App) start(ctx context.Context, s starting) error {
	t := s.task
	spec := launch.Spec{
		Key: taskKey(t), Name: t.Project + "-" + t.Mode + "-" + t.ID, Project: t.Project, Task: t.ID,
		Mode: t.Mode, Launch: t.Launch.ID, Dir: t.Dir(a.Roots), Image: s.image, Policy: policy.Document{Settings: s.project.ShieldSettings(settings(s.global)), Rules: s.rules},
		Privilege: launch.Sudo, Command: "terok run " + s.agent.Name,
		TTY: false, Start: sandbox.Start{Workspace: "/workspace", Env: map[string]string{}},
	}
	if s.req.Restricted {
		spec.Privilege = launch.None
	}
	if err := a.useRules(s.project, s.rules); err != nil {
		return err
	}
	limits(&spec, s.project.Run.Run)
	a.confinement(&spec, s.global)
	a.trimLedgers(s.global)
	workspace := filepath.Join(spec.Dir, "workspace")
	if err := os.MkdirAll(workspace, 0o700); err != nil {
		return err
	}
	spec.Trusted = append(spec.Trusted, launch.Mount{Source: workspace, Target: "/workspace"})
	for _, b := range s.bundles {
		spec.Trusted = append(spec.Trusted, launch.Mount{Source: b.Dir, Target: sandbox.BundleMount + "/" + b.Agent, ReadOnly: true})
	}
	facts := roster.Facts{Workspace: "/workspace", Hosts: openHosts(s, a.Now())}
	if err := a.addRepository(ctx, s, &spec, &facts); err != nil {
		return err
	}
	l := s.req.launch()
	for _, g := range s.grants {
		if s.provider != nil && g.Provider == s.provider.Name {
			l.Kind, l.SignIn = g.Kind, signIn(g.Provider, g.Scope)
		}
	}
	if len(s.bundles) > 0 {
		l.Version = s.bundles[0].Version
	}
	l.Facts, l.Human, l.Authorship = facts, a.human(ctx, s.project), s.project.Git.Authorship
	prep, err := s.agent.Prepare(s.provider, l)
	if err != nil {
		return err
	}
	for k, v := range prep.Env {
		spec.Start.Env[k] = v
	}
	spec.Start.Env["TEROK_TASK"] = t.Ref()
	spec.Start.Files = append(spec.Start.Files, prep.Files...)
	if err := addManaged(&spec, prep.Managed); err != nil {
		return err
	}
	trust, err := image.Authorities(s.global.Image.CACertificates)
	if err != nil {
		return err
	}
	spec.Start.Trust = string(trust)
	spec.Argv = prep.Argv
	if len(spec.Argv) == 0 {
		// Interactive: the container idles until somebody logs in, which starts the agent in tmux.
		spec.Argv = []string{sandbox.GuestProgram, "guest", "idle"}
	}
	if len(s.grants) > 0 {
		spec.Vault = &sandbox.Vault{Grants: s.grants, Limits: s.project.Vault.Limits.Sandbox(), Usage: a.Roots.UsageDir(t.Project)}
		for _, b := range s.project.Vault.Budget {
			spec.Vault.Budgets = append(spec.Vault.Budgets, b.String())
		}
	}
	if spec.SSH, err = a.addSSH(ctx, s.project, &spec.Start); err != nil {
		return err
	}
	for _, m := range s.project.Run.Mounts {
		mount, err := parseMount(m)
		if err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	c, err := a.launcher().Run(ctx, spec)
	if err != nil {
		return err
	}
	a.startNotifier()
	_, err = a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		t.Phase, t.Container, t.ImageID, t.LastError = "", c.Name, c.ImageID, ""
		return nil
	})
	return err
}

// addManaged writes an agent's administrative settings beside the task's record and mounts their
// directory of /etc read-only. Mounted whole it can neither be moved away nor be added to, by root
// of the container either.
func addManaged(spec *launch.Spec, files []sandbox.StartFile) error {
	mounted := map[string]bool{}
	for _, f := range files {
		name, rest, _ := strings.Cut(strings.TrimPrefix(f.Path, "/etc/"), "/")
		source := filepath.Join(spec.Dir, "agent", "managed", name)
		if err := state.WriteFileMode(filepath.Join(source, rest), []byte(f.Content), fs.FileMode(f.Mode)); err != nil {
			return err
		}
		if !mounted[name] {
			mounted[name] = true
			spec.Trusted = append(spec.Trusted, launch.Mount{Source: source, Target: "/etc/" + name, ReadOnly: true, NoExec: true})
		}
	}
	return nil
}

// limits applies the run section of the configuration; an explicit privilege wins over the mode
// of the agent.
func limits(spec *launch.Spec, run config.Run) {
	spec.PidsLimit, spec.ShmSize, spec.Memory, spec.CPUs = run.PidsLimit, string(run.ShmSize), run.Memory.Bytes(), string(run.CPUs)
	spec.StopTimeout = int(run.ShutdownTimeout.Seconds())
	switch run.Privilege {
	case "none":
		spec.Privilege = launch.None
	case "sudo":
		spec.Privilege = launch.Sudo
	}
}

// settings are the shield's settings from the user's configuration.
func settings(g config.Global) policy.Settings {
	s := policy.DefaultSettings()
	s.Synthetic, s.Ask, s.HoldSeconds = g.Shield.Range, !g.Clearance.Off, int(g.Clearance.Hold.Seconds())
	return s
}

// openHosts are the hosts that the agent is told about.
func openHosts(s starting, now time.Time) []string {
	var hosts []string
	if s.provider != nil {
		hosts = append(hosts, s.provider.Host()+" (your model)")
	}
	for _, g := range s.grants {
		if !g.Waiting && (s.provider == nil || g.Provider != s.provider.Name) {
			hosts = append(hosts, g.Routes[0].Host+" ("+strings.Join(slices.Sorted(maps.Keys(g.Auth[g.Kind].Env)), ", ")+" is set)")
		}
	}
	for _, r := range s.rules {
		if r.Allows() && r.Live(now) {
			hosts = append(hosts, strings.TrimPrefix(r.Text, "+"))
		}
	}
	return hosts
}

// chooseProvider finds the provider of a start. The vault has to be open only where more than one
// comes into question.
func (a *App) chooseProvider(ctx context.Context, set *roster.Roster, agent *roster.Agent, p *project.Project, want string) (*roster.Provider, error) {
	if want == "" && p.DefaultProvider != "" {
		own, err := set.Provider(p.DefaultProvider)
		if err != nil {
			return nil, err
		}
		if slices.Contains(set.ProvidersFor(agent), own) {
			want = own.Name
		}
	}
	if want == "" && len(set.ProvidersFor(agent)) > 1 {
		if err := a.VaultNeed(ctx); err != nil {
			return nil, err
		}
	}
	return set.Choose(agent, want, func(name string) (bool, error) {
		if len(set.ProvidersFor(agent)) == 1 {
			return true, nil // asked for later, and missed with the command that cures it
		}
		return a.AuthHas(ctx, name, p.Name, p.Scope())
	})
}

// ensureImage finds the image and the agent's bundles. What is missing is made after a question,
// and is an error with its cure where nobody can be asked.
func (a *App) ensureImage(ctx context.Context, base string, agent *roster.Agent) (imageID string, bundles []image.Bundle, err error) {
	l0, err := a.ImageL0(ctx, base)
	missing := problem.Is(err, "image_not_found")
	if err != nil && !missing {
		return "", nil, err
	}
	var agents []string
	bundles, berr := a.agentBundles(agent)
	switch {
	case berr == nil:
	case !problem.Is(berr, "agent_not_installed"):
		return "", nil, berr
	default:
		agents, err = []string{agent.Name}, firstError(err, berr)
	}
	if !missing && len(agents) == 0 {
		return l0.ID, bundles, nil
	}
	if a.Confirm == nil {
		return "", nil, err
	}
	ok, cerr := a.Confirm(fmt.Sprintf("%s. Make it now (about a minute, once)?", text.Line(err.Error(), 200)))
	if cerr != nil {
		return "", nil, cerr
	}
	if !ok {
		return "", nil, err
	}
	if l0, err = a.ImagePrepare(ctx, ImageOptions{Base: base}, agents...); err != nil {
		return "", nil, err
	}
	if len(agents) > 0 {
		if bundles, err = a.agentBundles(agent); err != nil {
			return "", nil, err
		}
	}
	return l0.ID, bundles, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// needCredential makes sure that the vault is unlocked and holds what the agent needs.
func (a *App) needCredential(ctx context.Context, p *roster.Provider, pr *project.Project) error {
	if err := a.VaultNeed(ctx); err != nil {
		return err
	}
	has, err := a.AuthHas(ctx, p.Name, pr.Name, pr.Scope())
	if err != nil || has {
		return err
	}
	return problem.New("credential_missing", problem.Locked, "no key for %s is in the vault%s", p.Title, ownOnly(pr.Scope())).
		WithHint("%s", signIn(p.Name, pr.Scope())).With("provider", p.Name).With("scope", pr.Scope())
}

func (a *App) gateStore() *store.Store {
	return &store.Store{Roots: a.Roots, Git: &git.Runner{}, Now: a.Now, Ledger: hostLedger{a}, Access: a.access}
}

func firstOf(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func launchID() string {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}
