package holder

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/child"
	"terok/internal/problem"
	"terok/internal/state"
)

// A keyholder has a guard: the process that started it and waits for its end. One that ends by itself,
// after `vault lock` say, ends its guard. One that crashed, or was killed by the kernel for its memory,
// is followed by whatever opens the vault without a person, so that tasks at work go on. The guard, not a
// supervisor, does that: it lives where the person's programs do, in the host's namespaces and in the
// environment in which the keyholder was started, which systemd-creds, the keyring and a passphrase
// command need. It knows no secret of the vault. A vault that a person locked stays locked, and nothing
// starts while the panic lock stands.

// Guard says how a keyholder that crashed is followed.
type Guard struct {
	Wake    []string // program and arguments that open the vault without a person; none: nothing follows
	Environ []string // its environment, the person's
}

// Times of a guard. A keyholder is followed so long after its own start, at the earliest: one that
// cannot live does not keep the machine busy.
const (
	guardCalm  = 5 * time.Second
	wakeWithin = 2 * time.Minute
)

// GuardMain is the process `terok keyholder-guard DATA RUNTIME SELF [WAKE…]`; Start runs it.
func GuardMain(args []string) int {
	ready := os.NewFile(readyFD, "ready")
	unix.CloseOnExec(readyFD)
	if len(args) < 3 || ready == nil {
		fmt.Fprintln(os.Stderr, "terok keyholder-guard is started by terok vault unlock")
		return problem.Usage
	}
	// The environment is the person's; nobody else's business.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	debug.SetGCPercent(20)
	signal.Ignore(syscall.SIGHUP) // the keyholder decides what ends it
	roots := state.Roots{Data: args[0], Runtime: args[1]}
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprint(ready, err)
		return problem.Failed
	}
	started := time.Now()
	p, err := startDetached(args[2], roots, w)
	w.Close()
	if err != nil {
		fmt.Fprintf(ready, "start the keyholder: %v", err)
		return problem.Failed
	}
	said, _ := io.ReadAll(io.LimitReader(r, 4096))
	r.Close()
	_, _ = ready.Write(said)
	ready.Close()
	debug.FreeOSMemory()
	st, err := p.Wait()
	if err != nil || string(said) != "ready" || !crashed(st) || len(args) == 3 {
		return problem.OK
	}
	time.Sleep(guardCalm - time.Since(started))
	if stands(roots.PanicLock()) || stands(roots.VaultLocked()) {
		return problem.OK
	}
	// It has no terminal, and what it says nobody reads: terok vault status tells why it is locked.
	_, _ = child.Run(context.Background(), child.Spec{Path: args[3], Args: args[4:], Env: os.Environ(), Timeout: wakeWithin})
	return problem.OK
}

// crashed reports whether a keyholder ended without wanting to: by a signal, or by a panic of Go's.
func crashed(st *os.ProcessState) bool {
	ws, ok := st.Sys().(syscall.WaitStatus)
	return ok && (ws.Signaled() || ws.Exited() && ws.ExitStatus() == goPanic)
}

// goPanic is the exit code of a Go program that panics.
const goPanic = 2

// start starts a guard, detached from terminal and session.
func (g Guard) start(self string, roots state.Roots, ready *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	argv := append([]string{"terok", "keyholder-guard", roots.Data, roots.Runtime, self}, g.Wake...)
	return os.StartProcess(self, argv, &os.ProcAttr{Dir: "/", Env: g.Environ, Files: []*os.File{null, null, null, ready},
		Sys: &syscall.SysProcAttr{Setsid: true}})
}
