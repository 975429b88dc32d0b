// Package notify shows the requests of all running tasks as desktop notifications, with buttons
// that answer them: one process per operator session (`terok notify`), started by launches where
// there is a session to show them in, gone with the last task.
//
// It guarantees: at most six questions and one count of the rest are on the screen; what a
// container wrote is printable ASCII without markup, at most 256 bytes; a button answers only what
// it was shown with; buttons and closings are believed only of the daemon that owns
// org.freedesktop.Notifications now. Bus, daemon and this process may die at any moment: no
// verdict changes, and connections are no longer held for a person who cannot see the question.
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"terok"
	"terok/internal/clearance/board"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/sessionbus"
	"terok/internal/state"
)

// Config is what Run needs.
type Config struct {
	App     *terok.App
	Address string        // of the session bus
	Idle    time.Duration // without a task for so long it ends; 0 means 20 s
}

// Status is the answer on notify.sock.
type Status struct {
	PID    int  `json:"pid"`
	Daemon bool `json:"daemon"` // somebody shows notifications
	Acts   bool `json:"acts"`   // with buttons: requests can be answered here
	Popups int  `json:"popups"`
	Tasks  int  `json:"tasks"`
}

const (
	idleAfter = 20 * time.Second
	// retryAfter is how long a daemon that did not do what it was asked is left alone.
	retryAfter = 30 * time.Second
)

// errRunning says that this session has a notifier.
var errRunning = errors.New("a notifier runs")

// Main is the process `terok notify`. It has no arguments; the session's environment says where
// everything is.
func Main(args []string) int {
	if len(args) != 0 {
		fmt.Fprintln(os.Stderr, "terok notify takes no arguments; launches start it where there is a desktop session")
		return problem.Usage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	roots, err := state.FromEnv(os.Getenv)
	if err == nil {
		err = roots.Check()
	}
	if err == nil {
		app := &terok.App{Roots: roots, Environ: os.Getenv, Progress: io.Discard, Now: time.Now}
		err = Run(ctx, Config{App: app, Address: app.SessionBus()})
	}
	switch {
	case err == nil, errors.Is(err, errRunning), errors.Is(err, context.Canceled):
		return problem.OK
	case errors.Is(err, sessionbus.ErrNone):
		fmt.Fprintln(os.Stderr, "terok notify:", err, "(terok clearance shows the same requests)")
		return problem.OK
	}
	fmt.Fprintln(os.Stderr, "terok notify:", err)
	return problem.Failed
}

// Run notifies until there is no task any more, ctx ends or the bus goes. It returns errRunning
// when the session has a notifier already, and sessionbus.ErrNone without a bus.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Idle == 0 {
		cfg.Idle = idleAfter
	}
	for {
		n, err := start(ctx, cfg)
		if err != nil {
			return err
		}
		err = n.run()
		n.close()
		if err != nil {
			return err
		}
		// A launch that saw us running while we were leaving has started no other one.
		s, err := cfg.App.Requests(ctx, "")
		if err != nil || len(s.Tasks) == 0 {
			return err
		}
	}
}

// notifier is one run.
type notifier struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	unlock  func()
	server  *http.Server
	wg      sync.WaitGroup
	bus     *bus
	watch   *terok.RequestWatch
	popups  *popups
	answer  board.Answer
	results chan result
	alerts  chan terok.RequestItem
	alerted map[string]time.Time // when each was shown; of the watch's goroutine
	broken  time.Time            // when the daemon failed; zero: it works

	acts   atomic.Bool // requests can be answered here
	status atomic.Pointer[Status]
}

type result struct {
	act board.Act
	err error
}

