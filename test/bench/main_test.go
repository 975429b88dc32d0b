// Package bench measures terok against what it is compared with, side by side: in every round each
// side is measured once, in the same order, on the same machine, and every sample of every side is
// printed and written to bench.json. Only figures of the same round are set against each other,
// there is no stored baseline, and nothing fails because it was slow.
//
//	make bench
//	make bench BENCH=Start            one of them
//	BENCH_JSON=/tmp/b.json make bench  another place for the file
//
// It needs rootless podman with localhost/debian:12 and bin/terok (make bench makes both).
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const image = "localhost/debian:12"

// The test binary is also the client that runs inside containers, and a gate in a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "client" {
		os.Exit(clientMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "gate" {
		os.Exit(gateMain(os.Args[2:]))
	}
	code := m.Run()
	if err := book.write(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// side is one of the things that a benchmark compares; sample measures it once.
type side struct {
	name   string
	sample func(round int) float64
}

// result is what bench.json holds of one comparison.
type result struct {
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	Target  string               `json:"target,omitempty"` // of design.md §14, in words
	Sides   []string             `json:"sides"`            // in the order in which a round measures them
	Samples map[string][]float64 `json:"samples"`          // index = round
	Medians map[string]float64   `json:"medians"`
	// Ratios is the median over rounds of the first side divided by each other side.
	Ratios map[string]float64 `json:"ratios,omitempty"`
	// Differences is the median over rounds of the first side minus each other side, in Unit.
	Differences map[string]float64 `json:"differences,omitempty"`
}

type ledger struct{ results []*result }

var book ledger

// compare measures all sides in interleaved rounds. One round before the first is not recorded:
// it warms caches. The first side is ours.
func compare(b *testing.B, name, unit, target string, rounds int, sides ...side) *result {
	b.Helper()
	r := &result{Name: name, Unit: unit, Target: target, Samples: map[string][]float64{}}
	for _, s := range sides {
		r.Sides = append(r.Sides, s.name)
	}
	for round := -1; round < rounds; round++ {
		line := fmt.Sprintf("%s round %d:", name, round)
		for _, s := range sides {
			v := s.sample(round)
			if round >= 0 {
				r.Samples[s.name] = append(r.Samples[s.name], v)
			}
			line += fmt.Sprintf("  %s %.4g", s.name, v)
		}
		if round >= 0 {
			fmt.Println(line, unit)
		}
	}
	book.add(b, r)
	return r
}

// add computes what follows from the samples, prints it and keeps the result.
func (l *ledger) add(b *testing.B, r *result) {
	r.Medians, r.Ratios, r.Differences = map[string]float64{}, map[string]float64{}, map[string]float64{}
	ours := r.Samples[r.Sides[0]]
	for _, s := range r.Sides {
		theirs := r.Samples[s]
		r.Medians[s] = median(theirs)
		if s == r.Sides[0] {
			continue
		}
		var ratios, differences []float64
		for i := range ours {
			ratios = append(ratios, ours[i]/theirs[i])
			differences = append(differences, ours[i]-theirs[i])
		}
		r.Ratios[s], r.Differences[s] = median(ratios), median(differences)
	}
	fmt.Printf("%s: n=%d", r.Name, len(ours))
	for _, s := range r.Sides {
		fmt.Printf("  %s %.4g %s", s, r.Medians[s], r.Unit)
	}
	for _, s := range r.Sides[1:] {
		fmt.Printf("  vs %s: ×%.3g, %+.4g %s", s, r.Ratios[s], r.Differences[s], r.Unit)
	}
	if r.Target != "" {
		fmt.Printf("  (target: %s)", r.Target)
	}
	fmt.Println()
	b.ReportMetric(r.Medians[r.Sides[0]], strings.ReplaceAll(r.Unit, " ", "-"))
	b.ReportMetric(0, "ns/op")
	l.results = append(l.results, r)
}

func (l *ledger) write() error {
	if len(l.results) == 0 {
		return nil
	}
	path := os.Getenv("BENCH_JSON")
	if path == "" {
		path = filepath.Join("..", "..", "bench.json")
	}
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output()
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	version, _ := exec.Command("podman", "--version").Output()
	data, err := json.MarshalIndent(map[string]any{
		"schema": "terok.bench/1", "commit": strings.TrimSpace(string(commit)), "at": time.Now().UTC().Format(time.RFC3339),
		"cpus": runtime.NumCPU(), "kernel": strings.TrimSpace(string(kernel)), "podman": strings.TrimSpace(string(version)),
		"loadavg_at_end": strings.TrimSpace(string(load)), "results": l.results,
	}, "", " ")
	if err != nil {
		return err
	}
	fmt.Println("written:", path)
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// tree is a terok of its own: relocated configuration and state, the user's image store.
type tree struct {
	b       *testing.B
	dir     string
	runtime string // in memory
	terok   string
}

func newTree(b *testing.B) *tree {
	b.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		b.Fatal("podman is needed: make bench runs this under scripts/rootless")
	}
	dir, err := os.MkdirTemp("/tmp", "tbench") // short: sockets live below it
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"config", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			b.Fatal(err)
		}
	}
	// In memory, as a session's runtime directory is (XDG base directories, systemd-logind).
	run, err := os.MkdirTemp("/dev/shm", "tbench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(run) })
	// A copy: a build meanwhile must not change what is measured. By cp, as a user installs it: how
	// a file was written decides how much of it one page fault maps, and so the PSS.
	terok := filepath.Join(dir, "terok")
	if out, err := exec.Command("cp", "../../bin/terok", terok).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s: make build", err, out)
	}
	return &tree{b, dir, run, terok}
}

