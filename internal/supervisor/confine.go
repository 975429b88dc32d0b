package supervisor

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	kernel "terok/internal/sandbox/landlock"
)

// confine takes from the worker what it does not need: files beyond its own few (Landlock), TCP
// servers of its own, signals to others, and most system calls (seccomp). It defends the host
// against a worker that was taken over through something it parsed. It comes after everything is
// open and cannot be undone; git, which the gate runs, inherits it.
//
// Neither layer is left out in silence: without the seccomp filter the worker does not serve, and
// without Landlock only where the sandbox file says so. A kernel whose Landlock confines files but
// knows less of the rest gives what it has; status names what is missing.
func confine(h *handover) error {
	if err := restrictFiles(h); err != nil {
		return fmt.Errorf("restrict files (Landlock): %w", err)
	}
	filter := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: workerCalls()}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

func restrictFiles(h *handover) error {
	if err := kernel.Missing(kernel.ABI()); err != nil {
		if h.File.WithoutLandlock {
			return nil
		}
		return err
	}
	dir := h.File.Dir
	rules := []landlock.Rule{
		// Resolving, certificate roots, peers of the control socket.
		landlock.RODirs("/etc", "/proc"),
		landlock.RODirs("/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates").IgnoreIfMissing(),
		landlock.ROFiles("/dev/urandom", "/dev/random").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null"),
		landlock.RWDirs(filepath.Dir(sandbox.PolicyPath(dir)), filepath.Dir(sandbox.LedgerPath(dir))),
	}
	if real, err := filepath.EvalSymlinks(resolvConf); err == nil {
		rules = append(rules, landlock.RODirs(filepath.Dir(real))) // replaced by renaming there
	}
	if h.File.Vault != nil {
		// What the project's other tasks use; the task's own book is open already.
		rules = append(rules, landlock.RODirs(usageDir(&h.File)).IgnoreIfMissing())
	}
	if g := h.File.Gate; g != nil {
		rules = append(rules,
			landlock.RODirs("/usr", "/bin", "/lib", "/lib64").IgnoreIfMissing(), // git and what it needs
			landlock.RODirs(g.Base).IgnoreIfMissing(),
			landlock.RWDirs(g.Repo).WithRefer().IgnoreIfMissing())
	}
	// It serves on inherited sockets only: nothing on the host may listen in its name. All in one
	// ruleset: a second one, whatever it is about, would deny moving files between directories
	// (landlock(7), LANDLOCK_ACCESS_FS_REFER), which git needs to take a push.
	all := landlock.V6
	all.HandledAccessNet = ll.AccessNetBindTCP
	if err := all.BestEffort().Restrict(rules...); err != nil {
		return err
	}
	// Best effort must not have meant nothing: no rule covers the root.
	if fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
		return errors.New("the host's files can still be read")
	}
	return nil
}

// calls are the system calls of the Go runtime, of plain file and socket work, and of git.
// Everything else fails with EPERM: no mounts, namespaces, tracing, keys, modules, BPF, io_uring,
// other processes' memory, clocks or identities.
var calls = []string{
	// memory, threads, time
	"brk", "mmap", "munmap", "mprotect", "madvise", "mremap", "mincore", "msync", "mlock", "munlock", "membarrier",
	"futex", "futex_waitv", "set_robust_list", "get_robust_list", "set_tid_address", "rseq", "sched_yield",
	"sched_getaffinity", "getcpu", "arch_prctl", "gettid", "nanosleep", "clock_nanosleep", "clock_gettime",
	"clock_getres", "gettimeofday", "time", "getrandom", "timer_create", "timer_settime", "timer_delete",
	"setitimer", "getitimer", "alarm", "restart_syscall", "pause",
	// signals
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait",
	"sigaltstack", "kill", "tkill", "tgkill", "signalfd4",
	// processes: git
	"exit", "exit_group", "execve", "vfork", "fork", "wait4", "waitid", "pidfd_open", "pidfd_send_signal",
	"getpid", "getppid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "getuid", "geteuid", "getgid",
	"getegid", "getgroups", "getresuid", "getresgid", "getrlimit", "setrlimit", "prlimit64", "getrusage",
	"sysinfo", "uname", "umask", "times", "prctl", "getpriority", "capget",
	// files
	"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
	"open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "flock",
	"lseek", "stat", "lstat", "fstat", "newfstatat", "fstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
	"faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "mkdir",
	"mkdirat", "rmdir", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "symlink",
	"symlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "truncate", "ftruncate", "fallocate", "fsync",
	"fdatasync", "sync_file_range", "fadvise64", "utime", "utimes", "utimensat", "futimesat", "copy_file_range",
	"sendfile", "splice", "tee", "pipe", "pipe2", "ioctl", "memfd_create",
	// waiting and sockets
	"poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
	"epoll_pwait2", "eventfd2", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	"socketpair", "connect", "accept", "accept4", "bind", "listen", "shutdown", "getsockname", "getpeername",
	"setsockopt", "getsockopt", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg",
}

// namespaceFlags are the flags of clone(2) that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

func workerCalls() seccomp.Policy {
	info, err := arch.GetInfo("")
	known := func(string) bool { return err == nil }
	if err == nil {
		known = func(name string) bool { _, ok := info.SyscallNames[name]; return ok }
	}
	names := slices.DeleteFunc(slices.Clone(calls), func(n string) bool { return !known(n) })
	socket := func(family uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.Equal, Value: family}}}
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			// ENOSYS makes callers fall back to clone, whose flags a filter can see.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			{Action: seccomp.ActionAllow, Names: names, NamesWithCondtions: []seccomp.NameWithConditions{
				{Name: "clone", Conditions: seccomp.ArgumentConditions{
					{Argument: 0, Operation: seccomp.BitsNotSet, Value: namespaceFlags}}},
				socket(unix.AF_INET), socket(unix.AF_INET6),
				socket(unix.AF_NETLINK), // the host's own addresses
			}},
		},
	}
}
