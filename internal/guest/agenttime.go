package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// agentGrace is what an agent whose time is over has to end by itself.
const agentGrace = 10 * time.Second

// runFor runs the agent for at most limit. When that is over the agent and what it started in its
// process group get SIGTERM, and after the grace SIGKILL; what it wrote stays. Signals to the
// wrapper are the agent's.
func (w *wrapper) runFor(limit time.Duration, argv []string) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Env: w.environ, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return agentNotFound, fmt.Errorf("%s is not in this container: %s is missing", w.name, argv[0])
		}
		return agentNotExec, fmt.Errorf("start %s: %w", argv[0], err)
	}
	group := -cmd.Process.Pid // the number is not given out again while the group has members
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the agent, which this function always waits for
	clock := time.NewTimer(limit)
	defer clock.Stop()
	var late error
	for {
		select {
		case err := <-ended:
			if late != nil {
				_ = unix.Kill(group, unix.SIGKILL) // what outlived the agent
				return agentTimeout, late
			}
			return exitCode(err)
		case s := <-signals:
			if n, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(group, n)
			}
		case <-clock.C:
			if late != nil {
				_ = unix.Kill(group, unix.SIGKILL)
				continue
			}
			late = fmt.Errorf("%s was not done after %s and was stopped; what it wrote is kept", w.name, limit)
			_ = unix.Kill(group, unix.SIGTERM)
			clock.Reset(w.grace)
		}
	}
}

// exitCode is a shell's view of how a process ended.
func exitCode(err error) (int, error) {
	ee, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		if err != nil {
			return agentFailed, err
		}
		return 0, nil
	}
	if status, ok := ee.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return ee.ExitCode(), nil
}
