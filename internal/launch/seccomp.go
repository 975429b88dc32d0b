package launch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/state"
)

// allowedCalls is what podman 4.3's default profile allows to a process without capabilities on a
// 64-bit machine, and what newer kernels and its newer versions added since, less deniedCalls.
const allowedCalls = `
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
chroot clock_adjtime clock_getres clock_gettime clock_nanosleep clone clone3 close close_range
connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait
epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu
getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp
getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname
getsockopt gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit ioctl ioprio_get
ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr
link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
lsm_get_self_attr lstat madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore
mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_getfd pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile
sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid
setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget
shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statmount statx symlink
symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd timerfd_create timerfd_gettime timerfd_settime
times tkill truncate umask uname unlink unlinkat unshare utime utimensat utimes vfork wait4 waitid
write writev
`

// deniedCalls fail with EPERM. Beside those of podman's profile: kernel keyrings (they are not
// namespaced and leak between containers), mounts, BPF, performance events, userfaultfd and file
// handles, which are kernel surface that an agent does not need. io_uring, which would go around
// the filter of sockets, is unknown here like every other call: ENOSYS.
const deniedCalls = `
acct add_key bpf clock_settime delete_module fanotify_init fanotify_mark finit_module fsconfig
fsmount fsopen fspick init_module io_pgetevents ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
open_by_handle_at open_tree perf_event_open pivot_root process_madvise query_module quotactl reboot
request_key setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount2 uselib
userfaultfd ustat vhangup vmsplice
`

// families are the socket families that a container may use. A default rootless container can
// open AF_VSOCK, a path around every packet filter on a virtual machine; packet, ALG, TIPC, RDS,
// SMC, XDP and KCM sockets are closed as well.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// architectures maps GOARCH to the one system call ABI that the container may use. Calls of
// another ABI (32-bit, x32) end the process: their arguments could not be filtered.
var architectures = map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}

// profile is the seccomp profile of every container.
func profile() (*sandbox.Seccomp, error) {
	arch := architectures[runtime.GOARCH]
	if arch == "" {
		return nil, fmt.Errorf("no seccomp profile for %s", runtime.GOARCH)
	}
	errno := func(v uint) *uint { return &v }
	const allow, refuse = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
	p := &sandbox.Seccomp{
		DefaultAction: refuse, DefaultErrnoRet: errno(uint(unix.ENOSYS)), Architectures: []string{arch},
		Syscalls: []sandbox.SeccompSyscall{
			{Names: strings.Fields(allowedCalls), Action: allow},
			{Names: strings.Fields(deniedCalls), Action: refuse, ErrnoRet: errno(uint(unix.EPERM))},
		},
	}
	when := func(name string, args ...sandbox.SeccompArg) {
		p.Syscalls = append(p.Syscalls, sandbox.SeccompSyscall{Names: []string{name}, Action: allow, Args: args})
	}
	equal := func(index uint, value uint64) sandbox.SeccompArg {
		return sandbox.SeccompArg{Index: index, Value: value, Op: "SCMP_CMP_EQ"}
	}
	for _, f := range families {
		when("socket", equal(0, f))
	}
	when("socket", equal(0, unix.AF_NETLINK), equal(2, unix.NETLINK_ROUTE))
	// As a kernel without that protocol answers: sudo and PAM fail when NETLINK_AUDIT is ENOSYS.
	p.Syscalls = append(p.Syscalls, sandbox.SeccompSyscall{Names: []string{"socket"}, Action: refuse,
		ErrnoRet: errno(uint(unix.EPROTONOSUPPORT)), Args: []sandbox.SeccompArg{equal(0, unix.AF_NETLINK),
			{Index: 2, Value: unix.NETLINK_ROUTE, Op: "SCMP_CMP_GT"}}})
	p.Syscalls = append(p.Syscalls, sandbox.SeccompSyscall{Names: []string{"socket"}, Action: refuse,
		ErrnoRet: errno(uint(unix.EAFNOSUPPORT)), Args: []sandbox.SeccompArg{{Index: 0, Value: unix.AF_NETLINK, Op: "SCMP_CMP_GT"}}})
	for _, persona := range []uint64{0x0, 0x8, 0x20000, 0x20008, 0xffffffff} { // as podman's profile
		when("personality", equal(0, persona))
	}
	return p, nil
}

// writeProfile makes the profile's file and returns its path and digest.
func writeProfile(roots state.Roots) (path, digest string, err error) {
	p, err := profile()
	if err != nil {
		return "", "", err
	}
	digest = p.Digest()
	path = filepath.Join(roots.SeccompDir(), digest[:16]+".json")
	data, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return "", "", err
	}
	return path, digest, writeIfDifferent(path, append(data, '\n'))
}
