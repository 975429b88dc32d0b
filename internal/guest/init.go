package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"terok/internal/sandbox"
	"terok/internal/sandbox/links"
)

// initMain is pid 1: nothing of the image runs before everything here went well.
func initMain(args []string) int {
	debug.SetGCPercent(50)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // pid 1 has no default actions; keep what comes until there is a child
	flags := flag.NewFlagSet("guest init", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	keyText := flags.String("key", "", "")
	if err := flags.Parse(args); err != nil {
		return refuse(err)
	}
	key, err := parseKey(*keyText)
	if err != nil {
		return refuse(err)
	}
	argv := flags.Args()
	if len(argv) == 0 {
		return refuse(errors.New("no command"))
	}
	if err := links.CheckHere(); err != nil {
		return refuse(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sup := newSupervisor()
	welcome, err := sup.hello(ctx, key)
	if err != nil {
		return refuse(err)
	}
	start := welcome.Start
	if start.SSHAgent { // before the workspace, which may come over ssh
		err = serveAgent(ctx, sandbox.SSHAgentSock)
	}
	var env []string
	if err == nil {
		env, err = prepare(ctx, start)
	}
	if e := sup.ready(ctx, err); e != nil && err == nil {
		return refuse(e) // the supervisor went away meanwhile
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
		return exitPrepare
	}
	go sup.keep(ctx, key, &stayer{sealed: welcome.Sealed, proof: welcome.Proof, tokenFile: tokenFile})
	return run(argv, start.Workspace, env, signals)
}

func refuse(err error) int {
	fmt.Fprintf(os.Stderr, "terok: this container may not run: %v\n", err)
	fmt.Fprintln(os.Stderr, "terok: a container of terok's runs only behind its supervisor; start it with terok")
	return ExitRefused
}

// run starts the command and is its init until it ends: forwards signals, reaps every orphan, and
// returns the command's exit code.
func run(argv []string, dir string, env []string, signals chan os.Signal) int {
	path, err := lookPath(argv[0], env)
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
		if errors.Is(err, fs.ErrPermission) {
			return exitNotExec
		}
		return exitNotFound
	}
	attr := &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{}}
	if term.IsTerminal(0) {
		// A process group of its own in the foreground, so that a shell has job control.
		signal.Ignore(unix.SIGTTOU, unix.SIGTTIN)
		attr.Sys.Setpgid, attr.Sys.Foreground, attr.Sys.Ctty = true, true, 0
	}
	child, err := os.StartProcess(path, argv, attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
		if errors.Is(err, fs.ErrNotExist) {
			return exitNotFound
		}
		return exitNotExec
	}
	codes := make(chan int, 1)
	go func() { codes <- reap(child.Pid) }()
	for {
		select {
		case code := <-codes:
			return code
		case s := <-signals:
			if n, ok := s.(syscall.Signal); ok && forwarded(n) {
				_ = unix.Kill(child.Pid, n)
			}
		}
	}
}

// forwarded tells which signals are the command's business.
func forwarded(s syscall.Signal) bool {
	switch s {
	case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// reap waits for every child of pid 1 and returns when main has ended.
func reap(main int) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1 // no children: main was lost
		case pid == main && status.Exited():
			return status.ExitStatus()
		case pid == main && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// lookPath finds a program with the PATH of env, as execvp does.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

func lookup(env []string, key string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(env[i], "="); ok && k == key {
			return v
		}
	}
	return ""
}

// execMain is `terok guest exec -- CMD…`: it becomes CMD with the environment of the start
// and the tokens of what the vault has now.
func execMain(args []string) int {
	argv := command(args)
	if len(argv) == 0 {
		fmt.Fprintln(os.Stderr, "usage: terok guest exec -- CMD...")
		return exitUsage
	}
	if err := loadStart(); err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
		return exitPrepare
	}
	path, err := lookPath(argv[0], os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", err)
		return exitNotFound
	}
	err = unix.Exec(path, argv, os.Environ())
	fmt.Fprintf(os.Stderr, "terok: %s: %v\n", argv[0], err)
	if errors.Is(err, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitNotExec
}

// stateDir is the guest's own directory: a tmpfs, new with every start.
const stateDir = "/run/terok"
