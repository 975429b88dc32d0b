package terok

import (
	"context"
	"os/user"
	"path/filepath"
	"time"

	"terok/internal/clearance/board"
	"terok/internal/clearance/watch"
	"terok/internal/control"
	"terok/internal/relay"
	"terok/internal/task"
)

// RequestWatch is a live list of what running tasks ask for; see package watch.
type (
	RequestWatch = watch.Watch
	RequestItem  = watch.Item
	RequestState = watch.State
)

// WatchOptions say what WatchRequests follows.
type WatchOptions struct {
	Target string // a sandbox, or a task as P/T or a unique prefix; "" all of them
	// Answers reports whether somebody is there who can give verdicts: connections that no rule
	// lists wait for one only then. nil is never; Restart of the watch makes it be asked again.
	Answers func() bool
	Each    func(RequestItem) // gets everything that arrives, one at a time; may be nil
}

// WatchRequests follows the requests of the running tasks, also of those that start later, until
// the watch is closed.
func (a *App) WatchRequests(ctx context.Context, o WatchOptions) (*RequestWatch, error) {
	w := watch.Options{Roots: a.Roots, Each: o.Each, Answers: func(string) bool { return o.Answers != nil && o.Answers() }}
	if o.Target != "" {
		s, err := a.shielded(o.Target)
		if err != nil {
			return nil, err
		}
		w.Key = s.file.Key
	}
	return watch.Start(ctx, w)
}

// Requests asks the running tasks for what waits now and what was decided lately.
func (a *App) Requests(ctx context.Context, target string) (RequestState, error) {
	w, err := a.WatchRequests(ctx, WatchOptions{Target: target})
	if err != nil {
		return RequestState{}, err
	}
	defer w.Close()
	w.Settle(ctx)
	return w.State(), nil
}

// attach runs the relay in front of a task's terminal, with the menu of its requests. While it
// runs, somebody can answer them.
func (a *App) attach(ctx context.Context, t *task.Task, o relay.Options) (relay.Outcome, error) {
	key := taskKey(t)
	own := filepath.Base(a.Roots.RunDir(key))
	w, err := watch.Start(ctx, watch.Options{Roots: a.Roots, Answers: func(name string) bool { return name == own }})
	if err != nil {
		return relay.Outcome{}, err
	}
	defer w.Close()
	desk := board.NewDesk(ctx, board.New(key, t.Ref()+" "+t.Name, time.Now), w, a.Answerer("menu"))
	defer desk.Close()
	menu := relay.NewRequestMenu(desk)
	o.Menu, o.Changed, o.Hint = menu, desk.Changed(), menu.Hint
	term := a.Environ("TERM")
	o.NoTitle = term == "linux" || term == "dumb"
	return relay.Run(ctx, o)
}

// Answerer carries out what a person decided at a face: "menu", "clearance", "cli",
// "notification", "tui" or "web".
func (a *App) Answerer(via string) board.Answer {
	return func(ctx context.Context, act board.Act) (control.Request, error) {
		r := act.Request
		if act.Undo {
			return a.Undo(ctx, r.Key, control.UndoChange{ID: r.ID, Actor: actorName(), Via: via})
		}
		return a.Verdict(ctx, r.Key, control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto,
			Choice: act.Choice, Actor: actorName(), Via: via})
	}
}

// actorName is who decides, for the ledger and for other faces.
func actorName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "operator"
}
