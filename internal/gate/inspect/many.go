package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"terok/internal/git"
)

// One child can look at many tasks: most of the time of a small look is the start of the child. The tasks
// stay apart all the same. What parses what an agent pushed in C is git, and every git is started from a
// thread that has given up all but its own task's files: Landlock's rules belong to a thread, and a
// process inherits those of the thread that called clone(2). The other threads run Go only and have what
// all of the tasks need together. A git that was taken over by what one task pushed reads no other task's
// repository and writes into no other's scratch directory.

// many is the argument of such a child.
const many = "many"

// Bounds of such a child.
const (
	maxMany    = 128 // requests
	maxWorkers = 4   // at a time
)

// answer is a line on its stdout. A request without one has to be asked by itself: whatever went wrong
// will be said then.
type answer struct {
	N     int   `json:"n"` // index of the request
	Reply Reply `json:"reply"`
}

// serveMany reads a list of Requests of OpScan and answers those that it can, as they are done.
func serveMany(in io.Reader, out io.Writer) error {
	var reqs []Request
	if err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&reqs); err != nil {
		return fmt.Errorf("requests: %w", err)
	}
	if len(reqs) == 0 || len(reqs) > maxMany {
		return errors.New("too many requests, or none")
	}
	for _, req := range reqs {
		if err := req.check(); err != nil || req.Op != OpScan || req.WithoutLandlock {
			return errors.Join(err, errors.New("a request that is asked by itself only"))
		}
	}
	c, err := confineMany(reqs)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	var mu sync.Mutex
	var wait sync.WaitGroup
	next := make(chan int)
	for range min(maxWorkers, runtime.GOMAXPROCS(0), len(reqs)) {
		wait.Go(func() {
			for n := range next {
				reply, err := c.scan(ctx, n)
				if err != nil {
					fmt.Fprintf(os.Stderr, "terok gate-inspect: request %d: %v\n", n, err)
					continue
				}
				mu.Lock()
				_ = enc.Encode(answer{n, reply})
				mu.Unlock()
			}
		})
	}
	for n := range reqs {
		next <- n
	}
	close(next)
	wait.Wait()
	return nil
}

// compartments are the requests of one child, each with the rules of its own.
type compartments struct {
	reqs  []Request
	rules []int    // file descriptors of Landlock rulesets, one for each request
	flags []uint32 // of landlock_restrict_self(2)
}

// confineMany gives up what none of the requests needs, and makes ready what each of them gives up.
func confineMany(reqs []Request) (*compartments, error) {
	c := &compartments{reqs: reqs}
	for _, req := range reqs {
		config, rules, err := files(req)
		if err != nil {
			return nil, err
		}
		fd, flags, err := config.NewRulesetFD(rules...)
		if err != nil {
			return nil, err
		}
		if fd < 0 {
			return nil, errors.New("this kernel has no Landlock")
		}
		c.rules, c.flags = append(c.rules, fd), append(c.flags, flags)
	}
	return c, confine(reqs...)
}

func (c *compartments) scan(ctx context.Context, n int) (Reply, error) {
	var reply Reply
	err := c.within(n, func(r *git.Runner) error {
		p := &repo{Request: c.reqs[n], git: r, small: true}
		err := p.take(ctx)
		if err == nil {
			reply, err = p.scan(ctx)
		}
		return errors.Join(err, os.RemoveAll(filepath.Join(p.Scratch, "pack")))
	})
	return reply, err
}

// within does work whose every git is confined to what request n needs. The thread that starts them ends
// with it: what it gave up it cannot get back.
func (c *compartments) within(n int, work func(*git.Runner) error) error {
	starts := make(chan func())
	ready, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with this goroutine
		err := c.enter(n)
		ready <- err
		if err != nil {
			return
		}
		for start := range starts {
			start()
		}
	}()
	defer func() { <-ended }()
	defer close(starts)
	if err := <-ready; err != nil {
		return err
	}
	return work(&git.Runner{Start: func(start func() error) error {
		done := make(chan error, 1)
		starts <- func() { done <- start() }
		return <-done
	}})
}

// enter takes all but request n's files from the calling thread.
func (c *compartments) enter(n int) error {
	err := ll.LandlockRestrictSelf(c.rules[n], c.flags[n])
	unix.Close(c.rules[n])
	if err != nil {
		return fmt.Errorf("restrict files (Landlock): %w", err)
	}
	for _, other := range c.reqs {
		if other.Repo != c.reqs[n].Repo {
			return refused(other.Repo)
		}
	}
	return nil
}
