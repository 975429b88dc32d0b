package watch

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"terok/internal/clearance/clearancetest"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// patience is how long a test waits for what must happen; the machine may be slow.
const patience = 60 * time.Second

func roots(t *testing.T) state.Roots {
	return state.Roots{Config: t.TempDir(), Data: t.TempDir(), Runtime: t.TempDir()}
}

func start(t *testing.T, o Options) *Watch {
	t.Helper()
	w, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (w *Watch) hosts() []string {
	var out []string
	for _, r := range w.State().Open {
		out = append(out, r.Task+" "+r.Host)
	}
	return out
}

// TestFollowsEverySupervisor: tasks that run, that start later and that end; with and without
// inotify.
func TestFollowsEverySupervisor(t *testing.T) {
	for _, noInotify := range []bool{false, true} {
		t.Run(map[bool]string{false: "inotify", true: "polling"}[noInotify], func(t *testing.T) {
			t.Parallel()
			r := roots(t)
			a := clearancetest.New(t, r, "p", "aaaaa")
			a.Open("early.test", 443)
			w := start(t, Options{Roots: r, noInotify: noInotify})
			until(t, "the snapshot", func() bool { return slices.Equal(w.hosts(), []string{"aaaaa early.test"}) })
			b := clearancetest.New(t, r, "p", "bbbbb")
			until(t, "a new task", func() bool { return len(w.State().Tasks) == 2 })
			b.Open("later.test", 443)
			until(t, "a live request", func() bool { return slices.Contains(w.hosts(), "bbbbb later.test") })
			a.Stop()
			until(t, "the end of a task", func() bool { return slices.Equal(w.hosts(), []string{"bbbbb later.test"}) && len(w.State().Tasks) == 1 })
			a.Start()
			until(t, "its restart", func() bool { return len(w.State().Tasks) == 2 })
		})
	}
}

// TestOneRowPerRequest is acceptance test 63: five hits are one row with count 5, undecided.
func TestOneRowPerRequest(t *testing.T) {
	t.Parallel()
	r := roots(t)
	s := clearancetest.New(t, r, "p", "aaaaa")
	w := start(t, Options{Roots: r})
	for range 5 {
		s.Open("a.test", 443)
	}
	until(t, "one row, count 5", func() bool {
		st := w.State()
		return len(st.Open) == 1 && st.Open[0].Count == 5 && st.Open[0].State == control.RequestOpen && len(st.Decided) == 0
	})
}

// TestHubDown is acceptance test 53: a supervisor that is away comes back with what is open, and
// requests of a worker that has died are not shown any more.
func TestHubDown(t *testing.T) {
	t.Parallel()
	r := roots(t)
	s := clearancetest.New(t, r, "p", "aaaaa")
	w := start(t, Options{Roots: r})
	s.Open("before.test", 443)
	until(t, "the first", func() bool { return len(w.hosts()) == 1 })
	s.Cut()
	s.Open("after.test", 443)
	until(t, "what the new worker knows", func() bool { return slices.Equal(w.hosts(), []string{"aaaaa after.test"}) })
	s.Stop()
	until(t, "nothing", func() bool { return len(w.hosts()) == 0 })
	s.Start()
	for _, host := range []string{"one.test", "two.test", "three.test"} {
		s.Open(host, 443)
	}
	until(t, "all that is open after it came back", func() bool { return len(w.hosts()) == 3 })
}

// TestTwoWatchers is acceptance test 55: each sees all requests and all outcomes.
func TestTwoWatchers(t *testing.T) {
	t.Parallel()
	r := roots(t)
	s := clearancetest.New(t, r, "p", "aaaaa")
	var mu sync.Mutex
	seen := [2]map[string]bool{{}, {}}
	var watchers [2]*Watch
	for i := range watchers {
		watchers[i] = start(t, Options{Roots: r, Each: func(it Item) {
			mu.Lock()
			defer mu.Unlock()
			if it.Request != nil {
				seen[i][it.Request.Host+" "+string(it.Request.State)] = true
			}
		}})
	}
	until(t, "both follow", func() bool { all, _ := s.Readers(); return all == 2 })
	q := s.Open("a.test", 443)
	s.Open("b.test", 443)
	if _, err := s.Verdict(t.Context(), control.VerdictChange{ID: q.ID, Hash: q.Hash, Host: q.Host, Port: q.Port, Proto: q.Proto, Choice: control.ChoiceTask, Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	until(t, "both have seen everything", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range seen {
			if !s["a.test open"] || !s["a.test applied"] || !s["b.test open"] {
				return false
			}
		}
		return true
	})
	for _, w := range watchers {
		until(t, "the same state", func() bool {
			st := w.State()
			return len(st.Open) == 1 && len(st.Decided) == 1 && st.Decided[0].Decision.Actor == "ada"
		})
	}
}

// TestAnswers: only a viewer that can answer keeps connections waiting, and only for its task.
func TestAnswers(t *testing.T) {
	t.Parallel()
	r := roots(t)
	a, b := clearancetest.New(t, r, "p", "aaaaa"), clearancetest.New(t, r, "p", "bbbbb")
	var mu sync.Mutex
	open := false
	w := start(t, Options{Roots: r, Answers: func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		return open && name == "p-aaaaa"
	}})
	until(t, "both are followed", func() bool { return len(w.State().Tasks) == 2 })
	if _, n := a.Readers(); n != 0 {
		t.Error("somebody can answer who cannot")
	}
	mu.Lock()
	open = true
	mu.Unlock()
	w.Restart()
	until(t, "somebody can answer", func() bool { _, n := a.Readers(); return n == 1 })
	if _, n := b.Readers(); n != 0 {
		t.Error("somebody can answer for another task")
	}
	w.Close()
	until(t, "nobody can any more", func() bool { n, _ := a.Readers(); m, _ := b.Readers(); return n+m == 0 })
}

// TestIdentity: a supervisor cannot speak for another task, neither by its status nor by its
// requests.
func TestIdentity(t *testing.T) {
	t.Parallel()
	r := roots(t)
	s := clearancetest.New(t, r, "p", "aaaaa")
	s.Open("a.test", 443, func(q *control.Request) { q.Key, q.Project, q.Task = "p-victim", "p", "victim" })
	liar := lie(t, r, "p-liars", control.Snapshot{Status: control.Status{Key: "p-victim", Project: "p", Task: "victim"},
		Requests: []control.Request{{ID: "r1", Host: "evil.test", State: control.RequestOpen}}, Seq: 1})
	w := start(t, Options{Roots: r})
	until(t, "the honest one", func() bool { return slices.Equal(w.hosts(), []string{"aaaaa a.test"}) })
	until(t, "the liar was asked and asked again", func() bool { return liar() > 2 })
	if st := w.State(); len(st.Tasks) != 1 || st.Open[0].Key != "p-aaaaa" {
		t.Errorf("%+v", st)
	}
}

// lie serves one snapshot on the socket of key and counts who asked.
func lie(t *testing.T, r state.Roots, key string, snapshot control.Snapshot) func() int {
	t.Helper()
	l, err := control.Listen(sandbox.ControlPath(r.RunDir(key)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		data, _ := json.Marshal(snapshot)
		_, _ = w.Write(slices.Concat([]byte("event: snapshot\nid: 1\ndata: "), data, []byte("\n\n")))
		mu.Lock()
		defer mu.Unlock()
		asked++
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return func() int { mu.Lock(); defer mu.Unlock(); return asked }
}

// TestFloodOfRows: a supervisor cannot fill the viewer's memory.
func TestFloodOfRows(t *testing.T) {
	t.Parallel()
	w := &Watch{o: Options{}, changed: make(chan struct{}, 1), tasks: map[string]Task{}, open: map[string]map[string]control.Request{"k": {}}}
	for i := range 3 * maxRows {
		r := control.Request{Key: "k", ID: "r" + string(rune('a'+i%26)) + time.Duration(i).String(), State: control.RequestOpen, Seq: uint64(i)}
		w.put(r)
		r.State = control.RequestExpired
		if i%2 == 0 {
			w.put(r)
		}
	}
	if st := w.State(); len(st.Open) > maxRows || len(st.Decided) > maxDecided {
		t.Errorf("%d open, %d decided", len(st.Open), len(st.Decided))
	}
}

// TestPutKeepsTheNewest: what arrives late or twice changes nothing.
func TestPutKeepsTheNewest(t *testing.T) {
	t.Parallel()
	w := &Watch{o: Options{}, changed: make(chan struct{}, 1), tasks: map[string]Task{}, open: map[string]map[string]control.Request{"k": {}}}
	put := func(seq uint64, s control.RequestState) {
		w.put(control.Request{Key: "k", ID: "r1", State: s, Seq: seq})
	}
	put(1, control.RequestOpen)
	put(3, control.RequestApplied)
	put(2, control.RequestOpen)
	if st := w.State(); len(st.Open) != 0 || len(st.Decided) != 1 {
		t.Fatalf("an old state came back: %+v", st)
	}
	put(4, control.RequestOpen) // taken back
	if st := w.State(); len(st.Open) != 1 || len(st.Decided) != 0 {
		t.Fatalf("a verdict that was taken back: %+v", st)
	}
}
