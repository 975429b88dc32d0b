// Command hold measures how long a client waits on a connection that is accepted and then stays
// silent: what a program in a container sees while an operator thinks about a request. The figures
// set the default of clearance.hold and stand in docs/clearance.md.
//
//	go run ./test/hold [-for 5m] [-names a.example,b.example] -- curl https://a.example/
//
// The client runs in network and mount namespaces of its own (root is needed) in which each name
// leads to a listener on 22, 80, 443 or 9418 that accepts and never answers. One JSON object goes
// to standard output: how long the client kept its connections open, how many it made, and when it
// gave up. Nothing leaves the machine.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// result is what one client did. Times are seconds since it started.
type result struct {
	Command     []string  `json:"command"`
	Connections int       `json:"connections"`
	Waited      []float64 `json:"waited_s"`  // how long each connection was held until the client closed it
	Longest     float64   `json:"longest_s"` // of those
	Open        int       `json:"open"`      // connections still waiting at the end
	Ended       float64   `json:"ended_s"`   // when the client ended; 0: it was still waiting
	Code        int       `json:"exit_code"` // -1: killed at the limit
}

const inside = "hold-inside"

func main() {
	limit := flag.Duration("for", 5*time.Minute, "kill the client after this time")
	names := flag.String("names", "", "names that lead to the silent listeners, separated by commas")
	verbose := flag.Bool("v", false, "show what the client prints")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*limit, *names, *verbose, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "hold:", err)
		os.Exit(1)
	}
}

func run(limit time.Duration, names string, verbose bool, args []string) error {
	if os.Args[0] == inside {
		return measure(limit, names, verbose, args)
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = inside
	c.Stdin, c.Stdout, c.Stderr = nil, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	return c.Run()
}

func measure(limit time.Duration, names string, verbose bool, args []string) error {
	if err := prepare(strings.Split(names, ",")); err != nil {
		return err
	}
	h := &holder{start: time.Now()}
	for _, port := range []string{"22", "80", "443", "9418"} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return err
		}
		defer l.Close()
		go h.serve(l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var atLimit *result // before the kill closes what still waits
	c.Cancel = func() error {
		r := h.result()
		atLimit = &r
		return syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	if verbose {
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
	}
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return err
	}
	r := h.result()
	if atLimit != nil {
		r = *atLimit
	}
	r.Command, r.Code = args, c.ProcessState.ExitCode()
	if atLimit == nil {
		r.Ended = seconds(time.Since(h.start))
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// prepare makes the names known and the loopback usable.
func prepare(names []string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	f, err := os.CreateTemp("", "hosts")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	fmt.Fprintln(f, "127.0.0.1 localhost", strings.Join(names, " "))
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	if err := syscall.Mount(f.Name(), "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("hosts: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

type holder struct {
	start time.Time

	mu     sync.Mutex
	made   int
	waited []float64
}

func (h *holder) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // the measurement is over
		}
		go h.hold(c)
	}
}

// hold reads what the client sends, and never answers.
func (h *holder) hold(c net.Conn) {
	h.mu.Lock()
	h.made++
	h.mu.Unlock()
	from := time.Now()
	_, _ = io.Copy(io.Discard, c) // until the client closes or resets
	c.Close()
	h.mu.Lock()
	h.waited = append(h.waited, seconds(time.Since(from)))
	h.mu.Unlock()
}

func (h *holder) result() result {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := result{Connections: h.made, Waited: slices.Clone(h.waited), Open: h.made - len(h.waited)}
	slices.SortFunc(r.Waited, cmp.Compare)
	if n := len(r.Waited); n > 0 {
		r.Longest = r.Waited[n-1]
	}
	return r
}

func seconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}
