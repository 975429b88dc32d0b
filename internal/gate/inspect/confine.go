package inspect

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"terok/internal/git"
	"terok/internal/sandbox/filter"
	kernel "terok/internal/sandbox/landlock"
)

// confine gives up everything that the requests do not need. It cannot be undone and git inherits it.
// Several requests are of the same kind; each thread that works for one of them gives up the rest.
func confine(reqs ...Request) error {
	req := reqs[0]
	for limit, value := range map[int]uint64{
		unix.RLIMIT_CPU:  cpuSeconds,
		unix.RLIMIT_DATA: maxMemory, // private memory; mapped packs do not count, they can be dropped
		unix.RLIMIT_CORE: 0,
	} {
		if req.Op == OpCopy && limit == unix.RLIMIT_CPU {
			value = uint64(copyTime.Seconds())
		}
		if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
	}
	if req.Op != OpCopy {
		size := uint64(maxTake)
		if len(reqs) > 1 {
			size = 2 * maxHeldSize // the scratch directories may lie in memory
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size}); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
	}
	debug.SetMemoryLimit(maxMemory / 2)
	if err := restrictFiles(reqs...); err != nil {
		return fmt.Errorf("restrict files (Landlock): %w", err)
	}
	if err := filter.Load(); err != nil { // no sockets at all
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// libraries are where a dynamically linked git finds its own.
var libraries = []string{"/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64"}

// gitCore are the directories of git's own further programs.
var gitCore = []string{"/usr/lib/git-core", "/usr/libexec/git-core", "/usr/local/libexec/git-core", "/usr/local/lib/git-core"}

func restrictFiles(reqs ...Request) error {
	if err := kernel.Missing(kernel.ABI()); err != nil {
		if reqs[0].WithoutLandlock {
			return nil
		}
		return err
	}
	config, rules, err := files(reqs...)
	if err != nil {
		return err
	}
	if err := config.Restrict(rules...); err != nil {
		return err
	}
	return refused("/")
}

// refused makes sure that a directory cannot be read any more.
func refused(dir string) error {
	if fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
		return errors.New("the host's files can still be read")
	}
	return nil
}

// files are all the files that requests need: their repositories, where they may write, and git.
func files(reqs ...Request) (landlock.Config, []landlock.Rule, error) {
	const read = landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSReadDir)
	const run = landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSExecute)
	all := landlock.V6
	all.HandledAccessNet = ll.AccessNetBindTCP | ll.AccessNetConnectTCP
	programs, err := gitPrograms()
	if err != nil {
		return all, nil, err
	}
	rules := []landlock.Rule{
		landlock.PathAccess(read, libraries...).IgnoreIfMissing(),
		landlock.PathAccess(run, programs...),
		landlock.PathAccess(read|run, gitCore...).IgnoreIfMissing(),
		landlock.PathAccess(landlock.AccessFSSet(ll.AccessFSReadFile), "/etc/ld.so.cache").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null"),
		landlock.ROFiles("/dev/urandom"), // names of temporary files
	}
	for _, req := range reqs {
		write := req.Scratch
		if req.Op == OpCopy {
			write = req.Objects
		}
		rules = append(rules, landlock.PathAccess(read, req.Repo, filepath.Dir(req.Objects)), landlock.RWDirs(write).WithRefer())
	}
	return all.BestEffort(), rules, nil
}

// gitPrograms are git and the loader that the kernel starts it with: all that may be executed.
// Shells and git's scripts are not among them.
var gitPrograms = sync.OnceValues(func() ([]string, error) {
	p, err := (&git.Runner{}).Program()
	if err != nil {
		return nil, err
	}
	if p, err = filepath.EvalSymlinks(p); err != nil {
		return nil, err
	}
	f, err := elf.Open(p)
	if err != nil {
		return nil, fmt.Errorf("%s is not a program that can be confined: %w", p, err)
	}
	defer f.Close()
	programs := []string{p}
	for _, s := range f.Progs {
		if s.Type != elf.PT_INTERP || s.Filesz > 4096 {
			continue
		}
		name := make([]byte, s.Filesz)
		if _, err := s.ReadAt(name, 0); err != nil {
			return nil, err
		}
		loader, err := filepath.EvalSymlinks(strings.TrimRight(string(name), "\x00"))
		if err != nil {
			return nil, err
		}
		programs = append(programs, loader)
	}
	return programs, nil
})

// Exit codes of the child when a limit was reached: one that would be reached again, and one of time,
// which depends on the machine and on what else it does.
const (
	exitLimit = 75
	exitSlow  = 74
)

// errGraph says that there are more commits than are looked at.
var errGraph = fmt.Errorf("more than %d commits", maxGraph)

// overLimit is the exit code for a failure that is a limit of ours, 0 for any other.
func overLimit(err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errGraph) {
		return exitLimit
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return exitSlow
	}
	said := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
	switch {
	case has("signal: killed", "signal: cpu time limit"): // by whom is not said: it may do next time
		return exitSlow
	case has("exceeds maximum allowed size", "out of memory", "outofmemory", "file size limit"):
		return exitLimit
	}
	return 0
}
