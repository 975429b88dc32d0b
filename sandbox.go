package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/control"
	"terok/internal/launch"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

// SandboxOptions say what `terok sandbox run` starts: any command in any local image, behind a
// supervisor, without a project.
type SandboxOptions struct {
	Name    string   // "" draws one
	Image   string   // in the local store
	Command []string // at least the program
	Allow   []string // rules in policy grammar without sign, e.g. "example.org:443"
	Deny    []string
	Verify  string   // of SNI and Host: enforce (also ""), log or off
	IPv6    bool     // names have IPv6 addresses inside as well
	Budget  []string // of what leaves it, e.g. "200MB/h"
	Env     []string // "KEY=VALUE"
	Mounts  []string // "SRC:DST[:ro]"
	Remove  bool     // remove the container and its directory when the command ends
	TTY     bool
	Stdin   bool
	NoRoot  bool // privilege none: no capability and no sudo inside

	noAsk bool // nobody is asked: what no rule allows is refused at once
}

// Sandbox is a container of `terok sandbox run`.
type Sandbox struct {
	Name      string    `json:"name"`
	Container string    `json:"container"` // id
	Image     string    `json:"image"`     // id
	State     string    `json:"state"`     // podman's word
	ExitCode  *int      `json:"exit_code"` // nil unless it has ended
	CreatedAt time.Time `json:"created_at"`
	Dir       string    `json:"dir"`
	// Supervised is true while a supervisor answers; a running container without one has no
	// network at all.
	Supervised bool `json:"supervised"`
}

var sandboxName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// sandboxContainer is the container of a sandbox.
func sandboxContainer(name string) string { return "terok-sandbox-" + name }

// SandboxRun starts a sandbox in the background.
func (a *App) SandboxRun(ctx context.Context, o SandboxOptions) (*Sandbox, error) {
	l, spec, release, err := a.sandboxSpec(ctx, o)
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := l.Run(ctx, spec)
	if err != nil {
		return nil, err
	}
	a.startNotifier()
	return &Sandbox{Name: spec.Key, Container: c.ID, Image: c.ImageID, State: "running", CreatedAt: a.Now().UTC(), Dir: c.Dir, Supervised: true}, nil
}

// SandboxRunAttached starts a sandbox in the foreground and returns the command's exit code. With
// o.Remove its directory is removed as well when the command has ended.
func (a *App) SandboxRunAttached(ctx context.Context, o SandboxOptions, io launch.Stdio) (int, error) {
	l, spec, release, err := a.sandboxSpec(ctx, o)
	if err != nil {
		return 0, err
	}
	defer release()
	code, err := l.RunAttached(ctx, spec, io)
	if o.Remove {
		err = errors.Join(err, a.removeSandboxFiles(spec.Key))
	}
	return code, err
}

// shape applies what the options say about the shield beside rules.
func (o *SandboxOptions) shape(s *policy.Settings) error {
	switch v := policy.Verify(o.Verify); v {
	case "":
	case policy.VerifyEnforce, policy.VerifyLog, policy.VerifyOff:
		s.Verify = v
	default:
		return problem.New("verify_invalid", problem.Usage, "--verify is enforce, log or off, not %q", o.Verify)
	}
	s.IPv6 = s.IPv6 || o.IPv6
	for _, text := range o.Budget {
		b, err := policy.ParseBudget(text)
		if err != nil {
			return problem.New("budget_invalid", problem.Usage, "--budget %s: %w", text, err).WithHint(`--budget 200MB/h or --budget "*.example.org 10MB/d quarantine"`)
		}
		s.Budgets = append(s.Budgets, b)
	}
	return nil
}

