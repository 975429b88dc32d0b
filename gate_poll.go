package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/store"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/state"
)

// GatePolled is what a look at one project's upstream found.
type GatePolled struct {
	Project string       `json:"project"`
	Asked   bool         `json:"asked"` // false: it is not time yet, or polling is off
	Check   *store.Check `json:"check"` // null: never asked
	Synced  *GateReport  `json:"synced"`
	Reviews int          `json:"reviews"` // lines of the tasks' review status, -1: not asked
	Error   string       `json:"error,omitempty"`
	// ReviewError is why the forge could not be asked; what was known of reviews stays.
	ReviewError string `json:"review_error,omitempty"`
}

// GatePoll looks whether upstreams moved, of the given projects or of all that have a gate: one
// round trip each, nothing is fetched. It asks a project only when gatekeeping.upstream_polling
// says that it is time, or always with force. Where auto_sync is on and there is news, the branches
// it names are synced; what is destructive waits for a person. It does nothing while terok is
// locked after a panic.
func (a *App) GatePoll(ctx context.Context, force bool, projects ...string) ([]GatePolled, error) {
	if err := a.notPanicked(); err != nil {
		return nil, err
	}
	if len(projects) == 0 {
		var err error
		if projects, err = a.projects().Names(); err != nil {
			return nil, err
		}
	}
	out := []GatePolled{}
	for _, name := range projects {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		p, err := a.projects().Get(name)
		if err != nil {
			if force && len(projects) == 1 {
				return nil, err
			}
			out = append(out, GatePolled{Project: name, Reviews: -1, Error: err.Error()})
			continue
		}
		if _, err := os.Lstat(a.Roots.GateBase(name)); errors.Is(err, fs.ErrNotExist) || p.Git.UpstreamURL == "" || !p.Gated() {
			continue
		}
		out = append(out, a.pollProject(ctx, p, force))
	}
	return out, nil
}

func (a *App) pollProject(ctx context.Context, p *project.Project, force bool) GatePolled {
	r := GatePolled{Project: p.Name, Reviews: -1}
	g := p.Gatekeeping
	if !g.UpstreamPolling.Enabled && !force {
		return r
	}
	s := a.gateStore()
	if !force {
		s.Actor = "auto"
	}
	c, asked, err := s.Poll(ctx, p.Name, time.Duration(g.UpstreamPolling.IntervalMinutes)*time.Minute, force)
	r.Asked = asked
	if !c.At.IsZero() {
		r.Check = &c
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	if asked && c.Error == "" {
		if r.Reviews, err = a.pollReviews(ctx, p, force); err != nil {
			r.ReviewError = err.Error()
		}
	}
	if asked && g.AutoSync.Enabled && c.Behind > 0 {
		o := syncOptions(p, GateSyncOptions{Branches: g.AutoSync.Branches})
		if len(g.AutoSync.Branches) == 0 {
			if st, err := s.Status(ctx, p.Name); err == nil {
				o.Branches = []string{firstOf(p.Git.DefaultBranch, st.Head)}
			}
		}
		if len(c.Branches) == c.Behind && !slices.ContainsFunc(c.Branches, func(b string) bool { return slices.Contains(o.Branches, b) }) {
			return r // what moved is none of them
		}
		o.AutoLossless = false // automation never takes anything away
		rep, err := s.SyncWith(ctx, p.Name, p.Git.UpstreamURL, o)
		switch {
		case err == nil || problem.Is(err, "sync_partial"):
			r.Synced = &rep
		case !problem.Is(err, "gate_busy"):
			r.Error = err.Error()
		}
	}
	return r
}

// pollSoon lets a process of its own look at a project's upstream, if that is due: the command that
// comes with it waits for no network.
func (a *App) pollSoon(name string) {
	p, err := a.projects().Get(name)
	if err != nil || a.Self == "" || !p.Gated() || !p.Gatekeeping.UpstreamPolling.Enabled || !a.gateStore().PollDue(name) {
		return
	}
	var env []string
	if sock := a.Environ("SSH_AUTH_SOCK"); filepath.IsAbs(sock) {
		env = append(env, "SSH_AUTH_SOCK="+sock)
	}
	a.startAside(env, "gate", "poll", "--quiet", "--no-input", name)
}

// unitDir is where systemd looks for this user's units (systemd.unit(5)).
func (a *App) unitDir() (string, error) {
	config := a.Environ("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) {
		home := a.Environ("HOME")
		if !filepath.IsAbs(home) {
			return "", problem.New("environment", problem.Usage, "HOME is not set to an absolute path")
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "systemd", "user"), nil
}

// unitPath renders a path for a condition: no quotes there, and a percent sign begins a specifier.
func unitPath(path string) string { return strings.ReplaceAll(path, "%", "%%") }

// unitQuote renders a word of a command line (systemd.service(5), "COMMAND LINES").
func unitQuote(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(word) + `"`
}

// pollUnits are the systemd user units of the timer (systemd.timer(5)). The service does nothing
// that is not due, so its own pace only bounds how late a look can be.
func pollUnits(self string) map[string]string {
	return map[string]string{
		"terok-gate-poll.service": fmt.Sprintf(`[Unit]
Description=terok: look whether upstreams moved
ConditionPathExists=%s

[Service]
Type=oneshot
ExecStart=%s gate poll --quiet --no-input
Nice=10
`, unitPath(self), unitQuote(self)),
		"terok-gate-poll.timer": `[Unit]
Description=terok: look whether upstreams moved

[Timer]
OnStartupSec=2min
OnUnitActiveSec=1min
RandomizedDelaySec=10s

[Install]
WantedBy=timers.target
`,
	}
}

// InstallPollTimer writes the timer's units for this user and returns their paths. Starting it is
// left to the person: systemctl --user enable --now terok-gate-poll.timer.
func (a *App) InstallPollTimer() ([]string, error) {
	dir, err := a.unitDir()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range []string{"terok-gate-poll.service", "terok-gate-poll.timer"} {
		path := filepath.Join(dir, name)
		if err := state.WriteFileMode(path, []byte(pollUnits(a.Self)[name]), 0o644); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// RemovePollTimer removes what InstallPollTimer wrote.
func (a *App) RemovePollTimer() error {
	dir, err := a.unitDir()
	if err != nil {
		return err
	}
	for name := range pollUnits(a.Self) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
