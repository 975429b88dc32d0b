package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
)

// readyFD is where a keyholder tells its starter "ready", or why not.
const readyFD = 3

// Main is the process `terok keyholder DATA RUNTIME`. Nothing secret is in its arguments or
// environment.
func Main(args []string) int {
	ready := os.NewFile(readyFD, "ready")
	tell := func(s string) {
		if ready != nil {
			_, _ = io.WriteString(ready, s)
			ready.Close()
			ready = nil
		}
	}
	var key []byte
	var lock *os.File
	if len(args) == 3 && args[2] == resumeArg {
		// Descriptor 3 is the key of the keyholder that became this process, not a starter's pipe.
		var err error
		if key, err = readKey(ready); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return problem.Failed
		}
		unix.CloseOnExec(lockFD)
		lock = os.NewFile(lockFD, "lock")
		ready, args = nil, args[:2]
	}
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "terok keyholder is started by terok vault unlock")
		return problem.Usage
	}
	if err := harden(); err != nil {
		tell(err.Error())
		return problem.Failed
	}
	roots := state.Roots{Data: args[0], Runtime: args[1]}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	program, _ := os.Executable() // "" is a program that is never replaced
	err := Run(ctx, Config{Roots: roots, Program: program, Key: key, Lock: lock}, func() {
		if err := writePID(roots); err != nil {
			tell(err.Error())
			stop()
			return
		}
		tell("ready")
	})
	if next, ok := errors.AsType[*successor](err); ok {
		err = next.exec(roots)
	}
	switch {
	case errors.Is(err, ErrRunning):
		tell("running")
	case err != nil:
		tell(err.Error())
		return problem.Of(err).Exit
	}
	return problem.OK
}

// harden keeps what this process knows inside it. Each step is refused by no kernel that terok
// supports, so a failure is a reason not to start. Landlock is not among them: a process in a
// Landlock domain may not look at /proc/<pid>/ns of one outside, by which callers are judged.
func harden() error {
	debug.SetTraceback("none") // a crash prints no memory
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("RLIMIT_CORE: %w", err)
	}
	// Start has set it before exec, so every thread has it.
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || set != 1 {
		return errors.New("the keyholder runs with new privileges possible; it is started by terok vault unlock")
	}
	unix.Umask(0o077)
	return nil
}

// freeKDF gives the memory of the key derivation back; it is a hundred times the rest.
func freeKDF() { debug.FreeOSMemory() }

// startWithin bounds the start of a keyholder, also while another one is ending.
const startWithin = 10 * time.Second

// Start makes sure that a keyholder listens: it starts one, detached from terminal and session,
// unless one runs. self is the path of the terok program; g says what follows a crash. When two start
// at once, one wins and both report success.
func Start(ctx context.Context, self string, roots state.Roots, g Guard) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !listening(ctx, roots) {
		said, err := spawn(ctx, self, roots, g)
		switch {
		case err != nil:
			return err
		case said == "ready":
			return nil
		case said == "":
			said = "it ended without a word"
			fallthrough
		default:
			return problem.New("keyholder_failed", problem.Failed, "the keyholder did not start: %s", strings.TrimSpace(said))
		case said == "running": // it is about to listen, or about to end
		}
		select {
		case <-ctx.Done():
			return problem.New("keyholder_failed", problem.Failed, "a keyholder runs but does not answer").WithHint("terok vault lock")
		case <-tick.C:
		}
	}
	return nil
}

// spawn starts a keyholder, under a guard where something can follow it, and returns what it said.
func spawn(ctx context.Context, self string, roots state.Roots, g Guard) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	start := startDetached
	if len(g.Wake) > 0 {
		start = g.start
	}
	p, err := start(self, roots, w)
	w.Close()
	if err != nil {
		return "", fmt.Errorf("start the keyholder: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return "", errors.Join(ctx.Err(), err)
	}
	if string(said) == "ready" {
		return "ready", p.Release() // it is init's child once we end
	}
	_, _ = p.Wait()
	return string(said), nil
}

func startDetached(self string, roots state.Roots, ready *os.File) (p *os.Process, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// no_new_privs is inherited by the child and can never be taken back, so it is set on a
		// thread that ends with this goroutine.
		runtime.LockOSThread()
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return
		}
		p, err = os.StartProcess(self, []string{"terok", "keyholder", roots.Data, roots.Runtime}, &os.ProcAttr{
			Dir: "/",
			// Proxies, tokens and the like of the starting shell are no business of the keyholder.
			Env:   []string{"PATH=/usr/bin:/bin", "GOTRACEBACK=none"},
			Files: []*os.File{null, null, null, ready},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	}()
	<-done
	return p, err
}

// listening reports whether a keyholder answers. A connection alone proves nothing: the kernel
// still takes one for a process that is being killed.
func listening(ctx context.Context, roots state.Roots) bool {
	ctx, cancel := context.WithTimeout(ctx, startWithin/2)
	defer cancel()
	c, err := keyholder.Dial(ctx, roots.KeyholderSocket())
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Status(ctx)
	return err == nil
}