func (t *tree) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "XDG_") {
			env = append(env, kv)
		}
	}
	return append(env, "XDG_CONFIG_HOME="+filepath.Join(t.dir, "config"), "XDG_DATA_HOME="+filepath.Join(t.dir, "data"), "XDG_RUNTIME_DIR="+t.runtime)
}

// run runs terok and returns its output.
func (t *tree) run(args ...string) string { return must(t.b, t.environ(), t.terok, args...) }

// start starts a sandbox that sleeps, with this program in it, and removes it at the end.
func (t *tree) start(name string, flags ...string) {
	t.b.Helper()
	t.b.Cleanup(func() { t.run("sandbox", "rm", name) })
	t.run(slices.Concat([]string{"sandbox", "run", "-d", "--name", name, "--mount", self(t.b) + ":/bench:ro"},
		flags, []string{image, "--", "sleep", "3600"})...)
}

// container starts a plain podman container like that, and removes it at the end.
func container(b *testing.B, name string, flags ...string) {
	b.Helper()
	b.Cleanup(func() { _ = exec.Command("podman", "rm", "-f", "-t", "0", name).Run() })
	must(b, os.Environ(), "podman", slices.Concat([]string{"run", "-d", "--name", name, "--volume", self(b) + ":/bench:ro"},
		flags, []string{image, "sleep", "3600"})...)
}

// self is the program as a file that a container can mount and its user can run.
func self(b *testing.B) string {
	p, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// must runs a command to its end, at most two minutes.
func must(b *testing.B, env []string, name string, args ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = e.Stderr
		}
		b.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr))
	}
	return string(out)
}

// timed is how long a command takes, in milliseconds.
func timed(b *testing.B, env []string, name string, args ...string) float64 {
	b.Helper()
	begin := time.Now()
	must(b, env, name, args...)
	return float64(time.Since(begin)) / float64(time.Millisecond)
}

// askClient runs this program as a client: on the host (container ""), or in a container.
func askClient(b *testing.B, container string, args ...string) answer {
	b.Helper()
	var out string
	if container == "" {
		out = must(b, os.Environ(), self(b), append([]string{"client"}, args...)...)
	} else {
		out = must(b, os.Environ(), "podman", append([]string{"exec", container, "/bench", "client"}, args...)...)
	}
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		b.Fatalf("client said %q: %v", out, err)
	}
	return a
}
