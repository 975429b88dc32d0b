// Package watch follows the requests of all running tasks: one connection to each supervisor, one
// list for whoever shows it.
//
// It guarantees: a supervisor that starts, ends, restarts its worker or hangs is noticed without
// the viewer asking, by inotify where there is an instance left and by looking every second where
// there is none; every list begins with the supervisor's own snapshot, and a gap in its stream
// takes a new one; requests carry the identity of the socket that they came from, whatever their
// sender writes into them, so that no container can speak for another one. It gives no verdict.
package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/state"
)

const (
	maxRows    = 256 // requests of one supervisor
	maxDecided = 200 // decided requests that are remembered

	lookPoll  = time.Second      // between looks without inotify
	lookSafe  = 10 * time.Second // between looks with it
	retryMin  = 100 * time.Millisecond
	retryMax  = 5 * time.Second
	firstItem = 10 * time.Second // until a supervisor must have sent its snapshot
)

// Options say what is watched. Roots is required.
type Options struct {
	Roots state.Roots
	// Key follows one supervisor only; "" all.
	Key string
	// Answers reports whether the viewer can answer what is asked through a run directory, by its
	// name (the base of Roots.RunDir): connections are held while somebody can. nil is never.
	// Restart makes a changed answer take effect.
	Answers func(name string) bool
	// Each gets everything that arrives, one at a time, before Changed tells of it; may be nil.
	Each func(Item)

	noInotify bool // tests: as on a machine whose instances are used up
}

// Item is one thing that happened at one supervisor. Exactly one of the fields behind Task is set.
type Item struct {
	Key      string
	Project  string
	Task     string
	Snapshot *control.Snapshot // replaces everything known about Key
	Request  *control.Request  // is new or has changed
	Event    *audit.Event
	Gap      uint64 // so many were lost; a snapshot follows
	Gone     bool   // the supervisor has ended

	repeated bool // was missed before the snapshot, which holds what came of it
}

// Task is a supervisor that answers.
type Task struct {
	Key     string          `json:"key"`
	Project string          `json:"project"`
	Task    string          `json:"task"`
	Posture control.Posture `json:"posture"`
}

// State is what is known now.
type State struct {
	Open    []control.Request // not decided, oldest first
	Decided []control.Request // oldest first
	Tasks   []Task            // by key
}

// Watch follows supervisors until Close. Its methods are safe for concurrent use.
type Watch struct {
	o       Options
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	changed chan struct{}
	look    chan struct{} // one token: look for new supervisors now

	item sync.Mutex // one Item at a time

	mu      sync.Mutex
	follows map[string]*follow // by name of the run directory
	tasks   map[string]Task    // by key
	open    map[string]map[string]control.Request
	decided []control.Request
}

// follow is one supervisor's follower.
type follow struct {
	cancel context.CancelFunc // of the connection, not of the follower
	poke   chan struct{}      // one token: try again now
	tried  chan struct{}      // closed once it has answered or failed to
	once   sync.Once
}

func (f *follow) settled() { f.once.Do(func() { close(f.tried) }) }

// Start begins to watch. The run directory is made when there is none yet.
func Start(ctx context.Context, o Options) (*Watch, error) {
	w := &Watch{o: o, changed: make(chan struct{}, 1), look: make(chan struct{}, 1),
		follows: map[string]*follow{}, tasks: map[string]Task{}, open: map[string]map[string]control.Request{}}
	if err := state.MkdirAll(w.dir()); err != nil {
		return nil, err
	}
	ctx, w.cancel = context.WithCancel(ctx)
	notices := w.inotify(ctx)
	w.scan(ctx)
	w.wg.Go(func() { w.run(ctx, notices) })
	return w, nil
}

func (w *Watch) dir() string { return filepath.Join(w.o.Roots.Runtime, "run") }

// Close ends all connections and waits for their goroutines.
func (w *Watch) Close() {
	w.cancel()
	w.wg.Wait()
}

// Changed holds one token when State is worth asking again.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Restart opens every connection anew: Answers is asked again.
func (w *Watch) Restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.follows {
		if f.cancel != nil {
			f.cancel()
		}
		token(f.poke)
	}
}