// sandboxSpec turns options into a launch. release gives the name back.
func (a *App) sandboxSpec(ctx context.Context, o SandboxOptions) (*launch.Launcher, launch.Spec, func(), error) {
	var none launch.Spec
	name := o.Name
	if name == "" {
		name = fmt.Sprintf("s%x", a.Now().UnixMilli()&0xffffffffff)
	}
	if !sandboxName.MatchString(name) {
		return nil, none, nil, problem.New("name_invalid", problem.Usage, "sandbox name %q must be 1 to 63 of a-z, 0-9, '-', '_', '.' and begin with a letter or digit", name)
	}
	if len(o.Command) == 0 {
		return nil, none, nil, problem.New("usage", problem.Usage, "a command is needed").WithHint("terok sandbox run IMAGE -- CMD...")
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, none, nil, err
	}
	doc := policy.Document{Settings: settings(global)}
	if err := o.shape(&doc.Settings); err != nil {
		return nil, none, nil, err
	}
	doc.Settings.Ask = doc.Settings.Ask && !o.noAsk
	for sign, rules := range map[string][]string{"+": o.Allow, "-": o.Deny} {
		for _, text := range rules {
			r, err := sandboxRule(sign, text)
			if err != nil {
				return nil, none, nil, err
			}
			doc.Rules = append(doc.Rules, r)
		}
	}
	env := map[string]string{}
	for _, kv := range o.Env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || !envName.MatchString(k) {
			return nil, none, nil, problem.New("env_invalid", problem.Usage, "--env takes KEY=VALUE, not %q", kv)
		}
		env[k] = v
	}
	var mounts []launch.Mount
	for _, m := range o.Mounts {
		mount, err := parseMount(m)
		if err != nil {
			return nil, none, nil, err
		}
		mounts = append(mounts, mount)
	}
	dir := a.Roots.SandboxDir(name)
	release, err := state.TryLock(filepath.Join(a.Roots.SandboxesDir(), name))
	if errors.Is(err, state.ErrLocked) {
		return nil, none, nil, problem.New("name_taken", problem.Conflict, "sandbox %q is being started or removed by another command", name)
	}
	if err != nil {
		return nil, none, nil, err
	}
	l := a.launcher()
	if _, err := os.Lstat(sandbox.Path(dir)); err == nil { // there was one: is it still?
		_, err := l.Podman.Inspect(ctx, sandboxContainer(name))
		switch {
		case err == nil:
			err = problem.New("name_taken", problem.Conflict, "sandbox %q exists already", name).WithHint("terok sandbox rm %s", name)
		case errors.Is(err, podman.ErrAbsent):
			// Removed with podman, or by --rm: live verdicts of the old one are not the new one's.
			err = os.RemoveAll(dir)
		}
		if err != nil {
			release()
			return nil, none, nil, err
		}
	}
	spec := launch.Spec{Key: name, Name: sandboxContainer(name), Dir: dir, Image: o.Image, Argv: o.Command, TTY: o.TTY,
		Stdin: o.Stdin, Remove: o.Remove, Policy: doc, Start: sandbox.Start{Env: env}, Mounts: mounts}
	limits(&spec, global.Run)
	a.confinement(&spec, global)
	a.trimLedgers(global)
	if o.NoRoot {
		spec.Privilege = launch.None
	}
	return l, spec, release, nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// sandboxRule parses a rule from the command line; a deny goes before live verdicts.
func sandboxRule(sign, text string) (policy.Rule, error) {
	tier, flag := policy.Project, "--allow"
	if sign == "-" {
		tier, flag = policy.Denied, "--deny"
	}
	if !strings.HasPrefix(text, "+") && !strings.HasPrefix(text, "-") {
		text = sign + text
	}
	if !strings.HasPrefix(text, sign) {
		return policy.Rule{}, problem.New("rule_invalid", problem.Usage, "%s %s: the rule has the other sign", flag, text)
	}
	r, err := parseRule(text, tier, flag)
	if err != nil {
		return policy.Rule{}, problem.New("rule_invalid", problem.Usage, "%w", err).WithHint("terok sandbox run --help")
	}
	return r, nil
}

// parseMount parses "SRC:DST[:ro]".
func parseMount(s string) (launch.Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || (len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw") {
		return launch.Mount{}, problem.New("mount_invalid", problem.Usage, "--mount takes SRC:DST[:ro], not %q", s)
	}
	src, err := filepath.Abs(parts[0])
	if err != nil {
		return launch.Mount{}, err
	}
	return launch.Mount{Source: src, Target: parts[1], ReadOnly: len(parts) == 3 && parts[2] == "ro"}, nil
}

