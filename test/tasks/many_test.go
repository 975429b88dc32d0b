package tasks

import (
	"fmt"
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
	if len(tasks) != n {
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
	// A run takes 0.7 s where nothing else is going on: each of its steps is hit.
	for _, after := range []time.Duration{40, 90, 150, 250, 400, 600, 1000} {
		after *= time.Millisecond
		cmd := tr.command(t.Context(), repo, "task", "run", "greet", "-d", "sleep infinity & wait")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
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