// Settle waits until every supervisor that was there at the start has answered, or failed to.
func (w *Watch) Settle(ctx context.Context) {
	w.mu.Lock()
	follows := slices.Collect(maps.Values(w.follows))
	w.mu.Unlock()
	for _, f := range follows {
		select {
		case <-f.tried:
		case <-ctx.Done():
			return
		}
	}
}

// State returns what is known now; the caller may keep it.
func (w *Watch) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := State{Decided: slices.Clone(w.decided)}
	for _, t := range w.tasks {
		s.Tasks = append(s.Tasks, t)
	}
	slices.SortFunc(s.Tasks, func(a, b Task) int { return cmp.Compare(a.Key, b.Key) })
	for _, rows := range w.open {
		for _, r := range rows {
			s.Open = append(s.Open, r)
		}
	}
	slices.SortFunc(s.Open, func(a, b control.Request) int {
		return cmp.Or(a.FirstSeen.Compare(b.FirstSeen), cmp.Compare(a.Key, b.Key), cmp.Compare(a.ID, b.ID))
	})
	return s
}

// run looks for new supervisors whenever something happened in the run directory.
func (w *Watch) run(ctx context.Context, notices <-chan struct{}) {
	every := lookSafe
	if notices == nil {
		every = lookPoll
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-notices:
		case <-w.look:
		case <-tick.C:
		}
		w.scan(ctx)
	}
}

// scan begins to follow every supervisor that has a socket and is not followed yet.
func (w *Watch) scan(ctx context.Context) {
	entries, err := os.ReadDir(w.dir())
	if err != nil {
		return
	}
	only := ""
	if w.o.Key != "" {
		only = filepath.Base(w.o.Roots.RunDir(w.o.Key))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || only != "" && name != only {
			continue
		}
		if f := w.follows[name]; f != nil {
			token(f.poke)
			continue
		}
		if _, err := os.Lstat(w.socket(name)); err != nil || ctx.Err() != nil {
			continue
		}
		f := &follow{poke: make(chan struct{}, 1), tried: make(chan struct{})}
		w.follows[name] = f
		w.wg.Go(func() { w.follow(ctx, name, f) })
	}
}

func (w *Watch) socket(name string) string { return sandbox.ControlPath(filepath.Join(w.dir(), name)) }

// follow keeps one supervisor's stream open until its socket is gone.
func (w *Watch) follow(ctx context.Context, name string, f *follow) {
	who := &identity{name: name}
	defer func() {
		w.gone(who)
		w.mu.Lock()
		delete(w.follows, name)
		w.mu.Unlock()
		token(w.look) // a socket that came back meanwhile
	}()
	retry := retryMin
	for ctx.Err() == nil {
		heard, err := w.stream(ctx, who, f)
		if heard {
			retry = retryMin
		} else {
			w.gone(who)
			if _, serr := os.Lstat(w.socket(name)); errors.Is(err, control.ErrNoSupervisor) && errors.Is(serr, os.ErrNotExist) {
				return
			}
		}
		wait := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-f.poke:
		case <-wait.C:
			retry = min(2*retry, retryMax)
		}
		wait.Stop()
	}
}

// identity is whom a socket speaks for. It is known from the first snapshot on and never changes.
type identity struct {
	name         string
	key          string
	project, tid string
	seq          uint64 // last element that was seen
	snapshot     uint64 // up to here everything is in the snapshot: elements are repetitions
}

// stream follows one connection; heard tells whether it began.
func (w *Watch) stream(ctx context.Context, who *identity, f *follow) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	f.cancel = cancel
	w.mu.Unlock()
	deadline := time.AfterFunc(firstItem, cancel)
	defer deadline.Stop()
	answers := w.o.Answers != nil && w.o.Answers(who.name)
	defer f.settled()
	err = control.Dial(w.socket(who.name)).Subscribe(ctx, answers, who.seq, func(i control.StreamItem) error {
		deadline.Stop()
		heard = true
		err := w.take(who, i)
		f.settled()
		return err
	})
	return heard, err
}

