package terok

import (
	"context"
	"fmt"
	"strings"

	"terok/internal/killswitch"
	"terok/internal/problem"
	"terok/internal/sandbox"
)

// PanicReport says what was cut.
type PanicReport = killswitch.Report

// Panic cuts every task off and locks the vault; with stop it kills the containers as well. It
// returns the report also with an error, which says that something could not be cut.
func (a *App) Panic(ctx context.Context, stop bool) (*PanicReport, error) {
	r := killswitch.Pull(a.Roots)
	a.note("panic", map[string]string{"supervisors": fmt.Sprint(r.Supervisors)})
	if stop {
		if err := a.killAll(ctx, &r); err != nil {
			r.Errors = append(r.Errors, err.Error())
		}
	}
	if len(r.Errors) > 0 {
		return &r, problem.New("panic_incomplete", problem.Failed, "not everything was cut: %s", strings.Join(r.Errors, "; ")).
			WithHint("terok panic --stop, or: podman kill --all")
	}
	return &r, nil
}

// ClearPanic lifts the lock. Nothing is started again.
func (a *App) ClearPanic() error {
	if err := killswitch.Clear(a.Roots); err != nil {
		return err
	}
	a.note("panic_cleared", nil)
	return nil
}

func (a *App) killAll(ctx context.Context, r *PanicReport) error {
	all, err := a.containers(ctx)
	if err != nil {
		return err
	}
	for key, c := range all {
		if !c.Running() || !strings.HasPrefix(c.Labels[sandbox.LabelDir], a.Roots.Data+"/") {
			continue
		}
		if err := a.pod().Kill(ctx, c.ID, "KILL"); err != nil {
			r.Errors = append(r.Errors, fmt.Sprintf("container of %s: %v", key, err))
			continue
		}
		r.Stopped++
	}
	return nil
}