// launcher starts containers with this App's program and state.
func (a *App) launcher() *launch.Launcher {
	return &launch.Launcher{Roots: a.Roots, Self: a.Self, Podman: podman.New(a.Roots, a.Environ), Environ: a.Environ, Now: a.Now}
}

// SandboxList lists the sandboxes that podman knows, running or not.
func (a *App) SandboxList(ctx context.Context) ([]Sandbox, error) {
	found, err := podman.New(a.Roots, a.Environ).PS(ctx, sandbox.LabelManaged+"=1", sandbox.LabelMode+"="+launch.ModeCommand)
	if err != nil {
		return nil, err
	}
	out := []Sandbox{}
	ours, err := filepath.EvalSymlinks(a.Roots.SandboxesDir()) // as the label has it
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		if filepath.Dir(c.Labels[sandbox.LabelDir]) != ours {
			continue // another tree's
		}
		s := Sandbox{Name: c.Labels[sandbox.LabelName], Container: c.ID, Image: c.ImageID, State: c.State,
			CreatedAt: time.Unix(c.Created, 0).UTC(), Dir: c.Labels[sandbox.LabelDir]}
		if c.State == "exited" {
			s.ExitCode = &c.ExitCode
		}
		if c.Running() {
			_, err := control.Dial(sandbox.ControlPath(a.Roots.RunDir(s.Name))).Status(ctx)
			s.Supervised = err == nil
		}
		out = append(out, s)
	}
	return out, nil
}

// SandboxStop stops a sandbox; one that is not running is fine.
func (a *App) SandboxStop(ctx context.Context, name string, grace time.Duration) error {
	if err := a.knownSandbox(name); err != nil {
		return err
	}
	return podman.New(a.Roots, a.Environ).Stop(ctx, sandboxContainer(name), grace)
}

// SandboxRestart stops and starts a sandbox; it gets a new supervisor, and with it its network.
func (a *App) SandboxRestart(ctx context.Context, name string, grace time.Duration) error {
	if err := a.knownSandbox(name); err != nil {
		return err
	}
	defer a.startNotifier()
	l := a.launcher()
	return l.Restart(ctx, sandboxContainer(name), a.Roots.SandboxDir(name), grace)
}

// SandboxRemove kills a sandbox and removes its container and directory. It goes on where
// something is missing already, and says so only when nothing was there.
func (a *App) SandboxRemove(ctx context.Context, name string) error {
	if !sandboxName.MatchString(name) {
		return a.noSandbox(name)
	}
	p := podman.New(a.Roots, a.Environ)
	_, err := p.Inspect(ctx, sandboxContainer(name))
	absent := errors.Is(err, podman.ErrAbsent)
	if err != nil && !absent {
		return err
	}
	if absent && a.knownSandbox(name) != nil {
		return a.noSandbox(name)
	}
	if err := p.Remove(ctx, sandboxContainer(name)); err != nil {
		return err
	}
	return a.removeSandboxFiles(name)
}

// removeSandboxFiles removes what a sandbox has on the host.
func (a *App) removeSandboxFiles(name string) error {
	return errors.Join(os.RemoveAll(a.Roots.SandboxDir(name)), os.RemoveAll(a.Roots.RunDir(name)),
		removeFile(filepath.Join(a.Roots.SandboxesDir(), name)+".lock"))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a *App) knownSandbox(name string) error {
	if !sandboxName.MatchString(name) {
		return a.noSandbox(name)
	}
	if _, err := os.Lstat(sandbox.Path(a.Roots.SandboxDir(name))); err != nil {
		return a.noSandbox(name)
	}
	return nil
}

func (a *App) noSandbox(name string) error {
	return problem.New("sandbox_not_found", problem.NotFound, "no sandbox %q", name).WithHint("terok sandbox ps")
}
