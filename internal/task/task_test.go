package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

func newStore(t *testing.T) Store {
	t.Helper()
	d := t.TempDir()
	return Store{Roots: state.Roots{Config: d + "/config", Data: d + "/data", Runtime: d + "/run"}, Now: time.Now}
}

func TestIDShape(t *testing.T) {
	for range 2000 {
		if id := newID(); !ValidID(id) {
			t.Fatalf("newID made %q", id)
		}
	}
}

func TestCreateInParallelGivesDistinctIDs(t *testing.T) {
	s := newStore(t)
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			x, err := s.Create("p", "", func(*Task) {})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[x.ID] {
				t.Errorf("id %s given twice", x.ID)
			}
			seen[x.ID] = true
		})
	}
	wg.Wait()
	list, err := s.List("p")
	if err != nil || len(list) != 200 {
		t.Fatalf("List: %d records, %v", len(list), err)
	}
	for _, e := range list {
		if e.Err != nil || e.Branch != "terok/"+e.ID+"-"+e.Name {
			t.Errorf("%+v", e)
		}
	}
}

func TestArchivedIDsAreNotReused(t *testing.T) {
	s := newStore(t)
	x, err := s.Create("p", "", func(*Task) {})
	if err != nil {
		t.Fatal(err)
	}
	if s.archived("p", x.ID) {
		t.Fatal("archived before it was")
	}
	if err := os.MkdirAll(filepath.Join(s.Roots.ArchiveDir(), "p", "20260101T000000Z_"+x.ID+"_x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !s.archived("p", x.ID) {
		t.Error("an archived id counts as free")
	}
}

func TestUpdateLosesNothing(t *testing.T) {
	s := newStore(t)
	x, err := s.Create("p", "count", func(*Task) {})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, err := s.Update("p", x.ID, func(t *Task) error { t.LastError += "x"; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := s.Get("p", x.ID)
	if err != nil || len(got.LastError) != 40 || got.Rev != 41 {
		t.Fatalf("%d updates kept, rev %d, %v", len(got.LastError), got.Rev, err)
	}
}

func TestResolve(t *testing.T) {
	s := newStore(t)
	write := func(project, id string, at int) {
		x := Task{Schema: 1, Project: project, ID: id, CreatedAt: time.Unix(int64(at), 0)}
		if err := state.WriteJSON(s.file(project, id), x); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "k3v9p", 1)
	write("a", "k3vaa", 2)
	write("b", "g1000", 3)
	for _, c := range []struct{ project, word, want, code string }{
		{"", "g", "b/g1000", ""},
		{"", "G-IO", "b/g1000", ""}, // look-alikes behind the first character
		{"", "b/g1", "b/g1000", ""},
		{"a", "k3v9", "a/k3v9p", ""},
		{"", "k3v", "", "task_ambiguous"},
		{"", "z9", "", "task_not_found"},
		{"a", "g1", "", "task_not_found"},
		{"", "i1", "", "bad_task_id"},
		{"", "../x", "", "task_not_found"},
		{"", "k3v9pp", "", "bad_task_id"},
		{"", "@last", "b/g1000", ""},
		{"a", "b/g1", "", "usage"},
	} {
		x, err := s.Resolve(c.project, c.word)
		if c.code != "" {
			if c.word == "../x" && err != nil {
				continue // any refusal will do
			}
			if !problem.Is(err, c.code) {
				t.Errorf("Resolve(%q, %q) = %v, want %s", c.project, c.word, err, c.code)
			}
			continue
		}
		if err != nil || x.Ref() != c.want {
			t.Errorf("Resolve(%q, %q) = %v, %v, want %s", c.project, c.word, x, err, c.want)
		}
	}
}

func TestBrokenRecordIsShown(t *testing.T) {
	s := newStore(t)
	x, _ := s.Create("p", "", func(*Task) {})
	if err := os.WriteFile(s.file("p", x.ID), []byte(`{"schema":1,"project":"p"`), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Err == nil {
		t.Fatalf("List = %v, %v; want one broken entry", list, err)
	}
	if _, err := s.Resolve("", x.ID); !problem.Is(err, "task_broken") {
		t.Errorf("Resolve = %v", err)
	}
}

func TestOperateExcludes(t *testing.T) {
	s := newStore(t)
	x, _ := s.Create("p", "", func(*Task) {})
	release, err := s.Operate("p", x.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Operate("p", x.ID)
	if p := problem.Of(err); p == nil || p.Exit != problem.Conflict {
		t.Fatalf("second operation: %v, want exit 7", err)
	}
	release()
	again, err := s.Operate("p", x.ID)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestSlug(t *testing.T) {
	for in, want := range map[string]string{
		"Fix the flaky checkout!": "fix-the-flaky-checkout",
		"  --a -- b-- ":           "a-b",
		"ÄÖ x":                    "x",
		strings.Repeat("ab ", 40): strings.TrimRight(strings.Repeat("ab-", 20), "-"),
	} {
		if got, err := Slug(in); err != nil || got != want {
			t.Errorf("Slug(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if _, err := Slug("\x1b!!"); err == nil {
		t.Error("a slug of nothing")
	}
}

func TestState(t *testing.T) {
	ready := time.Now()
	launched := Launch{ID: "x"}
	self := Launch{ID: "x", PID: os.Getpid(), PIDStart: ProcessStart(os.Getpid())}
	q := func(status string, code int) Container {
		return Container{Queried: true, Present: status != "", Status: status, Code: code}
	}
	for _, c := range []struct {
		want string
		t    Task
		c    Container
	}{
		{Unknown, Task{Phase: Deleting}, Container{}},
		{Gone, Task{Phase: Deleting}, q("running", 0)},
		{Running, Task{ReadyAt: ready}, q("running", 0)},
		{Init, Task{}, q("running", 0)},
		{Paused, Task{ReadyAt: ready}, q("paused", 0)},
		{Completed, Task{Mode: Headless}, q("exited", 0)},
		{Failed, Task{Mode: Headless}, q("exited", 7)},
		{Stopped, Task{Mode: Interactive}, q("exited", 137)},
		{Starting, Task{Phase: Launching, Launch: self}, q("", 0)},
		{Interrupted, Task{Phase: Launching, Launch: launched}, q("", 0)},
		{Created, Task{}, q("", 0)},
		{Failed, Task{Mode: Headless, Launch: launched, Exit: &Exit{Code: 7}}, q("", 0)},
		{NotFound, Task{Launch: launched}, q("", 0)},
	} {
		if got := State(&c.t, c.c); got != c.want {
			t.Errorf("State(%+v, %+v) = %s, want %s", c.t, c.c, got, c.want)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	s := newStore(t)
	x, _ := s.Create("p", "", func(*Task) {})
	_ = state.WriteJSON(s.file("p", x.ID), Task{Schema: 99, Project: "p", ID: x.ID})
	_, err := s.Get("p", x.ID)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Exit != problem.Newer {
		t.Errorf("Get = %v, want exit 4", err)
	}
}

// TestListNeverSeesHalfATask lists while tasks come and go: each is there with its record, or not
// at all.
func TestListNeverSeesHalfATask(t *testing.T) {
	s := newStore(t)
	done := make(chan struct{})
	var makers sync.WaitGroup
	for range 4 {
		makers.Go(func() {
			for range 100 {
				x, err := s.Create("p", "", func(*Task) {})
				if err != nil {
					t.Error(err)
					return
				}
				// As DeleteTask goes: renamed away in one step, then taken apart.
				trash := filepath.Join(s.Roots.TasksDir("p"), ".trash-"+x.ID)
				if err := errors.Join(os.Rename(x.Dir(s.Roots), trash), os.RemoveAll(trash)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { makers.Wait(); close(done) }()
	for n := 0; ; n++ {
		list, err := s.List("p")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Err != nil {
				t.Fatalf("after %d listings %s is broken: %v", n, e.ID, e.Err)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestKilledCreatorsLeaveNothing: what a creator that was killed left is removed by the next one;
// what one that lives is writing stays.
func TestKilledCreatorsLeaveNothing(t *testing.T) {
	s := newStore(t)
	if _, err := s.Create("p", "", func(*Task) {}); err != nil {
		t.Fatal(err)
	}
	dir := s.Roots.TasksDir("p")
	pid := os.Getpid()
	mine := filepath.Join(dir, fmt.Sprintf(".new-%d-%d-123", pid, ProcessStart(pid)))
	dead := filepath.Join(dir, fmt.Sprintf(".new-%d-%d-456", pid, ProcessStart(pid)+1)) // the pid is another's now
	for _, d := range []string{mine, dead} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Create("p", "", func(*Task) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error("the draft of a living creator is gone:", err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the draft of a dead creator is still there")
	}
	if list, err := s.List("p"); err != nil || len(list) != 2 {
		t.Errorf("%d tasks, %v", len(list), err)
	}
}
