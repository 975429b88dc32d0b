package terok

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/text"
)

// Adoption is what `terok shield adopt` reports.
type Adoption struct {
	Name   string         `json:"name"`
	Status control.Status `json:"status"` // of the new supervisor
	// Complete is true when the guest came back and everything is as it was; else vault and gate
	// stay closed until a restart, and the network works.
	Complete bool `json:"complete"`
}

// comeBack is how long an adoption waits for the guest, which looks every two seconds.
const comeBack = 10 * time.Second

// ShieldAdopt gives a running sandbox or task, whose supervisor has died, a new one: what runs in
// it goes on, with the rules, the posture, the names and the tokens that it had. A container that
// still has a supervisor, one that does not run and one that is not as its sandbox file says are
// left alone; one whose network could not be made again is stopped.
func (a *App) ShieldAdopt(ctx context.Context, target string) (*Adoption, error) {
	s, err := a.shielded(target)
	if err != nil {
		return nil, err
	}
	if err := a.notPanicked(); err != nil {
		return nil, err
	}
	release, err := a.operate(s)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := s.client().Status(ctx); !errors.Is(err, control.ErrNoSupervisor) {
		return nil, problem.New("supervised", problem.Conflict, "%s has a supervisor", s.name).
			WithHint("terok shield status %s", s.name)
	}
	p := podman.New(a.Roots, a.Environ)
	c, err := p.Inspect(ctx, s.file.Name)
	if errors.Is(err, podman.ErrAbsent) || err == nil && !c.State.Running {
		return nil, problem.New("not_running", problem.Conflict, "%s is not running", s.name).WithHint("%s", s.restartHint())
	}
	if err != nil {
		return nil, err
	}
	guest := filepath.Join(a.Roots.GuestDir(), s.file.GuestSHA256, "terok")
	var said bytes.Buffer
	err = p.Unshare(ctx, []string{a.Self, "supervise-adopt", sandbox.Path(s.file.Dir), c.ID, strconv.Itoa(c.State.Pid), guest}, &said, &said)
	if err != nil {
		return nil, a.notAdopted(ctx, s, c.ID, err, text.Line(strings.TrimSpace(said.String()), 1000))
	}
	return a.awaitGuest(ctx, s)
}

// notAdopted says why, and stops a container that was left half done.
func (a *App) notAdopted(ctx context.Context, s *shielded, container string, err error, reason string) error {
	exit, ended := errors.AsType[*podman.ExitError](err)
	if ended && reason == "" {
		reason = text.Line(strings.TrimSpace(exit.Stderr), 1000)
	}
	switch {
	case ended && exit.Code == sandbox.AdoptRefused:
		return problem.New("adoption_refused", problem.Conflict, "%s was not adopted and goes on without a network: %s", s.name, reason).
			WithHint("%s", s.restartHint())
	case ended && exit.Code == sandbox.AdoptFailed:
		done := "it was stopped"
		if e := podman.New(a.Roots, a.Environ).Stop(context.WithoutCancel(ctx), container, 10*time.Second); e != nil {
			done = fmt.Sprintf("it could not be stopped either: %v", e)
		}
		return problem.New("adoption_failed", problem.Failed, "%s could not be given a network again, so %s: %s", s.name, done, reason).
			WithHint("%s", s.restartHint())
	}
	return fmt.Errorf("adopt %s: %w", s.name, err)
}

// awaitGuest waits until the guest has come back to the new supervisor.
func (a *App) awaitGuest(ctx context.Context, s *shielded) (*Adoption, error) {
	out := &Adoption{Name: s.name}
	ctx, cancel := context.WithTimeout(ctx, comeBack)
	defer cancel()
	for {
		st, err := s.client().Status(ctx)
		if err == nil {
			out.Status, out.Complete = st, st.Ready && !st.Waiting
		}
		if out.Complete {
			return out, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			if out.Status.Key == "" {
				return nil, s.explain(err)
			}
			return out, nil
		}
	}
}

// operate keeps other commands from starting, stopping or removing the container meanwhile.
func (a *App) operate(s *shielded) (release func(), err error) {
	if s.file.Project != "" {
		return a.tasks().Operate(s.file.Project, s.file.Task)
	}
	release, err = state.TryLock(filepath.Join(a.Roots.SandboxesDir(), s.file.Key))
	if errors.Is(err, state.ErrLocked) {
		return nil, problem.New("busy", problem.Conflict, "sandbox %q is being started or removed by another command", s.file.Key)
	}
	return release, err
}

// adoptHint is how a container without a supervisor gets one and keeps what runs in it.
func (s *shielded) adoptHint() string {
	if s.file.Project == "" {
		return "terok sandbox adopt " + s.file.Key
	}
	return fmt.Sprintf("terok shield adopt %s/%s", s.file.Project, s.file.Task)
}
