package tasks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTwentyTasksInParallel: acceptance 8.
func TestTwentyTasksInParallel(t *testing.T) {
	t.Parallel()
	const n = 20
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	// each does something for every task at the same time.
	each := func(what string, do func(i int) error) {
		t.Helper()
		start := time.Now()
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				if err := do(i); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if t.Failed() {
			t.FailNow()
		}
		t.Logf("%s, %d tasks: %s", what, n, time.Since(start).Round(time.Millisecond))
	}
	each("start", func(i int) error {
		_, _, err := tr.try(0, "", repo, "task", "run", "greet", "-d", "-q", fmt.Sprintf(
			"echo %d >file%d; git add .; git commit -qm 'file %d'; git push -q origin HEAD; sleep infinity & wait", i, i, i))
		return err
	})
	tasks := tr.tasks()
	start, pushed := time.Now(), map[string]bool{}
	if within(t.Context(), time.Minute, func() bool {
		var queue []change
		tr.decode(&queue, repo, "review")
		for _, c := range queue {
			pushed[c.Task] = c.Commits == 1
		}
		return len(pushed) == n
	}) {
		t.Logf("every push arrived: %s", time.Since(start).Round(time.Millisecond))
	}
	for _, task := range tasks {
		if !pushed[task.ID] {
			log, _, _ := tr.try(0, "", "", "task", "logs", "--raw", "greet/"+task.ID)
			t.Errorf("no push of %s arrived: it is %s\n%s", task.ID, task.Status, log)
		}
	}
	if tasks = tr.tasks(); len(tasks) != n { // again: now they are ready
		t.Fatalf("%d tasks are listed", len(tasks))
	}
	for _, task := range tasks {
		if task.Status != "running" {
			t.Errorf("%s is %s", task.ID, task.Status)
		}
	}
	each("stop", func(i int) error {
		_, _, err := tr.try(0, "", "", "task", "stop", "greet", tasks[i].ID, "--timeout", "5s")
		return err
	})
	each("delete", func(i int) error {
		_, _, err := tr.try(0, "", "", "task", "delete", "greet/"+tasks[i].ID, "--yes")
		return err
	})
	if rest := tr.tasks(); len(rest) > 0 {
		t.Errorf("still listed: %+v", rest)
	}
	tr.nothingLeft(t.Context())
}

// TestKillNineOfTheCommand: a run that is killed at any moment leaves a state in which listing,
// deleting and the next run work.
func TestKillNineOfTheCommand(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	// The moments are steps of a run, so that a loaded machine changes nothing, and a little later.
	tasks, gate, run := "projects/greet/tasks/*", "gate/greet/tasks/", "../../run/terok/*/"
	for _, moment := range []struct {
		step  string // a file of this pattern is there
		later time.Duration
	}{
		{"gate/greet*", 0}, {"projects/greet/tasks/.new-*", 0}, {tasks, 0}, {tasks + "/task.json", 0}, {gate + ".*.tmp-*", 0}, {gate + "*.git", 0},
		{"launching/*", 0}, {"launching/*", 30 * time.Millisecond}, {"launching/*", 80 * time.Millisecond},
		{"launching/*", 150 * time.Millisecond}, {run + "*", 0}, {run + "control.sock", 0},
	} {
		err := tr.killAt(moment.step, moment.later, repo, "task", "run", "greet", "-d", "sleep infinity & wait")
		after := fmt.Sprint(moment)
		tasks := tr.tasks()
		t.Logf("killed after %s (%v): %d tasks", after, err, len(tasks))
		for _, task := range tasks {
			tr.run(0, "", "task", "delete", "greet/"+task.ID, "--yes")
		}
		if rest := tr.tasks(); len(rest) > 0 {
			t.Errorf("killed after %s: still listed: %+v", after, rest)
		}
	}
	tr.run(0, repo, "task", "run", "greet", "true")
	for _, task := range tr.tasks() {
		tr.run(0, "", "task", "delete", "greet/"+task.ID, "--yes")
	}
	tr.nothingLeft(t.Context())
}

// killAt kills a command a moment after a new file of the pattern, below the data directory, is
// there or, with "!" before it, is gone. It returns how the command ended.
func (tr *tree) killAt(step string, later time.Duration, dir string, args ...string) error {
	tr.t.Helper()
	step, gone := strings.CutPrefix(step, "!")
	pattern := filepath.Join(tr.data(), step)
	before, _ := filepath.Glob(pattern)
	cmd := tr.command(tr.t.Context(), dir, args...)
	if err := cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for met := false; ; {
		select {
		case err := <-ended:
			return err
		case <-time.After(500 * time.Microsecond):
			now, _ := filepath.Glob(pattern)
			changed := slices.ContainsFunc(now, func(f string) bool { return !slices.Contains(before, f) })
			if gone {
				changed = len(now) < len(before)
			}
			if changed && !met {
				met = true
				time.AfterFunc(later, func() { _ = cmd.Process.Kill() })
			}
		}
	}
}

// TestKillNineOfDelete: a deletion that is killed at any of its steps is finished by the next one.
func TestKillNineOfDelete(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	tr.run(0, repo, "project", "create", "greet", "--upstream", repo, "--agent", "shell")
	task := "projects/greet/tasks/*"
	for _, step := range []string{task + "/logs/container.log", "archive/greet/*",
		"!gate/greet/tasks/*.git", "gate/greet/tasks/.*.deleted", "projects/greet/tasks/.trash-*"} {
		tr.run(0, repo, "task", "run", "greet", "-d", "sleep infinity & wait")
		ref := "greet/" + tr.tasks()[0].ID
		err := tr.killAt(step, 0, repo, "task", "delete", ref, "--yes")
		tasks := tr.tasks()
		t.Logf("killed after %s (%v): %d tasks", step, err, len(tasks))
		for range tasks {
			tr.run(0, "", "task", "delete", ref, "--yes")
		}
		if rest := tr.tasks(); len(rest) > 0 {
			t.Errorf("killed after %s: still listed: %+v", step, rest)
		}
	}
	tr.run(0, repo, "task", "run", "greet", "true")
	tr.run(0, "", "task", "delete", "greet/"+tr.tasks()[0].ID, "--yes")
	tr.nothingLeft(t.Context())
}