var (
	errIdentity = errors.New("the supervisor speaks for another task")
	errGap      = errors.New("elements of the stream were lost")
)

// take applies one item of a stream.
func (w *Watch) take(who *identity, i control.StreamItem) error {
	if i.Snapshot != nil {
		st := i.Snapshot.Status
		if filepath.Base(w.o.Roots.RunDir(st.Key)) != who.name || who.key != "" && who.key != st.Key {
			return fmt.Errorf("%w: %q on the socket of %q", errIdentity, st.Key, who.name)
		}
		who.key, who.project, who.tid, who.snapshot = st.Key, st.Project, st.Task, i.Snapshot.Seq
		if who.seq == 0 || !i.Snapshot.Replayed {
			who.seq = i.Snapshot.Seq
		}
	} else if who.key == "" {
		return errors.New("the stream does not begin with a snapshot")
	}
	who.seq = max(who.seq, i.Seq)
	item := Item{Key: who.key, Project: who.project, Task: who.tid, Event: i.Event, Gap: i.Gap,
		repeated: i.Snapshot == nil && i.Gap == 0 && i.Seq <= who.snapshot}
	if i.Snapshot != nil {
		s := *i.Snapshot
		s.Requests = slices.Clone(s.Requests[:min(len(s.Requests), maxRows)])
		for n := range s.Requests {
			who.sign(&s.Requests[n])
		}
		item.Snapshot = &s
	}
	if i.Request != nil {
		r := *i.Request
		who.sign(&r)
		item.Request = &r
	}
	w.deliver(item)
	if i.Gap > 0 {
		return errGap // the next stream begins with a snapshot
	}
	return nil
}

// sign writes the identity of the socket into a request.
func (who *identity) sign(r *control.Request) {
	r.Key, r.Project, r.Task = who.key, who.project, who.tid
}

func (w *Watch) gone(who *identity) {
	w.mu.Lock()
	_, known := w.tasks[who.key]
	w.mu.Unlock()
	if known && who.key != "" {
		w.deliver(Item{Key: who.key, Project: who.project, Task: who.tid, Gone: true})
	}
}

// deliver folds an item into the state and tells the viewer.
func (w *Watch) deliver(i Item) {
	w.item.Lock()
	defer w.item.Unlock()
	w.fold(i)
	if w.o.Each != nil {
		w.o.Each(i)
	}
	token(w.changed)
}

func (w *Watch) fold(i Item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case i.repeated:
	case i.Gone:
		delete(w.tasks, i.Key)
		delete(w.open, i.Key)
	case i.Snapshot != nil:
		w.tasks[i.Key] = Task{Key: i.Key, Project: i.Project, Task: i.Task, Posture: i.Snapshot.Status.Posture}
		w.open[i.Key] = map[string]control.Request{}
		for _, r := range i.Snapshot.Requests {
			w.put(r)
		}
	case i.Request != nil:
		w.put(*i.Request)
	case i.Event != nil && i.Event.Ev == "posture_changed":
		t := w.tasks[i.Key]
		t.Posture = control.Posture(i.Event.Verdict)
		w.tasks[i.Key] = t
	}
}

// put stores a request's newest state.
func (w *Watch) put(r control.Request) {
	rows := w.open[r.Key]
	if rows == nil {
		return // of no supervisor that answers
	}
	if old, ok := rows[r.ID]; ok && old.Seq > r.Seq {
		return
	}
	if n := slices.IndexFunc(w.decided, func(d control.Request) bool { return d.Key == r.Key && d.ID == r.ID }); n >= 0 {
		if w.decided[n].Seq > r.Seq {
			return
		}
		w.decided = slices.Delete(w.decided, n, n+1)
	}
	if r.State == control.RequestOpen || r.State == control.RequestApplying {
		if _, known := rows[r.ID]; known || len(rows) < maxRows {
			rows[r.ID] = r
		}
		return
	}
	delete(rows, r.ID)
	w.decided = append(w.decided, r)
	if over := len(w.decided) - maxDecided; over > 0 {
		w.decided = slices.Delete(w.decided, 0, over)
	}
}

// token puts the one token into c unless it is there.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
