package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/state"
)

// readyTimeout is how long the hook waits for a supervisor.
const readyTimeout = 5 * time.Second

// readyWord is what the parent writes once the worker serves; anything else is a reason.
const readyWord = "ready"

// HookMain is `terok oci-hook createRuntime`. It returns 0 when a supervisor serves the
// container, else 1, and then the runtime does not start it.
func HookMain(args []string) int {
	if len(args) != 1 || args[0] != "createRuntime" {
		fmt.Fprintln(os.Stderr, "usage: terok oci-hook createRuntime < STATE")
		return 2
	}
	// The runtime hands us pipes of its own; nobody we start may hold them open.
	_ = unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	file, err := hook(os.Stdin)
	if err == nil {
		return 0
	}
	// Podman does not show a hook's stderr: the command that started the container reads this.
	fmt.Fprintln(os.Stderr, "terok:", err)
	if file != nil {
		_ = state.WriteFile(file.StartError, []byte(err.Error()+"\n"))
	}
	return 1
}

// hook judges the container and starts its supervisor. The file is returned with an error as
// soon as it is known to be ours, so that the reason can be left beside it.
func hook(stdin io.Reader) (*sandbox.File, error) {
	st, err := parseState(stdin)
	if err != nil {
		return nil, err
	}
	path := st.Annotations[sandbox.Annotation]
	file, err := sandbox.Load(path)
	if err != nil {
		return nil, err
	}
	if err := judge(file, st); err != nil {
		return file, err
	}
	return file, start(file, path, st)
}

// judge refuses a container that is not the one of its sandbox file.
func judge(file *sandbox.File, st *ociState) error {
	if err := launched(file, st); err != nil {
		return err
	}
	spec, err := readSpec(st.Bundle)
	if err != nil {
		return err
	}
	if err := spec.check(file); err != nil {
		return err
	}
	return onlyLoopback(st.PID)
}

// launched refuses while panic holds, and every container but the one that was launched.
func launched(file *sandbox.File, st *ociState) error {
	if err := notPanicked(file); err != nil {
		return err
	}
	recorded, err := os.ReadFile(file.CIDFile)
	if err != nil {
		return fmt.Errorf("the recorded container id: %w", err)
	}
	if strings.TrimSpace(string(recorded)) != st.ID {
		return fmt.Errorf("container %.12s is not the one that was launched (%.12s)", st.ID, recorded)
	}
	return nil
}

func notPanicked(file *sandbox.File) error {
	if _, err := os.Lstat(file.PanicLock); !errors.Is(err, os.ErrNotExist) {
		return errors.New("terok is locked after a panic; nothing starts until `terok panic --clear`")
	}
	return nil
}

// onlyLoopback fails when the container's network namespace has any link but lo, or is ours.
func onlyLoopback(pid int) error {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("the container's network namespace: %w", err)
	}
	ours, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("our network namespace: %w", err)
	}
	if os.SameFile(theirs, ours) {
		return errors.New("the container is in the host's network namespace")
	}
	return onlyLinks(pid, "lo")
}

// onlyLinks fails when the network namespace of pid has a link that is not in names.
func onlyLinks(pid int, names ...string) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return fmt.Errorf("the container's links: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 0; lines.Scan(); n++ {
		name, _, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		if n >= 2 && (!ok || !slices.Contains(names, name)) {
			return fmt.Errorf("the container has the network link %.16q", name)
		}
	}
	return lines.Err()
}

// start runs the parent and waits until it is ready. more are further arguments of it.
func start(file *sandbox.File, path string, st *ociState, more ...string) error {
	// The container's init is held by the runtime while we run, so its pid is still its own.
	pidfd, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return fmt.Errorf("hold the container's init: %w", err)
	}
	init := os.NewFile(uintptr(pidfd), "pidfd")
	defer init.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", st.PID))
	if err != nil {
		return fmt.Errorf("open the container's network namespace: %w", err)
	}
	defer ns.Close()
	logFile, err := openLog(sandbox.LogPath(file.Dir))
	if err != nil {
		return err
	}
	defer logFile.Close()
	ready, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()

	cmd := exec.Command("/proc/self/exe", append([]string{"supervise", path, st.ID, strconv.Itoa(st.PID)}, more...)...)
	cmd.Args[0] = "terok"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{say, init, ns} // descriptors 3, 4, 5 of the parent
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = asParent(cmd.Start)
	say.Close()
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	if err := waitReady(ready, readyTimeout); err != nil {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_, _ = cmd.Process.Wait()
		return err
	}
	return cmd.Process.Release()
}

// waitReady reads the parent's one message.
func waitReady(pipe *os.File, timeout time.Duration) error {
	if err := pipe.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(pipe, 64<<10))
	switch {
	case string(data) == readyWord:
		return nil
	case len(data) > 0:
		return errors.New(string(data))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the supervisor was not ready within %s", timeout)
	case err != nil:
		return fmt.Errorf("wait for the supervisor: %w", err)
	}
	return errors.New("the supervisor ended before it was ready")
}

// parentCapabilities are what the parent needs until it has made the inside of the network
// namespace: to enter it, to change it, and to drop the last capabilities.
var parentCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP}

// asParent runs start on a thread of which the parent inherits the right things. No signal is
// blocked: the runtime starts hooks with nearly all of them blocked. The bounding set is
// parentCapabilities: the parent never has the others, and need not drop them, which is slow in a
// process with several threads. The thread is not used for anything else afterwards.
func asParent(start func() error) error {
	runtime.LockOSThread() // for good: its bounding set is not the process's any more
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return fmt.Errorf("clear the signal mask: %w", err)
	}
	for c := uintptr(0); c <= lastCapability; c++ {
		if slices.Contains(parentCapabilities, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return start()
}

// maxLog is when the supervisor's log starts again, in bytes.
const maxLog = 4 << 20

func openLog(path string) (*os.File, error) {
	if err := state.MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(path); err == nil && fi.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the supervisor's log: %w", err)
	}
	return f, nil
}