func start(ctx context.Context, cfg Config) (*notifier, error) {
	n := &notifier{cfg: cfg, answer: cfg.App.Answerer("notification"), results: make(chan result),
		alerts: make(chan terok.RequestItem, maxAlerts), alerted: map[string]time.Time{}}
	n.status.Store(&Status{PID: os.Getpid()})
	socket := cfg.App.Roots.NotifySocket()
	unlock, err := state.TryLock(socket)
	if errors.Is(err, state.ErrLocked) {
		return nil, errRunning
	}
	if err != nil {
		return nil, err
	}
	n.unlock = unlock
	n.ctx, n.cancel = context.WithCancel(ctx)
	if n.bus, err = dialBus(n.ctx, cfg.Address); err != nil {
		n.close()
		return nil, err
	}
	n.popups = newPopups(n.bus, cfg.App.Now)
	l, err := control.Listen(socket)
	if err != nil {
		n.close()
		return nil, err
	}
	n.server = &http.Server{Handler: http.HandlerFunc(n.serve), ReadTimeout: callTimeout, WriteTimeout: callTimeout}
	n.wg.Go(func() { _ = n.server.Serve(l) })
	n.bus.find(n.ctx)
	n.acts.Store(n.bus.acts)
	n.watch, err = cfg.App.WatchRequests(n.ctx, terok.WatchOptions{Answers: n.acts.Load, Each: n.heard})
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *notifier) close() {
	n.cancel()
	if n.server != nil {
		_ = n.server.Close()
	}
	if n.watch != nil {
		n.watch.Close()
	}
	n.wg.Wait()
	if n.bus != nil {
		n.bus.close()
	}
	n.unlock()
}

func (n *notifier) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path != "/v1/status" {
		http.Error(w, "GET /v1/status", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(n.status.Load())
}

// run is the one goroutine that talks to the daemon.
func (n *notifier) run() error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	idle := n.cfg.App.Now()
	for {
		s := n.watch.State()
		if len(s.Tasks) > 0 {
			idle = n.cfg.App.Now()
		} else if n.cfg.App.Now().Sub(idle) >= n.cfg.Idle {
			n.popups.clear(n.ctx)
			return nil
		}
		n.sync(s)
		select {
		case <-n.ctx.Done():
			n.popups.clear(context.WithoutCancel(n.ctx))
			return n.ctx.Err()
		case <-n.bus.conn.Context().Done():
			return fmt.Errorf("%w any more", sessionbus.ErrNone)
		case <-n.watch.Changed():
		case <-tick.C:
		case i := <-n.alerts:
			n.tell(i)
		case r := <-n.results:
			n.popups.answered(r.act, r.err)
		case sig := <-n.bus.signals:
			n.signal(sig)
		}
	}
}

// sync brings the screen up to date. A daemon that fails gets no more questions for a while, and
// nobody is said to be able to answer.
func (n *notifier) sync(s terok.RequestState) {
	if !n.broken.IsZero() && n.cfg.App.Now().Sub(n.broken) > retryAfter {
		n.broken = time.Time{}
		n.bus.find(n.ctx)
	}
	works := n.bus.owner != "" && n.broken.IsZero()
	if works {
		if err := n.popups.sync(n.ctx, s, n.bus.acts); err != nil {
			n.broken, works = n.cfg.App.Now(), false
			n.popups.forget()
		}
	}
	if acts := works && n.bus.acts; n.acts.Swap(acts) != acts {
		n.watch.Restart()
	}
	n.status.Store(&Status{PID: os.Getpid(), Daemon: works, Acts: n.acts.Load(), Popups: len(n.popups.shown), Tasks: len(s.Tasks)})
}

// signal handles what the bus brought.
func (n *notifier) signal(sig *dbus.Signal) {
	if sig == nil {
		return
	}
	e, ok := n.bus.judge(sig)
	switch {
	case !ok:
	case e.owner != nil:
		n.popups.forget()
		n.broken = time.Time{}
		n.bus.own(n.ctx, *e.owner)
	case e.closed:
		n.popups.closed(e.id, e.byHuman)
	default:
		if act, ok := n.popups.pressed(e.id, e.action); ok {
			n.wg.Go(func() {
				_, err := n.answer(n.ctx, act)
				select {
				case n.results <- result{act, err}:
				case <-n.ctx.Done():
				}
			})
		}
	}
}
