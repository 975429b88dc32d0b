package supervisor

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/sandbox/filter"
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
	// AF_NETLINK is for the host's own addresses.
	if err := filter.Load(unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK); err != nil {
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
		for _, dir := range g.Submodules {
			rules = append(rules, landlock.RODirs(dir).IgnoreIfMissing())
		}
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
