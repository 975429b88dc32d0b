// Package filter is the system call filter (seccomp) of terok's own processes that parse hostile
// bytes: the supervisor's worker and the gate's inspector. It defends the kernel and the operator's
// other processes against one that was taken over.
//
// What is not listed fails with EPERM: no mounts, namespaces, tracing, keys, modules, BPF,
// io_uring, other processes' memory, clocks or identities, and no sockets but of the families that
// the caller names.
package filter

import (
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// calls are the system calls of the Go runtime, of plain file and socket work, and of git.
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
	// giving up more, for one thread and what it starts
	"landlock_restrict_self",
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

// Load puts the filter on every thread of this process and on what it starts. families are the
// address families that socket(2) may still be asked for, e.g. unix.AF_INET; none closes it.
func Load(families ...uint64) error {
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy(families)})
}

func policy(families []uint64) seccomp.Policy {
	info, err := arch.GetInfo("")
	known := func(string) bool { return err == nil }
	if err == nil {
		known = func(name string) bool { _, ok := info.SyscallNames[name]; return ok }
	}
	names := slices.DeleteFunc(slices.Clone(calls), func(n string) bool { return !known(n) })
	conditions := []seccomp.NameWithConditions{{Name: "clone", Conditions: seccomp.ArgumentConditions{
		{Argument: 0, Operation: seccomp.BitsNotSet, Value: namespaceFlags}}}}
	for _, family := range families {
		conditions = append(conditions, seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.Equal, Value: family}}})
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			// ENOSYS makes callers fall back to clone, whose flags a filter can see.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			{Action: seccomp.ActionAllow, Names: names, NamesWithCondtions: conditions},
		},
	}
}
