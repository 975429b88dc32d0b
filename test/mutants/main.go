// Command mutants removes one guard at a time and expects the matching attack test to fail.
//
// guards.yml lists the guards. Each entry replaces one piece of one file (it must occur exactly
// once) by another, builds the named test with an overlay, so that the tree itself is never
// touched, and runs it as the calling user, tests of ./test/… by scripts/rootless, those of
// ./test/attack by scripts/world. Before that all tests of a package run once with every guard in
// place: a test that fails anyway proves nothing.
//
// It ends with 1 when a guard's removal is noticed by no test (SURVIVED), when an entry does not
// fit its source or does not compile, and when a test cannot run or fails with the guard in place
// (BROKEN).
//
//	go run ./test/mutants                         all guards
//	go run ./test/mutants dns proxy               guards whose package or name contains one of the words
//	go run ./test/mutants -j 1 -from 'peer: '     one at a time, from the first guard of that name on
//	go run ./test/mutants -results /tmp/m.jsonl   note what was killed there; do not run it again
//	                                              until entry, file or packages of it have changed
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	jobs    int
	from    string   // part of a guard's name: what comes before is left out
	results string   // file; "" for none
	words   []string // parts of names or packages; none for all
}

func main() {
	var o options
	flag.IntVar(&o.jobs, "j", 2, "how many guards of unit tests at a time; those of ./test/... share one podman and run alone")
	flag.StringVar(&o.from, "from", "", "begin with the first guard whose name contains this")
	flag.StringVar(&o.results, "results", "", "append results to this `file`, and leave out what it has as killed")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./test/mutants [flags] [word...]    see test/mutants/main.go")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.words = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run is the program: ok is whether every chosen guard was killed, now or by o.results.
func run(ctx context.Context, o options, out io.Writer) (ok bool, err error) {
	all, err := load(".")
	if err != nil {
		return false, err
	}
	chosen := choose(all, o)
	if len(chosen) == 0 {
		return false, fmt.Errorf("no guard matches")
	}
	r := &report{out: out, total: len(chosen), start: time.Now()}
	if o.results != "" {
		if err := r.open(o.results); err != nil {
			return false, err
		}
		defer r.file.Close()
	}
	if err := r.leaveOut(&chosen); err != nil {
		return false, err
	}
	lab := &lab{baselines: map[string]*baseline{}, chosen: chosen}
	work := make(chan guard)
	var workers sync.WaitGroup
	for range max(1, o.jobs) {
		workers.Go(func() {
			for g := range work {
				r.add(lab.try(ctx, g))
			}
		})
	}
	for _, g := range chosen {
		if !g.endToEnd() && ctx.Err() == nil {
			work <- g
		}
	}
	close(work)
	workers.Wait()
	for _, g := range chosen {
		if g.endToEnd() && ctx.Err() == nil {
			r.add(lab.try(ctx, g))
		}
	}
	return r.sum() && ctx.Err() == nil, r.err
}

// choose applies -from and the words.
func choose(all []guard, o options) []guard {
	first := slices.IndexFunc(all, func(g guard) bool { return strings.Contains(g.Guard, o.from) })
	if first < 0 {
		return nil
	}
	var chosen []guard
	for _, g := range all[first:] {
		wanted := len(o.words) == 0 || slices.ContainsFunc(o.words, func(w string) bool {
			return strings.Contains(g.Package, w) || strings.Contains(g.Guard, w)
		})
		if wanted {
			chosen = append(chosen, g)
		}
	}
	return chosen
}

// result is what became of one guard, and a line of the results file.
type result struct {
	Guard       string  `json:"guard"`
	Verdict     string  `json:"verdict"` // killed, SURVIVED, BROKEN or left out
	Why         string  `json:"why,omitempty"`
	Test        string  `json:"test"`
	Seconds     float64 `json:"seconds"`
	Fingerprint string  `json:"fingerprint"`
}

const (
	killed   = "killed"
	survived = "SURVIVED"
	broken   = "BROKEN"
	leftOut  = "left out"
)

// report prints and counts results.
type report struct {
	out   io.Writer
	file  *os.File        // nil without -results
	known map[string]bool // fingerprints that the results file has as killed
	total int
	start time.Time

	mu      sync.Mutex
	results []result
	before  int // killed according to the results file
	err     error
}

// open reads the results that path has and keeps it open for more.
func (r *report) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	r.file, r.known = f, map[string]bool{}
	for d := json.NewDecoder(f); ; {
		var one result
		switch err := d.Decode(&one); {
		case err == io.EOF:
			return nil
		case err != nil:
			f.Close()
			return fmt.Errorf("%s is no results file: %w", path, err)
		}
		r.known[one.Fingerprint] = one.Verdict == killed
	}
}

// leaveOut takes the guards out of chosen that need no run or cannot have one.
func (r *report) leaveOut(chosen *[]guard) error {
	var err error
	*chosen = slices.DeleteFunc(*chosen, func(g guard) bool {
		if g.Root && os.Getuid() != 0 {
			r.add(result{Guard: g.Guard, Verdict: leftOut, Why: "needs root"})
			return true
		}
		mark, e := g.fingerprint(".")
		if e != nil {
			err = e
		}
		if r.known[mark] {
			r.before++
			return true
		}
		return false
	})
	return err
}

func (r *report) add(one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, one)
	text := one.Why
	if one.Verdict == killed {
		text = fmt.Sprintf("by %s in %.1fs", one.Test, one.Seconds)
	}
	fmt.Fprintf(r.out, "%3d/%d %-8s  %-64s %s\n", len(r.results)+r.before, r.total, one.Verdict, one.Guard, text)
	if r.file != nil {
		if err := json.NewEncoder(r.file).Encode(one); err != nil && r.err == nil {
			r.err = err
		}
	}
}

// sum prints the counts, what took longest and once more what failed.
func (r *report) sum() bool {
	count := map[string]int{}
	for _, one := range r.results {
		count[one.Verdict]++
	}
	slow := slices.Clone(r.results)
	slices.SortFunc(slow, func(a, b result) int { return int(1000 * (b.Seconds - a.Seconds)) })
	fmt.Fprintln(r.out)
	for _, one := range slow[:min(5, len(slow))] {
		fmt.Fprintf(r.out, "%6.1fs   %s\n", one.Seconds, one.Guard)
	}
	for _, one := range r.results {
		if one.Verdict == survived || one.Verdict == broken {
			fmt.Fprintf(r.out, "%-8s  %s: %s\n", one.Verdict, one.Guard, one.Why)
		}
	}
	fmt.Fprintf(r.out, "%d guards: %d killed, %d survived, %d broken, %d left out, %d killed before, %d not reached; %s\n",
		r.total, count[killed], count[survived], count[broken], count[leftOut], r.before,
		r.total-len(r.results)-r.before, time.Since(r.start).Round(time.Second))
	return count[survived]+count[broken] == 0
}
