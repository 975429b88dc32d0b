package terok

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/clearance/board"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/task"
)

// answering is a supervisor that takes every verdict, or refuses it.
type answering struct {
	control.Backend
	err     error
	last    control.Request
	undone  int
	verdict control.VerdictChange
}

func (b *answering) Requests(context.Context) ([]control.Request, error) {
	return []control.Request{b.last}, nil
}

func (b *answering) Verdict(_ context.Context, v control.VerdictChange) (control.Request, error) {
	b.verdict = v
	b.last = control.Request{ID: v.ID, Project: "elsewhere", Host: v.Host, Port: v.Port, Proto: v.Proto, State: control.RequestApplied,
		Decision: &control.Decision{Choice: v.Choice}}
	return b.last, b.err
}

func (b *answering) Undo(_ context.Context, v control.UndoChange) (control.Request, error) {
	b.undone++
	r := b.last
	r.State, r.Decision = control.RequestOpen, nil
	return r, b.err
}

// TestVerdictForProject: the rule that the person saw is written into project.yml beside its
// comments, after the supervisor took the verdict, and undo takes it out again.
func TestVerdictForProject(t *testing.T) {
	home := t.TempDir()
	a := &App{Roots: state.Roots{Config: filepath.Join(home, "c"), Data: filepath.Join(home, "d"), Runtime: filepath.Join(home, "r")}, Now: time.Now,
		Environ: func(string) string { return "" }}
	file := filepath.Join(a.Roots.ProjectDir("webshop"), "project.yml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	const before = "# ours\nproject:\n  name: webshop # the shop\nshield:\n  allow:\n    - open.test # needed\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := a.tasks().Create("webshop", "brave-otter", func(t *task.Task) { t.Mode, t.Agent = task.Headless, "script" })
	if err != nil {
		t.Fatal(err)
	}
	key := taskKey(made)
	b := &answering{}
	l, err := control.Listen(a.controlSocket(key))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: control.Handler(b), ReadHeaderTimeout: time.Second}
	go srv.Serve(l)
	defer srv.Close()

	v := control.VerdictChange{ID: "r1", Hash: "h", Host: "new.test", Port: 8443, Proto: "tcp", Choice: control.ChoiceProject}
	b.err = &control.Error{Code: control.CodeStale, Message: "changed"}
	if _, err := a.Verdict(t.Context(), key, v); !problem.Is(err, control.CodeStale) {
		t.Error(err)
	}
	text := func() string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if text() != before {
		t.Errorf("a refused verdict was written:\n%s", text())
	}
	b.err = nil
	for range 2 { // the second time it is there already
		if _, err := a.Verdict(t.Context(), key, v); err != nil || b.verdict != v {
			t.Fatal(err, b.verdict)
		}
	}
	if got := text(); !strings.HasPrefix(got, before) || strings.Count(got, "new.test:8443") != 1 {
		t.Errorf("project.yml:\n%s", got)
	}
	if _, err := a.Undo(t.Context(), key, control.UndoChange{ID: "r1"}); err != nil || b.undone != 1 || text() != before {
		t.Errorf("undo: %v, %d\n%s", err, b.undone, text())
	}
	v.Choice = control.ChoiceTask
	if _, err := a.Verdict(t.Context(), key, v); err != nil || text() != before {
		t.Errorf("a verdict for the task: %v\n%s", err, text())
	}
	v.Choice = control.ChoiceProject
	if _, err := a.Verdict(t.Context(), "nobody-x", v); !problem.Is(err, "no_project") {
		t.Error(err)
	}
	v.Choice = control.ChoiceTask
	if _, err := a.Verdict(t.Context(), "nobody-x", v); !problem.Is(err, "no_supervisor") {
		t.Error(err)
	}
}

// TestVerdictForProjectReachesItsTasks: the other running tasks have the rule in force when the
// verdict returns, and have lost it when undo does; who gave it reads how that went, also of a task
// that could not be reached. A stopped task is left alone.
func TestVerdictForProjectReachesItsTasks(t *testing.T) {
	w := newShieldWorld(t, "")
	own, first, second, deaf, stopped := w.start(), w.start(), w.start(), w.start(), w.start()
	serve := func(tk *task.Task, b control.Backend) {
		l, err := control.Listen(w.controlSocket(taskKey(tk)))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: control.Handler(b), ReadHeaderTimeout: time.Second}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Close(); <-done })
	}
	serve(own, &answering{})
	one, two := w.supervise(first), w.supervise(second)
	serve(deaf, refusing{})
	act := board.Act{Request: control.Request{ID: "r1", Key: taskKey(own), Host: "new.test", Port: 443, Proto: "tcp"}, Choice: control.ChoiceProject}

	answer := w.Answerer("menu")
	got, err := answer(t.Context(), act)
	if err != nil || one.n.Load() != 1 || two.n.Load() != 1 {
		t.Fatalf("%v, %d and %d reloads", err, one.n.Load(), two.n.Load())
	}
	for _, tk := range []*task.Task{first, second} {
		if !strings.Contains(w.rulesOf(tk), "project+new.test:443") {
			t.Errorf("%s does not have the rule: %s", tk.Ref(), w.rulesOf(tk))
		}
	}
	if strings.Contains(w.rulesOf(stopped), "new.test") {
		t.Error("a stopped task was touched")
	}
	for _, want := range []string{"2 other running tasks follow; not: " + deaf.Ref() + " (", "terok shield reload --project p"} {
		if !strings.Contains(got.Elsewhere, want) {
			t.Errorf("%q is not in %q", want, got.Elsewhere)
		}
	}
	if said := board.Outcome(got); !strings.HasPrefix(said, "allowed for the project; 2 other running") {
		t.Errorf("people read %q", said)
	}
	if w.said.Len() > 0 {
		t.Errorf("written into the board's terminal: %s", w.said.String())
	}
	act.Undo = true
	if got, err = answer(t.Context(), act); err != nil || one.n.Load() != 2 || !strings.HasPrefix(got.Elsewhere, "2 other running") {
		t.Fatalf("undo: %v, %d reloads, %q", err, one.n.Load(), got.Elsewhere)
	}
	if strings.Contains(w.rulesOf(first), "new.test") {
		t.Errorf("undone, and still there: %s", w.rulesOf(first))
	}
}

// refusing is a supervisor that cannot use what it is given.
type refusing struct{ control.Backend }

func (refusing) Reload(context.Context) (control.Status, error) {
	return control.Status{}, &control.Error{Code: "policy_unusable", Message: "the container is in quarantine"}
}
