package bench

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"terok/internal/state"
	"terok/internal/task"
)

// BenchmarkVersion: terok --version against a program that does nothing.
func BenchmarkVersion(b *testing.B) {
	t := newTree(b)
	compare(b, "terok --version", "ms", "at most 10 ms", 30,
		side{"terok", func(int) float64 { return timed(b, t.environ(), t.terok, "--version") }},
		side{"true", func(int) float64 { return timed(b, t.environ(), "/bin/true") }})
}

// BenchmarkTaskList: 500 task records, against the one podman call that it makes.
func BenchmarkTaskList(b *testing.B) {
	t := newTree(b)
	env := map[string]string{}
	for _, kv := range t.environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	roots, err := state.FromEnv(func(k string) string { return env[k] })
	if err != nil {
		b.Fatal(err)
	}
	store := task.Store{Roots: roots, Now: time.Now}
	for i := range 500 {
		if _, err := store.Create(fmt.Sprintf("project%d", i%10), "", func(t *task.Task) {
			t.Mode, t.Agent = task.Headless, "claude"
		}); err != nil {
			b.Fatal(err)
		}
	}
	if n := strings.Count(t.run("task", "list"), "\n"); n != 501 {
		b.Fatalf("%d lines", n)
	}
	compare(b, "terok task list, 500 tasks", "ms", "at most 40 ms plus one podman call", 15,
		side{"terok", func(int) float64 { return timed(b, t.environ(), t.terok, "task", "list") }},
		side{"podman ps", func(int) float64 {
			return timed(b, os.Environ(), "podman", "ps", "--all", "--format", "json", "--filter", "label=io.terok.managed=1")
		}})
}

// BenchmarkContainerStart: a container with hook, supervisor, guest and rules, against podman's
// own of the same image, with and without the user mapping that terok's has.
func BenchmarkContainerStart(b *testing.B) {
	t := newTree(b)
	podman := func(name string, flags ...string) func(int) float64 {
		return func(int) float64 {
			args := append([]string{"run", "-d", "--name", name}, flags...)
			ms := timed(b, os.Environ(), "podman", append(args, image, "sleep", "600")...)
			must(b, os.Environ(), "podman", "rm", "-f", "-t", "0", name)
			return ms
		}
	}
	compare(b, "container start", "ms", "at most 1.3 × plain podman run -d", 15,
		side{"terok sandbox run -d", func(int) float64 {
			ms := timed(b, t.environ(), t.terok, "sandbox", "run", "-d", "--name", "start", "--allow", "example.org", image, "--", "sleep", "600")
			t.run("sandbox", "rm", "start")
			return ms
		}},
		side{"podman run -d", podman("tbench-plain")},
		side{"podman run -d --userns keep-id", podman("tbench-keepid", "--userns=keep-id:uid=1000,gid=1000", "--user=1000:1000")},
	)
}
