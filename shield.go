package terok

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/shield/idn"
	"terok/internal/shield/policy"
	"terok/internal/task"
)

// shielded is a container as the shield's verbs need it.
type shielded struct {
	file *sandbox.File
	dir  string
	name string // as the person calls it
}

// shielded finds a sandbox by its name, or a task by P/T or a prefix that is unique across
// projects.
func (a *App) shielded(target string) (*shielded, error) {
	dir, err := a.shieldedDir(target)
	if err != nil {
		return nil, err
	}
	f, err := sandbox.Load(sandbox.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("not_started", problem.Conflict, "%s was never started", target)
	}
	if err != nil {
		return nil, problem.New("sandbox_file", problem.Failed, "%w", err)
	}
	return &shielded{file: f, dir: dir, name: target}, nil
}

func (a *App) shieldedDir(target string) (string, error) {
	if a.knownSandbox(target) == nil {
		return a.Roots.SandboxDir(target), nil
	}
	project, id, paired := strings.Cut(target, "/")
	if !paired {
		project, id = "", target
	}
	notFound := problem.New("task_not_found", problem.NotFound, "no sandbox and no task matches %q", target).
		WithHint("terok sandbox ps   or: terok task list")
	prefix, err := task.NormalizePrefix(id)
	if err != nil {
		return "", notFound
	}
	store := task.Store{Roots: a.Roots, Now: a.Now}
	projects := []string{}
	if paired {
		projects = append(projects, project)
	}
	entries, err := store.List(projects...)
	if err != nil {
		return "", err
	}
	var found []task.Entry
	for _, e := range entries {
		if strings.HasPrefix(e.ID, prefix) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return "", notFound
	case 1:
		return a.Roots.TaskDir(found[0].Project, found[0].ID), nil
	}
	var names []string
	for _, e := range found[:min(len(found), 10)] {
		names = append(names, e.Project+"/"+e.ID)
	}
	return "", problem.New("task_ambiguous", problem.Conflict, "%q matches %s", target, strings.Join(names, ", "))
}

func (s *shielded) client() *control.Client {
	return control.Dial(sandbox.ControlPath(s.file.RuntimeDir))
}

// ShieldStatus asks the supervisor of a sandbox or task. Without a supervisor the posture is
// Offline for a stopped container and Failing for a running one, which has no network then.
func (a *App) ShieldStatus(ctx context.Context, target string) (control.Status, error) {
	s, err := a.shielded(target)
	if err != nil {
		return control.Status{}, err
	}
	st, err := s.client().Status(ctx)
	if err == nil {
		return st, nil
	}
	st = control.Status{Key: s.file.Key, Project: s.file.Project, Task: s.file.Task, Launch: s.file.Launch,
		Posture: control.Failing, Desired: control.Up, Vault: "none", Services: []string{}}
	if !errors.Is(err, control.ErrNoSupervisor) {
		return st, nil // it hangs or fails: treated as quarantine by every caller
	}
	c, err := podman.New(a.Roots, a.Environ).Inspect(ctx, s.file.Name)
	switch {
	case errors.Is(err, podman.ErrAbsent):
		st.Posture = control.Offline
	case err != nil:
		return st, err
	default:
		st.ContainerID = c.ID
		if !c.State.Running {
			st.Posture = control.Offline
		}
	}
	return st, nil
}

// ShieldChange adds a live rule ("+example.org:443" or "-example.org"), or with remove takes one
// away, at once and for the container's life. For how long: expires, zero for ever.
func (a *App) ShieldChange(ctx context.Context, target, rule, reason string, remove bool, expires time.Time) (control.RuleView, error) {
	s, err := a.shielded(target)
	if err != nil {
		return control.RuleView{}, err
	}
	rule, err = idn.Rule(rule)
	if err == nil {
		_, err = parseRule(rule, policy.Session, "rule")
	}
	if err != nil {
		return control.RuleView{}, problem.New("rule_invalid", problem.Usage, "%w", err).WithHint("terok shield allow --help")
	}
	c := control.RuleChange{Rule: rule, Remove: remove, Reason: reason, Actor: "operator"}
	if !expires.IsZero() {
		c.Expires = expires.UTC().Format(time.RFC3339)
	}
	v, err := s.client().ChangeRule(ctx, c)
	return v, s.explain(err)
}

// ShieldExplain says what happens to HOST[:PORT] and why.
func (a *App) ShieldExplain(ctx context.Context, target, hostPort string) (control.Explanation, error) {
	s, err := a.shielded(target)
	if err != nil {
		return control.Explanation{}, err
	}
	t, err := parseTarget(hostPort)
	if err != nil {
		return control.Explanation{}, err
	}
	e, err := s.client().Explain(ctx, t)
	return e, s.explain(err)
}

// ShieldLogs calls fn for the events of a container's ledger that are about egress, oldest first;
// with follow it goes on until ctx ends. It needs no supervisor.
func (a *App) ShieldLogs(ctx context.Context, target string, last int, follow bool, fn func(audit.Event) error) error {
	s, err := a.shielded(target)
	if err != nil {
		return err
	}
	path, filter := sandbox.LedgerPath(s.dir), audit.Filter{Tail: last}
	if follow {
		return audit.Follow(ctx, path, filter, fn)
	}
	err = audit.Read(path, filter, fn)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// explain turns the client's errors into what a person needs.
func (s *shielded) explain(err error) error {
	switch e, refused := errors.AsType[*control.Error](err); {
	case err == nil:
		return nil
	case errors.Is(err, control.ErrNoSupervisor):
		return problem.New("no_supervisor", problem.Conflict, "%s has no supervisor: it is stopped, or it runs without any network", s.name).
			WithHint("%s (what runs goes on), or %s (clean)", s.adoptHint(), s.restartHint())
	case refused:
		exit := problem.Failed
		switch e.Code {
		case "rule_invalid", "bad_request", "posture_invalid":
			exit = problem.Usage
		case "rule_not_found", "not_found", "no_gate":
			exit = problem.NotFound
		case "quarantined", "rule_outranked", "conflict", "guest_not_there":
			exit = problem.Conflict
		}
		return problem.New(e.Code, exit, "%s", e.Message).WithHint("%s", e.Hint)
	}
	return err
}

func (s *shielded) restartHint() string {
	if s.file.Project == "" {
		return "terok sandbox restart " + s.file.Key
	}
	return fmt.Sprintf("terok task restart %s/%s", s.file.Project, s.file.Task)
}

// parseTarget reads HOST, HOST:PORT or [V6]:PORT.
func parseTarget(s string) (control.Target, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		host, portText = strings.Trim(s, "[]"), ""
	}
	t := control.Target{Host: host, Proto: "tcp"}
	if portText != "" {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 {
			return t, problem.New("usage", problem.Usage, "%q is not a port", portText)
		}
		t.Port = uint16(n)
	}
	if t.Host, err = hostName(host); err != nil {
		return t, err
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, "/ \t\n") {
		return t, problem.New("usage", problem.Usage, "%q is not HOST or HOST:PORT", s)
	}
	return t, nil
}
